//! What the standby has, group by group and then page by page, against what is here.

use crate::outlet::Outlet;
use crate::table::Table;
use crate::wire::{GROUPS_MAX, Hashes, Message, Offer};

/// Requests for page hashes that are under way at one time.
const WANTS_MAX: usize = 4;

/// A comparison under way.
#[derive(Debug)]
pub(super) struct Comparing {
    offer: Offer,
    sums: Vec<u128>,
    /// Groups that differ, in ascending order; None before all sums are there.
    groups: Option<Vec<u32>>,
    /// How many of them were asked for, and how many answers came.
    asked: usize,
    answered: usize,
    /// Pages that differ.
    pub(super) pages: Vec<u32>,
}

impl Comparing {
    pub(super) fn new(offer: Offer) -> Comparing {
        let (sums, pages) = (Vec::new(), Vec::new());
        Comparing { offer, sums, groups: None, asked: 0, answered: 0, pages }
    }

    /// It has nothing: all pages are new to it.
    pub(super) fn is_empty(&self) -> bool {
        self.offer.pages == 0
    }

    /// Sums of its groups. False when they do not fit what it offered.
    pub(super) fn sums(&mut self, first: u32, sums: Hashes<'_>) -> bool {
        let fits = first as usize == self.sums.len()
            && self.sums.len() + sums.len() <= self.offer.groups as usize;
        if fits {
            self.sums.extend(sums.iter());
        }
        fits
    }

    /// Hashes of the pages of a group. Those that were asked for before it offered anew may still
    /// come, and say nothing new.
    pub(super) fn hashes(&mut self, group: u32, hashes: Hashes<'_>, table: &Table) {
        let asked = self.groups.as_ref().and_then(|groups| groups.get(self.answered));
        if asked != Some(&group) || self.answered >= self.asked {
            return;
        }
        self.answered += 1;
        let theirs: Vec<u128> = hashes.iter().collect();
        self.pages.extend(table.differing_pages(group, &theirs));
    }

    /// Asks for what is missing: true when all pages that differ are known.
    pub(super) fn go_on(&mut self, id: u32, table: &Table, outlet: &mut Outlet<'_>) -> bool {
        if self.offer.pages == 0 {
            return true;
        }
        if self.sums.len() < self.offer.groups as usize {
            return false;
        }
        let (sums, offered) = (&self.sums, self.offer.groups);
        let groups = self.groups.get_or_insert_with(|| {
            let mut groups = table.differing_groups(sums);
            // Groups beyond its end need no hashes: all their pages differ.
            groups.sort_unstable();
            groups
        });
        if self.asked == 0 {
            let beyond = groups.partition_point(|group| *group < offered);
            for group in groups.drain(beyond..) {
                self.pages.extend(table.differing_pages(group, &[]));
            }
        }
        while self.asked < groups.len() && self.asked - self.answered < WANTS_MAX * GROUPS_MAX {
            let most = groups.len().min(self.asked + GROUPS_MAX);
            outlet.message(&Message::Want(id, groups[self.asked..most].to_vec()));
            self.asked = most;
        }
        self.answered == groups.len()
    }
}
