//! Questions to policies, and which answer each question allows.

use super::{Node, Pending};
use crate::effect::{Alarm, Ask, AskId, Branch, Effect, Note, Question, Why};
use crate::epoch::Side;
use crate::event::{Answerer, Intent, Order, Refusal, Verdict};
use crate::state::{After, Next, Reign, Role, State};
use crate::time::{Mono, Span};
use alloc::vec::Vec;

/// Bounds of the recheck that a policy may wish for.
const RECHECK_MIN: Span = Span::ms(100);
const RECHECK_MAX: Span = Span::ms(24 * 3_600_000);
/// Recheck of a policy that names none.
const RECHECK_DEFAULT: Span = Span::ms(1_000);
/// A question whose lease runs out is put again after this.
const RETRY: Span = Span::ms(5);
/// Review of a healthy pair whose policy names no recheck.
const REVIEW_DEFAULT: Span = Span::ms(30_000);

impl Node {
    pub(super) fn ask_what_is_due(&mut self, fx: &mut Vec<Effect>) -> bool {
        if let Some(pending) = self.pending {
            if self.now >= pending.deadline {
                self.answered(pending.id, None, fx);
                return true;
            }
            return false;
        }
        match self.question_due() {
            Some(question) => {
                self.ask(question, fx);
                true
            }
            None => false,
        }
    }

    fn question_due(&self) -> Option<Question> {
        let again = self.now >= self.ask_again;
        let free = self.promise <= self.now;
        let silent = self.silent();
        let arbitrated = self.options.arbiter;
        let unserved = self.unserved();
        let claimable = self.claimable();
        let armed = !self.want.maintenance && !self.peer.is_some_and(|p| p.beat.maintenance);
        let review = (self.now >= self.review).then_some(Question::Review);
        match &self.state {
            State::Joining => {
                let waited = self.now >= self.since + self.timing().parts().join_timeout;
                let over = if self.options.arbiter { claimable } else { waited };
                (over && free && unserved && armed && again).then_some(Question::Start)
            }
            State::Standby => (free && unserved && claimable && armed && again)
                .then_some(Question::PeerSilent)
                .or(self.split_brain_due())
                .or(review.filter(|_| !silent)),
            State::Primary(reign) => {
                let leans = reign.peer_until > self.now && !reign.alone && reign.next.is_none();
                let deaf = silent || arbitrated;
                (leans && deaf && again && self.now >= self.alone_question(reign))
                    .then_some(Question::GoOnAlone)
                    .or(self.split_brain_due())
                    .or(review)
            }
            State::Electing { .. }
            | State::Claiming { .. }
            | State::Accepting { .. }
            | State::Draining { .. }
            | State::Closing(_)
            | State::HandedOver { .. }
            | State::Fenced(_)
            | State::Stopped => None,
        }
    }

    /// A primary whose peer fell silent asks when half of its lease is left: dense beats have had
    /// their chance by then, and decision and disk still have theirs.
    pub(super) fn alone_question(&self, reign: &Reign) -> Mono {
        let lead = (self.timing().parts().lease.0 / 2).max(self.arbiter_lead().0);
        Mono(reign.peer_until.0.saturating_sub(lead))
    }

    /// Asked once the meeting has settled, by both nodes, in order of side.
    fn split_brain_due(&self) -> Option<Question> {
        let met = self.met.filter(|met| !met.ruled)?;
        if self.now < met.at + self.timing().parts().lease {
            return None;
        }
        let (low, high) = (met.meeting.low, met.meeting.high);
        let low_is_mine = low.minted_by() == Some(self.options.side);
        let (mine, peers) = if low_is_mine { (low, high) } else { (high, low) };
        let mine = Branch { epoch: mine, served: met.meeting.served };
        let peers = Branch { epoch: peers, served: met.peers.unwrap_or(Span::ZERO) };
        Some(match self.options.side {
            Side::A => Question::SplitBrain { a: mine, b: peers },
            Side::B => Question::SplitBrain { a: peers, b: mine },
        })
    }

    pub(super) fn ask(&mut self, question: Question, fx: &mut Vec<Effect>) {
        self.asks += 1;
        let id = AskId(self.asks);
        let deadline = self.now + self.timing().parts().policy_deadline;
        self.pending = Some(Pending { id, question, deadline });
        let seen = self.observe();
        fx.push(Effect::Ask(Ask { id, question, deadline, seen }));
    }

    /// The verdict, or the safe one (hold) when none came in time.
    pub(super) fn answered(&mut self, id: AskId, said: Option<Verdict>, fx: &mut Vec<Effect>) {
        let Some(pending) = self.pending.filter(|pending| pending.id == id) else { return };
        self.pending = None;
        self.alarm(Alarm::PolicyLate, said.is_none(), fx);
        let verdict = said.unwrap_or(Verdict { intent: Intent::Hold, recheck: None });
        let recheck = |default: Span| {
            let span = verdict.recheck.unwrap_or(default);
            self.now + span.max(RECHECK_MIN).min(RECHECK_MAX)
        };
        let (again, review) = (recheck(RECHECK_DEFAULT), recheck(REVIEW_DEFAULT));
        let retry = said.is_none() && pending.question == Question::GoOnAlone;
        match pending.question {
            // The lease runs out: there is time for another try, not for a rest.
            Question::GoOnAlone if retry => self.ask_again = self.now + RETRY,
            Question::Start | Question::PeerSilent | Question::GoOnAlone => {
                self.ask_again = again;
            }
            Question::Review => self.review = review,
            Question::Switchover => {}
            Question::SplitBrain { .. } => {
                if let Some(met) = &mut self.met {
                    met.ruled = true;
                }
            }
        }
        if self.carry_out(pending.question, verdict.intent, fx) {
            return;
        }
        fx.push(Effect::Note(Note::Refused(pending.question, verdict.intent)));
        if pending.question == Question::Switchover {
            self.order_ends(Order::Switchover, Err(Refusal::Policy), fx);
        }
    }

    /// The table question × intent; false means that the safe verdict stands instead.
    fn carry_out(&mut self, question: Question, intent: Intent, fx: &mut Vec<Effect>) -> bool {
        match (question, intent) {
            (Question::Switchover, Intent::HandOver) => {
                if let Err(refusal) = self.drain(false, fx) {
                    self.order_ends(Order::Switchover, Err(refusal), fx);
                }
                true
            }
            (Question::Switchover, Intent::Hold | Intent::AskOperator) => {
                self.order_ends(Order::Switchover, Err(Refusal::Policy), fx);
                true
            }
            (_, Intent::Hold) => {
                self.held(question, fx);
                true
            }
            (Question::Start, Intent::TakeOver | Intent::GoOnAlone)
            | (Question::PeerSilent, Intent::TakeOver) => {
                let whole = !self.stale() && !self.misses_by_register();
                if whole {
                    self.claim_alone(fx);
                } else {
                    // Acknowledged changes are missing here: only a person may give them up.
                    self.wants_operator = true;
                }
                whole
            }
            (Question::Start | Question::PeerSilent, Intent::AskOperator) => {
                self.wants_operator = true;
                true
            }
            (Question::GoOnAlone, Intent::GoOnAlone) => self.go_on_alone(),
            (Question::GoOnAlone | Question::Review, Intent::StepDown) => self.step_down(fx),
            (
                Question::Review | Question::GoOnAlone | Question::SplitBrain { .. },
                Intent::AskOperator,
            ) => {
                self.wants_operator = true;
                true
            }
            (Question::Review, Intent::HandOver) => self.may_plan && self.drain(false, fx).is_ok(),
            (Question::SplitBrain { .. }, Intent::Serve(side)) => {
                let move_it = side != self.options.side && self.state.reign().is_some();
                !move_it || self.drain(false, fx).is_ok()
            }
            (Question::Start, Intent::HandOver | Intent::StepDown | Intent::Serve(_))
            | (
                Question::PeerSilent,
                Intent::GoOnAlone | Intent::HandOver | Intent::StepDown | Intent::Serve(_),
            )
            | (Question::GoOnAlone, Intent::TakeOver | Intent::HandOver | Intent::Serve(_))
            | (Question::Review, Intent::TakeOver | Intent::GoOnAlone | Intent::Serve(_))
            | (
                Question::Switchover,
                Intent::TakeOver | Intent::GoOnAlone | Intent::StepDown | Intent::Serve(_),
            )
            | (
                Question::SplitBrain { .. },
                Intent::TakeOver | Intent::GoOnAlone | Intent::HandOver | Intent::StepDown,
            ) => false,
        }
    }

    fn held(&mut self, question: Question, fx: &mut Vec<Effect>) {
        let answers = self.vip().0 == Answerer::Peer;
        if question == Question::PeerSilent && answers && self.silent() {
            self.alarm(Alarm::HeartbeatPathCut, true, fx);
        }
    }

    /// Without an arbiter going alone takes a new epoch; it counts once that is durable (R7, R13).
    /// With one it keeps the epoch and counts once the register says so.
    fn go_on_alone(&mut self) -> bool {
        if self.options.arbiter {
            if let State::Primary(reign) = &mut self.state {
                reign.alone = true;
            }
            return true;
        }
        let known = self.peer.map_or(self.want.highest, |peer| peer.beat.highest);
        let epoch = self.want.highest.max(known).next_of(self.options.side);
        let silent = self.silent();
        match &mut self.state {
            State::Primary(reign) if silent => {
                reign.next = Some(Next { epoch, alone: true });
                self.want.highest = epoch;
                true
            }
            State::Primary(_)
            | State::Joining
            | State::Standby
            | State::Electing { .. }
            | State::Claiming { .. }
            | State::Accepting { .. }
            | State::Draining { .. }
            | State::Closing(_)
            | State::HandedOver { .. }
            | State::Fenced(_)
            | State::Stopped => true,
        }
    }

    fn step_down(&mut self, fx: &mut Vec<Effect>) -> bool {
        if self.state.role() != Role::Primary {
            return false;
        }
        self.unfit_until = self.now + self.timing().parts().join_timeout;
        self.let_go(After::Standby, Why::Verdict(Intent::StepDown), fx);
        true
    }

    /// Evidence changed: a review is due, at most every [`RECHECK_MIN`]; a wait for silence is
    /// over.
    pub(super) fn review_soon(&mut self) {
        let soon = self.now + RECHECK_MIN;
        match self.state.role() {
            Role::Primary | Role::Standby => self.review = self.review.min(soon),
            Role::Joining | Role::Candidate | Role::Draining | Role::Fenced => {}
        }
        if self.ask_again > soon {
            self.ask_again = soon;
        }
    }
}
