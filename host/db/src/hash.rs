//! The hash by which two nodes compare pages.

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// What SQLite itself rewrites on the copy of page 1: format versions, change counter, the version
/// for which it is valid and the library's number.
const VOLATILE: [std::ops::Range<usize>; 3] = [18..20, 24..28, 92..100];

/// The hash of a page; its number goes in, so that two pages that change places are seen.
#[must_use]
pub fn page_hash(number: u32, bytes: &[u8]) -> u128 {
    if number != 1 || bytes.len() < 100 {
        return xxh3_128_with_seed(bytes, u64::from(number));
    }
    let mut masked = bytes.to_vec();
    for range in VOLATILE {
        masked[range].fill(0);
    }
    xxh3_128_with_seed(&masked, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_counts_and_volatile_bytes_of_page_one_do_not() {
        let page = vec![3; 512];
        assert_ne!(page_hash(2, &page), page_hash(3, &page));
        for at in 0..512 {
            let mut other = page.clone();
            other[at] ^= 1;
            let volatile = VOLATILE.iter().any(|range| range.contains(&at));
            assert_eq!(page_hash(1, &page) == page_hash(1, &other), volatile, "byte {at}");
            assert_ne!(page_hash(2, &page), page_hash(2, &other), "byte {at}");
        }
    }
}
