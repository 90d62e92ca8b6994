//! Groups of steps: made ready, made durable, done in order, made durable, known, acknowledged.

use super::deed::{Done, Ready};
use super::durable::Flush;
use super::ground::Counters;
use super::inbox::{Content, Item, make_ready};
use super::intent::Intent;
use super::trouble::{Fault, refusal, text};
use super::{Attend, GROUP_BYTES_MAX, GROUP_STEPS_MAX};
use crate::entry::Kind;
use crate::path::TreePath;
use crate::wire::{self, ACKS_MAX, Message, Refusal};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a group waits for more steps when none wait.
const GATHER: Duration = Duration::from_millis(1);
/// Files that grew are made durable this often, unless something else is made durable anyway.
const GROWN_INTERVAL: Duration = Duration::from_secs(1);
/// Or when they grew by this much together: the primary's window is not much larger.
const GROWN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// More temps than this are made durable all at once.
const FLUSH_TEMPS_MAX: usize = 16;
/// Files that grew and are kept open until they are durable.
const GROWN_OPEN_MAX: usize = 32;

/// A step on its way.
struct Prepared {
    seq: u64,
    ready: Ready,
}

/// Where a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its contents are being made durable.
    Syncing,
    /// Its deeds are being done; this is the next one.
    Doing(usize),
    /// What the deeds changed is being made durable: with the files that grew, and with so many
    /// steps of the next group.
    Settling { with_grown: bool, next: usize },
}

/// Steps that become durable together.
pub(super) struct Group {
    steps: Vec<Prepared>,
    bytes: usize,
    opened: Instant,
    /// The connection that it came by: no other wants to hear of it.
    connection: u64,
    stage: Stage,
    acks: Vec<u64>,
    refusals: Vec<(u64, Refusal)>,
    /// It uses up the descriptors.
    is_crowded: bool,
    /// The contents of so many steps are durable already.
    synced: usize,
    /// Something else than additions to files was done.
    is_plain: bool,
}

impl Group {
    fn new(opened: Instant, connection: u64) -> Self {
        Self {
            steps: Vec::new(),
            bytes: 0,
            opened,
            connection,
            stage: Stage::Syncing,
            acks: Vec::new(),
            refusals: Vec::new(),
            is_crowded: false,
            synced: 0,
            is_plain: false,
        }
    }

    fn is_full(&self) -> bool {
        self.is_crowded || self.steps.len() >= GROUP_STEPS_MAX || self.bytes >= GROUP_BYTES_MAX
    }

    pub(super) fn holds(&self, wanted: &TreePath) -> bool {
        self.steps.iter().filter_map(|step| step.ready.temp()).any(|(path, _)| path == wanted)
    }

    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    /// Deeds are being done: what is known and what is there may not fit each other.
    pub(super) fn is_doing(&self) -> bool {
        matches!(self.stage, Stage::Doing(_))
    }
}

/// Files that grew and are not durable yet.
#[derive(Default)]
pub(super) struct Grown {
    files: BTreeMap<TreePath, Option<File>>,
    open: usize,
    /// The connection and the number of each step.
    steps: Vec<(u64, u64)>,
    synced: Option<Instant>,
    /// By how much they grew since then.
    bytes: usize,
}

impl Grown {
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let full = self.bytes >= GROWN_BYTES_MAX;
        let next = self.synced.filter(|_| !full).map(|synced| synced + GROWN_INTERVAL);
        (!self.steps.is_empty()).then(|| next.unwrap_or_else(Instant::now))
    }

    fn is_due(&self, now: Instant) -> bool {
        let full = self.bytes >= GROWN_BYTES_MAX;
        let waited = self.synced.is_none_or(|synced| now >= synced + GROWN_INTERVAL);
        !self.steps.is_empty() && (full || waited)
    }

    fn intent(&self) -> Intent {
        Intent::of_growing(self.files.keys())
    }

    fn add(&mut self, path: TreePath, file: File, (bytes, connection, seq): (usize, u64, u64)) {
        self.steps.push((connection, seq));
        self.bytes += bytes;
        if self.files.contains_key(&path) {
            return;
        }
        let file = (self.open < GROWN_OPEN_MAX).then_some(file);
        self.open += usize::from(file.is_some());
        self.files.insert(path, file);
    }
}

impl Attend {
    /// Takes the next item in: false when there is none, or it must wait.
    pub(super) fn gather(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> Result<bool, Fault> {
        self.is_waiting = false;
        if self.gathering.as_ref().is_some_and(Group::is_full) {
            return Ok(false);
        }
        let Some(item) = self.inbox.pop_front() else { return Ok(false) };
        let bytes = item.bytes();
        if let Some(item) = self.take_in(item, now, out)? {
            self.inbox.push_front(item);
            self.is_waiting = true;
            return Ok(false);
        }
        self.inbox_bytes -= bytes;
        Ok(true)
    }

    /// Gives the item back when it must wait.
    fn take_in(
        &mut self,
        item: Item,
        now: Instant,
        out: &mut Vec<Vec<u8>>,
    ) -> Result<Option<Item>, Fault> {
        if self.larges.values().any(|large| large.is_ending() && item.waits_for(&large.path)) {
            return Ok(Some(item));
        }
        match item {
            Item::Plain { seq, ready } => self.add(seq, ready, 0, now),
            Item::Put { seq, path, entry, xattrs, content } => {
                match make_ready(&self.ground.tree, &path, entry, &xattrs, &content) {
                    Ok(ready) => {
                        let bytes = match content {
                            Content::Bytes(_) | Content::Packed(..) => entry.size as usize,
                            Content::Nothing | Content::Kept | Content::Link(_) => 0,
                        };
                        self.add(seq, ready, bytes, now);
                    }
                    Err(_) if self.gathering.is_some() || self.current.is_some() => {
                        return Ok(Some(Item::Put { seq, path, entry, xattrs, content }));
                    }
                    Err(error) => {
                        let why = refusal(&path, &error);
                        self.add(seq, Ready::Refused(path, why), 0, now);
                    }
                }
            }
            Item::Begin { seq, path } => {
                if !self.begin_large(seq, &path, now)? {
                    return Ok(Some(Item::Begin { seq, path }));
                }
            }
            Item::Part(part, bytes) => {
                if !self.large_is_open(part.seq) {
                    return Ok(Some(Item::Part(part, bytes)));
                }
                self.write_part(part, &bytes, now);
            }
            Item::End(end) => {
                if !self.large_is_open(end.seq) {
                    return Ok(Some(Item::End(end)));
                }
                self.end_large(end, now);
            }
            Item::Drop(seq) => {
                if let Some(large) = self.larges.remove(&seq) {
                    large.leave();
                }
            }
            Item::Head(seq, sums) => {
                if self.gathering.is_some() || self.current.is_some() || !self.grown.is_empty() {
                    self.is_head_waiting = true;
                    return Ok(Some(Item::Head(seq, sums)));
                }
                self.is_head_waiting = false;
                self.compare(seq, sums, out)?;
            }
        }
        Ok(None)
    }

    /// Adds a step to the group that is being gathered.
    pub(super) fn add(&mut self, seq: u64, ready: Ready, bytes: usize, now: Instant) {
        let connection = self.connection;
        let group = self.gathering.get_or_insert_with(|| Group::new(now, connection));
        if let Ready::File { temp: Some(temp), .. } = &ready {
            group.is_crowded |= temp.file.as_raw_fd() >= self.crowded;
        }
        group.bytes = group.bytes.saturating_add(bytes);
        group.steps.push(Prepared { seq, ready });
    }

    /// When the group that is being gathered is closed, as far as time decides that.
    pub(super) fn gathered_at(&self) -> Option<Instant> {
        let group = self.gathering.as_ref().filter(|_| self.current.is_none())?;
        Some(group.opened + GATHER)
    }

    /// Goes on with the group under way, or begins the next: false when there is nothing to do now.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        until: Instant,
        out: &mut Vec<Vec<u8>>,
    ) -> Result<bool, Fault> {
        let Some(group) = &self.current else { return self.begin_group(now) };
        match group.stage {
            Stage::Syncing => match self.helper.report() {
                None => return Ok(false),
                Some(Ok(())) => self.begin_deeds()?,
                Some(Err(error)) => {
                    self.refuse_group(&error);
                    self.settle(now)?;
                }
            },
            Stage::Doing(next) if next == group.steps.len() => self.settle(now)?,
            Stage::Doing(next) => self.do_next(next, until)?,
            Stage::Settling { with_grown, next } => match self.helper.report() {
                None => return Ok(false),
                Some(result) => {
                    if let (Ok(()), Some(gathering)) = (&result, &mut self.gathering) {
                        gathering.synced = next;
                    }
                    self.finish(&result, with_grown, now, out)?;
                }
            },
        }
        Ok(true)
    }

    fn begin_group(&mut self, now: Instant) -> Result<bool, Fault> {
        let idle = self.inbox.is_empty() || self.is_waiting;
        let is_closed = |group: &Group| {
            group.is_full() || (idle && now.saturating_duration_since(group.opened) >= GATHER)
        };
        if self.gathering.as_ref().is_some_and(is_closed) {
            self.current = self.gathering.take();
        } else if self.grown.is_due(now) || (self.is_head_waiting && !self.grown.is_empty()) {
            self.current = Some(Group::new(now, self.connection));
            self.settle_with(true)?;
            return Ok(true);
        }
        let Some(group) = &self.current else { return Ok(false) };
        let temps = group.steps.iter().skip(group.synced).filter_map(|step| step.ready.temp());
        let temps: Vec<&File> = temps.map(|(_, temp)| &temp.file).collect();
        let flush = match temps.len() {
            0 => None,
            1..=FLUSH_TEMPS_MAX => Some(each(&temps)),
            _ => Some(self.ground.tree.root.try_clone().map(Flush::Whole)),
        };
        match flush {
            None => self.begin_deeds()?,
            Some(Ok(flush)) => self.helper.begin(flush),
            Some(Err(error)) => {
                self.refuse_group(&error);
                self.settle(now)?;
            }
        }
        Ok(true)
    }

    /// Notes what will be changed: after a crash it is known whose changes these were.
    fn begin_deeds(&mut self) -> Result<(), Fault> {
        let Some(group) = &mut self.current else { return Ok(()) };
        let mut intent = self.grown.intent();
        intent.add(group.steps.iter().map(|step| &step.ready), &mut self.ground.index)?;
        group.stage = Stage::Doing(0);
        self.add_intent(intent)
    }

    fn do_next(&mut self, next: usize, until: Instant) -> Result<(), Fault> {
        let Some(group) = &mut self.current else { return Ok(()) };
        let step = &mut group.steps[next];
        match self.ground.carry_out(&mut step.ready, until)? {
            Done::Later => return Ok(()),
            Done::Yes => {
                if let Ready::Rename { from, to, .. } = &step.ready {
                    self.local.moved(from, to);
                    let row = self.ground.index.get(to)?;
                    if row.is_some_and(|row| row.entry.kind == Kind::Dir) {
                        self.audits.moved(from, to);
                    }
                }
                group.is_plain = true;
                group.acks.push(step.seq);
            }
            Done::Grown(file) => {
                let (path, _) = step.ready.paths();
                let grown = (step.ready.added(), group.connection, step.seq);
                self.grown.add(path.clone(), file, grown);
            }
            Done::Refused(why) => {
                if let Refusal::Failed(text) = &why {
                    self.ground.counters.trouble = Some(text.clone());
                }
                group.is_plain = true;
                group.refusals.push((step.seq, why));
            }
        }
        group.stage = Stage::Doing(next + 1);
        Ok(())
    }

    /// Nothing of the group is done.
    fn refuse_group(&mut self, error: &io::Error) {
        let path = self.ground.tree.path.display();
        self.ground.counters.trouble = Some(text(&path, error));
        let why = Refusal::Failed(wire::reason(&text(&path, error)));
        if let Some(group) = &mut self.current {
            let steps = group.steps.drain(..);
            group.refusals.extend(steps.map(|step| (step.seq, why.clone())));
        }
    }

    fn settle(&mut self, now: Instant) -> Result<(), Fault> {
        let is_plain = self.current.as_ref().is_some_and(|group| group.is_plain);
        let with_grown = is_plain || self.is_head_waiting || self.grown.is_due(now);
        self.settle_with(with_grown && !self.grown.is_empty())
    }

    fn settle_with(&mut self, with_grown: bool) -> Result<(), Fault> {
        if let Err(Fault::Disk(error)) = self.ground.restore_times() {
            self.ground.counters.trouble = Some(text(&"the times of folders", &error));
        }
        let mut grown = Vec::new();
        let mut is_many = false;
        if with_grown {
            for file in std::mem::take(&mut self.grown.files).into_values() {
                is_many |= file.is_none();
                grown.extend(file);
            }
            self.grown.open = 0;
            self.grown.bytes = 0;
        }
        let mut flush = self.ground.take_flush(grown);
        if is_many && flush.is_ok() {
            flush = self.ground.tree.root.try_clone().map(Flush::Whole).map_err(Fault::Disk);
        }
        // With all of the disk, what the next group has is made durable, too.
        let next = match (&flush, &self.gathering) {
            (Ok(Flush::Whole(_)), Some(gathering)) => gathering.steps.len(),
            (Ok(_) | Err(_), _) => 0,
        };
        if let Some(group) = &mut self.current {
            group.stage = Stage::Settling { with_grown, next };
        }
        match flush {
            Ok(flush) => self.helper.begin(flush),
            Err(Fault::Disk(error)) => self.helper.fail(error),
            Err(Fault::Index(error)) => return Err(Fault::Index(error)),
        }
        Ok(())
    }

    /// All is durable, or not: what is known follows, and the primary hears of it.
    fn finish(
        &mut self,
        result: &io::Result<()>,
        with_grown: bool,
        now: Instant,
        out: &mut Vec<Vec<u8>>,
    ) -> Result<(), Fault> {
        let Some(mut group) = self.current.take() else { return Ok(()) };
        self.note_intent(self.grown.intent())?;
        self.ground.index.commit()?;
        if with_grown {
            self.grown.synced = Some(now);
            let connection = group.connection;
            let steps = std::mem::take(&mut self.grown.steps);
            let own = steps.into_iter().filter(|(of, _)| *of == connection);
            group.acks.extend(own.map(|(_, seq)| seq));
        }
        if let Err(error) = result {
            let path = self.ground.tree.path.display();
            self.ground.counters.trouble = Some(text(&path, error));
            let why = Refusal::Failed(wire::reason(&text(&path, error)));
            let lost = std::mem::take(&mut group.acks);
            group.refusals.extend(lost.into_iter().map(|seq| (seq, why.clone())));
        }
        self.count(&group);
        if group.connection == self.connection {
            self.say(&group, out);
        }
        Ok(())
    }

    fn count(&mut self, group: &Group) {
        let Counters { applied, refused, trouble, .. } = &mut self.ground.counters;
        *applied += group.acks.len() as u64;
        *refused += group.refusals.len() as u64;
        if !group.acks.is_empty() {
            let failed = |(_, why): &(u64, Refusal)| matches!(why, Refusal::Failed(_));
            if !group.refusals.iter().any(failed) {
                *trouble = None;
            }
        }
    }

    fn say(&self, group: &Group, out: &mut Vec<Vec<u8>>) {
        let Some(id) = self.id else { return };
        for numbers in group.acks.chunks(ACKS_MAX) {
            out.push(wire::message(&Message::Ack(id, numbers.to_vec())));
        }
        for (seq, why) in &group.refusals {
            out.push(wire::message(&Message::Refuse(id, *seq, why.clone())));
        }
    }
}

fn each(files: &[&File]) -> io::Result<Flush> {
    let files = files.iter().map(|file| Ok(OwnedFd::from(file.try_clone()?)));
    files.collect::<io::Result<_>>().map(Flush::Each)
}
