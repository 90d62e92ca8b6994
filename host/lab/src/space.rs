//! A network namespace without a name, held by a thread that lives in it.
//!
//! Sockets opened and programs started by [`Space::run`] belong to the namespace. The namespace is
//! gone when the space is dropped and the last process and socket in it have ended.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace and the thread that holds it.
pub struct Space {
    name: &'static str,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: libc::pid_t,
    inode: String,
}

impl Space {
    /// Makes a namespace with its loopback interface up. `name` is for messages only.
    ///
    /// # Errors
    /// When the kernel refuses (no CAP_SYS_ADMIN in this user namespace), or `ip` is missing.
    pub fn new(name: &'static str) -> Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let (born, birth) = channel();
        let thread = std::thread::Builder::new()
            .name(format!("space-{name}"))
            .spawn(move || live(&born, &inbox))
            .context("cannot start a thread for a network namespace")?;
        let (tid, inode) = birth
            .recv()
            .context("the thread of a network namespace died")?
            .with_context(|| format!("cannot make the network namespace {name}"))?;
        let space = Self { name, jobs: Some(jobs), thread: Some(thread), tid, inode };
        space.sysctl("ipv4/conf/all/rp_filter", "0")?;
        space.sysctl("ipv4/conf/default/rp_filter", "0")?;
        space.sysctl("ipv6/conf/all/accept_dad", "0")?;
        space.sysctl("ipv6/conf/default/accept_dad", "0")?;
        space.ip("link set lo up")?;
        Ok(space)
    }

    /// Runs `job` on the thread of the namespace and waits for its result.
    ///
    /// # Panics
    /// When the job panics.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let job: Job = Box::new(move || drop(done.send(job())));
        let alive = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        assert!(alive, "the thread of namespace {} has ended", self.name);
        result.recv().unwrap_or_else(|_| panic!("a job in namespace {} panicked", self.name))
    }

    /// The file that stands for the namespace; valid while the space lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/task/{}/ns/net", std::process::id(), self.tid)
    }

    /// What `/proc/PID/ns/net` of a process in this namespace links to, as `net:[4026532001]`.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.inode
    }

    /// Runs a batch of `ip` commands (iproute2), one a line, and stops at the first that fails.
    ///
    /// # Errors
    /// With the text of `ip`, or with the way to install it.
    pub fn ip(&self, batch: &str) -> Result<()> {
        let output = self.feed(Command::new("ip").args(["-batch", "-"]), batch, "iproute2")?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("ip failed in namespace {}: {text} (batch: {batch})", self.name);
        }
        Ok(())
    }

    /// Runs `nft -f` on a rule set text.
    ///
    /// # Errors
    /// With the text of `nft`, or with the way to install it.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let output = self.feed(Command::new("nft").args(["-f", "-"]), rules, "nftables")?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("nft failed in namespace {}: {text}", self.name);
        }
        Ok(())
    }

    /// Runs a program in the namespace to its end and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started, or ends with a failure.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command.args(args);
        let line = format!("{program} {}", args.join(" "));
        let output =
            self.run(move || command.output()).with_context(|| format!("cannot run {line}"))?;
        if !output.status.success() {
            bail!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes a value under `/proc/sys/net` of the namespace; a key that this kernel does not have
    /// is left out.
    ///
    /// # Errors
    /// When the key exists and cannot be written.
    pub fn sysctl(&self, key: &str, value: &'static str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        let written = {
            let path = path.clone();
            self.run(move || match std::fs::write(&path, value) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other,
            })
        };
        written.with_context(|| format!("cannot set {path} to {value} in namespace {}", self.name))
    }

    fn feed(&self, command: &mut Command, text: &str, package: &str) -> Result<Output> {
        let program = command.get_program().to_string_lossy().into_owned();
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut owned = Command::new(&program);
        owned.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let text = text.to_owned();
        let run = move || -> std::io::Result<Output> {
            let mut child = owned.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // A program that ends early closes the pipe; its exit status tells more than the
                // pipe does.
                let _ = stdin.write_all(text.as_bytes());
            }
            child.wait_with_output()
        };
        match self.run(run) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("the program {program} is missing: install it (apt-get install {package})")
            }
            other => other.with_context(|| format!("cannot run {program}")),
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic in a job was already reported to the one who asked for it.
            let _ = thread.join();
        }
    }
}

fn live(born: &Sender<std::io::Result<(libc::pid_t, String)>>, inbox: &Receiver<Job>) {
    let birth = unshare_net().and_then(|()| {
        let inode = std::fs::read_link("/proc/thread-self/ns/net")?;
        // SAFETY: gettid has no preconditions.
        let tid = unsafe { libc::gettid() };
        Ok((tid, inode.to_string_lossy().into_owned()))
    });
    let alive = birth.is_ok();
    if born.send(birth).is_err() || !alive {
        return;
    }
    while let Ok(job) = inbox.recv() {
        job();
    }
}

fn unshare_net() -> std::io::Result<()> {
    // SAFETY: unshare changes only the calling thread's namespace; no memory is involved.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
