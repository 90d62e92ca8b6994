//! Licensing: a thread of its own, never on the failover path. What the license policy says reaches
//! the core as two permissions, forming a pair and planned moves; it never reaches a takeover.

use super::decide::{Job, decision_record};
use super::inbox::{Mail, Outbox};
use super::report::Reporter;
use super::situation;
use super::snapshot::Board;
use crate::api::status::{LicenseState, LicenseStatus};
use crate::evidence::Evidence;
use crate::journal::{EventLevel, JournalHandle, unix_ms_now};
use crate::link::LICENSE_BYTES_MAX;
use staffetta_core::Event;
use staffetta_policy::types::{
    Holder, LicenseOccasion, LicenseSituation, LicenseVerdict, Standing,
};
use staffetta_policy::{LicenseChain, Policy, Speaker};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest time between two judgments.
const RECHECK_MAX: Duration = Duration::from_secs(3_600);
/// Documents, identities and answers are looked at this often.
const LOOK: Duration = Duration::from_millis(1_000);
/// One judgment.
const DEADLINE: Duration = Duration::from_millis(2_000);

/// The newest judgment; for status.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    pub status: LicenseStatus,
    pub policy: (Speaker, Arc<Policy>),
    pub warnings: Vec<String>,
}

/// Where [`Judged`] hangs.
pub(crate) type Judgment = Arc<Mutex<Judged>>;

pub(crate) struct Licensing {
    pub node: String,
    pub peer: String,
    pub identity: [u8; 32],
    pub document: PathBuf,
    /// No trusted key: nothing is asked of anybody.
    pub off: bool,
    pub chain: LicenseChain,
    pub board: Board,
    pub outbox: Outbox,
    pub evidence: Evidence,
    pub journal: JournalHandle,
    pub reporter: Reporter,
    pub judgment: Judgment,
    pub seen_file: PathBuf,
    pub started: Instant,
    /// Length of the document that was complained of last.
    pub too_long: std::cell::Cell<usize>,
}

/// What a judgment is made from; a change asks for a new one.
#[derive(Debug, Clone, PartialEq, Default)]
struct Basis {
    mine: Option<Vec<u8>>,
    peer: Option<(Vec<u8>, Option<Vec<u8>>)>,
    formed: bool,
}

impl Licensing {
    /// Judges until every sender is gone.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        let mut basis = self.basis();
        let mut occasion = LicenseOccasion::Periodic;
        loop {
            let next = Instant::now() + self.judge(occasion, &basis);
            occasion = loop {
                match jobs.recv_timeout(LOOK) {
                    Ok(Job::Swap(policy)) => {
                        self.chain.swap(policy);
                        break LicenseOccasion::Changed;
                    }
                    Ok(Job::Rollback(_, reply)) => {
                        // The operator may have gone; the policy is out of force either way.
                        let _ = reply.send(self.chain.rollback());
                        break LicenseOccasion::Changed;
                    }
                    Ok(Job::Ask(_) | Job::Rule(..)) => {}
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                let now = self.basis();
                if now != basis {
                    let forming = !now.formed && now.peer.is_some();
                    basis = now;
                    break if forming {
                        LicenseOccasion::FormPair
                    } else {
                        LicenseOccasion::Changed
                    };
                }
                if Instant::now() >= next {
                    break LicenseOccasion::Periodic;
                }
            };
        }
    }

    fn basis(&self) -> Basis {
        let mine = if self.off { None } else { std::fs::read(&self.document).ok() };
        if let Some(document) = &mine
            && document.len() > LICENSE_BYTES_MAX
            && self.too_long.replace(document.len()) != document.len()
        {
            let file = self.document.display();
            let text = format!("{file} is over {LICENSE_BYTES_MAX} bytes: the peer cannot see it");
            self.reporter.event(EventLevel::Warn, "license-too-long", text);
        }
        let snapshot = self.board.newest();
        let about = snapshot.as_ref().and_then(|s| s.peer.as_ref()).map(|(about, _)| about);
        Basis {
            mine,
            peer: about.map(|about| {
                let license = snapshot.as_ref().and_then(|s| s.peer_license.clone());
                (about.identity.clone(), license)
            }),
            formed: snapshot.as_ref().is_some_and(|s| s.view.formed),
        }
    }

    /// Asks the policy; answers with when to ask again.
    fn judge(&mut self, occasion: LicenseOccasion, basis: &Basis) -> Duration {
        let question = match &occasion {
            LicenseOccasion::FormPair => "form-pair",
            LicenseOccasion::Periodic => "periodic",
            LicenseOccasion::Changed => "changed",
            LicenseOccasion::Other(_) => "other",
        };
        let situation = LicenseSituation {
            occasion,
            me: Holder {
                node: self.node.clone(),
                identity: self.identity.to_vec(),
                document: basis.mine.clone(),
            },
            peer: basis.peer.as_ref().map(|(identity, document)| Holder {
                node: self.peer.clone(),
                identity: identity.clone(),
                document: document.clone(),
            }),
            formed: basis.formed,
            latest_seen_s: self.latest_seen(),
        };
        self.outbox.send(Mail::License(basis.mine.clone()));
        let now = self.started.elapsed();
        let wall = situation::wall();
        let answer = self.chain.decide(&situation, &wall, now, Instant::now() + DEADLINE);
        let verdict = answer.verdict.clone().unwrap_or_else(|| LicenseVerdict {
            // Nobody judged: what is formed stays formed, nothing new begins.
            mine: Standing::Unknown,
            peers: Standing::Unknown,
            may_form: self.off,
            may_plan: self.off,
            reason: "no license policy answered".into(),
            ..LicenseVerdict::default()
        });
        let known = basis.peer.is_some() || self.off;
        self.outbox.event(Event::License {
            may_form: verdict.may_form && known,
            may_plan: verdict.may_plan,
        });
        self.evidence.license(verdict.mine);
        let (speaker, policy) = self.chain.in_force();
        let judged = Judged {
            status: LicenseStatus { state: state(verdict.mine), reason: verdict.reason.clone() },
            policy: (speaker, Arc::clone(policy)),
            warnings: verdict.warnings.clone(),
        };
        *self.judgment.lock().expect("no holder panics") = judged;
        let intent = if verdict.may_form { "may form" } else { "may not form" };
        let said = (intent.into(), verdict.reason.clone());
        self.journal.decision(decision_record(question, &situation, &answer, said));
        let again = verdict.recheck_s.map_or(RECHECK_MAX, |s| Duration::from_secs(s.into()));
        again.clamp(Duration::from_secs(1), RECHECK_MAX)
    }

    /// High-water mark of the wall clock, so that setting it back does not lengthen a term.
    fn latest_seen(&self) -> i64 {
        let now = unix_ms_now() / 1_000;
        let kept = std::fs::read_to_string(&self.seen_file).ok();
        let kept = kept.and_then(|text| text.trim().parse::<i64>().ok()).unwrap_or(0);
        if !self.off && now > kept {
            let temp = self.seen_file.with_extension("new");
            let written = std::fs::write(&temp, now.to_string());
            if written.and_then(|()| std::fs::rename(&temp, &self.seen_file)).is_err() {
                self.reporter.event(
                    EventLevel::Warn,
                    "license-clock",
                    "cannot keep the latest time seen",
                );
            }
        }
        kept.max(now)
    }
}

fn state(standing: Standing) -> LicenseState {
    match standing {
        Standing::NotRequired => LicenseState::Off,
        Standing::Valid => LicenseState::Valid,
        Standing::Grace => LicenseState::Grace,
        Standing::Expired => LicenseState::Expired,
        Standing::Invalid => LicenseState::Invalid,
        Standing::Unknown => LicenseState::Unknown,
    }
}
