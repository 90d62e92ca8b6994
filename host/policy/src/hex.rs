//! Bytes as hexadecimal text.

pub(crate) fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let nibbles: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let nibbles = nibbles?;
    let whole = nibbles.len().is_multiple_of(2);
    whole.then(|| nibbles.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}
