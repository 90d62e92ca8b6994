//! A real etcd as a child process, for tests and measurements. Blocking.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long etcd may take to be ready.
const READY_MS_MAX: u64 = 20_000;

/// How etcd is started.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// Where clients find it.
    pub listen: SocketAddr,
    /// Where other members would; on the same machine, and not the same port.
    pub peer: SocketAddr,
    /// A folder of its own: data and log.
    pub folder: PathBuf,
    /// `https` instead of `http` for clients; certificates are named in `arguments`.
    pub tls: bool,
    /// Further arguments.
    pub arguments: Vec<String>,
}

/// A running or stopped etcd. It ends with this value; the folder stays.
#[derive(Debug)]
pub struct EtcdServer {
    options: EtcdOptions,
    child: Option<Child>,
}

/// Whether etcd is installed.
#[must_use]
pub fn is_installed() -> bool {
    let version = Command::new("etcd").arg("--version").stdout(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

impl EtcdOptions {
    /// On free ports of the loopback interface.
    ///
    /// # Errors
    /// When there are none.
    pub fn on_loopback(folder: &Path) -> io::Result<EtcdOptions> {
        // Both are held until both are known: they differ.
        let free = || TcpListener::bind((IpAddr::from([127, 0, 0, 1]), 0));
        let (listen, peer) = (free()?, free()?);
        Ok(EtcdOptions {
            listen: listen.local_addr()?,
            peer: peer.local_addr()?,
            folder: folder.to_owned(),
            tls: false,
            arguments: Vec::new(),
        })
    }
}

impl EtcdServer {
    /// Starts an etcd and waits until it listens. It lives in the network namespace of the calling
    /// thread, and keeps what its folder holds.
    ///
    /// # Errors
    /// When it is not installed, ends by itself or is not ready in time; the error has the end of
    /// its log.
    pub fn start(options: EtcdOptions) -> io::Result<EtcdServer> {
        let mut server = EtcdServer { options, child: None };
        server.restart()?;
        Ok(server)
    }

    /// Where clients find it, such as `http://127.0.0.1:2379`.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.options.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.options.listen)
    }

    /// Where clients find it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.options.listen
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends it at once (SIGKILL) and waits for its end.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Ends it if it runs, starts it again with the data that it has.
    ///
    /// # Errors
    /// As [`EtcdServer::start`].
    pub fn restart(&mut self) -> io::Result<()> {
        self.stop();
        std::fs::create_dir_all(&self.options.folder)?;
        let log = std::fs::File::create(self.log())?;
        let child = self.command().stdout(log.try_clone()?).stderr(log).spawn()?;
        self.child = Some(child);
        self.wait()
    }

    /// Ends it and deletes its data: the next start is that of an empty etcd.
    ///
    /// # Errors
    /// When the data cannot be deleted.
    pub fn wipe(&mut self) -> io::Result<()> {
        self.stop();
        match std::fs::remove_dir_all(self.data()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Stops (SIGSTOP, returns when all its threads stand) or continues (SIGCONT) it: connections
    /// stay, nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        let pid = self.pid().ok_or_else(|| io::Error::other("etcd does not run"))?;
        let number = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
        let signal = if frozen { libc::SIGSTOP } else { libc::SIGCONT };
        // SAFETY: kill takes numbers only; the child is not reaped, the number is still its own.
        if unsafe { libc::kill(number, signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if frozen { wait_stopped(pid) } else { Ok(()) }
    }

    fn command(&self) -> Command {
        let peer = format!("http://{}", self.options.peer);
        let client = self.url();
        let mut command = Command::new("etcd");
        command
            .args(["--name", "arbiter", "--data-dir"])
            .arg(self.data())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("arbiter={peer}")])
            .args(&self.options.arguments)
            .stdin(Stdio::null());
        command
    }

    fn wait(&mut self) -> io::Result<()> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(READY_MS_MAX) {
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                self.child = None;
                return Err(io::Error::other(format!("etcd ended: {status}\n{}", self.tail())));
            }
            // etcd listens early and serves late: the log knows.
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let serves = log.contains("ready to serve client requests")
                || log.contains("serving insecure client requests")
                || log.contains("serving client requests");
            if serves && TcpStream::connect(self.options.listen).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.stop();
        Err(io::Error::other(format!("etcd is not ready after {READY_MS_MAX} ms\n{}", self.tail())))
    }

    fn tail(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    fn data(&self) -> PathBuf {
        self.options.folder.join("data")
    }

    fn log(&self) -> PathBuf {
        self.options.folder.join("etcd.log")
    }
}

/// Waits until a child stands still. A child that ended is left to be reaped by its owner.
fn wait_stopped(pid: u32) -> io::Result<()> {
    // SAFETY: all zeros are a valid siginfo_t.
    let mut state: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let how = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
    // SAFETY: waitid writes to `state` only, which lives until it returns.
    if unsafe { libc::waitid(libc::P_PID, pid, &raw mut state, how) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if state.si_code == libc::CLD_STOPPED {
        Ok(())
    } else {
        Err(io::Error::other("etcd has ended"))
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.stop();
    }
}
