//! The stream to the peer: who may say what on it, and to which tree.

use super::{Engine, FRAMES_PER_TURN, INBOX_BYTES_MAX, Role};
use crate::engine::followed::Side;
use crate::wire::{self, Entered, Frame, Message};

/// The peer said what it may not say now, or what nobody may say.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PeerError(pub(crate) String);

impl Engine {
    /// Takes the newest stream of those that arrived.
    pub(super) fn streams(&mut self) {
        let Some(stream) = self.arriving.try_iter().last() else { return };
        if self.stream.is_some() {
            self.forget_stream();
        }
        tracing::debug!(peer = stream.peer(), address = %stream.address(), "files: connected");
        self.stream = Some(stream);
        self.stirred = true;
        if matches!(self.role, Role::Leading(_)) {
            self.introduce();
        }
    }

    /// Tells the standby the trees of this reign, and has those begin that did not.
    pub(super) fn introduce(&mut self) {
        let Role::Leading(epoch) = self.role else { return };
        if self.stream.is_none() {
            return;
        }
        let entered = |tree: &super::Followed| {
            Some(Entered {
                id: tree.id,
                name: tree.options.name.clone(),
                tree: tree.marker?,
                ignores: tree.ignores.digest(),
            })
        };
        let open = self.trees.iter().filter(|tree| matches!(tree.side, Side::Lead(_)));
        let trees = open.filter_map(entered).collect();
        self.out.push(wire::message(&Message::Roster(epoch, trees)));
        self.begun = true;
        for tree in &mut self.trees {
            tree.begin_leading();
        }
        self.send();
    }

    /// Sends what was produced, and what the channel's queue holds.
    pub(super) fn send(&mut self) {
        let Some(stream) = &mut self.stream else {
            self.out.clear();
            return;
        };
        let mut result = Ok(());
        for frame in self.out.drain(..) {
            result = result.and_then(|()| stream.queue(&[&frame]));
        }
        if let Err(error) = result.and_then(|()| stream.flush()) {
            self.ended(&error.to_string());
        }
    }

    /// Whether a standby has room for more of the primary's.
    pub(super) fn may_read(&self) -> bool {
        self.trees.iter().map(super::Followed::inbox_bytes).sum::<usize>() < INBOX_BYTES_MAX
    }

    /// Takes frames of the peer: true when more may wait.
    pub(super) fn hear(&mut self) -> bool {
        for _ in 0..FRAMES_PER_TURN {
            if !self.may_read() {
                return false;
            }
            let Some(stream) = &mut self.stream else { return false };
            let ended = match stream.receive() {
                Ok(None) => return false,
                Err(error) => error.to_string(),
                Ok(Some(bytes)) => {
                    let parts = Parts {
                        trees: &mut self.trees,
                        role: self.role,
                        floor: &mut self.floor,
                        begun: &mut self.begun,
                        out: &mut self.out,
                    };
                    match parts.frame(bytes) {
                        Ok(()) => {
                            self.stirred = true;
                            continue;
                        }
                        Err(error) => format!("the peer sent what it may not send: {error}"),
                    }
                }
            };
            self.ended(&ended);
            return false;
        }
        true
    }

    pub(super) fn ended(&mut self, why: &str) {
        tracing::info!(%why, "files: the connection ended");
        self.forget_stream();
    }

    pub(super) fn forget_stream(&mut self) {
        self.stream = None;
        self.begun = false;
        self.out.clear();
        self.stirred = true;
        for tree in &mut self.trees {
            tree.ended();
        }
    }
}

/// All of the engine but the stream, which the frame that is being read borrows.
struct Parts<'a> {
    trees: &'a mut [super::Followed],
    role: Role,
    floor: &'a mut u64,
    begun: &'a mut bool,
    out: &'a mut Vec<Vec<u8>>,
}

impl Parts<'_> {
    fn frame(self, bytes: &[u8]) -> Result<(), PeerError> {
        let frame = wire::frame(bytes).map_err(|error| PeerError(error.to_string()))?;
        match (self.role, frame) {
            (Role::Following, Frame::Message(Message::Roster(epoch, trees))) => {
                self.roster(epoch, &trees)
            }
            (Role::Leading(_), Frame::Message(message)) => {
                let id = id_of(&message);
                let own = self.trees.iter_mut().find(|tree| tree.id == id);
                let Some(tree) = own else {
                    return Err(PeerError(format!("a tree of number {id}, which has none")));
                };
                tree.answer(message)
            }
            (Role::Leading(_), Frame::Steps(..) | Frame::Part(..) | Frame::End(_)) => {
                Err(PeerError("a standby sends no steps".into()))
            }
            (Role::Following, frame) => {
                if !*self.begun {
                    return Err(PeerError("steps before a roster".into()));
                }
                let id = match &frame {
                    Frame::Steps(id, _) => *id,
                    Frame::Part(part, _) => part.id,
                    Frame::End(end) => end.id,
                    Frame::Message(message) => id_of(message),
                };
                // A tree that the primary has and this node has not.
                let mut trees = self.trees.iter_mut();
                let Some(tree) = trees.find(|tree| tree.peer_id == Some(id)) else {
                    return Ok(());
                };
                tree.follow(frame)
            }
        }
    }

    fn roster(self, epoch: u64, trees: &[Entered]) -> Result<(), PeerError> {
        if epoch < *self.floor {
            return Err(PeerError(format!(
                "it leads epoch {epoch}, and epoch {} is known here",
                *self.floor
            )));
        }
        *self.floor = epoch;
        *self.begun = true;
        for tree in self.trees {
            let entered = trees.iter().find(|entered| entered.name == tree.options.name);
            tree.named(epoch, entered, self.out);
        }
        Ok(())
    }
}

/// The tree that a message is about; 0 for a roster, which is about all.
fn id_of(message: &Message) -> u32 {
    match message {
        Message::Roster(..) => 0,
        Message::List(id, _)
        | Message::Blocks(id, ..)
        | Message::Head(id, ..)
        | Message::Drop(id, _)
        | Message::Offer(id, _)
        | Message::Ack(id, _)
        | Message::Refuse(id, ..)
        | Message::Again(id, _)
        | Message::Closed(id, _) => *id,
        Message::Listing { id, .. }
        | Message::Base { id, .. }
        | Message::BlockHashes { id, .. } => *id,
    }
}
