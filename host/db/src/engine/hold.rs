//! The data's part of a planned move: ship what there is, hold the writers, ship the rest.

use super::{Engine, HoldReply, Role, Side};
use std::path::Path;
use std::time::{Duration, Instant};

/// Writers are held when the standby lacks no more than this, or after this part of the time.
const LACKING_MAX: u64 = 200;
const SHIPPING_SHARE: u32 = 2;
/// How long an application that is amid a transaction is waited for, in one turn.
const HOLD_WAIT: Duration = Duration::from_millis(1);

/// A move under way.
pub(super) struct Holding {
    until: Instant,
    hold_at: Instant,
    phase: Phase,
    reply: Option<HoldReply>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Writers go on.
    Shipping,
    /// Writers are out, or on their way out.
    Holding,
    /// The standby has everything; writers stay out.
    Held,
}

impl Engine {
    pub(super) fn begin_hold(&mut self, until: Instant, reply: HoldReply) {
        let Role::Leading(_) = self.role else {
            return reply(Err("this node is not primary".into()));
        };
        if self.hold.is_some() {
            return reply(Err("a move is under way already".into()));
        }
        let now = Instant::now();
        let share = until.saturating_duration_since(now) / SHIPPING_SHARE;
        let phase = Phase::Shipping;
        self.hold = Some(Holding { until, hold_at: now + share, phase, reply: Some(reply) });
    }

    /// The move is off, because this node's office is another one.
    pub(super) fn drop_hold(&mut self) {
        if let Some(reply) = self.hold.take().and_then(|mut holding| holding.reply.take()) {
            reply(Err("this node's role changed meanwhile".into()));
        }
    }

    /// Writers of a database that was opened anew during a move stay out, too.
    pub(super) fn hold_one(&mut self, path: &Path) {
        let held = self.hold.as_ref().is_some_and(|holding| holding.phase != Phase::Shipping);
        if let (true, Some(database)) = (held, self.databases.get_mut(path))
            && let Side::Lead(lead) = &mut database.side
            && let Err(error) = lead.source_mut().hold_writers(HOLD_WAIT)
        {
            tracing::warn!(database = %path.display(), %error, "writers are not held");
        }
    }

    /// Writers go on.
    pub(super) fn end_hold(&mut self) {
        let Some(mut holding) = self.hold.take() else { return };
        if let Some(reply) = holding.reply.take() {
            reply(Err("the move was called off".into()));
        }
        for database in self.databases.values_mut() {
            if let Side::Lead(lead) = &mut database.side
                && let Err(error) = lead.source_mut().release_writers()
            {
                tracing::error!(database = %database.path.display(), %error, "writers stay out");
            }
        }
    }

    pub(super) fn hold_turn(&mut self, now: Instant) {
        let Some(mut holding) = self.hold.take() else { return };
        if holding.phase == Phase::Shipping {
            let few = self.lacking().is_ok_and(|lacking| lacking <= LACKING_MAX);
            if few || now >= holding.hold_at {
                holding.phase = Phase::Holding;
            }
        }
        // All are held before any is captured for the last time; and one that was opened anew
        // meanwhile is held again.
        let held = holding.phase != Phase::Shipping && self.hold_all();
        if holding.phase == Phase::Holding
            && held
            && self.capture_all(now)
            && self.lacking() == Ok(0)
        {
            holding.phase = Phase::Held;
            if let Some(reply) = holding.reply.take() {
                reply(Ok(()));
            }
        }
        if holding.phase != Phase::Held && now >= holding.until {
            let why = match self.lacking() {
                Ok(0) => "an application does not end its transaction".to_owned(),
                Ok(lacking) => format!("the standby still lacks {lacking} transactions"),
                Err(why) => why,
            };
            if let Some(reply) = holding.reply.take() {
                reply(Err(why));
            }
            self.hold = Some(holding);
            return self.end_hold();
        }
        self.hold = Some(holding);
    }

    /// Holds the writers of every database; true when all are out.
    fn hold_all(&mut self) -> bool {
        let mut all = true;
        for database in self.databases.values_mut() {
            if let Side::Lead(lead) = &mut database.side
                && !lead.source().writers_held()
            {
                all &= lead.source_mut().hold_writers(HOLD_WAIT).unwrap_or(false);
            }
        }
        all
    }

    /// Captures what was committed; true when that is all there is.
    fn capture_all(&mut self, now: Instant) -> bool {
        let mut all = true;
        for database in self.databases.values_mut() {
            if let Side::Lead(lead) = &mut database.side {
                all &= lead.capture(now).is_ok_and(|turn| !turn.more && !turn.busy && !turn.waits);
                database.look_at = now;
            }
        }
        all
    }

    /// Transactions that the standby lacks, all databases together; or why that is not known.
    fn lacking(&self) -> Result<u64, String> {
        if let Some(why) = self.missing() {
            return Err(why);
        }
        let mut sum = 0;
        for database in self.databases.values() {
            let name = database.path.display();
            match &database.side {
                Side::Lead(lead) => {
                    sum += lead.unacked().ok_or_else(|| format!("the standby lacks {name}"))?;
                }
                Side::Closed => return Err(format!("{name} cannot be read")),
                Side::Yield(_) | Side::Attend(_) => return Err("not primary".into()),
            }
        }
        Ok(sum)
    }

    pub(super) fn hold_due(&self) -> Option<Instant> {
        self.hold
            .as_ref()
            .filter(|holding| holding.phase != Phase::Held)
            .map(|_| Instant::now() + Duration::from_millis(1))
    }
}
