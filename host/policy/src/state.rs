//! What the host keeps for one running instance: its limits and its notes.

use wasmtime::{ResourceLimiter, StoreLimits, StoreLimitsBuilder};

use crate::limits::{Level, Limits, NOTE_BYTES_MAX, NOTE_LINES_MAX, Note};
use crate::sanitize::plain;

pub(crate) struct State {
    pub(crate) limiter: Limiter,
    pub(crate) notes: Vec<Note>,
    note_bytes: usize,
    notes_dropped: u32,
}

impl State {
    pub(crate) fn new(limits: &Limits) -> Self {
        let inner = StoreLimitsBuilder::new()
            .memory_size(limits.memory_bytes_max)
            .table_elements(limits.table_elements_max)
            .instances(limits.instances_max)
            .memories(limits.memories_max)
            .tables(limits.tables_max)
            .trap_on_grow_failure(true)
            .build();
        let limiter = Limiter { inner, refused: false };
        Self { limiter, notes: Vec::new(), note_bytes: 0, notes_dropped: 0 }
    }

    /// Keeps a line, as long as there is room.
    pub(crate) fn note(&mut self, level: Level, text: &str) {
        let room = NOTE_BYTES_MAX - self.note_bytes;
        if self.notes.len() >= NOTE_LINES_MAX || room == 0 {
            self.notes_dropped = self.notes_dropped.saturating_add(1);
            return;
        }
        let text = plain(&text[..text.floor_char_boundary(room)]);
        self.note_bytes += text.len().min(room);
        self.notes.push(Note { level, text });
    }

    /// All lines, and a last one about those that found no room.
    pub(crate) fn into_notes(mut self) -> Vec<Note> {
        if self.notes_dropped > 0 {
            let dropped = self.notes_dropped;
            self.notes.push(Note::warn(format!("the policy logged {dropped} more lines: dropped")));
        }
        self.notes
    }
}

/// The limits of the store, remembering whether one was hit.
pub(crate) struct Limiter {
    inner: StoreLimits,
    pub(crate) refused: bool,
}

impl Limiter {
    fn seen(&mut self, answer: wasmtime::Result<bool>) -> wasmtime::Result<bool> {
        self.refused |= !matches!(answer, Ok(true));
        answer
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let answer = self.inner.memory_growing(current, desired, maximum);
        self.seen(answer)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let answer = self.inner.table_growing(current, desired, maximum);
        self.seen(answer)
    }

    fn instances(&self) -> usize {
        self.inner.instances()
    }

    fn tables(&self) -> usize {
        self.inner.tables()
    }

    fn memories(&self) -> usize {
        self.inner.memories()
    }
}
