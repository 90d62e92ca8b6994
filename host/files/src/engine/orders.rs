//! What the daemon and operators want of the engine.

use super::{Command, Done, Draining, Engine, Order, OrderReply, Role};
use std::time::{Duration, Instant};

/// inotify hands its events over on a thread of its own: what was written before a planned move may
/// take this long to be noticed.
const NOTICED_WITHIN: Duration = Duration::from_millis(50);

impl Engine {
    pub(super) fn obey(&mut self, command: Command) {
        let now = Instant::now();
        self.stirred = true;
        match command {
            Command::Lead(epoch) => self.lead(epoch, now),
            Command::Follow(epoch) => self.follow(epoch, now),
            Command::Drain(until, reply) => {
                // The newest wish counts; the one before belongs to a move that is over.
                self.drain = Some(Draining { since: now, until, reply });
                // What the kernel has to say of before is older than this moment.
                for tree in &mut self.trees {
                    while tree.notice(now) {}
                    tree.drain_from(Some(Instant::now()));
                }
            }
            Command::Rule(name, primarys) => {
                if let Some(tree) = self.trees.iter_mut().find(|tree| tree.options.name == name) {
                    tree.rule(primarys, &mut self.out);
                }
                self.send();
            }
            Command::PeerBehind(name, behind) => {
                if let Some(tree) = self.trees.iter_mut().find(|tree| tree.options.name == name) {
                    tree.peer_behind(behind, now);
                }
            }
            Command::Order(name, order, reply) => self.order(&name, order, reply, now),
        }
    }

    fn lead(&mut self, epoch: u64, now: Instant) {
        if self.role == Role::Leading(epoch) {
            return;
        }
        // What was said, and its numbers, belong to one reign.
        self.forget_stream();
        self.role = Role::Leading(epoch);
        self.floor = self.floor.max(epoch);
        for tree in &mut self.trees {
            tree.lead(epoch, now);
        }
        self.shown.leads(epoch);
    }

    fn follow(&mut self, epoch: u64, now: Instant) {
        self.shown.leads(0);
        let newer = epoch > self.floor;
        self.floor = self.floor.max(epoch);
        if self.role == Role::Following {
            // Whoever speaks on the stream led a reign that is over.
            if newer && self.begun {
                self.forget_stream();
            }
            return;
        }
        self.role = Role::Following;
        self.forget_stream();
        if let Some(drain) = self.drain.take() {
            (drain.reply)(Err("this node is not primary any more".into()));
        }
        for tree in &mut self.trees {
            tree.attend(now);
        }
    }

    /// Answers a planned move when the standby has what was written before it.
    pub(super) fn drain_turn(&mut self, now: Instant) {
        let Some(drain) = &self.drain else { return };
        let noticed = now >= drain.since + NOTICED_WITHIN;
        let lacking = self.trees.iter().filter(|tree| !tree.is_drained(noticed));
        let names: Vec<&str> = lacking.map(|tree| tree.options.name.as_str()).collect();
        let result = match names.as_slice() {
            [] => Ok(()),
            _ if self.stream.is_none() => Err("no standby is connected".to_owned()),
            _ if now < drain.until => return,
            some => Err(format!("the standby does not have all of {}", some.join(", "))),
        };
        if let Some(drain) = self.drain.take() {
            (drain.reply)(result);
            self.trees.iter_mut().for_each(|tree| tree.drain_from(None));
        }
    }

    fn order(&mut self, name: &str, order: Order, reply: OrderReply, now: Instant) {
        let leading = matches!(self.role, Role::Leading(_));
        let found = self.trees.iter_mut().find(|tree| tree.options.name == name);
        let result = match (found, order) {
            (None, _) => Err(format!("no tree `{name}` is replicated")),
            (Some(tree), Order::Approve) => {
                let said = tree.approve(leading, now, &mut self.out);
                self.introduce();
                said.map(Done::Said)
            }
            (Some(tree), Order::Verify) => tree.verify(now).map(Done::Said),
            (Some(tree), Order::Differ(max)) => tree.differing(max).map(Done::Paths),
            (Some(tree), Order::Kept(max)) => tree.kept(max).map(Done::Kept),
            (Some(tree), Order::Restore(restore)) => {
                tree.restore(&restore, leading, now).map(Done::Said)
            }
        };
        self.send();
        reply(result);
    }
}
