//! What is due, in order of time.

use super::Ns;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A heap of small keys; what they stand for lies beside it, so that sifting moves little.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    heap: BinaryHeap<Reverse<(Ns, u64, usize)>>,
    slots: Vec<Option<T>>,
    free: Vec<usize>,
    seq: u64,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Queue<T> {
        Queue { heap: BinaryHeap::new(), slots: Vec::new(), free: Vec::new(), seq: 0 }
    }

    /// Things due at one moment come out in the order in which they were put in.
    pub(crate) fn at(&mut self, when: Ns, due: T) {
        self.seq += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(due);
        self.heap.push(Reverse((when, self.seq, slot)));
    }

    pub(crate) fn pop(&mut self) -> Option<(Ns, T)> {
        let Reverse((when, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        self.slots[slot].take().map(|due| (when, due))
    }
}
