//! The stream to the peer: who may speak on it, and what its frames do.

use super::discover::RETRY;
use super::{Database, Engine, FRAMES_PER_TURN_MAX, Role, Side};
use crate::attend::Outcome;
use crate::outlet::Outlet;
use crate::status::Notice;
use crate::wire::{self, DATABASES_MAX, Entry, Frame, Message};
use crate::wire::{NAME_BYTES_MAX, REIGNS_MAX, WireError};
use staffetta_bulk::FRAME_BYTES_MAX;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Databases that are named in one frame.
const ROSTER_MAX: usize = 128;
/// Bytes of an entry at most: its name, and some numbers of up to nine bytes a reign.
const ENTRY_BYTES_MAX: usize = NAME_BYTES_MAX + REIGNS_MAX * 48 + 128;

const _: () = assert!(ROSTER_MAX * ENTRY_BYTES_MAX < FRAME_BYTES_MAX);

impl Engine {
    /// The newest stream is the one; an older one is of a peer that is no longer there.
    pub(super) fn streams(&mut self) {
        let mut newest = None;
        while let Ok(stream) = self.arriving.try_recv() {
            newest = Some(stream);
        }
        let Some(stream) = newest else { return };
        self.drop_stream();
        self.stream = Some(stream);
        self.stirred = true;
        self.name_all();
    }

    /// The stream ends: whoever attended does no more, and what was open is undone.
    pub(super) fn drop_stream(&mut self) {
        if self.stream.take().is_none() {
            return;
        }
        self.entries.clear();
        for database in self.databases.values_mut() {
            match &mut database.side {
                Side::Closed => {}
                Side::Lead(lead) | Side::Yield(lead) => lead.deserted(),
                Side::Attend(attend) => attend.deserted(),
            }
        }
    }

    pub(super) fn ended(&mut self, why: &dyn std::fmt::Display) {
        if self.stream.is_some() {
            tracing::info!(%why, "the stream of databases ended");
        }
        self.drop_stream();
    }

    /// Tells the standby what there is.
    fn name_all(&mut self) {
        let Role::Leading(epoch) = self.role else { return };
        let entries: Vec<Entry> = self.databases.values().filter_map(entry).collect();
        for part in entries.chunks(ROSTER_MAX) {
            self.send(&Message::Roster(epoch, part.to_vec()));
        }
    }

    /// Tells the standby of one database, for the first time or anew.
    pub(super) fn name_one(&mut self, path: &Path) {
        let (Role::Leading(epoch), Some(entry)) =
            (self.role, self.databases.get(path).and_then(entry))
        else {
            return;
        };
        self.send(&Message::Roster(epoch, vec![entry]));
    }

    pub(super) fn tell_gone(&mut self, id: u32) {
        if let Role::Leading(_) = self.role {
            self.send(&Message::Gone(id));
        }
    }

    pub(super) fn send(&mut self, message: &Message) {
        let mut outlet = Outlet::new(self.stream.as_mut());
        outlet.message(message);
        if let Some(error) = outlet.failed {
            self.ended(&error);
        }
    }

    pub(super) fn flush(&mut self) {
        if let Some(stream) = &mut self.stream
            && let Err(error) = stream.flush()
        {
            self.ended(&error);
        }
    }

    /// Takes what the peer said, and whether that was all. The stream is lent out for the time of a
    /// frame.
    pub(super) fn hear(&mut self, now: Instant) -> bool {
        for _ in 0..FRAMES_PER_TURN_MAX {
            let Some(mut stream) = self.stream.take() else { return true };
            let heard = match stream.receive() {
                Ok(None) => {
                    self.stream = Some(stream);
                    return true;
                }
                Ok(Some(bytes)) => {
                    // Its bytes lie in the stream, which must answer meanwhile.
                    let frame = std::mem::take(&mut self.frame);
                    self.frame = refill(frame, bytes);
                    Ok(())
                }
                Err(error) => Err(error),
            };
            self.stream = Some(stream);
            self.stirred = true;
            if let Err(error) = heard {
                self.ended(&error);
                return true;
            }
            let bytes = std::mem::take(&mut self.frame);
            let understood = wire::decode(&bytes).and_then(|frame| self.obey_peer(frame, now));
            self.frame = bytes;
            if let Err(error) = understood {
                tracing::warn!(%error, "the peer is not understood: the stream is closed");
                self.ended(&error);
                return true;
            }
        }
        false
    }

    fn obey_peer(&mut self, frame: Frame<'_>, now: Instant) -> Result<(), WireError> {
        match self.role {
            Role::Leading(_) => self.hear_standby(frame),
            Role::Following => self.hear_primary(frame, now),
        }
    }

    fn hear_standby(&mut self, frame: Frame<'_>) -> Result<(), WireError> {
        let id = match &frame {
            Frame::Message(
                Message::Offer(wire::Offer { id, .. })
                | Message::Ack(id, _)
                | Message::Refuse(id, _),
            )
            | Frame::Sums { id, .. }
            | Frame::Hashes { id, .. } => *id,
            Frame::Message(
                Message::Roster(..) | Message::Gone(_) | Message::Want(..) | Message::Head(..),
            )
            | Frame::Pages(..) => return Err(WireError("a standby does not say this")),
        };
        let found = self.databases.values_mut().find(|database| database.id == id);
        let Some(database) = found else { return Ok(()) };
        database.look_at = Instant::now();
        let Side::Lead(lead) = &mut database.side else { return Ok(()) };
        let fits = match frame {
            Frame::Message(Message::Offer(offer)) => {
                lead.offered(offer);
                true
            }
            Frame::Message(Message::Ack(_, position)) => {
                lead.acknowledged(position);
                true
            }
            Frame::Message(Message::Refuse(_, why)) => {
                let path = database.path.display();
                tracing::warn!(database = %path, %why, "the standby cannot apply");
                lead.deserted();
                true
            }
            Frame::Sums { first, sums, .. } => lead.sums(first, sums),
            Frame::Hashes { group, hashes, .. } => {
                lead.hashes(group, hashes);
                true
            }
            Frame::Message(
                Message::Roster(..) | Message::Gone(_) | Message::Want(..) | Message::Head(..),
            )
            | Frame::Pages(..) => true,
        };
        if fits { Ok(()) } else { Err(WireError("an answer to another question")) }
    }

    fn hear_primary(&mut self, frame: Frame<'_>, now: Instant) -> Result<(), WireError> {
        match frame {
            Frame::Message(Message::Roster(epoch, entries)) => {
                if epoch < self.floor {
                    return Err(WireError("a primary of an epoch that is over"));
                }
                self.floor = epoch;
                self.named_in = epoch;
                for entry in entries {
                    if self.entries.len() >= DATABASES_MAX
                        && !self.entries.contains_key(&entry.name)
                    {
                        return Err(WireError("more databases than any version replicates"));
                    }
                    self.entries.insert(entry.name.clone(), entry.clone());
                    self.named(entry, now);
                }
                Ok(())
            }
            Frame::Message(Message::Gone(id)) => {
                self.entries.retain(|_, entry| entry.id != id);
                if let Some(database) = self.attended(id)
                    && let Side::Attend(attend) = &mut database.side
                {
                    attend.deserted();
                }
                Ok(())
            }
            Frame::Message(Message::Head(id, head)) => {
                if let Some(database) = self.attended(id)
                    && let Side::Attend(attend) = &mut database.side
                {
                    attend.head_is(head);
                }
                Ok(())
            }
            Frame::Message(Message::Want(id, groups)) => {
                let stream = self.stream.as_mut();
                let named = |database: &&mut Database| is_named(database, id);
                let Some(database) = self.databases.values_mut().find(named) else {
                    return Ok(());
                };
                if let Side::Attend(attend) = &database.side {
                    attend.wanted(&groups, &mut Outlet::new(stream));
                }
                Ok(())
            }
            Frame::Pages(head, pages) => {
                self.apply(head, pages, now);
                Ok(())
            }
            Frame::Message(Message::Offer(_) | Message::Ack(..) | Message::Refuse(..))
            | Frame::Sums { .. }
            | Frame::Hashes { .. } => Err(WireError("a primary does not say this")),
        }
    }

    fn apply(&mut self, head: wire::Head, pages: wire::Pages<'_>, now: Instant) {
        let stream = self.stream.as_mut();
        let named = |database: &&mut Database| is_named(database, head.id);
        let Some(database) = self.databases.values_mut().find(named) else { return };
        let path = database.path.clone();
        let Side::Attend(attend) = &mut database.side else { return };
        let mut outlet = Outlet::new(stream);
        match attend.pages(head, pages, &mut database.ledger, &mut outlet) {
            Ok(Outcome::Copied { pages, of }) => {
                database.counters.copies += 1;
                database.counters.copied_pages += pages;
                self.say(Notice::Copied(path, pages, of));
            }
            Ok(Outcome::Nothing | Outcome::Scan | Outcome::Diverged(_) | Outcome::Remake(_)) => {}
            Err(error) => {
                let why = error.to_string();
                attend.pause(why.clone(), now, &mut outlet);
                database.look_at = now;
                let news = database.trouble.replace(why.clone()).is_none();
                if news {
                    self.say(Notice::Trouble(path, why));
                }
            }
        }
    }

    fn attended(&mut self, id: u32) -> Option<&mut Database> {
        self.databases.values_mut().find(|database| is_named(database, id))
    }

    /// What the primary has named and no copy knows of: it was gone, or could not be made.
    pub(super) fn name_lacking(&mut self, now: Instant) {
        if self.role != Role::Following || now < self.lacking_at {
            return;
        }
        self.lacking_at = now + RETRY;
        let lacking: Vec<Entry> = self
            .entries
            .values()
            .filter(|entry| match self.site_of(&entry.name) {
                Some((path, _)) => {
                    let closed = |database: &Database| matches!(database.side, Side::Closed);
                    !path.exists() && self.databases.get(&path).is_none_or(closed)
                }
                None => false,
            })
            .cloned()
            .collect();
        for entry in lacking {
            self.named(entry, now);
        }
    }

    /// The primary names a database: one of ours, or one that is to be made.
    fn named(&mut self, entry: Entry, now: Instant) {
        let Some((path, pattern)) = self.site_of(&entry.name) else {
            let why = "the primary replicates it and this node's configuration does not name it: \
                       make both configurations equal";
            return self.say(Notice::Trouble(PathBuf::from(entry.name), why.into()));
        };
        if !path.exists() {
            if let Err(why) = self.make(&path, &entry) {
                return self.say(Notice::Trouble(path, why));
            }
            if !self.databases.contains_key(&path) {
                self.add(path.clone(), pattern, now);
            } else {
                self.open(&path, now);
            }
            if let Some(Side::Attend(attend)) = self.databases.get_mut(&path).map(|d| &mut d.side) {
                attend.made_here();
            }
        } else if !self.databases.contains_key(&path) {
            self.add(path.clone(), pattern, now);
        }
        let Some(database) = self.databases.get_mut(&path) else { return };
        database.look_at = now;
        let Side::Attend(attend) = &mut database.side else { return };
        attend.named(entry);
    }

    /// Makes a copy anew, with pages of the primary's size. Whoever has the old one open reads the
    /// old one until it opens it again, as after any replacement of a file.
    pub(super) fn remake(&mut self, path: &Path, entry: Entry, now: Instant) {
        // Under the fence: whoever opens the path from now on opens nothing of the old copy.
        for suffix in ["-wal", "-shm", ""] {
            let file = crate::attach::beside(path, suffix);
            if let Err(error) = std::fs::remove_file(&file)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                let why = format!("cannot replace {}: {error}", file.display());
                return self.trouble(path, why, now);
            }
        }
        if let Some(database) = self.databases.get_mut(path) {
            database.side = Side::Closed;
        }
        self.named(entry, now);
    }

    /// Makes an empty database, for the primary's pages.
    fn make(&self, path: &Path, entry: &Entry) -> Result<(), String> {
        let (uid, gid, mode) = entry.owner;
        let owner = crate::apply::Owner { uid, gid, mode: mode & 0o777 };
        crate::apply::create(path, entry.page_bytes, owner).map_err(|error| error.to_string())
    }
}

fn is_named(database: &Database, id: u32) -> bool {
    match &database.side {
        Side::Attend(attend) => attend.id() == Some(id),
        Side::Closed | Side::Lead(_) | Side::Yield(_) => false,
    }
}

/// One database as the standby is told of it.
fn entry(database: &Database) -> Option<Entry> {
    let Side::Lead(lead) = &database.side else { return None };
    let metadata = std::fs::metadata(&database.path).ok()?;
    Some(Entry {
        id: database.id,
        name: database.name.clone(),
        page_bytes: lead.source().page_bytes(),
        owner: (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777),
        lineage: database.ledger.lineage(),
        head: lead.head(),
    })
}

fn refill(mut buffer: Vec<u8>, bytes: &[u8]) -> Vec<u8> {
    buffer.clear();
    buffer.extend_from_slice(bytes);
    buffer
}
