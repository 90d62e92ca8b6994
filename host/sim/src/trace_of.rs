//! Events and effects as numbers of the trace hash.

use crate::trace::Trace;
use staffetta_core::{Beat, Claim, Effect, Event, Verdict};

fn claim(claim: Claim) -> u64 {
    match claim {
        Claim::None => 0,
        Claim::Candidate(epoch) => epoch.0 << 2 | 1,
        Claim::Primary(epoch) => epoch.0 << 2 | 2,
    }
}

fn beat(trace: &mut Trace, beat: &Beat) {
    trace.mix(beat.boot << 20 ^ beat.n);
    trace.mix(claim(beat.claim) << 8 | beat.role as u64);
    if let Some(echo) = beat.echo {
        trace.mix(echo.n << 32 ^ echo.granted.0);
    }
}

fn verdict(trace: &mut Trace, verdict: &Verdict) {
    let recheck = verdict.recheck.map_or(0, |recheck| recheck.0);
    let intent = match verdict.intent {
        staffetta_core::Intent::Hold => 1,
        staffetta_core::Intent::TakeOver => 2,
        staffetta_core::Intent::GoOnAlone => 3,
        staffetta_core::Intent::HandOver => 4,
        staffetta_core::Intent::StepDown => 5,
        staffetta_core::Intent::AskOperator => 6,
        staffetta_core::Intent::Serve(side) => 7 + side as u64,
    };
    trace.mix(recheck << 4 ^ intent);
}

pub(crate) fn event(trace: &mut Trace, event: &Event) {
    match event {
        Event::Tick => trace.mix(1),
        Event::Heard(heard) => beat(trace, heard),
        Event::Persisted(id) => trace.mix(id.0 << 8 | 2),
        Event::PersistFailed(id) => trace.mix(id.0 << 8 | 3),
        Event::Claimed => trace.mix(4),
        Event::ClaimFailed => trace.mix(5),
        Event::Released => trace.mix(6),
        Event::Answered(id, said) => {
            trace.mix(id.0 << 8 | 7);
            verdict(trace, said);
        }
        Event::Unanswered(id) => trace.mix(id.0 << 8 | 8),
        Event::Consulted(id, _) => trace.mix(id.0 << 8 | 9),
        Event::Synced(id, synced) => trace.mix(id.0 << 9 | u64::from(*synced) << 8 | 10),
        Event::Drained(epoch, shipment) => trace.mix(epoch.0 << 9 | (*shipment as u64) << 8 | 18),
        Event::Probed(by) => trace.mix((*by as u64) << 8 | 11),
        Event::EvidenceChanged => trace.mix(12),
        Event::Fitness(fit) => trace.mix(u64::from(*fit) << 8 | 13),
        Event::License { may_form, may_plan } => {
            trace.mix(u64::from(*may_form) << 9 | u64::from(*may_plan) << 8 | 14);
        }
        Event::Slack(slack) => trace.mix(slack.0 << 8 | 15),
        Event::Links(live) => trace.mix(u64::from(*live) << 8 | 16),
        Event::Order(_) => trace.mix(17),
    }
}

pub(crate) fn effect(trace: &mut Trace, effect: &Effect) {
    match effect {
        Effect::Send(sent) => beat(trace, sent),
        Effect::Persist(id, record) => trace.mix(id.0 << 40 ^ record.highest.0 << 8 | 33),
        Effect::Claim { epoch, until } => trace.mix(epoch.0 << 48 ^ until.0 << 8 | 34),
        Effect::Renew { until } => trace.mix(until.0 << 8 | 35),
        Effect::Release => trace.mix(36),
        Effect::Consult(id, _) => trace.mix(id.0 << 8 | 37),
        Effect::Drain { epoch } => trace.mix(epoch.0 << 8 | 44),
        Effect::Undrain { epoch } => trace.mix(epoch.0 << 8 | 45),
        Effect::Degraded(id, on) => trace.mix(id.0 << 9 | u64::from(*on) << 8 | 46),
        Effect::Announce => trace.mix(38),
        Effect::Probe => trace.mix(39),
        Effect::Ask(ask) => trace.mix(ask.id.0 << 8 | 40),
        Effect::Exit => trace.mix(41),
        Effect::OrderDone(result) => trace.mix(u64::from(result.is_ok()) << 8 | 42),
        Effect::Note(_) => trace.mix(43),
    }
}
