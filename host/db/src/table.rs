//! One hash for each page of a database, and their sum: two nodes whose sums are equal have equal
//! databases, and two that differ find out where.
//!
//! Costs 16 bytes a page. The sum is the XOR of all hashes, so that a transaction changes it at
//! the cost of its own pages.

use std::collections::TryReserveError;

use crate::hash::page_hash;
use crate::snapshot::lock_page;

/// Pages whose hashes are compared by one hash first, in a database too large to send them all.
pub const GROUP_PAGES: u32 = 256;

/// A page of which nothing is known yet. No page hashes to it but by an accident of 2^-128.
const UNSET: u128 = 0;

/// The hashes of a database's pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    page_bytes: u32,
    hashes: Vec<u128>,
    sum: u128,
    /// Pages that are still [`UNSET`], the lock page among them.
    unset: u32,
}

impl Table {
    /// Of a database without pages.
    #[must_use]
    pub fn new(page_bytes: u32) -> Table {
        Table { page_bytes, hashes: Vec::new(), sum: 0, unset: 0 }
    }

    /// Bytes of a page.
    #[must_use]
    pub fn page_bytes(&self) -> u32 {
        self.page_bytes
    }

    /// Pages of the database, the lock page included.
    #[must_use]
    pub fn pages(&self) -> u32 {
        u32::try_from(self.hashes.len()).expect("set and resize take u32")
    }

    /// XOR of the hashes of all pages.
    #[must_use]
    pub fn sum(&self) -> u128 {
        self.sum
    }

    /// The hash of a page, numbered from 1; None beyond the end, on the lock page, and where
    /// nothing was set yet.
    #[must_use]
    pub fn hash(&self, page: u32) -> Option<u128> {
        let hash = *self.hashes.get(index(page)?)?;
        (hash != UNSET).then_some(hash)
    }

    /// Makes room for this many pages at once, and not for more.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn reserve(&mut self, pages: u32) -> Result<(), TryReserveError> {
        self.hashes.try_reserve_exact((pages as usize).saturating_sub(self.hashes.len()))
    }

    /// Notes what a page hashes to; beyond the end the table grows up to it. The lock page and
    /// page 0 are ignored.
    pub fn set(&mut self, page: u32, hash: u128) {
        let Some(index) = index(page).filter(|_| page != lock_page(self.page_bytes)) else {
            return;
        };
        if index >= self.hashes.len() {
            self.grow(page);
        }
        let old = std::mem::replace(&mut self.hashes[index], hash);
        self.sum ^= old ^ hash;
        match (old == UNSET, hash == UNSET) {
            (true, false) => self.unset -= 1,
            (false, true) => self.unset += 1,
            (true, true) | (false, false) => {}
        }
    }

    /// Says how many pages there are. What is beyond is forgotten, and pages that nobody set are
    /// pages of zeros, as SQLite reads them.
    pub fn resize(&mut self, pages: u32) {
        for old in self.hashes.drain(self.hashes.len().min(pages as usize)..) {
            self.sum ^= old;
            self.unset -= u32::from(old == UNSET);
        }
        self.grow(pages);
        let lock = lock_page(self.page_bytes);
        if self.unset > u32::from(lock <= pages) {
            let zeros = vec![0; self.page_bytes as usize];
            for page in self.gaps() {
                self.set(page, page_hash(page, &zeros));
            }
        }
    }

    /// The pages of which nothing is known, without the lock page.
    #[must_use]
    pub fn gaps(&self) -> Vec<u32> {
        let lock = lock_page(self.page_bytes);
        if self.unset == u32::from(lock <= self.pages()) {
            return Vec::new();
        }
        let unset = (1..).zip(&self.hashes).filter(|(page, hash)| **hash == UNSET && *page != lock);
        unset.map(|(page, _)| page).collect()
    }

    /// How many groups of [`GROUP_PAGES`] there are; the last may be shorter.
    #[must_use]
    pub fn groups(&self) -> u32 {
        self.pages().div_ceil(GROUP_PAGES)
    }

    /// The hashes of a group's pages, in their order, the group numbered from 0; empty beyond the
    /// end. The lock page's place holds zero.
    #[must_use]
    pub fn group(&self, group: u32) -> &[u128] {
        let from = group as usize * GROUP_PAGES as usize;
        let to = self.hashes.len().min(from + GROUP_PAGES as usize);
        self.hashes.get(from..to).unwrap_or_default()
    }

    /// One hash for a group: of its hashes in their order, and of its number.
    #[must_use]
    pub fn group_sum(&self, group: u32) -> u128 {
        let mut hasher = xxhash_rust::xxh3::Xxh3::with_seed(u64::from(group));
        for hash in self.group(group) {
            hasher.update(&hash.to_le_bytes());
        }
        hasher.digest128()
    }

    /// The groups of this table that somebody with these sums has not, or not so.
    #[must_use]
    pub fn differing_groups(&self, theirs: &[u128]) -> Vec<u32> {
        let differs = |group: &u32| theirs.get(*group as usize) != Some(&self.group_sum(*group));
        (0..self.groups()).filter(differs).collect()
    }

    /// The pages of a group that somebody with these hashes has not, or not so. The lock page is
    /// never among them.
    #[must_use]
    pub fn differing_pages(&self, group: u32, theirs: &[u128]) -> Vec<u32> {
        let first = group * GROUP_PAGES + 1;
        let lock = lock_page(self.page_bytes);
        let ours = (first..).zip(self.group(group)).enumerate();
        ours.filter(|(at, (page, hash))| *page != lock && theirs.get(*at) != Some(hash))
            .map(|(_, (page, _))| page)
            .collect()
    }

    fn grow(&mut self, pages: u32) {
        let more = pages.saturating_sub(self.pages());
        self.unset += more;
        self.hashes.resize(self.hashes.len() + more as usize, UNSET);
    }
}

fn index(page: u32) -> Option<usize> {
    page.checked_sub(1).map(|index| index as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pages: u32) -> Table {
        let mut table = Table::new(512);
        for page in 1..=pages {
            table.set(page, page_hash(page, &[page as u8; 512]));
        }
        table
    }

    fn summed(table: &Table) -> u128 {
        (1..=table.pages()).filter_map(|page| table.hash(page)).fold(0, |sum, hash| sum ^ hash)
    }

    #[test]
    fn the_sum_is_that_of_the_hashes_however_they_came() {
        let mut table = filled(700);
        assert_eq!(table.sum(), summed(&table));
        table.set(3, 77);
        table.resize(650);
        assert_eq!((table.pages(), table.sum()), (650, summed(&table)));
        table.resize(700);
        assert_eq!((table.pages(), table.sum()), (700, summed(&table)));
        assert_eq!(table.hash(700), Some(page_hash(700, &[0; 512])), "a page of zeros");
        assert_eq!((table.hash(0), table.hash(701)), (None, None));
    }

    #[test]
    fn pages_in_any_order_and_growth_before_or_after_give_one_table() {
        let mut backwards = Table::new(512);
        for page in (1..=300).rev() {
            backwards.set(page, page_hash(page, &[page as u8; 512]));
        }
        let mut sized = Table::new(512);
        sized.resize(300);
        for page in 1..=300 {
            sized.set(page, page_hash(page, &[page as u8; 512]));
        }
        assert_eq!((&filled(300), &filled(300)), (&backwards, &sized));
    }

    #[test]
    fn the_lock_page_counts_for_nothing() {
        let lock = lock_page(65536);
        let mut table = Table::new(65536);
        table.set(lock - 1, 5);
        table.set(lock + 1, 6);
        table.set(lock, 7);
        table.set(0, 8);
        assert_eq!((table.sum(), table.hash(lock)), (5 ^ 6, None));
        assert_eq!(table.gaps().len(), lock as usize - 2);
        assert!(table.differing_pages((lock - 1) / GROUP_PAGES, &[]).iter().all(|p| *p != lock));
    }

    #[test]
    fn differences_are_found_by_groups_and_then_by_pages() {
        let (ours, mut theirs) = (filled(600), filled(600));
        theirs.set(257, 1);
        theirs.resize(590);
        let sums: Vec<u128> = (0..theirs.groups()).map(|group| theirs.group_sum(group)).collect();
        assert_eq!(ours.differing_groups(&sums), [1, 2]);
        assert_eq!(ours.differing_pages(1, theirs.group(1)), [257]);
        assert_eq!(ours.differing_pages(2, theirs.group(2)), (591..=600).collect::<Vec<_>>());
        assert!(theirs.differing_pages(2, ours.group(2)).is_empty());
        assert_eq!(ours.differing_groups(&[]), [0, 1, 2]);
    }

    #[test]
    fn a_group_sum_depends_on_order() {
        let (mut one, mut other) = (Table::new(512), Table::new(512));
        for (table, hashes) in [(&mut one, [1, 2]), (&mut other, [2, 1])] {
            table.set(1, hashes[0]);
            table.set(2, hashes[1]);
        }
        assert_eq!(one.sum(), other.sum());
        assert_ne!(one.group_sum(0), other.group_sum(0));
    }
}
