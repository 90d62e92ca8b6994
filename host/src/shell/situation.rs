//! Builds the complete evidence that a policy sees: the core's observation, the peer's word about
//! itself, the site's checks, the configuration, the wall clock.

use super::decide::Question;
use crate::config::Config;
use crate::evidence::Seen;
use crate::link::{About, CheckReport, Health, LinkView, TargetReport};
use staffetta_core::{
    Answerer, Branch, Observation, PeerRole, PeerView, Question as Asked, Role, Side, Span,
};
use staffetta_policy::types::{
    self, FailoverQuestion, FailoverSituation, SplitBrainSituation, Standing, Wall,
};

/// What the configuration knows about the pair.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub side: Side,
    pub me: Named,
    pub peer: Named,
    /// Name, and whether it leads over a wide-area network.
    pub links: Vec<(String, bool)>,
    /// Address, and how it is shown.
    pub vips: Vec<(std::net::IpAddr, String)>,
}

/// A node as configured.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub name: String,
    pub site: String,
    pub preferred: bool,
}

impl Site {
    pub(crate) fn of(config: &Config) -> Site {
        Site {
            side: if config.side_index() == 0 { Side::A } else { Side::B },
            me: Named {
                name: config.node.name.clone(),
                site: config.node.site.clone(),
                preferred: config.node.preferred,
            },
            peer: Named {
                name: config.peer.name.clone(),
                site: config.peer.site.clone(),
                preferred: config.peer.preferred,
            },
            links: config.links.iter().map(|link| (link.name.clone(), link.wan)).collect(),
            vips: config
                .vips
                .iter()
                .map(|vip| (vip.address, format!("{}/{}", vip.address, vip.prefix)))
                .collect(),
        }
    }

    pub(crate) fn name(&self, side: Side) -> &str {
        if side == self.side { &self.me.name } else { &self.peer.name }
    }
}

/// The situation of a failover question.
pub(crate) fn failover(site: &Site, question: &Question, seen: &Seen) -> FailoverSituation {
    let core = &question.ask.seen;
    let about = question.peer.as_ref();
    FailoverSituation {
        question: match question.ask.question {
            Asked::Start => FailoverQuestion::Start,
            Asked::PeerSilent => FailoverQuestion::PeerSilent,
            Asked::GoOnAlone => FailoverQuestion::GoOnAlone,
            Asked::Review => FailoverQuestion::Review,
            Asked::Switchover => FailoverQuestion::Switchover,
            Asked::SplitBrain { .. } => FailoverQuestion::Other("split-brain".into()),
        },
        me: me(site, core, seen),
        peer: core.peer.map(|view| peer(site, &view, about)),
        peer_age: core.peer.map_or(u32::MAX, |view| ms(view.age)),
        links: site.links.iter().zip(&question.links).map(link).collect(),
        vips: vips(site, core, question),
        arbiter: None,
        since_change: ms(core.since_change),
        changes_last_hour: core.changes_last_hour,
    }
}

/// The situation of a split-brain question; equal on both nodes.
pub(crate) fn split_brain(
    site: &Site,
    core: &Observation,
    a: Branch,
    b: Branch,
) -> SplitBrainSituation {
    let branch = |side, branch: Branch| types::Branch {
        node: site.name(side).to_owned(),
        epoch: branch.epoch.0,
        served: ms(branch.served),
        last_write: None,
        facts: Vec::new(),
    };
    let winner = if a.epoch > b.epoch { Side::A } else { Side::B };
    debug_assert!(core.epoch >= a.epoch.min(b.epoch));
    SplitBrainSituation {
        a: branch(Side::A, a),
        b: branch(Side::B, b),
        serving: Some(site.name(winner).to_owned()),
        subjects: Vec::new(),
    }
}

fn me(site: &Site, core: &Observation, seen: &Seen) -> types::Node {
    types::Node {
        name: site.me.name.clone(),
        site: site.me.site.clone(),
        preferred: site.me.preferred,
        role: own_role(core.role),
        epoch: core.epoch.0,
        in_role: ms(core.in_role),
        promotable: core.eligible,
        maintenance: core.maintenance,
        service_network: health(seen.service_network),
        services: health(seen.services),
        checks: seen.checks.iter().map(|check| report(check, 0)).collect(),
        targets: seen.targets.iter().map(|target| reached(target, 0)).collect(),
        data: Vec::new(),
        license: seen.license,
        stall_max: ms(core.stall_max),
        facts: vec![types::Fact {
            name: "host.was-primary".into(),
            value: types::Value::Flag(core.was_primary),
            age: 0,
        }],
    }
}

fn peer(site: &Site, view: &PeerView, about: Option<&(About, Span)>) -> types::Node {
    let unknown = About { license: standing_number(Standing::Unknown), ..About::default() };
    let (about, age) = about.map_or((&unknown, 0), |(about, age)| (about, ms(*age)));
    types::Node {
        name: site.peer.name.clone(),
        site: site.peer.site.clone(),
        preferred: site.peer.preferred,
        role: peer_role(view.role),
        epoch: view.epoch.0,
        in_role: about.in_role_ms.saturating_add(age),
        promotable: view.eligible,
        maintenance: view.maintenance,
        service_network: health(about.service_network),
        services: health(about.services),
        checks: about.checks.iter().map(|check| report(check, age)).collect(),
        targets: about.targets.iter().map(|target| reached(target, age)).collect(),
        data: Vec::new(),
        license: standing(about.license),
        stall_max: about.stall_max_ms,
        facts: Vec::new(),
    }
}

fn vips(site: &Site, core: &Observation, question: &Question) -> Vec<types::Vip> {
    let vip = |(address, shown): &(std::net::IpAddr, String)| {
        let own = question.answers.iter().find(|(vip, ..)| vip == address);
        // Silence is the core's finding: three rounds without an answer while the prober was awake.
        let (answerer, age) = match (core.vip, own) {
            ((Answerer::Nobody | Answerer::NotProbed, age), _) => (core.vip.0, age),
            (_, Some((_, answerer, age))) => (*answerer, *age),
            ((answerer, age), None) => (answerer, age),
        };
        types::Vip {
            address: shown.clone(),
            answerer: match answerer {
                Answerer::Nobody => types::Answerer::Nobody,
                Answerer::Peer => types::Answerer::Peer,
                Answerer::Stranger => types::Answerer::Stranger,
                Answerer::NotProbed => types::Answerer::NotProbed,
            },
            age: ms(age),
        }
    };
    site.vips.iter().map(vip).collect()
}

fn link(((name, wan), view): (&(String, bool), &LinkView)) -> types::Link {
    types::Link {
        name: name.clone(),
        heard: view.heard.map(ms),
        echoed: view.echoed.map(ms),
        rtt_us: view.rtt_us,
        loss_permille: view.loss_permille,
        wan: *wan,
    }
}

fn report(check: &CheckReport, age: u32) -> types::Check {
    types::Check {
        name: check.name.clone(),
        health: health(check.health),
        since: check.since_ms.saturating_add(age),
        age: check.age_ms.saturating_add(age),
    }
}

fn reached(target: &TargetReport, age: u32) -> types::Target {
    types::Target {
        name: target.name.clone(),
        reachable: target.reachable,
        age: target.age_ms.saturating_add(age),
    }
}

fn health(health: Health) -> types::Health {
    match health {
        Health::Ok => types::Health::Ok,
        Health::Degraded => types::Health::Degraded,
        Health::Failed => types::Health::Failed,
        Health::Unknown => types::Health::Unknown,
    }
}

fn own_role(role: Role) -> types::Role {
    peer_role(PeerRole::from(role))
}

fn peer_role(role: PeerRole) -> types::Role {
    match role {
        PeerRole::Joining => types::Role::Joining,
        PeerRole::Standby => types::Role::Standby,
        PeerRole::Candidate => types::Role::Candidate,
        PeerRole::Primary => types::Role::Primary,
        PeerRole::Draining => types::Role::Draining,
        PeerRole::Fenced => types::Role::Fenced,
    }
}

/// Standing as a number on the wire: the case of the WIT enum.
pub(crate) fn standing_number(standing: Standing) -> u8 {
    match standing {
        Standing::NotRequired => 0,
        Standing::Valid => 1,
        Standing::Grace => 2,
        Standing::Expired => 3,
        Standing::Invalid => 4,
        Standing::Unknown => 5,
    }
}

fn standing(number: u8) -> Standing {
    match number {
        0 => Standing::NotRequired,
        1 => Standing::Valid,
        2 => Standing::Grace,
        3 => Standing::Expired,
        4 => Standing::Invalid,
        _ => Standing::Unknown,
    }
}

/// Local wall-clock time, with whether the kernel knows it to be synchronised (`adjtimex(2)`).
pub(crate) fn wall() -> Wall {
    let now = jiff::Zoned::now();
    let minute = i32::from(now.hour()) * 60 + i32::from(now.minute());
    Wall {
        unix_s: now.timestamp().as_second(),
        utc_offset_min: i16::try_from(now.offset().seconds() / 60).unwrap_or(0),
        weekday: u8::try_from(now.weekday().to_monday_one_offset()).unwrap_or(1),
        minute_of_day: u16::try_from(minute).unwrap_or(0),
        trusted: synchronised(),
    }
}

fn synchronised() -> bool {
    // SAFETY: an all-zero `timex` asks and changes nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `timex` is valid for the call.
    let state = unsafe { libc::adjtimex(&mut timex) };
    state >= 0 && state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0
}

fn ms(span: Span) -> u32 {
    u32::try_from(span.as_ms()).unwrap_or(u32::MAX)
}
