//! Programs under the library, in a folder of their own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tempfile::TempDir;

/// A folder with databases, a socket and the counts.
pub(crate) struct World {
    folder: TempDir,
    socket: PathBuf,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("barrier.sock");
        Self { folder, socket }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn database(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().canonicalize().expect("the folder is there");
        folder.join(name)
    }

    /// What the programs counted, a line each.
    pub(crate) fn counts(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("counts")).unwrap_or_default()
    }

    /// A program under the library.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("LD_PRELOAD", library())
            .env("STAFFETTA_BARRIER", &self.socket)
            .env("STAFFETTA_COMMIT_STATS", self.folder.path().join("counts"))
            .stdin(Stdio::null());
        command
    }

    /// Python under the library, with the path of a database as its argument.
    pub(crate) fn python(&self, database: &str, script: &str) -> Command {
        let mut command = self.command("python3");
        command.args(["-c", script]).arg(self.database(database));
        command
    }

    /// The same, with the test at the other end of its pipes.
    pub(crate) fn dialog(&self, database: &str, script: &str) -> Dialog {
        let mut command = self.python(database, script);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("python3 runs");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let input = child.stdin.take().expect("a pipe");
        Dialog { child, output, input }
    }
}

/// A program that stops and asks to go on.
pub(crate) struct Dialog {
    child: Child,
    output: BufReader<ChildStdout>,
    input: ChildStdin,
}

impl Dialog {
    /// Reads up to the line that begins with `word`.
    pub(crate) fn until(&mut self, word: &str) -> HashMap<String, f64> {
        let mut text = String::new();
        while !text.lines().last().is_some_and(|line| line.starts_with(word)) {
            assert!(self.output.read_line(&mut text).expect("text") > 0, "it ended: {text}");
        }
        numbers(text.as_bytes())
    }

    pub(crate) fn go(&mut self) {
        self.input.write_all(b"\n").expect("it listens");
    }

    pub(crate) fn end(mut self) {
        assert!(self.child.wait().expect("a child").success());
    }
}

/// Runs Python under the library and returns the numbers that it printed by name.
pub(crate) fn python(world: &World, database: &str, script: &str) -> HashMap<String, f64> {
    let output = world.python(database, script).output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    numbers(&output.stdout)
}

/// Lines of a name and a number.
pub(crate) fn numbers(output: &[u8]) -> HashMap<String, f64> {
    let text = String::from_utf8_lossy(output);
    let pairs = text.lines().filter_map(|line| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), number.parse().ok()?))
    });
    pairs.collect()
}

/// A number of a line of counts.
pub(crate) fn count(line: &str, name: &str) -> u64 {
    let words = line.split_whitespace().filter_map(|word| word.split_once('='));
    let found = words.filter(|(word, _)| *word == name).find_map(|(_, count)| count.parse().ok());
    found.unwrap_or_else(|| panic!("no {name} in {line}"))
}

/// Says so when a program is not installed.
pub(crate) fn missing(program: &str) -> bool {
    let runs = Command::new(program).arg("--version").output().is_ok();
    if !runs {
        println!("SKIPPED: {program} is not installed (apt-get install {program})");
    }
    !runs
}

fn library() -> PathBuf {
    let this = std::env::current_exe().expect("a running program has a path");
    let path = this.with_file_name("libstaffetta_commit.so");
    assert!(path.is_file(), "no library at {}: cargo builds it with its tests", path.display());
    path
}
