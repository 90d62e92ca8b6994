//! The register as text: small JSON that people can read, the same bytes for the same register.
//!
//! A swap compares bytes, so that bytes and registers must stand for each other one to one. What
//! this program would not write byte for byte, it does not read either.

use serde::{Deserialize, Serialize};
use staffetta_core::{Epoch, PROMISE_MAX, Register, Side, Span, Stamp};

use crate::REGISTER_BYTES_MAX;

/// Version of the text.
const VERSION: u32 = 1;
const NS_PER_US: u64 = 1_000;

/// The text's fields, in the order in which they are written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    epoch: u64,
    holder: String,
    alone: bool,
    peer_synced: bool,
    lease_us: u64,
    slack_us: u64,
    boot: String,
    n: u64,
}

/// What every version of the text has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// The text of a register.
///
/// # Errors
/// When the register has no holder, or times that are no whole microseconds.
pub(crate) fn encode(register: &Register, names: &[String; 2]) -> Result<Vec<u8>, String> {
    let holder = register.holder().ok_or("its epoch has no holder")?;
    let text = Text {
        version: VERSION,
        epoch: register.epoch.0,
        holder: name(holder, names).to_owned(),
        alone: register.alone,
        peer_synced: register.peer_synced,
        lease_us: whole_us(register.lease)?,
        slack_us: whole_us(register.slack)?,
        boot: format!("{:016x}", register.stamp.boot),
        n: register.stamp.n,
    };
    let bytes = serde_json::to_vec(&text).map_err(|error| error.to_string())?;
    if bytes.len() > REGISTER_BYTES_MAX {
        return Err(format!("it has {} bytes", bytes.len()));
    }
    Ok(bytes)
}

/// The register of a text.
///
/// # Errors
/// With the reason, when this program would not have written exactly these bytes.
pub(crate) fn decode(bytes: &[u8], names: &[String; 2]) -> Result<Register, String> {
    if bytes.len() > REGISTER_BYTES_MAX {
        return Err(format!("it has {} bytes", bytes.len()));
    }
    let is = serde_json::from_slice::<Version>(bytes)
        .map_err(|error| format!("it is no JSON with a version: {error}"))?;
    if is.version != VERSION {
        return Err(format!("it has version {}, this program writes {VERSION}", is.version));
    }
    let text: Text = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let boot = u64::from_str_radix(&text.boot, 16).map_err(|_| "its boot is no number")?;
    let ns = |us: u64| us.checked_mul(NS_PER_US).map(Span).ok_or("a time in it is too long");
    let register = Register {
        epoch: Epoch(text.epoch),
        alone: text.alone,
        peer_synced: text.peer_synced,
        lease: ns(text.lease_us)?,
        slack: ns(text.slack_us)?,
        stamp: Stamp { boot, n: text.n },
    };
    if register.epoch > Epoch::MAX {
        return Err(format!("its epoch {} is one that no pair comes to", text.epoch));
    }
    if register.lease > PROMISE_MAX || register.slack > PROMISE_MAX {
        return Err("its lease or slack is longer than any configuration allows".to_owned());
    }
    match register.holder() {
        None => return Err("its epoch has no holder".to_owned()),
        Some(side) if name(side, names) != text.holder => {
            let expected = name(side, names);
            return Err(format!(
                "its holder is {:?}, and of this pair epoch {} is {expected:?}'s",
                text.holder, text.epoch
            ));
        }
        Some(_) => {}
    }
    if encode(&register, names)? != bytes {
        return Err("it was edited: its fields are not written as this program does".to_owned());
    }
    Ok(register)
}

fn name(side: Side, names: &[String; 2]) -> &str {
    match side {
        Side::A => &names[0],
        Side::B => &names[1],
    }
}

fn whole_us(span: Span) -> Result<u64, String> {
    if span.0.is_multiple_of(NS_PER_US) {
        Ok(span.0 / NS_PER_US)
    } else {
        Err(format!("{} ns are no whole microseconds", span.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> [String; 2] {
        ["anna".to_owned(), "bruno".to_owned()]
    }

    fn register() -> Register {
        Register {
            epoch: Epoch(7),
            alone: true,
            peer_synced: false,
            lease: Span::ms(300),
            slack: Span::ms(20),
            stamp: Stamp { boot: 0x1f, n: u64::MAX },
        }
    }

    const TEXT: &str = "{\"version\":1,\"epoch\":7,\"holder\":\"bruno\",\"alone\":true,\
        \"peer_synced\":false,\"lease_us\":300000,\"slack_us\":20000,\
        \"boot\":\"000000000000001f\",\"n\":18446744073709551615}";

    #[test]
    fn the_text_is_what_the_documents_show() {
        let bytes = encode(&register(), &names()).expect("it can be written");
        assert_eq!(String::from_utf8(bytes).as_deref(), Ok(TEXT));
        assert_eq!(decode(TEXT.as_bytes(), &names()), Ok(register()));
    }

    #[test]
    fn what_would_be_written_otherwise_is_not_read() {
        let edited = |from: &str, to: &str| TEXT.replacen(from, to, 1);
        for text in [
            String::new(),
            "hello".to_owned(),
            "[]".to_owned(),
            edited("\"version\":1", "\"version\":2"),
            edited("\"epoch\":7", "\"epoch\":8"),
            edited("\"epoch\":7", "\"epoch\":0"),
            edited("\"epoch\":7", "\"epoch\":9223372036854775807"),
            edited("\"lease_us\":300000", "\"lease_us\":120000001"),
            edited("\"slack_us\":20000", "\"slack_us\":120000001"),
            edited("bruno", "carla"),
            edited("\"epoch\":7,", "\"epoch\":7, "),
            edited("000000000000001f", "1f"),
            edited("000000000000001f", "000000000000001F"),
            edited("000000000000001f", "+00000000000001f"),
            edited("\"lease_us\":300000", "\"lease_us\":18446744073709551615"),
            edited("\"lease_us\":300000", "\"lease_us\":-1"),
            edited("\"alone\":true", "\"alone\":1"),
            edited("\"version\":1", "\"version\":1,\"more\":1"),
            edited("\"alone\":true,", ""),
            edited("bruno", &"b".repeat(REGISTER_BYTES_MAX)),
        ] {
            assert!(decode(text.as_bytes(), &names()).is_err(), "{text}");
        }
        assert!(decode(&[0xff; 100], &names()).is_err());
    }

    #[test]
    fn what_would_lose_something_is_not_written() {
        let odd = Register { slack: Span(1), ..register() };
        assert!(encode(&odd, &names()).is_err());
        let nobody = Register { epoch: Epoch::NONE, ..register() };
        assert!(encode(&nobody, &names()).is_err());
    }
}
