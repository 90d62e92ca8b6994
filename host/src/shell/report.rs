//! What the real-time thread has to say to people: log, journal, event stream. It hands plain
//! values over a channel; words are found here.

use super::inbox::Outbox;
use crate::evidence::Evidence;
use crate::journal::{
    EventLevel, EventRecord, JournalHandle, LinkMinute, TransitionRecord, unix_ms_now,
};
use staffetta_core::{Alarm, Event, Note, Role, Why};
use staffetta_vip::{GateClass, KernelEvent};
use tokio::sync::{broadcast, mpsc};

/// One thing to say.
#[derive(Debug, Clone)]
pub(crate) enum Report {
    /// From the core.
    Note(Note),
    /// From the kernel's ears.
    KernelEvent(KernelEvent),
    /// The kernel refused something.
    Kernel(String),
    /// Another gate is in force.
    GateClass(GateClass),
    /// A minute of every link, in the order of the configuration.
    Minutes(Vec<crate::link::Minute>),
    /// Anything else worth an event.
    Event(EventRecord),
}

/// The sending side: never waits.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    sender: mpsc::UnboundedSender<Report>,
}

impl Reporter {
    pub(crate) fn channel() -> (Reporter, mpsc::UnboundedReceiver<Report>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Reporter { sender }, receiver)
    }

    pub(crate) fn say(&self, report: Report) {
        // After the end of the reporter there is nobody left to tell.
        let _ = self.sender.send(report);
    }

    pub(crate) fn event(&self, level: EventLevel, name: &str, text: impl Into<String>) {
        self.say(Report::Event(EventRecord::now(level, name, text)));
    }
}

/// Writes reports down until every reporter is gone.
pub(crate) async fn write_down(
    mut reports: mpsc::UnboundedReceiver<Report>,
    journal: JournalHandle,
    events: broadcast::Sender<EventRecord>,
    links: Vec<String>,
    evidence: Evidence,
    outbox: Outbox,
) {
    while let Some(report) = reports.recv().await {
        let event = match report {
            Report::Minutes(minutes) => {
                write_minutes(&journal, &links, &minutes);
                continue;
            }
            Report::Event(event) => event,
            Report::Note(note) => {
                write_transition(&journal, &note);
                note_event(note)
            }
            Report::Kernel(text) => EventRecord::now(EventLevel::Error, "kernel-refused", text),
            Report::GateClass(class) => gate_event(class),
            Report::KernelEvent(event) => {
                if interface_changed(&evidence, &event) {
                    outbox.event(Event::EvidenceChanged);
                }
                kernel_event(event)
            }
        };
        let fields = serde_json::Value::Object(event.fields.clone());
        match event.level {
            EventLevel::Info => tracing::info!(name = event.name, %fields, "{}", event.text),
            EventLevel::Warn => tracing::warn!(name = event.name, %fields, "{}", event.text),
            EventLevel::Error => tracing::error!(name = event.name, %fields, "{}", event.text),
        }
        journal.event(event.clone());
        // Nobody may be listening.
        let _ = events.send(event);
    }
}

fn write_minutes(journal: &JournalHandle, links: &[String], minutes: &[crate::link::Minute]) {
    for (link, minute) in links.iter().zip(minutes) {
        journal.link_minute(LinkMinute {
            at_unix_ms: unix_ms_now() - 60_000,
            link: link.clone(),
            sent: minute.sent,
            received: minute.received,
            loss_permille: minute.loss_permille,
            rtt_us_p50: minute.rtt_us_p50,
            rtt_us_max: minute.rtt_us_max,
        });
    }
}

fn write_transition(journal: &JournalHandle, note: &Note) {
    if let Note::Role { from, to, epoch, why } = note {
        journal.transition(TransitionRecord {
            at_unix_ms: unix_ms_now(),
            epoch: epoch.0,
            from: role(*from).into(),
            to: role(*to).into(),
            why: why_text(why),
        });
    }
}

/// Policies see the interfaces of the service network; true when that changed.
fn interface_changed(evidence: &Evidence, event: &KernelEvent) -> bool {
    match event {
        KernelEvent::LinkDown { interface } => evidence.interface(interface, false),
        KernelEvent::LinkUp { interface } => evidence.interface(interface, true),
        KernelEvent::RulesetFlushed
        | KernelEvent::AddressLost { .. }
        | KernelEvent::ProbeAnswer { .. }
        | KernelEvent::Conflict { .. } => false,
    }
}

fn gate_event(class: GateClass) -> EventRecord {
    match class {
        GateClass::Nftables => {
            EventRecord::now(EventLevel::Info, "gate", "the nftables gate is in force")
        }
        GateClass::Lifetime => EventRecord::now(
            EventLevel::Warn,
            "gate",
            "only address lifetimes gate the VIP: slack is 1400 ms until the rules are back",
        ),
    }
}

fn kernel_event(event: KernelEvent) -> EventRecord {
    use EventLevel::{Error, Info, Warn};
    match event {
        KernelEvent::RulesetFlushed => EventRecord::now(
            Warn,
            "ruleset-flushed",
            "somebody flushed the nftables rules; ours were put back at once",
        ),
        KernelEvent::AddressLost { vip } => EventRecord::now(
            Warn,
            "address-lost",
            format!("somebody removed {vip}; it was put back and announced"),
        ),
        KernelEvent::LinkDown { interface } => {
            EventRecord::now(Error, "link-down", format!("{interface} is down"))
        }
        KernelEvent::LinkUp { interface } => {
            EventRecord::now(Info, "link-up", format!("{interface} is up"))
        }
        KernelEvent::ProbeAnswer { vip, mac, .. } => EventRecord::now(
            Warn,
            "vip-stranger",
            format!("{} answers on {vip}: neither node has that address", hex(&mac)),
        ),
        KernelEvent::Conflict { vip, mac, .. } => EventRecord::now(
            Warn,
            "vip-conflict",
            format!("{} claims {vip} while this node serves; announced again", hex(&mac)),
        ),
    }
}

fn note_event(note: Note) -> EventRecord {
    use EventLevel::{Error, Info, Warn};
    match note {
        Note::Role { from, to, epoch, why } => {
            let level = match (from, to) {
                (Role::Primary, Role::Draining) => Info,
                (Role::Primary | Role::Draining, _) if why != Why::HandingOver => Warn,
                _ => Info,
            };
            let text = format!("{} -> {}: {}", role(from), role(to), why_text(&why));
            EventRecord::now(level, "role", text)
                .with("from", role(from))
                .with("to", role(to))
                .with("epoch", epoch.0)
        }
        Note::Epoch(epoch) => {
            EventRecord::now(Info, "epoch", format!("the reign goes on as {epoch}"))
                .with("epoch", epoch.0)
        }
        Note::Stall(late) => EventRecord::now(
            Warn,
            "stall",
            format!("the beat thread came round {late} late: it was stopped or starved"),
        )
        .with("late_ms", late.as_ms()),
        Note::Met { low, high } => EventRecord::now(
            Error,
            "two-primaries",
            format!("two primaries met: {low} yields to {high}"),
        )
        .with("low", low.0)
        .with("high", high.0),
        Note::PeerBoot(_) => EventRecord::now(Info, "peer-boot", "the peer started again"),
        Note::Paired(true) => EventRecord::now(Info, "paired", "the peer grants the lease"),
        Note::Paired(false) => {
            EventRecord::now(Warn, "unpaired", "the peer no longer grants the lease")
        }
        Note::HandedWithoutData(epoch) => EventRecord::now(
            Warn,
            "handed-without-data",
            format!("handed over as {epoch}, though the peer may lack the last changes"),
        ),
        Note::Refused(question, intent) => EventRecord::now(
            Warn,
            "verdict-refused",
            format!("{intent:?} is no answer to {question:?} now; the safe verdict stands"),
        ),
        Note::Alarm(alarm, true) => {
            EventRecord::now(Warn, alarm_name(alarm), alarm_text(alarm)).with("up", true)
        }
        Note::Alarm(alarm, false) => {
            EventRecord::now(Info, alarm_name(alarm), "over").with("up", false)
        }
    }
}

pub(crate) fn alarm_name(alarm: Alarm) -> &'static str {
    match alarm {
        Alarm::TimersDiffer => "timers-differ",
        Alarm::HeartbeatPathCut => "heartbeat-path-cut",
        Alarm::PolicyLate => "policy-late",
        Alarm::DiskFailed => "disk-failed",
        Alarm::ForeignEpoch => "foreign-epoch",
        Alarm::ArbiterAway => "arbiter-away",
        Alarm::ArbiterSlow => "arbiter-slow",
        Alarm::ArbiterDiffers => "arbiter-differs",
    }
}

pub(crate) fn alarm_text(alarm: Alarm) -> &'static str {
    match alarm {
        Alarm::TimersDiffer => {
            "lease or gate slack of the nodes differ: make [timing] equal on both, and see which \
             gate each has in force"
        }
        Alarm::HeartbeatPathCut => {
            "no beat of the peer arrives, yet the peer answers on the VIP: look for a packet \
             filter on the heartbeat port"
        }
        Alarm::PolicyLate => "no policy answered in time; the safe verdict stood",
        Alarm::DiskFailed => "the epoch cannot be written: look at the disk of the state folder",
        Alarm::ForeignEpoch => {
            "the peer claims an epoch of this node's parity: both nodes have the same side; look \
             at the names of the nodes in both configurations"
        }
        Alarm::ArbiterAway => {
            "the arbiter does not answer: nobody takes over until it does; try `staffetta arbiter \
             check`"
        }
        Alarm::ArbiterSlow => {
            "the arbiter answers too late to carry a primary alone: make lease_ms longer, or bring \
             the arbiter nearer (`staffetta arbiter check` measures it)"
        }
        Alarm::ArbiterDiffers => {
            "one node has an arbiter configured, the other none: make [arbiter] equal on both"
        }
    }
}

pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Joining => "joining",
        Role::Standby => "standby",
        Role::Candidate => "candidate",
        Role::Primary => "primary",
        Role::Draining => "draining",
        Role::Fenced => "fenced",
    }
}

fn why_text(why: &Why) -> String {
    match why {
        Why::Granted => "the peer's claim was granted".into(),
        Why::Elected => "no node serves, and this one is preferred".into(),
        Why::Won => "the peer granted the claim".into(),
        Why::Outvoted => "the claim was not granted in time".into(),
        Why::Verdict(intent) => format!("verdict of the policy: {intent:?}"),
        Why::Operator => "the operator".into(),
        Why::HandedOver => "the peer handed over".into(),
        Why::HandingOver => "planned handover".into(),
        Why::DataNotShipped => "the standby did not get all data in time".into(),
        Why::NotTaken => "the peer did not take over".into(),
        Why::LeaseEnded => "the lease ended without a grant".into(),
        Why::Stalled => "stalled for longer than the lease".into(),
        Why::HigherEpoch(epoch) => format!("a primary of the higher epoch {epoch} is there"),
        Why::SilenceBroken => "the peer was heard again".into(),
        Why::Arbiter => "the arbiter did not confirm the claim".into(),
        Why::Disk => "the epoch did not become durable".into(),
        Why::Kernel => "the kernel refused the VIP".into(),
        Why::Stop => "the daemon stops".into(),
    }
}

pub(super) fn hex(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
