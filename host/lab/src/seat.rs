//! The processes of one node: started in its namespace, found again by it, stopped, thawed and
//! killed.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::freezer::Freezer;
use crate::lab::Node;
use crate::space::Space;

/// How long a killed process may take to be gone.
const REAP_MS_MAX: u64 = 2_000;
/// How long a stopped process may take to stop.
const STOP_MS_MAX: u64 = 500;

/// One node: its namespace and the processes in it.
pub struct Seat {
    node: Node,
    space: Space,
    children: Mutex<Vec<Child>>,
    freezer: Mutex<Option<Freezer>>,
}

impl Seat {
    pub(crate) fn new(node: Node) -> Result<Self> {
        Ok(Self {
            node,
            space: Space::new(node.name())?,
            children: Mutex::new(Vec::new()),
            freezer: Mutex::new(None),
        })
    }

    /// Which of the two it is.
    #[must_use]
    pub fn node(&self) -> Node {
        self.node
    }

    /// The network namespace of the node.
    #[must_use]
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Starts a program on the node, in a process group of its own; it is killed when the lab's
    /// process dies.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, mut command: Command) -> Result<u32> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.process_group(0);
        // SAFETY: prctl is async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = self
            .space
            .run(move || command.spawn())
            .with_context(|| format!("cannot start {program} on {}", self.node.name()))?;
        let pid = child.id();
        self.children.lock().expect("no panic under this lock").push(child);
        Ok(pid)
    }

    /// Every process that lives in the namespace of the node now, whoever of the node started it;
    /// the ones started by [`Seat::spawn`] come first.
    #[must_use]
    pub fn pids(&self) -> Vec<libc::pid_t> {
        let first: Vec<libc::pid_t> = {
            let children = self.children.lock().expect("no panic under this lock");
            children.iter().filter_map(|child| i32::try_from(child.id()).ok()).collect()
        };
        let mut pids: Vec<_> = std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| self.lives_here(*pid))
            .collect();
        pids.sort_by_key(|pid| (!first.contains(pid), *pid));
        pids
    }

    /// Whether any process of the node lives.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.reap() || !self.pids().is_empty()
    }

    /// SIGKILL to every process of the node, and waits until all are gone.
    pub fn kill9(&self) {
        let end = Instant::now() + Duration::from_millis(REAP_MS_MAX);
        loop {
            self.signal(libc::SIGKILL);
            // The first thread of a process leaves its namespaces while the others still hold its
            // sockets: only what was reaped is gone.
            if (self.reap() && self.pids().is_empty()) || Instant::now() > end {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGSTOP to every process of the node: its programs freeze, its kernel goes on. Returns when
    /// all have stopped.
    pub fn freeze(&self) {
        let end = Instant::now() + Duration::from_millis(STOP_MS_MAX);
        loop {
            self.signal(libc::SIGSTOP);
            if self.pids().into_iter().all(is_stopped) || Instant::now() > end {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Freezes every process of the node at one moment, by the freezer of control groups. Returns
    /// when all are frozen.
    ///
    /// # Errors
    /// Where [`crate::freezer_missing`] says so, and when the node is frozen this way already.
    ///
    /// # Panics
    /// When another thread panicked here.
    pub fn freeze_whole(&self) -> Result<()> {
        let freezer = Freezer::new(self.node.name())?;
        freezer.freeze(&self.pids())?;
        *self.freezer.lock().expect("no panic under this lock") = Some(freezer);
        Ok(())
    }

    /// Ends both kinds of freeze: SIGCONT to every process of the node, and its control group
    /// thawed.
    ///
    /// # Panics
    /// When another thread panicked here.
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
        drop(self.freezer.lock().expect("no panic under this lock").take());
    }

    /// SIGTERM to the processes started by [`Seat::spawn`], and waits for them up to `limit`; true
    /// when all ended.
    pub fn terminate(&self, limit: Duration) -> bool {
        for child in self.children.lock().expect("no panic under this lock").iter() {
            if let Ok(pid) = libc::pid_t::try_from(child.id())
                && self.lives_here(pid)
            {
                send_signal(pid, libc::SIGTERM);
            }
        }
        let end = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    fn signal(&self, signal: libc::c_int) {
        for pid in self.pids() {
            send_signal(pid, signal);
        }
    }

    fn lives_here(&self, pid: libc::pid_t) -> bool {
        std::fs::read_link(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|link| link.to_str() == Some(self.space.identity()))
    }

    /// Whether all processes started by [`Seat::spawn`] have ended.
    fn reap(&self) -> bool {
        let mut children = self.children.lock().expect("no panic under this lock");
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        children.is_empty()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn is_stopped(pid: libc::pid_t) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    // The state follows the name, which is in parentheses (proc(5)).
    stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
}

fn send_signal(pid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: kill has no memory effects; pid was found in a namespace of this lab.
    // A process that ended meanwhile is what was wanted or makes no difference.
    unsafe { libc::kill(pid, signal) };
}
