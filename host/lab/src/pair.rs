//! Two real daemons in a [`Lab`]: their files, their lives, and the instruments around them.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::interrupt;
use crate::lab::{CLIENT_IP, Lab, LabOptions, Node, VIP, VIP_PREFIX};
use crate::probe::{EchoServer, Probe};
use crate::sip::{SipClient, SipServer};
use crate::small_disk::SmallDisks;
use crate::status::{Status, Statuses};
use crate::wire::WireWatch;

/// UDP port of the heartbeats.
pub const HEARTBEAT_PORT: u16 = 7411;
/// How long a command of the daemon may take, in milliseconds.
const COMMAND_MS_MAX: u64 = 15_000;
/// How long a status may take: a frozen daemon gives none.
const STATUS_MS_MAX: u64 = 2_000;
/// Time between two looks at the status while waiting.
const LOOK_INTERVAL_MS: u64 = 40;

/// A timing profile of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// 50 ms beats, 300 ms lease; wants real-time priority.
    Fast,
    /// 100 ms beats, 1 s lease.
    Default,
}

impl Profile {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Default => "default",
        }
    }

    /// Time between beats, in milliseconds.
    #[must_use]
    pub fn beat_ms(self) -> u64 {
        match self {
            Self::Fast => 50,
            Self::Default => 100,
        }
    }

    /// The lease, in milliseconds.
    #[must_use]
    pub fn lease_ms(self) -> u64 {
        match self {
            Self::Fast => 300,
            Self::Default => 1_000,
        }
    }
}

/// A failover policy of the site, on both nodes.
#[derive(Clone, Debug)]
pub struct SitePolicy {
    /// The component.
    pub component: Vec<u8>,
    /// Its settings, as TOML lines `key = value`.
    pub settings: String,
}

/// What the pair is like.
#[derive(Clone, Debug)]
pub struct PairOptions {
    /// Timing of both.
    pub profile: Profile,
    /// A second link between the nodes.
    pub heartbeat_link: bool,
    /// The client as a reference outside the pair.
    pub reference: bool,
    /// Service addresses: on `eth0`, or as `ADDRESS/PREFIX@INTERFACE`.
    pub vips: Vec<String>,
    /// A failover policy other than the built-in one.
    pub policy: Option<SitePolicy>,
    /// A machine for an arbiter, and where both nodes look for it, such as
    /// `http://10.77.0.200:2379`.
    pub arbiter: Option<String>,
    /// Databases in the data folders of the nodes: a name, and further lines of its table.
    pub databases: Vec<(String, String)>,
    /// Trees in the home folders of the nodes: a name, and further lines of its table.
    pub trees: Vec<(String, String)>,
    /// Facts of the site: the value is what [`Pair::fact`] holds.
    pub facts: Vec<String>,
    /// The node that both configurations prefer.
    pub preferred: Option<Node>,
}

impl Default for PairOptions {
    fn default() -> Self {
        Self {
            profile: Profile::Fast,
            heartbeat_link: false,
            reference: true,
            vips: vec![format!("{VIP}/{VIP_PREFIX}")],
            policy: None,
            arbiter: None,
            databases: Vec::new(),
            trees: Vec::new(),
            facts: Vec::new(),
            preferred: None,
        }
    }
}

/// Two daemons, their world and its instruments. Everything ends when it is dropped.
pub struct Pair {
    // Dropped in this order: the clients first, the namespaces last.
    sip: SipClient,
    probe: Probe,
    wire: WireWatch,
    _servers: [(EchoServer, SipServer); 2],
    lab: Lab,
    binary: PathBuf,
    options: PairOptions,
    launchers: Mutex<[Vec<String>; 2]>,
    disks: Mutex<Option<SmallDisks>>,
    dir: TempDir,
}

impl Pair {
    /// Builds the world and writes the files of both nodes; no daemon runs yet.
    ///
    /// # Errors
    /// When the binary is not there, or the world cannot be built.
    pub fn new(binary: &Path, options: PairOptions) -> Result<Self> {
        if !binary.is_file() {
            bail!(
                "no program at {}: run cargo build --release -p staffetta first",
                binary.display()
            );
        }
        let lab = Lab::new(LabOptions {
            heartbeat_link: options.heartbeat_link,
            arbiter: options.arbiter.is_some(),
        })?;
        let dir = tempfile::Builder::new()
            .prefix("staffetta-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        write_files(dir.path(), &options)?;
        let servers = |node| {
            Ok::<_, anyhow::Error>((EchoServer::start(&lab, node)?, SipServer::start(&lab, node)?))
        };
        Ok(Self {
            _servers: [servers(Node::A)?, servers(Node::B)?],
            sip: SipClient::start(&lab)?,
            probe: Probe::start(&lab)?,
            wire: WireWatch::start(&lab)?,
            binary: binary.to_owned(),
            lab,
            options,
            launchers: Mutex::default(),
            disks: Mutex::new(None),
            dir,
        })
    }

    /// The world.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The phone.
    #[must_use]
    pub fn sip(&self) -> &SipClient {
        &self.sip
    }

    /// The client that asks every 2 ms.
    #[must_use]
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// The watcher on the client's wire.
    #[must_use]
    pub fn wire(&self) -> &WireWatch {
        &self.wire
    }

    /// What the pair is like.
    #[must_use]
    pub fn options(&self) -> &PairOptions {
        &self.options
    }

    /// The configuration file of a node.
    #[must_use]
    pub fn config(&self, node: Node) -> PathBuf {
        self.dir.path().join(node.name()).join("staffetta.toml")
    }

    /// A database of [`PairOptions::databases`] on a node; its folder is there from the beginning.
    #[must_use]
    pub fn database(&self, node: Node, name: &str) -> PathBuf {
        self.dir.path().join(node.name()).join("data").join(format!("{name}.db"))
    }

    /// The file with the value of a fact of [`PairOptions::facts`] on a node; it is not there from
    /// the beginning.
    #[must_use]
    pub fn fact(&self, node: Node, name: &str) -> PathBuf {
        self.dir.path().join(node.name()).join("data").join(name)
    }

    /// The root of a tree of [`PairOptions::trees`] on a node, by the path under which tests see
    /// it; it is there from the beginning.
    ///
    /// # Panics
    /// When another thread panicked here.
    #[must_use]
    pub fn tree(&self, node: Node, name: &str) -> PathBuf {
        let path = self.tree_there(node, name);
        let disks = self.disks.lock().expect("no panic under this lock");
        disks.as_ref().and_then(|disks| disks.seen(&path)).unwrap_or(path)
    }

    /// The root of a tree by the path under which the daemons, and a [`Pair::program`], see it.
    #[must_use]
    pub fn tree_there(&self, node: Node, name: &str) -> PathBuf {
        self.dir.path().join(node.name()).join("trees").join(name)
    }

    /// A program that sees the disks of the daemons.
    ///
    /// # Panics
    /// When another thread panicked here.
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        let disks = self.disks.lock().expect("no panic under this lock");
        let Some(words) = disks.as_ref().map(SmallDisks::launcher) else {
            return Command::new(name);
        };
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(name);
        command
    }

    /// From now on the daemon of a node is started by this program, which must end as the daemon
    /// (`exec`); the words stand before the daemon's own.
    ///
    /// # Panics
    /// When another thread panicked here.
    pub fn launch_by(&self, node: Node, words: Vec<String>) {
        self.launchers.lock().expect("no panic under this lock")[node.index()] = words;
    }

    /// Puts the state folders of both nodes on a disk of `kib` KiB each, which live as long as the
    /// pair. For pairs that were not started yet.
    ///
    /// # Errors
    /// When file systems cannot be mounted.
    ///
    /// # Panics
    /// When another thread panicked here.
    pub fn small_disks(&self, kib: u64) -> Result<()> {
        let folders = Node::BOTH.map(|node| self.state(node));
        for folder in &folders {
            std::fs::create_dir(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        self.mount(folders, "", kib)
    }

    /// Puts the roots of a tree on both nodes on disks of `kib` KiB each, which live as long as the
    /// pair. For pairs that were not started yet.
    ///
    /// # Errors
    /// When file systems cannot be mounted.
    ///
    /// # Panics
    /// When another thread panicked here.
    pub fn small_tree(&self, name: &str, kib: u64) -> Result<()> {
        self.mount(Node::BOTH.map(|node| self.tree(node, name)), ".staffetta", kib)
    }

    fn mount(&self, folders: [PathBuf; 2], corner: &'static str, kib: u64) -> Result<()> {
        let has_some = self.disks.lock().expect("no panic under this lock").is_some();
        ensure!(!has_some, "a pair has small disks for one thing only");
        let disks = SmallDisks::mount(folders.to_vec(), corner, kib)?;
        Node::BOTH.into_iter().for_each(|node| self.launch_by(node, disks.launcher()));
        *self.disks.lock().expect("no panic under this lock") = Some(disks);
        Ok(())
    }

    /// Fills the small disk of a node; returns the bytes that had been free.
    ///
    /// # Errors
    /// When it has none, or what goes wrong is not that it is full.
    ///
    /// # Panics
    /// When another thread panicked here.
    pub fn fill_disk(&self, node: Node) -> Result<u64> {
        let disks = self.disks.lock().expect("no panic under this lock");
        disks.as_ref().context("the pair has no small disks")?.fill(node.index())
    }

    /// Makes room again on a disk that was filled.
    ///
    /// # Errors
    /// When it was not filled.
    ///
    /// # Panics
    /// When another thread panicked here.
    pub fn free_disk(&self, node: Node) -> Result<()> {
        let disks = self.disks.lock().expect("no panic under this lock");
        disks.as_ref().context("the pair has no small disks")?.free(node.index())
    }

    /// Starts the daemon of a node; returns its process id.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, node: Node) -> Result<u32> {
        let log = self.log_path(node);
        let log = File::options()
            .append(true)
            .create(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let words = self.launchers.lock().expect("no panic under this lock")[node.index()].clone();
        let mut command = match words.split_first() {
            None => Command::new(&self.binary),
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&self.binary);
                command
            }
        };
        command.arg("run").arg("--config").arg(self.config(node));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.lab.node(node).spawn(command)
    }

    /// Runs `staffetta ARGS --config FILE` of a node to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time.
    pub fn command(&self, node: Node, args: &[&str]) -> Result<Output> {
        self.run(node, args, Duration::from_millis(COMMAND_MS_MAX))
    }

    /// What a node says of itself.
    ///
    /// # Errors
    /// When its daemon does not answer, or not what is documented.
    pub fn status(&self, node: Node) -> Result<Status> {
        let limit = Duration::from_millis(STATUS_MS_MAX);
        let output = self.run(node, &["status", "--json"], limit)?;
        if !output.status.success() {
            bail!("{}: {}", node.name(), String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).with_context(|| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            format!("{} gave a status that is not as documented: {text}", node.name())
        })
    }

    /// What both say.
    #[must_use]
    pub fn statuses(&self) -> Statuses {
        std::thread::scope(|scope| {
            let asked = Node::BOTH.map(|node| scope.spawn(move || self.status(node).ok()));
            Statuses(asked.map(|answer| answer.join().ok().flatten()))
        })
    }

    /// Waits until `wanted` gives a value for what both say.
    ///
    /// # Errors
    /// When that does not happen within `limit`; the text has `what` and the last words and logs of
    /// both.
    pub fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Statuses) -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + limit;
        loop {
            interrupt::check()?;
            let statuses = self.statuses();
            if let Some(value) = wanted(&statuses) {
                return Ok(value);
            }
            if Instant::now() > end {
                bail!(
                    "not within {} ms: {what}; {}{}",
                    limit.as_millis(),
                    statuses.line(),
                    self.tails()
                );
            }
            std::thread::sleep(Duration::from_millis(LOOK_INTERVAL_MS));
        }
    }

    /// Waits until one is primary with every address and the other its standby; returns the
    /// primary.
    ///
    /// # Errors
    /// When that does not happen within `limit`.
    pub fn settle(&self, limit: Duration) -> Result<Node> {
        self.wait("one primary and its standby", limit, Statuses::settled)
    }

    /// Everything a node's daemon wrote.
    #[must_use]
    pub fn log(&self, node: Node) -> String {
        std::fs::read_to_string(self.log_path(node)).unwrap_or_default()
    }

    /// The last lines of both logs, for messages.
    #[must_use]
    pub fn tails(&self) -> String {
        const LINES: usize = 25;
        let mut text = String::new();
        for node in Node::BOTH {
            let log = self.log(node);
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LINES)..].join("\n  ");
            let _ = write!(text, "\n{} wrote last:\n  {tail}", node.name());
        }
        text
    }

    /// The state folder of a node.
    #[must_use]
    pub fn state(&self, node: Node) -> PathBuf {
        self.dir.path().join(node.name()).join("state")
    }

    /// What the daemon of a node printed.
    #[must_use]
    pub fn log_path(&self, node: Node) -> PathBuf {
        self.dir.path().join(node.name()).join("log")
    }

    fn run(&self, node: Node, args: &[&str], limit: Duration) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.args(args).arg("--config").arg(self.config(node));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let line = format!("staffetta {} on {}", args.join(" "), node.name());
        let mut child = command.spawn().with_context(|| format!("cannot run {line}"))?;
        let end = Instant::now() + limit;
        while child.try_wait().with_context(|| format!("cannot wait for {line}"))?.is_none() {
            if Instant::now() > end {
                // It may end by itself in this very moment.
                let _ = child.kill();
                let _ = child.wait();
                bail!("{line} did not end within {} ms", limit.as_millis());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        child.wait_with_output().with_context(|| format!("cannot read what {line} printed"))
    }
}

fn write_files(dir: &Path, options: &PairOptions) -> Result<()> {
    let (id, secret) = (random_hex(16)?, random_hex(32)?);
    for node in Node::BOTH {
        let home = dir.join(node.name());
        let write = |name: &str, bytes: &[u8]| {
            let path = home.join(name);
            let mut file = File::options().mode(0o600).write(true).create_new(true).open(&path)?;
            std::io::Write::write_all(&mut file, bytes)
        };
        std::fs::create_dir(&home)
            .and_then(|()| std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o700)))
            .and_then(|()| std::fs::create_dir(home.join("data")))
            .and_then(|()| {
                let mut trees = options.trees.iter();
                trees.try_for_each(|(name, _)| {
                    std::fs::create_dir_all(home.join("trees").join(name))
                })
            })
            .and_then(|()| write("secret", format!("{secret}\n").as_bytes()))
            .and_then(|()| {
                write("staffetta.toml", configuration(node, &home, &id, options).as_bytes())
            })
            .and_then(|()| match &options.policy {
                Some(policy) => write("site.wasm", &policy.component),
                None => Ok(()),
            })
            .with_context(|| format!("cannot write the files of a node in {}", home.display()))?;
    }
    Ok(())
}

fn configuration(node: Node, home: &Path, id: &str, options: &PairOptions) -> String {
    let home = home.display();
    let peer = node.peer();
    let mut text = format!(
        "[cluster]\nname = \"demo\"\nid = \"{id}\"\nsecret_file = \"secret\"\n\n\
         [node]\nname = \"{}\"\nstate_dir = \"{home}/state\"\nrun_dir = \"{home}/run\"\n\
         identity_file = \"identity\"\npreferred = {}\n\n\
         [peer]\nname = \"{}\"\npreferred = {}\n\n\
         [timing]\nprofile = \"{}\"\n",
        node.name(),
        options.preferred == Some(node),
        peer.name(),
        options.preferred == Some(peer),
        options.profile.name(),
    );
    let mut link = |name: &str, local, remote| {
        let _ = write!(
            text,
            "\n[[link]]\nname = \"{name}\"\nlocal = \"{local}:{HEARTBEAT_PORT}\"\n\
             peer = \"{remote}:{HEARTBEAT_PORT}\"\n"
        );
    };
    link("lan", node.ip(), peer.ip());
    if options.heartbeat_link {
        link("direct", node.heartbeat_ip(), peer.heartbeat_ip());
    }
    for vip in &options.vips {
        let (address, interface) = vip.split_once('@').unwrap_or((vip, "eth0"));
        let _ = write!(text, "\n[[vip]]\naddress = \"{address}\"\ninterface = \"{interface}\"\n");
    }
    if options.reference {
        let _ = write!(
            text,
            "\n[[reference]]\nname = \"gateway\"\naddress = \"{CLIENT_IP}\"\nmethod = \"icmp\"\n"
        );
    }
    if let Some(endpoint) = &options.arbiter {
        let _ = write!(text, "\n[arbiter]\nendpoints = [\"{endpoint}\"]\n");
    }
    for (name, more) in &options.databases {
        let _ = write!(
            text,
            "\n[[database]]\nname = \"{name}\"\npath = \"{home}/data/{name}.db\"\n{more}\n"
        );
    }
    for (name, more) in &options.trees {
        let _ =
            write!(text, "\n[[tree]]\nname = \"{name}\"\npath = \"{home}/trees/{name}\"\n{more}\n");
    }
    for name in &options.facts {
        let _ = write!(
            text,
            "\n[[fact]]\nname = \"{name}\"\ninterval_ms = 1000\n\
             exec = [\"/bin/cat\", \"{home}/data/{name}\"]\n"
        );
    }
    if let Some(policy) = &options.policy {
        let _ = write!(
            text,
            "\n[policy.failover]\nfile = \"site.wasm\"\n\n[policy.failover.settings]\n{}\n",
            policy.settings
        );
    }
    text
}

fn random_hex(bytes: usize) -> Result<String> {
    use std::io::Read as _;
    let mut random = vec![0; bytes];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .context("cannot read /dev/urandom")?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
