//! Gathers what a policy sees from the parts of the daemon: links, checks, references, the peer's
//! own word, the wall clock. What is made of it is the business of `staffetta_situation`, which the
//! simulator shares.

use super::data::DataLink;
use super::decide::Question;
use crate::config::Config;
use crate::evidence::Seen;
use crate::link::{About, CheckReport, FactReport, Health, LinkView, TargetReport};
use staffetta_core::{Side, Span};
use staffetta_policy::types::{self, FailoverSituation, Standing, Value, Wall};
use staffetta_situation::{Named, Surroundings, Word};

/// What the configuration knows about the pair and its links.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub pair: staffetta_situation::Site,
    /// Name, and whether it leads over a wide-area network.
    links: Vec<(String, bool)>,
}

impl Site {
    pub(crate) fn of(config: &Config) -> Site {
        let pair = staffetta_situation::Site {
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
            vips: config
                .vips
                .iter()
                .map(|vip| (vip.address, format!("{}/{}", vip.address, vip.prefix)))
                .collect(),
        };
        let links = config.links.iter().map(|link| (link.name.clone(), link.wan)).collect();
        Site { pair, links }
    }
}

/// The situation of a failover question.
pub(crate) fn failover(
    site: &Site,
    question: &Question,
    seen: &Seen,
    data: &DataLink,
) -> FailoverSituation {
    let around = Surroundings {
        links: site.links.iter().zip(&question.links).map(link).collect(),
        answers: question.answers.clone(),
        mine: Word {
            service_network: health(seen.service_network),
            services: health(seen.services),
            checks: seen.checks.iter().map(report).collect(),
            targets: seen.targets.iter().map(reached).collect(),
            data: data.evidence(),
            facts: seen.facts.iter().filter_map(fact).collect(),
            license: seen.license,
            in_role_ms: 0,
            stall_max_ms: 0,
        },
        peer: question.peer.as_ref().map(|(about, age)| (word(about, *age, data), *age)),
    };
    staffetta_situation::failover(&site.pair, question.ask.question, &question.ask.seen, around)
}

/// The peer's word; `age` later some of its facts are no longer known.
fn word(about: &About, age: Span, data: &DataLink) -> Word {
    let told = about.facts.iter().flatten();
    let facts = told.filter(|fact| fact.later(ms(age)).is_some());
    Word {
        service_network: health(about.service_network),
        services: health(about.services),
        checks: about.checks.iter().map(report).collect(),
        targets: about.targets.iter().map(reached).collect(),
        data: data.peer_evidence(),
        facts: facts.filter_map(fact).collect(),
        license: standing(about.license),
        in_role_ms: about.in_role_ms,
        stall_max_ms: about.stall_max_ms,
    }
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

fn report(check: &CheckReport) -> types::Check {
    types::Check {
        name: check.name.clone(),
        health: health(check.health),
        since: check.since_ms,
        age: check.age_ms,
    }
}

fn reached(target: &TargetReport) -> types::Target {
    types::Target { name: target.name.clone(), reachable: target.reachable, age: target.age_ms }
}

/// Nothing where its value is of a kind that this version does not know.
fn fact(fact: &FactReport) -> Option<types::Fact> {
    let FactReport { name, age_ms, valid_ms: _, flag, number, text } = fact;
    let value = flag
        .map(Value::Flag)
        .or(number.map(Value::Number))
        .or_else(|| text.clone().map(Value::Text))?;
    Some(types::Fact { name: name.clone(), value, age: *age_ms })
}

fn health(health: Health) -> types::Health {
    match health {
        Health::Ok => types::Health::Ok,
        Health::Degraded => types::Health::Degraded,
        Health::Failed => types::Health::Failed,
        Health::Unknown => types::Health::Unknown,
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
        trusted: crate::doctor::clock_is_synchronized(),
    }
}

fn ms(span: Span) -> u32 {
    u32::try_from(span.as_ms()).unwrap_or(u32::MAX)
}
