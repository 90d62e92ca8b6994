//! Moments as names of folders: UTC to the second, `20261123T031500Z`; another one within the same
//! second is `20261123T031500Z-2`, and so on.

use std::time::SystemTime;

const DAY: i64 = 86_400;

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The name of a moment, and of its `count`th use (from 1 on).
pub(super) fn name(seconds: i64, count: u32) -> String {
    let (days, rest) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let name = format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z");
    if count == 1 { name } else { format!("{name}-{count}") }
}

/// What [`name`] was made of; none for any other name.
pub(super) fn parse(text: &str) -> Option<(i64, u32)> {
    let moment = text.as_bytes().get(..16)?;
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = moment.get(range)?;
        digits.iter().try_fold(0, |number, digit| {
            Some(number * 10 + i64::from(char::from(*digit).to_digit(10)?))
        })
    };
    let days = days(number(0..4)?, number(4..6)?, number(6..8)?);
    let second = number(9..11)? * 3600 + number(11..13)? * 60 + number(13..15)?;
    let count = match text.get(16..)? {
        "" => 1,
        rest => rest.strip_prefix('-')?.parse().ok()?,
    };
    let seconds = days * DAY + second;
    // Whatever else could be read so, is none.
    (name(seconds, count) == text).then_some((seconds, count))
}

/// The date of a day since 1970-01-01, in the proleptic Gregorian calendar. A year is counted from
/// March on, so that the leap day is its last; 400 years have 146,097 days.
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + later, month, day)
}

/// The opposite of [`date`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_names_and_names_are_read_back() {
        // As `date -u -d @… +%Y%m%dT%H%M%SZ` says.
        let known = [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_709_164_800, "20240229T000000Z"),
            (1_795_403_700, "20261123T031500Z"),
            (4_107_542_400, "21000301T000000Z"),
        ];
        for (seconds, text) in known {
            assert_eq!(name(seconds, 1), text);
            assert_eq!(parse(text), Some((seconds, 1)));
        }
        assert_eq!(name(0, 12), "19700101T000000Z-12");
        assert_eq!(parse("19700101T000000Z-12"), Some((0, 12)));
        for day in (0..200_000).map(|day| day * DAY) {
            assert_eq!(parse(&name(day, 1)), Some((day, 1)));
        }
    }

    #[test]
    fn other_names_are_no_moments() {
        let others = [
            "",
            "x",
            "..",
            "20261123T031500Z-1",
            "20261123T031500Z-",
            "20261123T031500Z-02",
            "20261123T031500Zx",
            "20261323T031500Z",
            "20261123T036100Z",
            "20261123 031500Z",
            "20261123T031500Z/..",
            "20261123T031500Z-2\0",
            "2026112üT031500Z",
        ];
        for other in others {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
