//! The hash of a page: what two nodes compare instead of pages.

use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_seed};

/// Bytes of the header of a database, at the begin of page 1.
pub(crate) const HEADER_BYTES: usize = 100;

/// What SQLite rewrites on the copy as it pleases, and is therefore not compared: the versions of
/// the format (rollback journal or WAL), the change counter, and for which change counter and by
/// which library the header was written last (SQLite's `fileformat2`, §1.3).
const MASKED: [std::ops::Range<usize>; 3] = [18..20, 24..28, 92..100];

/// The hash of one page, 512 to 65536 bytes, numbered from 1. The number is part of it: the sum of
/// a database tells two pages that changed places.
#[must_use]
pub fn page_hash(number: u32, bytes: &[u8]) -> u128 {
    let seed = u64::from(number);
    if number != 1 || bytes.len() < HEADER_BYTES {
        return xxh3_128_with_seed(bytes, seed);
    }
    let (head, rest) = bytes.split_at(HEADER_BYTES);
    let mut masked = [0; HEADER_BYTES];
    masked.copy_from_slice(head);
    for range in MASKED {
        masked[range].fill(0);
    }
    let mut hasher = Xxh3::with_seed(seed);
    hasher.update(&masked);
    hasher.update(rest);
    hasher.digest128()
}

/// Whether SQLite has pages of this size.
#[must_use]
pub fn is_page_size(bytes: u32) -> bool {
    (512..=65536).contains(&bytes) && bytes.is_power_of_two()
}

/// Bytes of a page as page 1 names them; 1 stands for 65536.
pub(crate) fn said_page_bytes(first: &[u8]) -> u32 {
    match u16::from_be_bytes([first[16], first[17]]) {
        1 => 65536,
        bytes => u32::from(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_bytes_of_page_one_do_not_count_and_all_others_do() {
        let page: Vec<u8> = (0..512u32).map(|at| (at % 251) as u8).collect();
        let hash = page_hash(1, &page);
        for at in 0..page.len() {
            let mut changed = page.clone();
            changed[at] ^= 0xff;
            let masked = MASKED.iter().any(|range| range.contains(&at));
            assert_eq!(page_hash(1, &changed) == hash, masked, "byte {at}");
            assert_ne!(page_hash(2, &changed), page_hash(2, &page), "byte {at} of page 2");
        }
    }

    #[test]
    fn the_number_of_a_page_is_part_of_its_hash() {
        let page = [7; 4096];
        assert_ne!(page_hash(2, &page), page_hash(3, &page));
    }

    #[test]
    fn masking_hashes_as_a_zeroed_page_would() {
        let mut page = vec![9; 1024];
        let hash = page_hash(1, &page);
        for range in MASKED {
            page[range].fill(0);
        }
        assert_eq!(hash, xxh3_128_with_seed(&page, 1));
    }
}
