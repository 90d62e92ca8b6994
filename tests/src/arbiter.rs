//! A real etcd on the machine outside the pair, behind a proxy that does harm on order.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result, ensure};
use staffetta_arbiter::proxy::{Behaviour, Proxy};
use staffetta_arbiter::server::{EtcdOptions, EtcdServer, is_installed};
use staffetta_lab::{ARBITER_IP, Lab};

/// Where both nodes look for the arbiter: the proxy.
const PORT: u16 = 2379;
/// Where etcd listens, on the loopback interface of its machine.
const ETCD_PORT: u16 = 12_379;
const ETCD_PEER_PORT: u16 = 12_380;

/// The arbiter's machine: an etcd and the proxy in front of it.
pub struct ArbiterSeat {
    // Dropped in this order.
    proxy: Proxy,
    etcd: Arc<Mutex<EtcdServer>>,
    _folder: tempfile::TempDir,
}

impl ArbiterSeat {
    /// What the nodes are configured with.
    #[must_use]
    pub fn endpoint() -> String {
        format!("http://{ARBITER_IP}:{PORT}")
    }

    /// Why there can be none here; nothing when there can.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        (!is_installed()).then_some("etcd is not installed: apt-get install etcd-server")
    }

    /// Starts both.
    ///
    /// # Errors
    /// When the world has no machine for it, or etcd does not start.
    pub fn start(lab: &Lab) -> Result<ArbiterSeat> {
        let space = lab.arbiter().context("the world has no machine for an arbiter")?;
        let folder = tempfile::tempdir()?;
        let path = folder.path().to_owned();
        let etcd = space.run(move || EtcdServer::start(etcd(&path)))?;
        let target = etcd.address();
        let listen = SocketAddr::new(IpAddr::V4(ARBITER_IP), PORT);
        let proxy = space.run(move || Proxy::start(listen, target))?;
        Ok(ArbiterSeat { proxy, etcd: Arc::new(Mutex::new(etcd)), _folder: folder })
    }

    /// What the way to etcd does from now on.
    pub fn set(&self, behaviour: Behaviour) {
        self.proxy.set(behaviour);
    }

    /// Write replies swallowed since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.proxy.dropped()
    }

    /// Loses all data and starts again.
    ///
    /// # Errors
    /// When etcd does not start.
    ///
    /// # Panics
    /// When another thread panicked here.
    pub fn wipe(&self, lab: &Lab) -> Result<()> {
        self.server().wipe()?;
        self.restart(lab)
    }

    /// Kills etcd (SIGKILL).
    ///
    /// # Panics
    /// When another thread panicked here.
    pub fn kill(&self) {
        self.server().stop();
    }

    /// Starts etcd again with the data that it has.
    ///
    /// # Errors
    /// When etcd does not start.
    ///
    /// # Panics
    /// When another thread panicked here.
    pub fn restart(&self, lab: &Lab) -> Result<()> {
        let space = lab.arbiter().context("the world has no machine for an arbiter")?;
        let etcd = Arc::clone(&self.etcd);
        // A process belongs to the namespace of the thread that starts it.
        space.run(move || etcd.lock().expect("no panic under this lock").restart())?;
        Ok(())
    }

    /// Stops (SIGSTOP) or continues etcd: connections stand, nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    ///
    /// # Panics
    /// When another thread panicked here.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        Ok(self.server().freeze(frozen)?)
    }

    /// Whether etcd holds any key: the register is the only one that anybody writes.
    ///
    /// # Errors
    /// When the world has no machine for it, or etcd does not answer.
    pub fn holds_register(&self, lab: &Lab) -> Result<bool> {
        // All keys, and only how many they are; `AA==` is the zero byte: from it, without end.
        const ALL: &str = r#"{"key":"AA==","range_end":"AA==","count_only":true}"#;
        let space = lab.arbiter().context("the world has no machine for an arbiter")?;
        let answer = space.run(|| -> std::io::Result<String> {
            let mut etcd = TcpStream::connect(("127.0.0.1", ETCD_PORT))?;
            let length = ALL.len();
            etcd.write_all(
                format!(
                    "POST /v3/kv/range HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\
                     Content-Length: {length}\r\n\r\n{ALL}"
                )
                .as_bytes(),
            )?;
            std::io::read_to_string(etcd)
        })?;
        ensure!(answer.contains("\"header\""), "etcd says: {answer}");
        Ok(answer.contains("\"count\""))
    }

    fn server(&self) -> MutexGuard<'_, EtcdServer> {
        self.etcd.lock().expect("no panic under this lock")
    }
}

fn etcd(folder: &Path) -> EtcdOptions {
    let local = |port| SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port);
    EtcdOptions {
        listen: local(ETCD_PORT),
        peer: local(ETCD_PEER_PORT),
        folder: folder.to_owned(),
        tls: false,
        arguments: Vec::new(),
    }
}
