//! Data: services write while the kernel lets answers through, the primary's data plane ships what
//! they wrote, the standby's applies it. Commits are synchronous: they are acknowledged when the
//! peer has them, or when the core said that they may be without it.

use super::{Due, MS, Ns, World, side};
use crate::coverage::{Counter, Rule};
use crate::dice::Dice;
use staffetta_core::{
    Ask, Effect, Epoch, Event, Note, Question, Role, Shipment, SyncId, View, Why,
};

/// Services write, and data planes look around, this often.
const LOOK_MS: (u64, u64) = (8, 60);
/// Looks at which services write, of a thousand.
const WRITES_PERMILLE: u64 = 700;
const WRITES_MAX: u64 = 3;
/// Commits wait this long for the peer before the data plane asks to go on without it: one of these
/// for each history. The shortest makes it change its mind all the time.
const SYNC_TIMEOUTS_MS: [u64; 4] = [10, 60, 200, 200];
/// Writers go on for this long at most while a handover ships ahead.
const AHEAD_MS_MAX: u64 = 60;
/// A data plane that gives a handover up does so within this.
const FAILS_MS_MAX: u64 = 400;
/// From the data plane to the core of its process; words keep their order.
const WORD_US: u64 = 200;
/// What reaches a stopped process waits for this before it looks again.
const STOPPED_MS: u64 = 20;

/// Transactions: how many of each reign.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rows(Vec<(Epoch, u64)>);

impl Rows {
    fn of(&self, epoch: Epoch) -> u64 {
        self.0.iter().find(|(of, _)| *of == epoch).map_or(0, |(_, count)| *count)
    }

    fn raise(&mut self, epoch: Epoch, count: u64) {
        match self.0.iter_mut().find(|(of, _)| *of == epoch) {
            Some((_, has)) => *has = count.max(*has),
            None => self.0.push((epoch, count)),
        }
    }

    /// Takes what the other has in addition.
    pub(crate) fn join(&mut self, other: &Rows) {
        for (epoch, count) in &other.0 {
            self.raise(*epoch, *count);
        }
    }

    /// Forgets what the other has not.
    pub(crate) fn meet(&mut self, other: &Rows) {
        for (epoch, count) in &mut self.0 {
            *count = other.of(*epoch).min(*count);
        }
    }

    /// Forgets what the other has not, as far as it is among the `given`.
    pub(crate) fn give_up(&mut self, given: &Rows, other: &Rows) {
        for (epoch, count) in self.0.iter_mut().filter(|(of, count)| *count <= given.of(*of)) {
            *count = other.of(*epoch).min(*count);
        }
    }

    /// The first reign of which `other` has fewer, and by how many.
    pub(crate) fn missing_in(&self, other: &Rows) -> Option<(Epoch, u64)> {
        let missing =
            |(epoch, count): &(Epoch, u64)| (*epoch, count - other.of(*epoch).min(*count));
        self.0.iter().map(missing).find(|(_, count)| *count > 0)
    }

    /// Those written by one node since a reign.
    fn since(&self, epoch: Epoch, at: usize) -> Rows {
        let own = |(of, _): &&(Epoch, u64)| *of >= epoch && of.minted_by() == Some(side(at));
        Rows(self.0.iter().filter(own).copied().collect())
    }
}

/// What goes over the bulk channel, either way.
#[derive(Debug)]
pub(crate) struct Parcel {
    /// Who writes, its life, and the number of the parcel in it; and the life that it is sent to: a
    /// connection ends with the process at either end.
    pub from: usize,
    pub life: u64,
    pub n: u64,
    pub to: u64,
    /// The reign that it is shipped under.
    pub epoch: Epoch,
    pub rows: Rows,
}

/// A handover that is shipped for.
#[derive(Debug, Clone)]
struct Shipping {
    epoch: Epoch,
    /// Writers are held from then on.
    hold_at: Ns,
    fails_at: Option<Ns>,
    told: bool,
}

/// The data plane of one process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plane {
    words: u64,
    told: Option<(SyncId, bool)>,
    /// Commits are acknowledged without the peer.
    alone: bool,
    parcels: u64,
    /// What the peer has confirmed to this reign.
    confirmed: Rows,
    behind_since: Option<Ns>,
    /// First epoch of the reign that it ships for.
    reign: Epoch,
    shipping: Option<Shipping>,
    /// The newest parcel taken: its sender's life and number.
    taken: (u64, u64),
}

impl Plane {
    fn holds(&self, now: Ns) -> bool {
        self.shipping.as_ref().is_some_and(|shipping| now >= shipping.hold_at)
    }
}

pub(crate) fn sync_timeout(dice: &mut Dice) -> Ns {
    dice.pick(&SYNC_TIMEOUTS_MS) * MS
}

impl World<'_> {
    fn view(&self, at: usize) -> Option<View> {
        let seat = &self.seats[at];
        let now = seat.clock.local(self.now);
        seat.node.as_ref().filter(|_| seat.awake()).map(|node| node.view(now))
    }

    /// A look at both nodes.
    pub(crate) fn data_look(&mut self) {
        let next = self.data_dice.between(LOOK_MS.0, LOOK_MS.1) * MS;
        self.queue.at(self.now + next, Due::Data);
        for at in 0..2 {
            self.commit(at);
            if let Some(view) = self.view(at)
                && matches!(view.role, Role::Primary | Role::Draining)
                && self.seats[at].shadow.reign.is_some()
            {
                self.ship(at, &view);
                self.judge_peer(at);
                self.drain_on(at);
            }
        }
    }

    fn commit(&mut self, at: usize) {
        let writes = self.data_dice.chance(WRITES_PERMILLE);
        let count = self.data_dice.between(1, WRITES_MAX);
        let seat = &mut self.seats[at];
        if !writes || !seat.answers_at(self.now) || seat.plane.holds(self.now) {
            return;
        }
        let epoch = seat.writes_as;
        let count = seat.rows.of(epoch) + count;
        seat.rows.raise(epoch, count);
        self.trace.mix(count << 16 ^ epoch.0);
        if self.seats[at].plane.alone && self.seats[at].awake() {
            self.acknowledge(at);
        }
    }

    /// Everything that this reign wrote is acknowledged.
    fn acknowledge(&mut self, at: usize) {
        let seat = &self.seats[at];
        let rows = seat.rows.since(seat.plane.reign, at);
        self.coverage.saw(Counter::Acked);
        self.tell_acknowledged(at, &rows);
    }

    /// Applications of this node hear that these are safe.
    fn tell_acknowledged(&mut self, at: usize, rows: &Rows) {
        let seat = &self.seats[at];
        // A reign of its own that is newer than what was given up is not of before.
        let knows = seat.shadow.granted_max.max(seat.plane.reign);
        let other = &mut self.seats[1 - at];
        if let Some(vouched) = &mut other.vouched
            && other.shadow.granted_max == vouched.granted
        {
            // Neither knows of the other: it is given up with the rest.
            vouched.rows.join(rows);
        }
        self.rules.acknowledged.told(rows, knows);
    }

    fn ship(&mut self, at: usize, view: &View) {
        let to = self.seats[1 - at].life;
        let seat = &mut self.seats[at];
        let lags = seat.ills.lag > 0 || !seat.synced;
        if lags || seat.plane.confirmed == seat.rows {
            return;
        }
        seat.plane.parcels += 1;
        let (life, n) = (seat.life, seat.plane.parcels);
        let parcel = Parcel { from: at, life, n, to, epoch: view.epoch, rows: seat.rows.clone() };
        if let Some(when) = self.bulk(at) {
            self.queue.at(when, Due::Shipped(Box::new(parcel)));
        }
    }

    /// When something sent now over the bulk channel arrives, if it does.
    fn bulk(&mut self, from: usize) -> Option<Ns> {
        let weather = &self.plan.weather;
        let lane = self.links.lanes[from].iter().find(|lane| lane.cuts == 0).copied()?;
        let (lose, late_ms) = lane.noise.map_or((0, 0), |noise| (noise.lose, noise.late_ms));
        let us = weather.delay_us + self.data_dice.roll(weather.jitter_us + 1);
        let late = self.data_dice.roll(late_ms * MS + 1);
        let lost = self.data_dice.chance(lose);
        (!lost).then_some(self.now + us * 1_000 + late)
    }

    pub(crate) fn shipped(&mut self, parcel: Parcel) {
        let at = 1 - parcel.from;
        if self.seats[at].node.is_none() || self.seats[at].life != parcel.to {
            return;
        }
        let Some(view) = self.view(at) else {
            return self.queue.at(self.now + STOPPED_MS * MS, Due::Shipped(Box::new(parcel)));
        };
        // Only what the primary sends whose reign this standby knows, in its order.
        let seat = &mut self.seats[at];
        let follows = view.role == Role::Standby && view.epoch == parcel.epoch;
        if !follows || seat.plane.taken >= (parcel.life, parcel.n) {
            return;
        }
        seat.plane.taken = (parcel.life, parcel.n);
        seat.rows = parcel.rows.clone();
        if let Some(when) = self.bulk(at) {
            self.queue.at(when, Due::Confirmed(Box::new(parcel)));
        }
    }

    pub(crate) fn confirmed(&mut self, parcel: Parcel) {
        let at = parcel.from;
        let seat = &self.seats[at];
        if seat.life != parcel.life || seat.node.is_none() {
            return;
        }
        let Some(view) = self.view(at) else {
            return self.queue.at(self.now + STOPPED_MS * MS, Due::Confirmed(Box::new(parcel)));
        };
        let serves = matches!(view.role, Role::Primary | Role::Draining);
        let plane = &mut self.seats[at].plane;
        if !serves || parcel.epoch < plane.reign {
            return;
        }
        let acknowledged = parcel.rows.since(plane.reign, at);
        plane.confirmed.join(&parcel.rows);
        plane.behind_since = None;
        self.coverage.saw(Counter::Acked);
        self.tell_acknowledged(at, &acknowledged);
    }

    /// Tells the core when the peer falls behind for too long, and when it has caught up.
    fn judge_peer(&mut self, at: usize) {
        let (now, timeout) = (self.now, self.sync_timeout);
        let seat = &mut self.seats[at];
        let whole = seat.plane.confirmed == seat.rows;
        let plane = &mut seat.plane;
        plane.behind_since = if whole { None } else { plane.behind_since.or(Some(now)) };
        let late = plane.behind_since.is_some_and(|since| now - since > timeout);
        let last = plane.told.map(|(_, synced)| synced);
        if whole && last != Some(true) {
            self.tell_synced(at, true);
        } else if late && last != Some(false) {
            self.tell_synced(at, false);
        }
    }

    pub(crate) fn tell_synced(&mut self, at: usize, synced: bool) {
        let seat = &mut self.seats[at];
        seat.plane.words += 1;
        let id = SyncId(seat.plane.words);
        seat.plane.told = Some((id, synced));
        // Only what the peer has is acknowledged from now on, until the core answers this word.
        seat.plane.alone = false;
        let life = seat.life;
        self.say(at, || format!("data: word {}: synced {synced}", id.0));
        let event = Event::Synced(id, synced);
        self.queue.at(self.now + WORD_US * 1_000, Due::Tell { at, life, event });
    }

    pub(crate) fn degraded(&mut self, at: usize, id: SyncId, degraded: bool) {
        self.say(at, || format!("word {}: degraded {degraded}", id.0));
        let known = self.seats[1 - at].disk.stale;
        let seat = &mut self.seats[at];
        if seat.plane.told != Some((id, !degraded)) {
            // An answer to an older word.
            return;
        }
        seat.plane.alone = degraded;
        self.coverage.saw(match (degraded, known) {
            (true, true) => Counter::DegradedByEcho,
            (true, false) => Counter::DegradedByRegister,
            (false, _) => Counter::CaughtUp,
        });
        if degraded && self.plan.weather.data {
            self.acknowledge(at);
        }
    }

    pub(crate) fn drain(&mut self, at: usize, epoch: Epoch) {
        self.say(at, || format!("drains for {epoch}"));
        let ahead = self.data_dice.roll(AHEAD_MS_MAX) * MS;
        let fails_in = self.data_dice.roll(FAILS_MS_MAX) * MS;
        let fails = self.seats[at].ills.undrainable > 0;
        let fails_at = fails.then_some(self.now + fails_in);
        let hold_at = self.now + ahead;
        self.seats[at].plane.shipping = Some(Shipping { epoch, hold_at, fails_at, told: false });
    }

    fn drain_on(&mut self, at: usize) {
        let now = self.now;
        let seat = &mut self.seats[at];
        let whole = seat.plane.confirmed == seat.rows && seat.plane.holds(now);
        let Some(shipping) = &mut seat.plane.shipping else { return };
        let fails = shipping.fails_at.is_some_and(|fails_at| now >= fails_at);
        if shipping.told || !(fails || whole && shipping.fails_at.is_none()) {
            return;
        }
        shipping.told = true;
        let shipment = if fails { Shipment::Failed } else { Shipment::Whole };
        let event = Event::Drained(shipping.epoch, shipment);
        let life = seat.life;
        self.coverage.saw(if fails { Counter::DrainFailed } else { Counter::DrainDone });
        self.say(at, || format!("data: {event:?}"));
        self.queue.at(now + WORD_US * 1_000, Due::Tell { at, life, event });
    }

    pub(crate) fn undrain(&mut self, at: usize, epoch: Epoch) {
        self.coverage.saw(Counter::DrainAbandoned);
        self.say(at, || format!("undrains for {epoch}"));
        self.seats[at].plane.shipping = None;
    }

    pub(crate) fn handed_without(&mut self, epoch: Epoch) {
        self.coverage.saw(Counter::HandedWithout);
        self.rules.planned.without(epoch);
    }

    /// A node begins to serve: what it has is compared with what it must have.
    pub(crate) fn data_reigns(&mut self, at: usize, epoch: Epoch, effects: &[Effect]) {
        let words = self.seats[at].plane.words;
        self.seats[at].plane = Plane { words, reign: epoch, ..Plane::default() };
        if !self.plan.weather.data {
            return;
        }
        let handed = effects.iter().any(|effect| {
            let Effect::Note(Note::Role { to, why, .. }) = effect else { return false };
            *to == Role::Primary && *why == Why::HandedOver
        });
        let has = self.seats[at].rows.clone();
        if handed {
            self.coverage.evaluated(Rule::Planned);
            let finding = self.rules.planned.taken(at, epoch, &self.seats[1 - at].rows, &has);
            self.hold(Rule::Planned, finding);
        }
        self.coverage.evaluated(Rule::Acknowledged);
        let vouched = self.seats[at].vouched.as_ref().map(|vouched| &vouched.rows);
        let finding = self.rules.acknowledged.reigns(at, epoch, &has, vouched);
        if !self.resumes(at) {
            self.hold(Rule::Acknowledged, finding);
        }
    }

    /// A node that lacks what was acknowledged is about to ask whether it may serve.
    pub(crate) fn count_stale(&mut self, at: usize, ask: &Ask) {
        let asks = matches!(ask.question, Question::Start | Question::PeerSilent);
        if asks && self.view(at).is_some_and(|view| view.stale) {
            self.coverage.saw(Counter::StaleRefused);
        }
    }
}
