//! The policy thread: one question at a time, inside its deadline, off the beat thread.
//!
//! It alone owns the chains of failover and split-brain policies, so that a policy is swapped
//! between two decisions without a lock. What it was asked, with everything that the answer was
//! made from, goes to the journal.

use super::data::DataLink;
use super::inbox::Outbox;
use super::realtime;
use super::report::Reporter;
use super::situation::{self, Site};
use super::snapshot::Board;
use crate::evidence::Evidence;
use crate::journal::{DecisionRecord, EventLevel, JournalHandle, unix_ms_now};
use crate::link::{About, LinkView};
use staffetta_core::{Answerer, Ask, AskId, Branch, Event, Question as Asked, Span, Verdict};
use staffetta_db::Kinship;
use staffetta_policy::types::DataKind;
use staffetta_policy::{Answer, FailoverChain, Kind, Policy, Speaker, SplitBrainChain, Subject};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// One thing for the policy thread.
pub(crate) enum Job {
    /// The core asks.
    Ask(Box<Question>),
    /// Put this policy in force.
    Swap(Arc<Policy>),
    /// Go back to the one before; answers with its name, or nothing where no site policy is in
    /// force.
    Rollback(Kind, Sender<Option<Arc<Policy>>>),
    /// What happens to data of this node that diverged from the primary's.
    Rule(Divergence),
}

/// Data of this node that the primary may lack.
#[derive(Debug)]
pub(crate) enum Divergence {
    /// A database.
    Database(PathBuf, Kinship),
    /// A tree, and how many entries only this node has.
    Tree(String, u64),
}

/// A question of the core with what the beat thread sees.
pub(crate) struct Question {
    pub ask: Ask,
    pub until: Instant,
    pub links: Vec<LinkView>,
    pub answers: Vec<(IpAddr, Answerer, Span)>,
    pub peer: Option<(About, Span)>,
}

/// Which policies are in force; for status.
#[derive(Debug, Clone)]
pub(crate) struct InForce {
    pub failover: (Speaker, Arc<Policy>),
    pub split_brain: (Speaker, Arc<Policy>),
    pub quarantined: Vec<Kind>,
}

/// Where [`InForce`] hangs.
pub(crate) type Shelf = Arc<Mutex<InForce>>;

pub(crate) struct Decider {
    pub site: Site,
    pub evidence: Evidence,
    pub failover: FailoverChain,
    pub split_brain: SplitBrainChain,
    pub outbox: Outbox,
    pub journal: JournalHandle,
    pub reporter: Reporter,
    pub shelf: Shelf,
    pub memory_file: PathBuf,
    pub started: Instant,
    pub data: Arc<OnceLock<DataLink>>,
    pub board: Board,
    /// What both nodes served when they met last as primaries, seat A first. The data of that
    /// meeting is judged by the same times.
    pub met: Option<(Branch, Branch)>,
}

/// How long a policy may think about data: nobody waits for it with a lease in hand.
const RULING_MAX: Duration = Duration::from_millis(40);

/// Version of the engine in decision records.
const ENGINE: &str = concat!("staffetta ", env!("CARGO_PKG_VERSION"), ", wasmtime 48");

impl Decider {
    /// Works until every sender is gone.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        realtime::raise_this_thread(realtime::PRIORITY_HELPERS);
        self.load_memory();
        // Rulings come after every question that waits: no lease hangs on them.
        let mut rulings = VecDeque::new();
        loop {
            let job = match jobs.try_recv() {
                Ok(job) => job,
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => match rulings.pop_front() {
                    Some(Divergence::Database(path, kinship)) => {
                        self.rule(path, kinship);
                        continue;
                    }
                    Some(Divergence::Tree(name, own)) => {
                        self.rule_tree(name, own);
                        continue;
                    }
                    None => match jobs.recv() {
                        Ok(job) => job,
                        Err(_) => return,
                    },
                },
            };
            match job {
                Job::Ask(question) => self.answer(&question),
                Job::Rule(divergence) => rulings.push_back(divergence),
                Job::Swap(policy) => match policy.kind() {
                    Kind::Failover => self.failover.swap(policy),
                    Kind::SplitBrain => self.split_brain.swap(policy),
                    Kind::License => {}
                },
                Job::Rollback(kind, reply) => {
                    let out = match kind {
                        Kind::Failover => self.failover.rollback(),
                        Kind::SplitBrain => self.split_brain.rollback(),
                        Kind::License => None,
                    };
                    // The operator may have gone; the policy is out of force either way.
                    let _ = reply.send(out);
                }
            }
            self.shelve();
        }
    }

    fn answer(&mut self, question: &Question) {
        let id = question.ask.id;
        match question.ask.question {
            Asked::SplitBrain { a, b } => {
                self.met = Some((a, b));
                let situation = staffetta_situation::split_brain(&self.site.pair, a, b);
                let now = self.started.elapsed();
                let wall = situation::wall();
                let answer = self.split_brain.decide(&situation, &wall, now, question.until);
                let verdict = answer.verdict.as_ref().map(|verdict| {
                    staffetta_situation::split_brain_verdict(&self.site.pair, verdict)
                });
                self.reply(id, verdict);
                let said = answer.verdict.as_ref().map(|verdict| {
                    let serve = verdict.serve.as_deref().unwrap_or("whoever serves");
                    (format!("serve: {serve}"), verdict.reason.clone())
                });
                self.record("split-brain", &situation, &answer, said);
            }
            Asked::Start
            | Asked::PeerSilent
            | Asked::GoOnAlone
            | Asked::Review
            | Asked::Switchover => {
                let seen = self.evidence.seen();
                let none = DataLink::default();
                let data = self.data.get().unwrap_or(&none);
                let situation = situation::failover(&self.site, question, &seen, data);
                let now = self.started.elapsed();
                let wall = situation::wall();
                let answer = self.failover.decide(&situation, &wall, now, question.until);
                self.reply(id, answer.verdict.as_ref().map(staffetta_situation::failover_verdict));
                let said = answer
                    .verdict
                    .as_ref()
                    .map(|verdict| (verdict.intent.to_string(), verdict.reason.clone()));
                self.record(&situation.question.to_string(), &situation, &answer, said);
            }
        }
    }

    /// Asks the split-brain policy about one database. Without a ruling that this node carries out,
    /// an operator decides.
    fn rule(&mut self, path: PathBuf, kinship: Kinship) {
        let Some(data) = self.data.get().cloned() else { return };
        let status = data.status();
        let Some(status) = status.iter().find(|status| status.path == path) else {
            // Opened a moment ago: an operator sees it as diverged.
            return data.say(staffetta_db::Command::Rule(path, false));
        };
        let (common, own) = match kinship {
            Kinship::Ancestor => return,
            Kinship::Diverged { common, own } => (common.map(|at| (at.epoch, at.txid)), own),
        };
        let diverged = staffetta_situation::Diverged {
            kind: DataKind::Database,
            name: status.name.clone(),
            common,
            own,
            epoch: status.position.map_or(0, |at| at.epoch),
            primary: self.primary_epoch(),
            met: self.met,
        };
        let winner = self.judge(&diverged, "staffetta db resync");
        data.say(staffetta_db::Command::Rule(path, winner));
    }

    /// The same about a tree, of which so many entries are on this node alone.
    fn rule_tree(&mut self, name: String, own: u64) {
        let Some(data) = self.data.get().cloned() else { return };
        let epoch = data.trees().iter().find(|tree| tree.name == name).map_or(0, |tree| tree.epoch);
        let diverged = staffetta_situation::Diverged {
            kind: DataKind::Tree,
            name: name.clone(),
            common: None,
            own: Some(own),
            epoch,
            primary: self.primary_epoch(),
            met: self.met,
        };
        let winner = self.judge(&diverged, "staffetta files approve");
        data.say_trees(staffetta_files::Command::Rule(name, winner));
    }

    fn primary_epoch(&self) -> u64 {
        let peer = self.board.newest().and_then(|snapshot| snapshot.view.peer);
        peer.map_or(0, |peer| peer.epoch.0)
    }

    /// Whether the policy lets the primary's data stay; journals what it said.
    fn judge(&mut self, diverged: &staffetta_situation::Diverged, command: &str) -> bool {
        let situation = staffetta_situation::diverged(&self.site.pair, diverged);
        let now = self.started.elapsed();
        let wall = situation::wall();
        let until = Instant::now() + RULING_MAX;
        let answer = self.split_brain.decide(&situation, &wall, now, until);
        let subject = (diverged.kind, diverged.name.as_str());
        let (winner, why) = answer.verdict.as_ref().map_or((false, None), |verdict| {
            staffetta_situation::keeps_the_primarys(&self.site.pair, verdict, subject)
        });
        let word = match winner {
            true => "the primary's data stays, this node's is set aside".to_owned(),
            false => format!("an operator decides (`{command}` sets this node's aside)"),
        };
        let reason = why.unwrap_or_else(|| "no ruling on it".into());
        let text = format!("{}: {word}: {reason}", diverged.name);
        self.reporter.event(EventLevel::Warn, "data-ruling", text);
        self.record("diverged", &situation, &answer, Some((word, reason)));
        winner
    }

    fn reply(&self, id: AskId, verdict: Option<Verdict>) {
        self.outbox.event(match verdict {
            Some(verdict) => Event::Answered(id, verdict),
            None => Event::Unanswered(id),
        });
    }

    fn record<S: Subject + serde::Serialize>(
        &mut self,
        question: &str,
        situation: &S,
        answer: &Answer<S::Verdict>,
        said: Option<(String, String)>,
    ) {
        let (intent, reason) = said.unwrap_or_else(|| {
            ("hold".into(), "no policy answered in time: the host's safe verdict".into())
        });
        for attempt in &answer.attempts {
            let text = format!("{:?} policy gave no verdict: {}", attempt.speaker, attempt.failure);
            self.reporter.event(EventLevel::Warn, "policy-failed", text);
        }
        self.journal.decision(decision_record(question, situation, answer, (intent, reason)));
        if answer.verdict.as_ref().is_some_and(|verdict| S::memory(verdict).is_some()) {
            self.save_memory();
        }
    }

    fn shelve(&self) {
        let (speaker, policy) = self.failover.in_force();
        let failover = (speaker, Arc::clone(policy));
        let (speaker, policy) = self.split_brain.in_force();
        let split_brain = (speaker, Arc::clone(policy));
        let mut quarantined = Vec::new();
        quarantined.extend(self.failover.quarantined().then_some(Kind::Failover));
        quarantined.extend(self.split_brain.quarantined().then_some(Kind::SplitBrain));
        *self.shelf.lock().expect("no holder panics") =
            InForce { failover, split_brain, quarantined };
    }

    /// What policies remember is kept over restarts, as one JSON object by digest.
    fn save_memory(&self) {
        let text = json(self.failover.memories());
        let temp = self.memory_file.with_extension("new");
        let written =
            std::fs::write(&temp, text).and_then(|()| std::fs::rename(&temp, &self.memory_file));
        if let Err(error) = written {
            let text = format!("cannot keep what policies remember: {error}");
            self.reporter.event(EventLevel::Warn, "policy-memory", text);
        }
    }

    fn load_memory(&mut self) {
        let Ok(text) = std::fs::read_to_string(&self.memory_file) else { return };
        match serde_json::from_str::<BTreeMap<String, String>>(&text) {
            Ok(memories) => self.failover.remember(memories),
            Err(error) => {
                let file = self.memory_file.display();
                let text =
                    format!("{file} is not readable ({error}): policies start without memory");
                self.reporter.event(EventLevel::Warn, "policy-memory", text);
            }
        }
    }
}

/// What the journal keeps of a decision of any kind: intent and reason in words, and everything
/// that the answer was made from.
pub(super) fn decision_record<S: Subject + serde::Serialize>(
    question: &str,
    situation: &S,
    answer: &Answer<S::Verdict>,
    (intent, reason): (String, String),
) -> DecisionRecord
where
    S::Verdict: serde::Serialize,
{
    let context = answer.context.as_ref();
    let notes = answer.notes.iter().map(|note| format!("{:?}: {}", note.level, note.text));
    let attempts =
        answer.attempts.iter().map(|a| format!("{:?} {}: {}", a.speaker, a.digest, a.failure));
    DecisionRecord {
        at_unix_ms: unix_ms_now(),
        kind: S::KIND.name().into(),
        question: question.into(),
        intent,
        reason,
        spoke: super::publish::spoke(answer.spoke),
        situation: json(situation),
        settings: context.map_or_else(|| "{}".into(), |context| context.settings.clone()),
        memory: context.and_then(|context| context.memory.clone()),
        wall: context.map_or_else(|| "null".into(), |context| json(&context.wall)),
        verdict: answer.verdict.as_ref().map_or_else(|| "null".into(), json),
        digest: answer.digest.clone().unwrap_or_default(),
        engine: ENGINE.into(),
        fuel: answer.fuel,
        cpu_us: answer.cpu_us,
        notes: notes.collect(),
        attempts: attempts.collect(),
    }
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| format!("\"not serialisable: {error}\""))
}
