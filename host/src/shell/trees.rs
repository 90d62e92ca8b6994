//! Trees of files as the status and the alarms show them, and what operators want of them.

use super::data::{DataLink, age_ms};
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
        behind_ms: age_ms(status.behind_since),
        behind_bytes: status.behind_bytes,
        held: status.held,
        scanning: status.scanning,
        local_changes: status.local_changes,
        set_aside: status.set_aside,
        skipped: status.skipped,
        trouble: status.trouble.clone(),
    }
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
