//! The freezer of control groups (cgroup v2, `cgroup.freeze`): everything of a node stops at one
//! moment, as in a machine whose processors are taken away, and nothing in it can notice before it
//! goes on.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long the kernel may take to freeze a group.
const FREEZE_MS_MAX: u64 = 1_000;

/// A group below the one of this process. Thawed and removed when it is dropped.
pub(crate) struct Freezer {
    group: PathBuf,
    home: PathBuf,
}

/// Why no group can be frozen here; nothing when one can.
#[must_use]
pub fn freezer_missing() -> Option<String> {
    let tried = Freezer::new("try").and_then(|freezer| freezer.write("cgroup.freeze", "0"));
    tried.err().map(|error| format!("no freezer of control groups: {error:#}"))
}

impl Freezer {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let home = home()?;
        let group = home.join(format!("staffetta-lab-{}-{name}", std::process::id()));
        std::fs::create_dir(&group)
            .with_context(|| format!("cannot make the control group {}", group.display()))?;
        Ok(Self { group, home })
    }

    /// Takes the processes in and freezes them; returns when all are frozen.
    pub(crate) fn freeze(&self, pids: &[libc::pid_t]) -> Result<()> {
        for pid in pids {
            self.write("cgroup.procs", &pid.to_string())?;
        }
        self.write("cgroup.freeze", "1")?;
        let end = Instant::now() + Duration::from_millis(FREEZE_MS_MAX);
        while !self.is_frozen() {
            if Instant::now() > end {
                bail!("the group {} does not freeze", self.group.display());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    fn is_frozen(&self) -> bool {
        let events = std::fs::read_to_string(self.group.join("cgroup.events"));
        events.is_ok_and(|events| events.lines().any(|line| line == "frozen 1"))
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.group.join(file);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        // What cannot be undone here was gone already: the processes have ended.
        let _ = self.write("cgroup.freeze", "0");
        let members = std::fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for pid in members.lines() {
            let _ = std::fs::write(self.home.join("cgroup.procs"), pid);
        }
        let _ = std::fs::remove_dir(&self.group);
    }
}

/// The folder of this process's own group (cgroups(7)).
fn home() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    let root = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| place.to_owned())
    });
    let root = root.context("no cgroup2 file system is mounted")?;
    let own = std::fs::read_to_string("/proc/self/cgroup").context("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    Ok(Path::new(&root).join(own))
}
