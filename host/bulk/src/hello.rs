//! The first frame each way: who speaks which versions, what the stream is for, and whether it is
//! wanted. The dialing side begins; the accepting side answers, or refuses with a reason.
//!
//! CBOR with numbered fields (RFC 8949), so that unknown future fields are skipped. The layout of
//! the hello is the one thing that all versions share; all else follows the version it agrees on.

use std::fmt;

use minicbor::{Decode, Encode};

use crate::{BulkError, HELLO_BYTES_MAX, PAYLOAD_BYTES_MAX, REFUSAL_BYTES_MAX, SOFTWARE_BYTES_MAX};

/// What this software speaks.
pub const VERSIONS: Versions = Versions { min: 1, max: 1 };

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Commits of databases, their acknowledgements and resyncs.
    Databases,
    /// Trees of files.
    Files,
}

impl Purpose {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Databases => 1,
            Self::Files => 2,
        }
    }

    fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Databases),
            2 => Some(Self::Files),
            _ => None,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Databases => "databases",
            Self::Files => "files",
        })
    }
}

/// The versions of the protocol that one side speaks, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl Versions {
    /// The newest that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "versions {} to {}", self.min, self.max)
    }
}

/// A hello that kept its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) versions: Versions,
    pub(crate) software: String,
    /// As on the wire: the accepting side may not know it.
    pub(crate) purpose: u8,
    pub(crate) payload: Vec<u8>,
    pub(crate) refusal: Option<String>,
}

#[derive(Debug, Encode, Decode)]
#[cbor(map)]
struct Wire {
    #[n(0)]
    min: u16,
    #[n(1)]
    max: u16,
    #[n(2)]
    software: String,
    #[n(3)]
    purpose: u8,
    #[cbor(n(4), with = "minicbor::bytes")]
    payload: Option<Vec<u8>>,
    #[n(5)]
    refusal: Option<String>,
}

impl Hello {
    /// What this node says first, or to a stream that it wants.
    pub(crate) fn new(
        versions: Versions,
        purpose: u8,
        payload: Vec<u8>,
    ) -> Result<Self, BulkError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(BulkError::PayloadTooLong { bytes: payload.len() });
        }
        let software = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Self { versions, software, purpose, payload, refusal: None })
    }

    /// What this node says to a stream that it does not want; a reason too long is cut.
    pub(crate) fn refusing(versions: Versions, purpose: u8, reason: &str) -> Self {
        let mut refusal: String = reason.chars().filter(|c| !c.is_control()).collect();
        refusal.truncate(refusal.floor_char_boundary(REFUSAL_BYTES_MAX));
        let software = env!("CARGO_PKG_VERSION").to_owned();
        Self { versions, software, purpose, payload: Vec::new(), refusal: Some(refusal) }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let wire = Wire {
            min: self.versions.min,
            max: self.versions.max,
            software: self.software.clone(),
            purpose: self.purpose,
            payload: Some(self.payload.clone()),
            refusal: self.refusal.clone(),
        };
        minicbor::to_vec(&wire).expect("a vector takes all that is written")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BulkError> {
        let wrong = |detail: String| BulkError::Hello { detail };
        if bytes.len() > HELLO_BYTES_MAX {
            return Err(wrong(format!("{} bytes are over the limit", bytes.len())));
        }
        let wire: Wire = minicbor::decode(bytes).map_err(|error| wrong(error.to_string()))?;
        let payload = wire.payload.unwrap_or_default();
        let text = |name, text: &str, max| {
            if text.len() > max || text.chars().any(char::is_control) {
                return Err(wrong(format!("{name} is over {max} bytes, or no plain text")));
            }
            Ok(())
        };
        text("the software version", &wire.software, SOFTWARE_BYTES_MAX)?;
        text("the refusal", wire.refusal.as_deref().unwrap_or_default(), REFUSAL_BYTES_MAX)?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(wrong(format!("a payload of {} bytes is over the limit", payload.len())));
        }
        if wire.min > wire.max {
            return Err(wrong(format!("its versions {} to {} are none", wire.min, wire.max)));
        }
        Ok(Self {
            versions: Versions { min: wire.min, max: wire.max },
            software: wire.software,
            purpose: wire.purpose,
            payload,
            refusal: wire.refusal,
        })
    }

    /// The purpose, if this software knows it.
    pub(crate) fn purpose(&self) -> Option<Purpose> {
        Purpose::of(self.purpose)
    }

    /// The version to speak with `peer`, or the error that names both ranges.
    pub(crate) fn agree(&self, ours: Versions, peer: &str) -> Result<u16, BulkError> {
        ours.common(self.versions).ok_or_else(|| BulkError::Versions {
            ours,
            theirs: self.versions,
            peer: peer.to_owned(),
            software: self.software.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::{SecureRandom, SystemRandom};

    fn hello() -> Hello {
        Hello::new(Versions { min: 1, max: 3 }, 2, b"where am I".to_vec()).expect("short")
    }

    #[test]
    fn comes_back_as_it_went() {
        for hello in [hello(), Hello::refusing(VERSIONS, 9, "no \u{e8} room")] {
            assert_eq!(Hello::decode(&hello.encode()).as_ref(), Ok(&hello));
        }
    }

    #[test]
    fn the_newest_common_version_is_chosen() {
        let range = |min, max| Versions { min, max };
        for (ours, theirs, common) in [
            (range(1, 1), range(1, 1), Some(1)),
            (range(1, 3), range(2, 5), Some(3)),
            (range(4, 6), range(2, 5), Some(5)),
            (range(1, 2), range(3, 4), None),
            (range(3, 4), range(1, 2), None),
        ] {
            assert_eq!(ours.common(theirs), common, "{ours} and {theirs}");
        }
    }

    #[test]
    fn limits_are_kept_both_ways() {
        let long = Hello::new(VERSIONS, 1, vec![0; PAYLOAD_BYTES_MAX + 1]);
        assert_eq!(long, Err(BulkError::PayloadTooLong { bytes: PAYLOAD_BYTES_MAX + 1 }));
        assert!(Hello::new(VERSIONS, 1, vec![0; PAYLOAD_BYTES_MAX]).is_ok());
        let refusal = Hello::refusing(VERSIONS, 1, &"\u{20ac}".repeat(100)).refusal;
        assert_eq!(refusal.map(|text| text.len()), Some(198));

        let refused = |change: fn(&mut Hello), part: &str| {
            let mut hello = hello();
            change(&mut hello);
            let error = Hello::decode(&hello.encode()).expect_err("over a limit").to_string();
            assert!(error.contains(part), "{error}");
        };
        refused(|hello| hello.payload = vec![0; PAYLOAD_BYTES_MAX + 1], "payload");
        refused(|hello| hello.refusal = Some("x".repeat(REFUSAL_BYTES_MAX + 1)), "refusal");
        refused(|hello| hello.refusal = Some("a\x1b[2J".to_owned()), "refusal");
        refused(|hello| hello.software = "x".repeat(SOFTWARE_BYTES_MAX + 1), "software");
        refused(|hello| hello.versions = Versions { min: 2, max: 1 }, "versions 2 to 1");
        refused(|hello| hello.payload = vec![0; HELLO_BYTES_MAX], "bytes are over the limit");
    }

    /// A future version may say more: field 77 is skipped.
    #[test]
    fn unknown_fields_are_skipped() {
        let mut bytes = hello().encode();
        assert_eq!(bytes[0], 0xa5, "a map of five fields");
        bytes[0] = 0xa6;
        bytes.extend([0x18, 77, 0x82, 1, 0x61, b'x']);
        assert_eq!(Hello::decode(&bytes), Ok(hello()));
    }

    #[test]
    fn random_bytes_are_an_error_and_nothing_worse() {
        let random = SystemRandom::new();
        let good = hello().encode();
        for round in 0..20_000_usize {
            let mut bytes = [0; 64];
            random.fill(&mut bytes).expect("randomness");
            let length = usize::from(bytes[0]) % 64;
            let _ = Hello::decode(&bytes[1..=length]);
            // A good one with a few bytes changed gets deeper.
            let mut bent = good.clone();
            for change in bytes[8..8 + 2 * (1 + round % 4)].chunks(2) {
                let at = usize::from(change[0]) % bent.len();
                bent[at] = change[1];
            }
            bent.truncate(good.len() - usize::from(bytes[1]) % 3);
            let _ = Hello::decode(&bent);
        }
    }
}
