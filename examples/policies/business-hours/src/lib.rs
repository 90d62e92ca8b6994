//! A site's own failover policy: the service goes back to the preferred node, but only at night, on
//! weekdays, on a synchronised clock.
//!
//! Everything that is not about failback is answered by the rules that this site wants: take over
//! when the peer is silent and nobody answers on the service address, go on alone otherwise.

use serde::Deserialize;
use staffetta_sdk::failover::{
    Answerer, Outcome, Policy, Question, References, Situation, Verdict, ask_operator, go_on_alone,
    hand_over, hold, step_down, take_over,
};
use staffetta_sdk::{Fault, Given, Health, Role, Wall, failover_policy};

/// The site's settings: `[policy.failover.settings]` of its configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// First hour of the day in which the service may move back.
    pub from_hour: u16,
    /// First hour in which it may not any more.
    pub to_hour: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self { from_hour: 2, to_hour: 4 }
    }
}

/// The policy.
pub struct BusinessHours;

impl Policy for BusinessHours {
    type Settings = Settings;

    fn decide(situation: &Situation, given: &Given<Settings>) -> Outcome {
        match &situation.question {
            Question::PeerSilent => Ok(peer_silent(situation)),
            Question::GoOnAlone => Ok(lease_runs_out(situation)),
            Question::Review => Ok(failback(situation, given)),
            Question::Switchover => Ok(hand_over("an operator asked")),
            Question::Start => Ok(ask_operator("this site starts alone by hand only")),
            // The host asks its next policy.
            Question::Other(name) => Err(Fault::CannotDecide(format!("{name} is not known here"))),
        }
    }

    fn check(settings: &Settings) -> Vec<String> {
        let mut wrong = Vec::new();
        if settings.from_hour >= settings.to_hour || settings.to_hour > 24 {
            wrong.push("from_hour must be before to_hour, and both at most 24".to_string());
        }
        wrong
    }
}

fn peer_silent(situation: &Situation) -> Verdict {
    let me = &situation.me;
    let disarmed = me.maintenance || situation.peer.as_ref().is_some_and(|peer| peer.maintenance);
    if disarmed {
        hold("a node is in maintenance")
    } else if situation.answers(Answerer::Peer) {
        hold("the peer still answers on the service address").recheck_ms(100)
    } else if me.has_failed() || !me.promotable {
        ask_operator("this node is not fit to serve")
    } else if me.references() == References::Unreachable {
        hold("this node is cut off itself").recheck_ms(1_000)
    } else {
        take_over("the peer is silent")
    }
}

fn lease_runs_out(situation: &Situation) -> Verdict {
    match situation.me.references() {
        References::Unreachable => step_down("neither the peer nor a reference answers"),
        References::NotConfigured | References::Reachable | References::NotProbed => {
            go_on_alone("the peer is silent")
        }
    }
}

fn failback(situation: &Situation, given: &Given<Settings>) -> Verdict {
    let Some(peer) = &situation.peer else { return hold("there is no peer") };
    if situation.me.role != Role::Primary || !peer.preferred {
        return hold("the service is where it belongs");
    }
    let well = peer.services == Health::Ok && peer.service_network == Health::Ok;
    if !well || !peer.promotable || peer.maintenance {
        return hold(format!("{} is preferred, but not ready", peer.name)).recheck_ms(60_000);
    }
    match closed(&given.wall, &given.settings) {
        Some(why) => hold(why).recheck_ms(60_000),
        None => hand_over(format!("{} is preferred, and it is night", peer.name)).because(format!(
            "weekday {}, minute {}",
            given.wall.weekday, given.wall.minute_of_day
        )),
    }
}

/// Why this is not the time.
fn closed(wall: &Wall, settings: &Settings) -> Option<String> {
    let hour = wall.minute_of_day / 60;
    if !wall.trusted {
        Some("the clock is not synchronised: failback waits".to_string())
    } else if wall.weekday > 5 {
        Some("no failback at the weekend".to_string())
    } else if (settings.from_hour..settings.to_hour).contains(&hour) {
        None
    } else {
        Some(format!("failback waits until {}:00", settings.from_hour))
    }
}

failover_policy!(BusinessHours);

#[cfg(test)]
mod tests {
    use super::*;
    use staffetta_sdk::testing;

    #[test]
    fn every_case_answers_as_written() {
        testing::check_cases::<BusinessHours>("cases");
    }

    #[test]
    fn a_window_that_ends_before_it_starts_is_refused() {
        let settings = r#"{"from_hour": 4, "to_hour": 2}"#;
        let situation = testing::primary(Question::Review).build();
        let outcome = testing::decide::<BusinessHours>(&situation, settings, Wall::default());
        assert!(matches!(outcome, Err(Fault::BadSettings(_))), "{outcome:?}");
    }

    #[test]
    fn a_misspelled_setting_is_refused_by_name() {
        let situation = testing::primary(Question::Review).build();
        let outcome =
            testing::decide::<BusinessHours>(&situation, r#"{"form_hour": 1}"#, Wall::default());
        let Err(Fault::BadSettings(lines)) = outcome else { panic!("{outcome:?}") };
        assert!(lines[0].contains("form_hour"), "{lines:?}");
    }

    #[test]
    fn an_unknown_question_goes_to_the_next_policy() {
        let situation = testing::primary(Question::Other("levitate".into())).build();
        let outcome = BusinessHours::decide(&situation, &Given::default());
        assert!(matches!(outcome, Err(Fault::CannotDecide(_))), "{outcome:?}");
    }
}
