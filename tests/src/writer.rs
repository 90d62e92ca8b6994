//! An application that writes a database and knows nothing of the pair: Python's own SQLite.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Prints a line for each commit that returned.
const PROGRAM: &str = r"
import sqlite3, sys, time
path, pause = sys.argv[1], float(sys.argv[2])
c = sqlite3.connect(path, timeout=0.05, isolation_level=None)
c.execute('create table if not exists calls(id integer primary key, at integer)')
n = c.execute('select coalesce(max(id), 0) from calls').fetchone()[0]
while True:
    try:
        c.execute('insert into calls values(?, ?)', (n + 1, time.time_ns()))
    except sqlite3.OperationalError as error:
        print('refused', error, flush=True)
        time.sleep(0.01)
        continue
    n += 1
    print('committed', n, flush=True)
    time.sleep(pause)
";

/// A writer that runs; it ends when this is dropped.
pub struct Writer {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    committed: u64,
}

impl Writer {
    /// Starts one that pauses between its commits.
    ///
    /// # Errors
    /// When python3 cannot be started.
    pub fn start(database: &Path, pause: Duration) -> Result<Writer> {
        Writer::with(database, pause, &[])
    }

    /// Starts one with variables in its environment.
    ///
    /// # Errors
    /// When python3 cannot be started.
    pub fn with(database: &Path, pause: Duration, env: &[(&str, String)]) -> Result<Writer> {
        let mut child = Command::new("python3")
            .args(["-c", PROGRAM])
            .arg(database)
            .arg(pause.as_secs_f64().to_string())
            .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run python3")?;
        let output = child.stdout.take().context("a pipe")?;
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Writer { child, lines, committed: 0 })
    }

    /// The last commit that returned.
    pub fn committed(&mut self) -> u64 {
        while let Ok(line) = self.lines.try_recv() {
            self.note(&line);
        }
        self.committed
    }

    fn note(&mut self, line: &str) {
        if let Some(number) = line.strip_prefix("committed ") {
            self.committed = number.parse().unwrap_or(self.committed);
        }
    }

    /// Waits for so many commits more.
    ///
    /// # Errors
    /// When they do not come in time.
    pub fn wait_for(&mut self, more: u64, patience: Duration) -> Result<u64> {
        let until = Instant::now() + patience;
        let goal = self.committed() + more;
        while self.committed() < goal {
            ensure!(Instant::now() < until, "{} of {goal} commits", self.committed);
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(self.committed)
    }

    /// Ends it; returns the last commit that returned.
    pub fn end(mut self) -> u64 {
        self.stop();
        self.committed
    }

    fn stop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        while let Ok(line) = self.lines.recv() {
            self.note(&line);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs one statement by another SQLite than the daemon's; returns the first value as text.
///
/// # Errors
/// When python3 or the statement fails.
pub fn sql(database: &Path, statement: &str) -> Result<String> {
    let program = "import sqlite3,sys\n\
                   c=sqlite3.connect(sys.argv[1],timeout=5,isolation_level=None)\n\
                   r=c.execute(sys.argv[2]).fetchone()\nprint(r[0] if r else '')";
    let mut child = Command::new("python3")
        .args(["-c", program])
        .arg(database)
        .arg(statement)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run python3")?;
    let status = child.wait()?;
    let (mut said, mut error) = (String::new(), String::new());
    child.stdout.take().context("a pipe")?.read_to_string(&mut said)?;
    child.stderr.take().context("a pipe")?.read_to_string(&mut error)?;
    ensure!(status.success(), "{statement}: {}", error.lines().last().unwrap_or_default());
    Ok(said.trim().to_owned())
}
