//! Builds what a policy sees: the core's observation, completed with what the core does not know.
//!
//! The daemon and the simulator both come through here, so that a policy cannot tell them apart.
//! The way back, from a verdict to what the core understands, is here too. Refuses: clocks, files,
//! and any rule of its own.

use std::net::IpAddr;

use staffetta_core::{
    Answerer, ArbiterView, Branch, Intent, Observation, PeerRole, PeerView, Question as Asked,
    Role, Side, Span, Standing, Verdict,
};
use staffetta_sdk::failover::{self, Arbiter, Link, Question, Seat, Situation, Vip};
use staffetta_sdk::split_brain;
use staffetta_sdk::{Check, Data, Fact, Health, Node, Standing as License, Target, Value};

/// What the configuration knows about the pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The seat of this node.
    pub side: Side,
    /// This node.
    pub me: Named,
    /// The other one.
    pub peer: Named,
    /// The service addresses: each with its form for people, `ADDRESS/PREFIX`.
    pub vips: Vec<(IpAddr, String)>,
}

/// A node as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its site; empty when not told.
    pub site: String,
    /// The configuration prefers it.
    pub preferred: bool,
}

/// What one node knows about itself beside the core; the peer's reaches this node in frames.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Word {
    /// The network that the clients are on.
    pub service_network: Health,
    /// The worst of `checks`.
    pub services: Health,
    /// Service checks, aged to the moment of the word.
    pub checks: Vec<Check>,
    /// References, aged to the moment of the word.
    pub targets: Vec<Target>,
    /// Databases and trees, as the node holds them, aged to the moment of the word.
    pub data: Vec<Data>,
    /// What the site's own programs found out, aged to the moment of the word.
    pub facts: Vec<Fact>,
    /// How its license stands.
    pub license: License,
    /// How long it has been in its role, ms; of the peer only.
    pub in_role_ms: u32,
    /// Longest stall of its loop, ms; of the peer only.
    pub stall_max_ms: u32,
}

/// What the core does not know.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Surroundings {
    /// The heartbeat paths.
    pub links: Vec<Link>,
    /// Who answered when a service address was probed, and how long ago.
    pub answers: Vec<(IpAddr, Answerer, Span)>,
    /// This node's own word.
    pub mine: Word,
    /// The peer's last word, and its age.
    pub peer: Option<(Word, Span)>,
}

impl Site {
    /// The name of a seat.
    #[must_use]
    pub fn name(&self, side: Side) -> &str {
        if side == self.side { &self.me.name } else { &self.peer.name }
    }
}

/// The situation of a failover question.
#[must_use]
pub fn failover(site: &Site, asked: Asked, core: &Observation, around: Surroundings) -> Situation {
    let Surroundings { links, answers, mine, peer: word } = around;
    Situation {
        question: match asked {
            Asked::Start => Question::Start,
            Asked::PeerSilent => Question::PeerSilent,
            Asked::GoOnAlone => Question::GoOnAlone,
            Asked::Review => Question::Review,
            Asked::Switchover => Question::Switchover,
            Asked::SplitBrain { .. } => Question::Other("split-brain".into()),
        },
        me: me(site, core, mine),
        peer: core.peer.map(|view| peer(site, &view, word)),
        peer_age: core.peer.map_or(u32::MAX, |view| ms(view.age)),
        links,
        vips: site.vips.iter().map(|vip| service_address(vip, core.vip, &answers)).collect(),
        arbiter: core.arbiter.as_ref().map(|view| arbiter(site.side, view)),
        since_change: ms(core.since_change),
        changes_last_hour: core.changes_last_hour,
    }
}

/// The situation of a split-brain question; equal on both nodes.
#[must_use]
pub fn split_brain(site: &Site, a: Branch, b: Branch) -> split_brain::Situation {
    let branch = |side, branch: Branch| split_brain::Branch {
        node: site.name(side).to_owned(),
        epoch: branch.epoch.0,
        served: ms(branch.served),
        last_write: None,
        facts: Vec::new(),
    };
    let winner = if a.epoch > b.epoch { Side::A } else { Side::B };
    split_brain::Situation {
        a: branch(Side::A, a),
        b: branch(Side::B, b),
        serving: Some(site.name(winner).to_owned()),
        subjects: Vec::new(),
    }
}

/// A database or tree of this node that holds what the primary may lack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diverged {
    /// What it is.
    pub kind: staffetta_sdk::DataKind,
    /// Its name.
    pub name: String,
    /// The last position that both had: reign and transaction.
    pub common: Option<(u64, u64)>,
    /// Transactions since then, or entries, that only this node has, where they can be counted.
    pub own: Option<u64>,
    /// The reign of its last transaction here.
    pub epoch: u64,
    /// The reign of the primary.
    pub primary: u64,
    /// What both served when they met last, seat A first, where this life of the daemon saw it.
    pub met: Option<(Branch, Branch)>,
}

/// The situation of data that diverged: the peer serves, this node has the copy.
#[must_use]
pub fn diverged(site: &Site, data: &Diverged) -> split_brain::Situation {
    let met = |side: Side| data.met.map(|(a, b)| if side == Side::A { a } else { b });
    // A meeting of other reigns says nothing about this data.
    let of_this = met(site.side).is_some_and(|mine| mine.epoch.0 == data.epoch);
    let met = |side: Side| met(side).filter(|_| of_this);
    let branch = |side: Side| split_brain::Branch {
        node: site.name(side).to_owned(),
        epoch: if side == site.side { data.epoch } else { data.primary },
        served: met(side).map_or(0, |branch| ms(branch.served)),
        last_write: None,
        facts: Vec::new(),
    };
    let own = data.own.unwrap_or_default();
    let mine_is_a = site.side == Side::A;
    let part = split_brain::Part {
        name: match data.kind {
            staffetta_sdk::DataKind::Database => "transactions".into(),
            staffetta_sdk::DataKind::Tree => "entries".into(),
        },
        a_items: if mine_is_a { own } else { 0 },
        b_items: if mine_is_a { 0 } else { own },
        ..split_brain::Part::default()
    };
    split_brain::Situation {
        a: branch(Side::A),
        b: branch(Side::B),
        serving: Some(site.peer.name.clone()),
        subjects: vec![split_brain::Subject {
            kind: data.kind,
            name: data.name.clone(),
            common: data.common,
            parts: data.own.is_some().then_some(part).into_iter().collect(),
        }],
    }
}

/// Whether a verdict lets the primary's data stay, and why; everything else is an operator's
/// matter, that this node's data should stay among it: that is a handover, which an operator
/// orders.
#[must_use]
pub fn keeps_the_primarys(
    site: &Site,
    verdict: &split_brain::Verdict,
    (kind, name): (staffetta_sdk::DataKind, &str),
) -> (bool, Option<String>) {
    let whole = |ruling: &&split_brain::Ruling| {
        ruling.kind == kind && ruling.name == name && ruling.part.is_none()
    };
    let Some(ruling) = verdict.rulings.iter().find(whole) else {
        return (false, None);
    };
    let keep = match ruling.keep {
        split_brain::Keep::A => Some(Side::A),
        split_brain::Keep::B => Some(Side::B),
        split_brain::Keep::Merge(_)
        | split_brain::Keep::AskOperator
        | split_brain::Keep::Other(_) => None,
    };
    (keep == Some(site.side.other()), Some(ruling.reason.clone()))
}

/// A failover verdict as far as the core needs it. An intent of a later contract holds.
#[must_use]
pub fn failover_verdict(verdict: &failover::Verdict) -> Verdict {
    let intent = match &verdict.intent {
        failover::Intent::Hold | failover::Intent::Other(_) => Intent::Hold,
        failover::Intent::TakeOver => Intent::TakeOver,
        failover::Intent::GoOnAlone => Intent::GoOnAlone,
        failover::Intent::HandOver => Intent::HandOver,
        failover::Intent::StepDown => Intent::StepDown,
        failover::Intent::AskOperator => Intent::AskOperator,
    };
    Verdict { intent, recheck: verdict.recheck.map(|ms| Span::ms(ms.into())) }
}

/// A split-brain verdict as far as the core needs it. A name that is not of the pair asks the
/// operator.
#[must_use]
pub fn split_brain_verdict(site: &Site, verdict: &split_brain::Verdict) -> Verdict {
    let intent = match verdict.serve.as_deref() {
        None => Intent::Hold,
        Some(name) if name == site.name(Side::A) => Intent::Serve(Side::A),
        Some(name) if name == site.name(Side::B) => Intent::Serve(Side::B),
        Some(_) => Intent::AskOperator,
    };
    Verdict { intent, recheck: None }
}

fn me(site: &Site, core: &Observation, word: Word) -> Node {
    let mut facts = vec![Fact {
        name: "host.was-primary".into(),
        value: Value::Flag(core.was_primary),
        age: 0,
    }];
    facts.extend(word.facts);
    Node {
        name: site.me.name.clone(),
        site: site.me.site.clone(),
        preferred: site.me.preferred,
        role: role(PeerRole::from(core.role)),
        epoch: core.epoch.0,
        in_role: ms(core.in_role),
        promotable: core.eligible,
        maintenance: core.maintenance,
        service_network: word.service_network,
        services: word.services,
        checks: word.checks,
        targets: word.targets,
        data: word.data,
        license: word.license,
        stall_max: ms(core.stall_max),
        facts,
    }
}

fn peer(site: &Site, view: &PeerView, word: Option<(Word, Span)>) -> Node {
    let (mut word, age) = word.map_or_else(
        || (Word { license: License::Unknown, ..Word::default() }, 0),
        |(word, age)| (word, ms(age)),
    );
    for check in &mut word.checks {
        check.since = check.since.saturating_add(age);
        check.age = check.age.saturating_add(age);
    }
    for target in &mut word.targets {
        target.age = target.age.saturating_add(age);
    }
    for fact in &mut word.facts {
        fact.age = fact.age.saturating_add(age);
    }
    for data in &mut word.data {
        data.age = data.age.saturating_add(age);
        if data.behind_items > 0 {
            data.behind = data.behind.saturating_add(age);
        }
    }
    Node {
        name: site.peer.name.clone(),
        site: site.peer.site.clone(),
        preferred: site.peer.preferred,
        role: role(view.role),
        epoch: view.epoch.0,
        in_role: word.in_role_ms.saturating_add(age),
        promotable: view.eligible,
        maintenance: view.maintenance,
        service_network: word.service_network,
        services: word.services,
        checks: word.checks,
        targets: word.targets,
        data: word.data,
        license: word.license,
        stall_max: word.stall_max_ms,
        facts: word.facts,
    }
}

fn service_address(
    (address, shown): &(IpAddr, String),
    core: (Answerer, Span),
    answers: &[(IpAddr, Answerer, Span)],
) -> Vip {
    let own = answers.iter().find(|(vip, ..)| vip == address);
    // Silence is the core's finding: three rounds without an answer while the prober was awake.
    let (answerer, age) = match (core.0, own) {
        (Answerer::Nobody | Answerer::NotProbed, _) | (_, None) => core,
        (Answerer::Peer | Answerer::Stranger, Some((_, answerer, age))) => (*answerer, *age),
    };
    Vip {
        address: shown.clone(),
        answerer: match answerer {
            Answerer::Nobody => failover::Answerer::Nobody,
            Answerer::Peer => failover::Answerer::Peer,
            Answerer::Stranger => failover::Answerer::Stranger,
            Answerer::NotProbed => failover::Answerer::NotProbed,
        },
        age: ms(age),
    }
}

fn arbiter(side: Side, view: &ArbiterView) -> Arbiter {
    let register = view.register.as_ref();
    let reachable = match view.standing {
        Standing::Ready | Standing::Slow | Standing::NoRegister => true,
        Standing::Away => false,
    };
    let seat = match register.and_then(staffetta_core::Register::holder) {
        _ if !reachable => Seat::Unreachable,
        None => Seat::Free,
        Some(holder) if holder == side => Seat::Mine,
        Some(_) => Seat::Peers,
    };
    Arbiter {
        seat,
        alone: register.is_some_and(|register| register.alone),
        epoch: register.map_or(0, |register| register.epoch.0),
        peer_synced: register.is_some_and(|register| register.peer_synced),
        age: view.answered.map_or(u32::MAX, ms),
    }
}

fn role(role: PeerRole) -> staffetta_sdk::Role {
    match role {
        PeerRole::Joining => staffetta_sdk::Role::Joining,
        PeerRole::Standby => staffetta_sdk::Role::Standby,
        PeerRole::Candidate => staffetta_sdk::Role::Candidate,
        PeerRole::Primary => staffetta_sdk::Role::Primary,
        PeerRole::Draining => staffetta_sdk::Role::Draining,
        PeerRole::Fenced => staffetta_sdk::Role::Fenced,
    }
}

/// The role of this node in the policies' words.
#[must_use]
pub fn own_role(own: Role) -> staffetta_sdk::Role {
    role(PeerRole::from(own))
}

fn ms(span: Span) -> u32 {
    u32::try_from(span.as_ms()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
