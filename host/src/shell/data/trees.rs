//! Trees of files in the daemon: starts their engine and turns its words into the journal's, the
//! policies' and the peer's.

use super::{Report, age_ms, name_id};
use crate::config::{Config, TreeConfig};
use crate::journal::EventLevel;
use crate::shell::decide::{Divergence, Job};
use crate::shell::report::Reporter;
use staffetta_files::{Handle, Notice, Options, State, TreeOptions, TreeStatus};
use staffetta_policy::types::{Copied, Data, DataKind};
use std::sync::mpsc::Sender;

/// Starts the engine; none where no tree is configured.
pub(super) fn start(
    config: &Config,
    reporter: &Reporter,
    jobs: &Sender<Job>,
) -> anyhow::Result<Option<Handle>> {
    if config.trees.is_empty() {
        return Ok(None);
    }
    let options = Options {
        trees: config.trees.iter().map(tree).collect(),
        state: config.node.state_dir.join("files"),
    };
    let teller = Teller { reporter: reporter.clone(), jobs: jobs.clone() };
    Ok(Some(staffetta_files::start(options, move |notice| teller.tell(notice))?))
}

fn tree(config: &TreeConfig) -> TreeOptions {
    TreeOptions {
        name: config.name.clone(),
        path: config.path.clone(),
        ignore: config.ignore.clone(),
        mechanism: config.source,
        delete_share_max: config.delete_share_max,
        grow: config.grow,
        compress: config.compress,
        trash: config.trash,
        scan: config.scan,
    }
}

/// The identity of a tree on the wire of the heartbeats: a database may have the same name.
pub(super) fn id_of(status: &TreeStatus) -> u64 {
    name_id(&format!("tree {}", status.name))
}

/// Whether it may be served: not diverged, not half copied.
pub(super) fn is_fit(status: &TreeStatus) -> bool {
    match status.state {
        State::Diverged | State::Catching => false,
        // A disk that is not mounted must not become the service's.
        State::Halted => false,
        State::Closed
        | State::Alone
        | State::Comparing
        | State::Leading
        | State::Waiting
        | State::Following => true,
    }
}

pub(super) fn report_of(status: &TreeStatus) -> Report {
    Report { id: id_of(status), data: data_of(status), lacks: None }
}

pub(super) fn data_of(status: &TreeStatus) -> Data {
    Data {
        kind: DataKind::Tree,
        name: status.name.clone(),
        epoch: status.epoch,
        seq: status.seq,
        copy: copy_of(status),
        behind_items: status.behind.unwrap_or(0),
        behind_bytes: status.behind_bytes,
        behind: u32::try_from(age_ms(status.behind_since)).unwrap_or(u32::MAX),
        age: 0,
    }
}

fn copy_of(status: &TreeStatus) -> Copied {
    match status.state {
        State::Diverged => Copied::Diverged,
        State::Closed | State::Halted => Copied::Unknown,
        State::Alone | State::Comparing | State::Leading => Copied::Aligned,
        State::Catching => Copied::Unknown,
        State::Waiting | State::Following if status.behind == Some(0) => Copied::Aligned,
        State::Waiting | State::Following => Copied::Behind,
    }
}

/// Turns the engine's words into the journal's and the policy's.
struct Teller {
    reporter: Reporter,
    jobs: Sender<Job>,
}

impl Teller {
    fn tell(&self, notice: Notice) {
        use EventLevel::{Error, Info, Warn};
        let say = |level, name: &str, text: String| self.reporter.event(level, name, text);
        match notice {
            Notice::Opened(tree, source) => {
                say(Info, "tree", format!("{tree} is followed by {source}"));
            }
            Notice::Trouble(tree, why) => say(Error, "tree-trouble", format!("{tree}: {why}")),
            Notice::Healed(tree) => say(Info, "tree", format!("{tree} is well again")),
            Notice::Halted(tree, why) => say(Error, "tree-halted", format!("{tree}: {why}")),
            Notice::Held(tree, count) => {
                let text = format!(
                    "{tree}: {count} entries would be deleted on the standby: `staffetta files \
                     diff {tree}` shows them, `staffetta files approve {tree}` lets it happen"
                );
                say(Error, "tree-held", text);
            }
            Notice::Aligned(tree) => {
                say(Info, "tree", format!("{tree}: the standby has all of it"))
            }
            Notice::Overflow(tree) => {
                let text =
                    format!("{tree}: more changed than the kernel could queue: all is walked");
                say(Warn, "tree-overflow", text);
            }
            Notice::LocalChanges(tree, count, path) => {
                let text = format!(
                    "{tree}: {count} entries were changed on the standby by others, {path} among \
                     them: kept aside, and replaced by the primary's"
                );
                say(Warn, "tree-local-change", text);
            }
            Notice::SetAside(tree, count) => {
                let text = format!(
                    "{tree}: {count} things that only this node had are in .staffetta/conflicts \
                     (`staffetta files restore {tree}` lists them)"
                );
                say(Warn, "tree-set-aside", text);
            }
            Notice::Diverged(tree, count) => {
                let text = format!("{tree}: {count} entries are on this node alone");
                say(Warn, "tree-diverged", text);
                // The policy thread ends with the process only.
                let _ = self.jobs.send(Job::Rule(Divergence::Tree(tree, count)));
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::shell) fn status(state: State, behind: Option<u64>) -> TreeStatus {
        TreeStatus {
            name: "recordings".into(),
            path: "/var/spool/recordings".into(),
            state,
            epoch: 3,
            seq: 40,
            source: "fanotify",
            entries: 7,
            bytes: 70,
            behind,
            behind_bytes: 0,
            behind_since: None,
            held: 0,
            scanning: false,
            local_changes: 0,
            set_aside: 0,
            skipped: 0,
            trouble: None,
        }
    }

    #[test]
    fn what_may_be_served_and_what_policies_see() {
        for (state, behind, fit, copy) in [
            (State::Closed, None, true, Copied::Unknown),
            (State::Halted, None, false, Copied::Unknown),
            (State::Alone, Some(9), true, Copied::Aligned),
            (State::Comparing, Some(9), true, Copied::Aligned),
            (State::Leading, Some(9), true, Copied::Aligned),
            (State::Waiting, Some(0), true, Copied::Aligned),
            (State::Waiting, None, true, Copied::Behind),
            (State::Catching, Some(0), false, Copied::Unknown),
            (State::Following, Some(0), true, Copied::Aligned),
            (State::Following, Some(1), true, Copied::Behind),
            (State::Diverged, Some(0), false, Copied::Diverged),
        ] {
            let status = status(state, behind);
            assert_eq!((is_fit(&status), copy_of(&status)), (fit, copy), "{state:?} {behind:?}");
        }
        let database = name_id("recordings");
        assert_ne!(id_of(&status(State::Alone, None)), database, "may have the same name");
    }
}
