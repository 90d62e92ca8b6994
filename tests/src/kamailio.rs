//! Kamailio, an application that knows nothing of the pair: a SIP registrar and proxy on the
//! service address, with its registrations in an SQLite database.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use staffetta_lab::{Lab, Node, VIP};

use crate::world::workspace;

/// UDP port on the service address; the lab's own SIP servers have 5060 on every address.
pub const KAMAILIO_PORT: u16 = 5062;
/// Where Debian's package leaves the tables; `version` comes first, the others write into it.
const TABLES: [&str; 2] = ["standard-create.sql", "usrloc-create.sql"];
const TABLES_FOLDER: &str = "/usr/share/kamailio/db_sqlite";
/// How long it may take until its socket is there, in milliseconds.
const START_MS_MAX: u64 = 10_000;

/// One kamailio on one node. It ends with the node, or when the lab ends.
pub struct Kamailio {
    pid: u32,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Kamailio {
    /// Why there can be none here; nothing when there can.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        let runs = |program: &str, arg: &str| Command::new(program).arg(arg).output().is_ok();
        let is_there = runs("kamailio", "-v")
            && runs("sqlite3", "--version")
            && Path::new(TABLES_FOLDER).is_dir();
        (!is_there).then_some(
            "kamailio is not installed: apt-get install --no-install-recommends kamailio \
             kamailio-sqlite-modules sqlite3",
        )
    }

    /// Makes the database of registrations as the package says, in the journal mode that SQLite
    /// has by default.
    ///
    /// # Errors
    /// When the file is there already, or `sqlite3` fails.
    pub fn create_database(path: &Path) -> Result<()> {
        ensure!(!path.exists(), "{} exists already", path.display());
        for table in TABLES {
            let table = File::open(Path::new(TABLES_FOLDER).join(table))?;
            let output = Command::new("sqlite3").arg("-bail").arg(path).stdin(table).output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "sqlite3 {}: {said}", path.display());
        }
        Ok(())
    }

    /// Starts it on a node, whether the node has the service address or not, and waits until it
    /// listens.
    ///
    /// # Errors
    /// When it ends or does not listen in time; the text has what it logged.
    pub fn start(lab: &Lab, node: Node, database: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("kamailio-").tempdir()?;
        let log = folder.path().join("log");
        let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let seat = lab.node(node);
        seat.space().sysctl("ipv4/ip_nonlocal_bind", "1")?;
        let mut command = Command::new("kamailio");
        command
            .arg("-f")
            .arg(workspace().join("tests/fixtures/kamailio.cfg"))
            // In the foreground, with its errors on standard error and its files in the folder.
            .args(["-DD", "-E", "-Y"])
            .arg(folder.path())
            .args(["-A", &format!("LISTEN=udp:{VIP}:{KAMAILIO_PORT}")])
            .args(["-A", &format!("DATABASE=\"sqlite:///{}\"", database.display())])
            .args(["-A", &format!("SERVER_ID={}", node.index() + 1)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        let kamailio = Self { pid: seat.spawn(command)?, log, _folder: folder };
        let end = Instant::now() + Duration::from_millis(START_MS_MAX);
        while !kamailio.listens() {
            if Instant::now() > end || !kamailio.is_running() {
                bail!("kamailio does not listen on {}: {}", node.name(), kamailio.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(kamailio)
    }

    /// Its first process, which ends when any of the others does.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it lives.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid));
        // The state follows the name, which is in parentheses (proc(5)).
        stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('Z')))
    }

    /// All that it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Lines of its log with this text.
    #[must_use]
    pub fn logged(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    fn listens(&self) -> bool {
        // Ports are hexadecimal there (proc(5), /proc/net/udp).
        let sockets = std::fs::read_to_string(format!("/proc/{}/net/udp", self.pid));
        sockets.is_ok_and(|text| text.contains(&format!(":{KAMAILIO_PORT:04X} ")))
    }
}
