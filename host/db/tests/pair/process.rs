//! A node as a process of its own, that can be frozen and killed. It is the test's own program,
//! told by an environment variable to be a node, and obeys lines on its standard input.

use super::Node;
use staffetta_db::Command as Order;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Folder, name of the node, name of its peer.
const NODE: &str = "STAFFETTA_TEST_NODE";

/// To be called by a test named `node_process`: the child's whole life, or nothing.
pub(crate) fn live() {
    let Ok(text) = std::env::var(NODE) else { return };
    let parts: Vec<&'static str> = text.leak().split('|').collect();
    let mut node = Node::start(Path::new(parts[0]), parts[1], parts[2]);
    println!("address {}", node.address());
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = obey(&mut node, &words);
        println!("answer {answer}");
    }
}

fn obey(node: &mut Node, words: &[&str]) -> String {
    rule(node);
    match words {
        ["lead", epoch] => node.lead(epoch.parse().expect("an epoch")),
        ["follow", epoch] => {
            node.engine.say(Order::Follow(epoch.parse().expect("an epoch")));
        }
        ["attend", peer, address] => node.attend_at(peer, address.parse().expect("an address")),
        ["hang-up"] => node.hang_up(),
        ["hold", ms] => {
            return format!("{:?}", node.hold(Duration::from_millis(ms.parse().expect("ms"))));
        }
        ["unhold"] => node.engine.say(Order::Unhold),
        ["status", name] => {
            return node.status(name).map_or("none".into(), |status| {
                format!(
                    "{} behind={:?} lost={} copies={} archived={} stall_us={} trouble={:?}",
                    status.state.as_str(),
                    status.behind,
                    status.counters.lost,
                    status.counters.copies,
                    status.counters.archived,
                    status.counters.stall_us_max,
                    status.trouble,
                )
            });
        }
        ["notices"] => return format!("{:?}", node.notices.lock().expect("no holder panics")),
        other => panic!("{other:?} is no order"),
    }
    "done".into()
}

/// Every copy that diverged is archived, and follows.
fn rule(node: &Node) {
    for status in node.engine.status().iter() {
        if status.state == staffetta_db::State::Diverged {
            node.engine.say(Order::Rule(status.path.clone(), true));
        }
    }
}

/// A node, seen from outside.
pub(crate) struct Remote {
    child: Child,
    orders: ChildStdin,
    answers: Arc<Mutex<BufReader<ChildStdout>>>,
    pub(crate) address: String,
    pub(crate) folder: PathBuf,
    name: &'static str,
    peer: &'static str,
}

impl Remote {
    pub(crate) fn start(root: &Path, name: &'static str, peer: &'static str) -> Remote {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "node_process", "--nocapture"]);
        command.env(NODE, format!("{}|{name}|{peer}", root.display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this test runs");
        let orders = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let folder = root.join(name);
        let answers = Arc::new(Mutex::new(answers));
        let address = String::new();
        let mut node = Remote { child, orders, answers, address, folder, name, peer };
        node.address = node.line("address ");
        node
    }

    /// Ends it without a word, and starts it again.
    pub(crate) fn again(&mut self) {
        self.kill();
        let root = self.folder.parent().expect("a root").to_owned();
        *self = Remote::start(&root, self.name, self.peer);
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn signal(&self, signal: i32) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: no pointers are passed; the child is not reaped before it is dropped.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0);
    }

    fn line(&self, head: &str) -> String {
        let mut answers = self.answers.lock().expect("no holder panics");
        loop {
            let mut line = String::new();
            let read = answers.read_line(&mut line).expect("a line");
            assert!(read > 0, "node {} ended", self.name);
            // The test harness of the child writes before the first line of its own.
            if let Some(at) = line.find(head) {
                return line[at + head.len()..].trim().to_owned();
            }
        }
    }

    pub(crate) fn order(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").expect("a node that listens");
        self.line("answer ")
    }

    pub(crate) fn attend(&mut self, leader: &Remote) {
        self.order(&format!("attend {} {}", leader.name, leader.address));
    }

    pub(crate) fn status(&mut self, name: &str) -> String {
        self.order(&format!("status {name}"))
    }

    /// Waits until its standby has everything.
    #[track_caller]
    pub(crate) fn shipped(&mut self, name: &str, standby: &mut Remote) {
        let until = Instant::now() + Duration::from_secs(60);
        // What a status says may be this old.
        std::thread::sleep(Duration::from_millis(250));
        loop {
            let status = self.status(name);
            if status.starts_with("leading behind=Some(0)") {
                return;
            }
            // Its asking makes the standby rule on what diverged.
            let other = standby.status(name);
            if Instant::now() > until {
                let told = (self.order("notices"), standby.order("notices"));
                panic!("not shipped: {status} / {other}\n{}\n{}", told.0, told.1);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn database(&self, name: &str) -> PathBuf {
        self.folder.join("data").join(name)
    }

    pub(crate) fn archives(&self) -> Vec<PathBuf> {
        let entries = self.folder.join("archive").read_dir().expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.extension().is_some_and(|end| end == "sqlite")).collect()
    }

    fn proc_status(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let text = text.expect("a process that runs");
        let line = text.lines().find(|line| line.starts_with(field)).expect("a field");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    pub(crate) fn rss_kib(&self) -> u64 {
        self.proc_status("VmRSS:")
    }

    /// The most memory of its own that it ever had.
    pub(crate) fn peak_mib(&self) -> u64 {
        self.proc_status("VmHWM:") / 1_024
    }

    /// CPU time that it used.
    pub(crate) fn cpu_ms(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let text = text.expect("a process that runs");
        let after = text.rsplit(") ").next().expect("fields");
        // utime and stime, in hundredths of a second (proc(5)).
        let ticks = after.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
        ticks.sum::<u64>() * 10
    }

    /// Trails that it lost, and why.
    pub(crate) fn lost_trails(&mut self) -> String {
        let notices = self.order("notices");
        let lost = notices.split("), ").filter(|notice| notice.contains("LostTrail"));
        lost.collect::<Vec<_>>().join("\n")
    }

    /// How often it told of something.
    pub(crate) fn told(&mut self, what: &str) -> usize {
        self.order("notices").matches(what).count()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.kill();
    }
}
