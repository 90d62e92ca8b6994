//! What policies see, what they answer, and what becomes of the answers on the way.

use super::{Due, MS, WALL_START_S, World};
use crate::coverage::Counter;
use crate::fault::PolicyMode;
use crate::plan::Licensing;
use staffetta_core::{Ask, Event, Intent, Question, Side, Span, Verdict};
use staffetta_sdk::failover::Link;
use staffetta_sdk::license::{self, Holder, Occasion};
use staffetta_sdk::{Health, Standing, Target, Wall};
use staffetta_situation as situation;
use staffetta_situation::Surroundings;

/// How often the licensing of a node looks around, ms.
const LOOK_MS: u64 = 1_000;
const DAY_S: i64 = 86_400;
const VALID: &[u8] = include_bytes!("../license/valid.json");
const ENDS: &[u8] = include_bytes!("../license/ends.json");

impl World<'_> {
    fn wall(&self) -> Wall {
        let unix_s = WALL_START_S + i64::try_from(self.now / 1_000 / MS).unwrap_or(0);
        let minute = unix_s.rem_euclid(DAY_S) / 60;
        let weekday = (unix_s.div_euclid(DAY_S) + 3).rem_euclid(7) + 1;
        Wall {
            unix_s,
            utc_offset_min: 0,
            weekday: u8::try_from(weekday).unwrap_or(1),
            minute_of_day: u16::try_from(minute).unwrap_or(0),
            trusted: true,
        }
    }

    pub(crate) fn ask(&mut self, at: usize, ask: &Ask) {
        let life = self.seats[at].life;
        self.count_stale(at, ask);
        let verdict = self.decide(at, ask);
        let policy_ns = self.plan.weather.policy_us * 1_000;
        let mut when = self.now + policy_ns + self.dice.roll(policy_ns / 2 + 1);
        let mode = self.seats[at].ills.policy.map(|(_, mode)| mode);
        let verdict = match mode {
            None => verdict,
            Some(PolicyMode::Traps) => None,
            Some(PolicyMode::Lost) => {
                self.coverage.saw(Counter::PolicyLate);
                return;
            }
            Some(PolicyMode::Late) => {
                // The effect may have waited for longer than that.
                when = self.real_of(at, ask.deadline).max(self.now) + MS + self.dice.roll(200 * MS);
                verdict
            }
            Some(PolicyMode::Holds) => Some(Verdict { intent: Intent::Hold, recheck: None }),
            Some(PolicyMode::Nonsense) => Some(self.nonsense()),
        };
        let in_time = self.seats[at].clock.local(when) < ask.deadline;
        if verdict.is_none() || !in_time {
            self.coverage.saw(Counter::PolicyLate);
        }
        let question = ask.question;
        self.say(at, || format!("asked {question:?}: {verdict:?}"));
        let event = match verdict {
            Some(verdict) => Event::Answered(ask.id, verdict),
            None => Event::Unanswered(ask.id),
        };
        self.queue.at(when, Due::Tell { at, life, event });
    }

    fn nonsense(&mut self) -> Verdict {
        let intents = [
            Intent::Hold,
            Intent::TakeOver,
            Intent::TakeOver,
            Intent::GoOnAlone,
            Intent::HandOver,
            Intent::StepDown,
            Intent::AskOperator,
            Intent::Serve(Side::A),
            Intent::Serve(Side::B),
        ];
        let intent = *self.dice.pick(&intents);
        let recheck = self.dice.chance(500).then(|| Span::ms(self.dice.roll(2_000)));
        Verdict { intent, recheck }
    }

    fn decide(&mut self, at: usize, ask: &Ask) -> Option<Verdict> {
        let wall = self.wall();
        if let Question::SplitBrain { a, b } = ask.question {
            let situation = situation::split_brain(&self.sites[at], a, b);
            let verdict = self.policies.split_brain(&situation, &wall)?;
            return Some(situation::split_brain_verdict(&self.sites[at], &verdict));
        }
        let around = self.surroundings(at);
        let situation = situation::failover(&self.sites[at], ask.question, &ask.seen, around);
        let memory = self.seats[at].memory.as_deref();
        let verdict = self.policies.failover(&situation, memory, &wall)?;
        if verdict.intent == staffetta_sdk::failover::Intent::AskOperator {
            self.coverage.saw(Counter::Operator);
        }
        let said = situation::failover_verdict(&verdict);
        if verdict.memory.is_some() {
            self.seats[at].memory = verdict.memory;
        }
        Some(said)
    }

    fn surroundings(&self, at: usize) -> Surroundings {
        let seat = &self.seats[at];
        let now = seat.clock.local(self.now);
        let age = |of: Option<staffetta_core::Mono>| {
            of.map(|at| u32::try_from(now.since(at).as_ms()).unwrap_or(u32::MAX))
        };
        let link = |number: usize| Link {
            name: if number == 0 { "one".into() } else { "two".into() },
            heard: age(seat.heard[number]),
            echoed: age(seat.echoed[number]),
            ..Link::default()
        };
        let vip = self.sites[at].vips[0].0;
        Surroundings {
            links: (0..usize::from(self.plan.weather.links)).map(link).collect(),
            answers: seat.answers.map(|(by, at)| (vip, by, now.since(at))).into_iter().collect(),
            mine: told(&self.word(at)),
            peer: seat.peer_word.map(|word| (told(&word), now.since(word.at))),
        }
    }

    /// Checks, references or the service network of a node changed: the daemon tells its core.
    pub(crate) fn evidence_changed(&mut self, at: usize) {
        let seat = &self.seats[at];
        let life = seat.life;
        if seat.node.is_none() {
            return;
        }
        let fit = seat.ills.services == 0 && seat.ills.carrier == 0;
        let when = self.now + MS;
        self.queue.at(when, Due::Tell { at, life, event: Event::Fitness(fit) });
        self.queue.at(when, Due::Tell { at, life, event: Event::EvidenceChanged });
    }

    /// Judges the license when the basis changed, as the daemon's thread does.
    pub(crate) fn licensing(&mut self, at: usize, life: u64) {
        let seat = &self.seats[at];
        if seat.life != life || seat.node.is_none() {
            return;
        }
        self.queue.at(self.now + LOOK_MS * MS, Due::License { at, life });
        let now = seat.clock.local(self.now);
        let formed = seat.node.as_ref().is_some_and(|node| node.view(now).formed);
        let known = seat.peer_word.is_some();
        let off = self.plan.weather.licensing == Licensing::Off;
        // The document's end is one of the moments at which the policy wants to be asked again.
        let ended = !off && self.now >= 40_000 * MS;
        let basis = (known, formed, ended);
        if seat.licensed_for == Some(basis) {
            return;
        }
        self.seats[at].licensed_for = Some(basis);
        let situation = self.license_situation(at, known, formed);
        let wall = self.wall();
        let verdict = self.policies.license(&situation, !off, &wall);
        let (may_form, may_plan) =
            verdict.map_or((off, off), |verdict| (verdict.may_form, verdict.may_plan));
        if self.plan.weather.licensing == Licensing::Ends && ended && !may_plan {
            self.coverage.saw(Counter::LicenseEnded);
        }
        let event = Event::License { may_form: may_form && (known || off), may_plan };
        self.tell(at, life, event);
    }

    fn license_situation(&self, at: usize, known: bool, formed: bool) -> license::Situation {
        let document = match self.plan.weather.licensing {
            Licensing::Off => None,
            Licensing::Valid => Some(VALID.to_vec()),
            Licensing::Ends => Some(ENDS.to_vec()),
        };
        let holder = |at: usize| Holder {
            node: if at == 0 { "na".into() } else { "nb".into() },
            identity: vec![at as u8 + 1; 32],
            document: document.clone(),
        };
        license::Situation {
            occasion: if known && !formed { Occasion::FormPair } else { Occasion::Changed },
            me: holder(at),
            peer: known.then(|| holder(1 - at)),
            formed,
            latest_seen_s: self.wall().unix_s,
        }
    }
}

fn told(word: &super::Word) -> situation::Word {
    let health = |ok: bool| if ok { Health::Ok } else { Health::Failed };
    let target = |reachable| Target { name: "gateway".into(), reachable: Some(reachable), age: 0 };
    situation::Word {
        service_network: health(word.network_ok),
        services: health(word.services_ok),
        checks: Vec::new(),
        targets: word.reference.map(target).into_iter().collect(),
        data: Vec::new(),
        facts: Vec::new(),
        license: Standing::NotRequired,
        in_role_ms: word.in_role_ms,
        stall_max_ms: word.stall_max_ms,
    }
}
