//! Pages on their way to the standby, a frame of them at a time.

use crate::changes::Changes;
use crate::snapshot::Snapshot;
use crate::trail::CaptureError;
use crate::wire::Position;
use std::ops::ControlFlow;

/// Pages on their way.
#[derive(Debug)]
pub(super) struct Shipment {
    pub(super) pages: Pages,
    /// Where this database is when all are applied.
    pub(super) position: Position,
    pub(super) pages_total: u32,
    pub(super) before: u128,
    pub(super) copy: bool,
    /// Somebody receives it; else it is only folded into the table.
    pub(super) sent: bool,
    pub(super) first: bool,
    /// Pages that went so far, for the report of a copy.
    pub(super) count: u64,
}

#[derive(Debug)]
pub(super) enum Pages {
    /// Images that were captured, in ascending order of pages, from this place on.
    Captured(Changes, Vec<u32>, usize),
    /// Some pages of a snapshot.
    Listed(Snapshot, Vec<u32>, usize),
    /// All pages of a snapshot, from this one on.
    All(Snapshot, u32),
}

/// Pages of one frame.
pub(super) struct Images<'a> {
    borrowed: Vec<(u32, &'a [u8])>,
    owned: Vec<u8>,
    numbers: Vec<u32>,
    page_bytes: usize,
    pub(super) last: bool,
}

impl Images<'_> {
    pub(super) fn len(&self) -> usize {
        self.borrowed.len() + self.numbers.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> + Clone {
        let owned = self.numbers.iter().copied().zip(self.owned.chunks_exact(self.page_bytes));
        self.borrowed.iter().copied().chain(owned)
    }
}

impl Pages {
    pub(super) fn take(
        &mut self,
        most: usize,
        pages_total: u32,
        page_bytes: usize,
    ) -> Result<Images<'_>, CaptureError> {
        let none = |last| Images {
            borrowed: Vec::new(),
            owned: Vec::new(),
            numbers: Vec::new(),
            page_bytes,
            last,
        };
        match self {
            Pages::Captured(changes, numbers, from) => {
                let end = numbers.len().min(*from + most);
                let part = &numbers[*from..end];
                *from = end;
                let image = |number: &u32| Some((*number, changes.image(*number)?));
                let borrowed = part.iter().filter_map(image).collect();
                Ok(Images { borrowed, ..none(end == numbers.len()) })
            }
            Pages::Listed(snapshot, numbers, from) => {
                let end = numbers.len().min(*from + most);
                let part = numbers[*from..end].to_vec();
                *from = end;
                let mut owned = Vec::with_capacity(part.len() * page_bytes);
                let mut found = Vec::with_capacity(part.len());
                let mut image = Vec::new();
                for number in part {
                    if number <= pages_total && snapshot.page(number, &mut image)? {
                        owned.extend_from_slice(&image);
                        found.push(number);
                    }
                }
                Ok(Images { owned, numbers: found, ..none(end == numbers.len()) })
            }
            Pages::All(snapshot, from) => {
                let end = pages_total.min(*from + u32::try_from(most).unwrap_or(1) - 1);
                let mut owned = Vec::with_capacity(most * page_bytes);
                let mut found = Vec::with_capacity(most);
                snapshot.for_each(*from..end + 1, |number, image| {
                    owned.extend_from_slice(image);
                    found.push(number);
                    ControlFlow::Continue(())
                })?;
                *from = end + 1;
                Ok(Images { owned, numbers: found, ..none(end >= pages_total) })
            }
        }
    }
}
