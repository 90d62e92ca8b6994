use super::*;
use crate::shell::data::tree_status;
use staffetta_files::State;

const BOUND: Duration = Duration::from_secs(2);

fn ago(ms: u64) -> Option<Instant> {
    Instant::now().checked_sub(Duration::from_millis(ms))
}

fn seen(leads: bool, trees: Vec<TreeStatus>) -> Seen {
    Seen { late: Vec::new(), databases: Arc::default(), trees: Arc::new(trees), dark: None, leads }
}

fn lacking(state: State, behind: u64, ms: u64) -> TreeStatus {
    TreeStatus { behind_since: ago(ms), ..tree_status(state, Some(behind)) }
}

fn ms(ms: u64) -> Option<Duration> {
    Some(Duration::from_millis(ms))
}

#[test]
fn the_primary_is_aligned_while_the_standby_lacks_nothing_for_longer_than_the_bound() {
    for (state, behind, since, aligned) in [
        (State::Leading, 0, 0, true),
        (State::Leading, 3, 1_500, true),
        (State::Leading, 3, 2_001, false),
        (State::Alone, 0, 0, false),
        (State::Comparing, 0, 0, false),
        (State::Halted, 0, 0, false),
        (State::Closed, 0, 0, false),
    ] {
        let tree = lacking(state, behind, since);
        let said = judge(&seen(true, vec![tree.clone()]), BOUND, None);
        assert_eq!(said.aligned, aligned, "{state:?} {behind} {since}: {said:?}");
        assert_eq!(said.lag_ms.is_some(), aligned, "what the standby is told: {said:?}");
        let held = TreeStatus { held: 1, ..tree.clone() };
        let said = judge(&seen(true, vec![held]), BOUND, None);
        assert!(said.why[0].contains("files approve recordings"), "{said:?}");
        let scanning = TreeStatus { scanning: true, ..tree };
        assert!(!judge(&seen(true, vec![scanning]), BOUND, None).aligned);
    }
}

#[test]
fn the_standby_says_what_the_primary_says_and_how_old_that_is() {
    for (state, word, aligned) in [
        (State::Following, ms(0), true),
        (State::Following, ms(2_000), true),
        (State::Following, ms(2_001), false),
        (State::Following, None, false),
        (State::Catching, ms(0), false),
        (State::Waiting, ms(0), false),
        (State::Diverged, ms(0), false),
    ] {
        let said = judge(&seen(false, vec![tree_status(state, Some(0))]), BOUND, word);
        assert_eq!(said.aligned, aligned, "{state:?} {word:?}: {said:?}");
        assert_eq!(said.lag_ms, None, "it has nothing to tell");
    }
}

#[test]
fn a_word_is_worth_less_the_older_it_is_and_the_longer_its_way() {
    assert_eq!(word(40, Span::ZERO, None), Duration::from_millis(40));
    assert_eq!(word(40, Span::ms(500), Some(3_000)), Duration::from_millis(543));
}

#[test]
fn what_nobody_looked_at_for_longer_than_the_bound_is_not_aligned() {
    let mut primary = seen(true, vec![tree_status(State::Leading, Some(0))]);
    primary.late = vec![("databases", Duration::ZERO), ("trees", Duration::from_millis(900))];
    let said = judge(&primary, BOUND, None);
    assert!(said.aligned && said.lag_ms == Some(900), "{said:?}");
    primary.late[1].1 = Duration::from_millis(2_100);
    let said = judge(&primary, BOUND, None);
    assert_eq!(said.why, ["trees: nobody has looked for 2100 ms"]);
    primary.late.clear();
    primary.dark = Some("trees are being looked at");
    assert!(!judge(&primary, BOUND, None).aligned);
}

#[test]
fn the_word_ends_by_itself() {
    let said = judge(&seen(true, vec![lacking(State::Leading, 3, 2_500)]), BOUND, None);
    let why = "recordings: the standby has lacked 3 paths for 25";
    assert!(said.why[0].starts_with(why), "{said:?}");
    let said = judge(&seen(true, vec![lacking(State::Leading, 1, 1_500)]), BOUND, None);
    let until = said.until.expect("a moment");
    let left = until.saturating_duration_since(Instant::now());
    assert!(left <= Duration::from_millis(500), "{left:?}");
    assert_eq!(said.at(until), None, "as it was");
    let over = said.at(until + Duration::from_millis(1)).expect("another word");
    assert!(!over.aligned && over.why == ["the standby may lack what is older than 2000 ms"]);
    let not = Alignment { aligned: false, ..said };
    assert_eq!(not.at(until + BOUND), None, "it has its reasons already");
}
