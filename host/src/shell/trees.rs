//! Trees of files as the status and the alarms show them, and what operators want of them.

use super::data::{ALIGNED_MS_MAX, DataLink};
use crate::api::OrderError;
use crate::api::status::{Alarm, TreeLine};
use serde_json::{Value, json};
use staffetta_files::{Command, Done, Order, State, TreeStatus};
use tokio::sync::oneshot;

/// All trees, in the order of the configuration.
pub(crate) fn lines(data: &DataLink) -> Vec<TreeLine> {
    data.trees().iter().map(line).collect()
}

fn line(status: &TreeStatus) -> TreeLine {
    TreeLine {
        name: status.name.clone(),
        path: status.path.display().to_string(),
        state: status.state.as_str().into(),
        source: status.source.into(),
        epoch: status.epoch,
        entries: status.entries,
        bytes: status.bytes,
        behind: status.behind,
        behind_ms: status.behind_ms,
        behind_bytes: status.behind_bytes,
        held: status.held,
        scanning: status.scanning,
        local_changes: status.local_changes,
        set_aside: status.set_aside,
        skipped: status.skipped,
        trouble: status.trouble.clone(),
    }
}

/// Why the standby does not have what the primary has, for each tree where it does not.
pub(crate) fn misalignments(data: &DataLink) -> Vec<String> {
    data.trees().iter().filter_map(misaligned).collect()
}

fn misaligned(status: &TreeStatus) -> Option<String> {
    let TreeStatus { name, held, .. } = status;
    if *held > 0 {
        return Some(format!("{name}: {held} deletions wait for `staffetta files approve {name}`"));
    }
    let within = status.behind == Some(0) || status.behind_ms <= ALIGNED_MS_MAX;
    let why = match status.state {
        State::Leading | State::Following if status.scanning => "it is being walked".into(),
        State::Leading if within => return None,
        State::Following if within && status.behind.is_some() => return None,
        State::Leading | State::Following => match status.behind {
            Some(lacking) => {
                format!("the standby lacks {lacking} paths for {} ms", status.behind_ms)
            }
            None => "what the standby lacks is not known".into(),
        },
        State::Alone => "no standby attends".into(),
        State::Comparing => "the standby's tree is being compared".into(),
        State::Catching => "it is being brought to what the primary has".into(),
        State::Waiting => "no primary names it".into(),
        State::Diverged => {
            format!("it diverged: the policy, or `staffetta files approve {name}`, decides")
        }
        State::Halted | State::Closed => status.trouble.clone().unwrap_or_else(|| "closed".into()),
    };
    Some(format!("{name}: {why}"))
}

/// What someone should look at.
pub(crate) fn alarms(data: &DataLink) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    for status in data.trees().iter() {
        let mut add = |name: &str, text: String| alarms.push(Alarm { name: name.into(), text });
        if let Some(trouble) = &status.trouble {
            add("tree", format!("{}: {trouble}", status.name));
        }
        if status.held > 0 {
            let text = format!(
                "{0}: {1} deletions wait: `staffetta files diff {0}` shows them, `staffetta files \
                 approve {0}` lets them happen",
                status.name, status.held
            );
            add("tree-held", text);
        }
        if status.state == State::Diverged {
            let text = format!(
                "{0} holds what the primary may lack: `staffetta files diff {0}` shows it, \
                 `staffetta files approve {0}` sets it aside and takes the primary's",
                status.name
            );
            add("tree-diverged", text);
        }
    }
    alarms
}

/// Has the engine do it, and answers when it has.
pub(crate) fn order(
    data: &DataLink,
    name: String,
    order: Order,
    reply: oneshot::Sender<Result<Value, OrderError>>,
) {
    let known = data.trees();
    if !known.iter().any(|tree| tree.name == name) {
        let names: Vec<&str> = known.iter().map(|tree| tree.name.as_str()).collect();
        let remedy = match names.as_slice() {
            [] => "add [[tree]] to the configuration of both nodes".to_owned(),
            some => format!("name one of: {}", some.join(", ")),
        };
        let error = OrderError::new(format!("no tree `{name}` is replicated"), remedy);
        let _ = reply.send(Err(error));
        return;
    }
    let tell = move |done: Result<Done, String>| {
        let answer = done.map(as_json).map_err(|error| {
            OrderError::new(error, "see `staffetta files status` and the journal")
        });
        // Whoever ordered may have gone; what was done is in the journal.
        let _ = reply.send(answer);
    };
    data.say_trees(Command::Order(name, order, Box::new(tell)));
}

fn as_json(done: Done) -> Value {
    match done {
        Done::Said(text) => text.into(),
        Done::Paths(paths) => paths
            .into_iter()
            .map(|(path, why)| json!({ "path": path.to_string(), "why": why }))
            .collect(),
        Done::Kept(things) => things
            .into_iter()
            .map(|thing| {
                json!({
                    "place": thing.place,
                    "stamp": thing.stamp,
                    "path": thing.path.to_string(),
                    "bytes": thing.bytes,
                })
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::data::tree_status;

    #[test]
    fn only_a_tree_that_the_standby_has_within_the_bound_is_aligned() {
        for (state, behind, behind_ms, aligned) in [
            (State::Leading, Some(0), 0, true),
            (State::Leading, Some(3), ALIGNED_MS_MAX, true),
            (State::Leading, Some(3), ALIGNED_MS_MAX + 1, false),
            (State::Following, Some(0), 0, true),
            (State::Following, Some(3), ALIGNED_MS_MAX + 1, false),
            // The primary's last word is too old.
            (State::Following, None, 0, false),
            (State::Alone, Some(0), 0, false),
            (State::Comparing, Some(0), 0, false),
            (State::Catching, Some(0), 0, false),
            (State::Waiting, Some(0), 0, false),
            (State::Diverged, Some(0), 0, false),
            (State::Halted, Some(0), 0, false),
            (State::Closed, Some(0), 0, false),
        ] {
            let status = TreeStatus { behind_ms, ..tree_status(state, behind) };
            let why = misaligned(&status);
            assert_eq!(why.is_none(), aligned, "{state:?} {behind:?} {behind_ms}: {why:?}");
            let held = TreeStatus { held: 1, ..status.clone() };
            assert!(misaligned(&held).is_some_and(|why| why.contains("files approve recordings")));
            if matches!(state, State::Leading | State::Following) {
                assert!(misaligned(&TreeStatus { scanning: true, ..status }).is_some());
            }
        }
    }
}
