//! Two engines in one process, over the real channel: one leads, one follows.

use staffetta_bulk::{Dialer, Listener, Purpose, loopback};
use staffetta_files::{
    Command, Done, Handle, Mechanism, Notice, Options, Order, State, TreeOptions, TreeStatus,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// In which what must not happen would have happened.
const A_WHILE: Duration = Duration::from_millis(700);

/// One node: its engine, its listener, its dialer.
struct Node {
    engine: Handle,
    root: PathBuf,
    notices: Arc<Mutex<Vec<Notice>>>,
    listener: Listener,
    dialer: Option<Dialer>,
    name: &'static str,
}

impl Node {
    fn start(folder: &Path, name: &'static str, peer: &'static str) -> Node {
        let root = folder.join(name).join("tree");
        let notices: Arc<Mutex<Vec<Notice>>> = Arc::default();
        let told = Arc::clone(&notices);
        let tree = TreeOptions {
            name: "spool".into(),
            path: root.clone(),
            ignore: Vec::new(),
            mechanism: Mechanism::Auto,
            delete_share_max: 10,
            grow: true,
            compress: false,
            trash: Duration::from_secs(3_600),
            scan: None,
        };
        let options = Options { trees: vec![tree], state: folder.join(name).join("state") };
        let engine = staffetta_files::start(options, move |notice| {
            told.lock().expect("no holder panics").push(notice);
        })
        .expect("an engine");
        let leading = engine.clone();
        let here = (engine.streams(), engine.wake());
        let is_primary = move || leading.leading().is_some();
        let listener = loopback::listener((name, peer), Purpose::Files, here, is_primary);
        Node { engine, root, notices, listener, dialer: None, name }
    }

    /// Keeps a stream to a primary.
    fn dial(&mut self, primary: &Node) {
        let here = (self.engine.streams(), self.engine.wake());
        let to = primary.listener.addresses()[0];
        let dialer = loopback::dialer((self.name, primary.name), to, Purpose::Files, here);
        self.dialer = Some(dialer);
    }

    /// Loses the stream to this primary, which begins another reign.
    fn lose(&mut self, primary: &Node, epoch: u64) {
        self.dialer = None;
        primary.engine.say(Command::Lead(epoch));
        primary.wait("the standby to be gone", |node| node.is(State::Alone));
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.root.join(name), content).expect("written");
    }

    fn has(&self, name: &str, content: &str) -> bool {
        fs::read_to_string(self.root.join(name)).is_ok_and(|there| there == content)
    }

    fn status(&self) -> Option<TreeStatus> {
        self.engine.status().first().cloned()
    }

    fn is(&self, state: State) -> bool {
        self.status().is_some_and(|status| status.state == state)
    }

    fn wait(&self, what: &str, there: impl Fn(&Node) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !there(self) {
            assert!(Instant::now() < until, "{what} did not come: {:?}", self.status());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn told(&self, wanted: impl Fn(&Notice) -> bool) -> bool {
        self.notices.lock().expect("no holder panics").iter().any(wanted)
    }

    fn order(&self, order: Order) -> Result<Done, String> {
        let (sender, answer) = mpsc::channel();
        let reply = Box::new(move |done| sender.send(done).expect("somebody waits"));
        self.engine.say(Command::Order("spool".into(), order, reply));
        answer.recv_timeout(PATIENCE).expect("an answer")
    }

    /// Whether something of this name was set aside as changed here.
    fn kept(&self, name: &str) -> bool {
        let Ok(Done::Kept(things)) = self.order(Order::Kept(100)) else { return false };
        things.iter().any(|thing| thing.place == "conflicts" && thing.path.to_string() == name)
    }
}

/// `na` leads, `nb` follows and has one file.
fn pair() -> (tempfile::TempDir, Node, Node) {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["na", "nb"] {
        fs::create_dir_all(folder.path().join(name).join("tree")).expect("a folder");
    }
    let one = Node::start(folder.path(), "na", "nb");
    let mut other = Node::start(folder.path(), "nb", "na");
    one.engine.say(Command::Lead(1));
    other.dial(&one);
    one.write("first", "1");
    other.wait("the first file", |node| node.has("first", "1"));
    one.wait("alignment", |node| node.told(|told| matches!(told, Notice::Aligned(_))));
    other.wait("to follow", |node| node.is(State::Following));
    (folder, one, other)
}

#[test]
fn a_standby_whose_root_is_away_takes_nothing_until_it_is_back() {
    let (_folder, one, other) = pair();
    let away = other.root.with_extension("away");
    fs::rename(&other.root, &away).unwrap();
    fs::create_dir(&other.root).unwrap();
    other.wait("a halt", |node| node.is(State::Halted));
    one.write("second", "2");
    std::thread::sleep(A_WHILE);
    assert_eq!(fs::read_dir(&other.root).unwrap().count(), 0, "written to the wrong folder");
    assert!(!away.join("second").exists(), "written where nobody sees it");
    fs::remove_dir(&other.root).unwrap();
    fs::rename(&away, &other.root).unwrap();
    other.wait("what came meanwhile", |node| node.has("second", "2"));
    assert!(!other.kept("first"), "nothing was changed there");
    let all = |status: TreeStatus| status.state == State::Leading && status.behind == Some(0);
    one.wait("the word of all", |node| node.status().is_some_and(all));
}

#[test]
fn a_root_that_comes_back_as_another_folder_is_led_on() {
    let (folder, one, other) = pair();
    let away = one.root.with_extension("away");
    fs::rename(&one.root, &away).unwrap();
    one.wait("a halt", |node| node.is(State::Halted));
    // As under another mount of the same disk.
    let copy = folder.path().join("copy");
    let mut cp = std::process::Command::new("cp");
    assert!(cp.arg("-a").args([&away, &copy]).status().unwrap().success());
    fs::rename(&copy, &one.root).unwrap();
    one.wait("the tree again", |node| node.is(State::Leading));
    one.write("second", "2");
    other.wait("the second file", |node| node.has("second", "2"));
    assert!(other.has("first", "1"), "nothing was deleted meanwhile");
}

#[test]
fn a_root_without_its_marker_halts_the_tree_and_says_so_until_it_is_back() {
    let (folder, one, other) = pair();
    drop((one, other));
    let marker = folder.path().join("na/tree/.staffetta/root");
    let away = folder.path().join("marker");
    fs::rename(&marker, &away).unwrap();
    std::thread::sleep(A_WHILE);
    let one = Node::start(folder.path(), "na", "nb");
    one.wait("a halt", |node| node.is(State::Halted));
    let trouble = one.status().and_then(|status| status.trouble).expect("a reason");
    assert!(trouble.contains("staffetta files approve spool"), "{trouble}");
    assert!(one.told(|told| matches!(told, Notice::Halted(..))));
    assert!(!one.told(|told| matches!(told, Notice::Healed(_))), "nothing is well again");
    fs::rename(&away, &marker).unwrap();
    one.wait("the tree again", |node| node.is(State::Waiting));
    assert!(one.told(|told| matches!(told, Notice::Healed(_))));
}

#[test]
fn a_tree_that_is_named_before_it_is_open_is_followed_when_it_is() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("na/tree")).unwrap();
    let one = Node::start(folder.path(), "na", "nb");
    let mut other = Node::start(folder.path(), "nb", "na");
    one.engine.say(Command::Lead(1));
    other.dial(&one);
    one.write("first", "1");
    let refused = |status: TreeStatus| status.trouble.is_some_and(|why| why.contains("standby"));
    one.wait("the standby's reason", |node| node.status().is_some_and(refused));
    fs::create_dir_all(&other.root).unwrap();
    other.wait("the first file", |node| node.has("first", "1"));
}

#[test]
fn another_reign_of_the_same_primary_goes_on() {
    let (_folder, one, other) = pair();
    one.engine.say(Command::Lead(2));
    one.write("second", "2");
    other.wait("a file of the second reign", |node| node.has("second", "2"));
    other.wait("the epoch", |node| node.status().is_some_and(|status| status.epoch == 2));
}

#[test]
fn a_lower_reign_is_refused() {
    let (_folder, one, other) = pair();
    other.engine.say(Command::Follow(5));
    other.wait("the stream to end", |node| node.is(State::Waiting));
    one.write("second", "2");
    std::thread::sleep(A_WHILE);
    assert!(!other.root.join("second").exists(), "a primary of the past was followed");
    one.engine.say(Command::Lead(6));
    other.wait("a file of a later reign", |node| node.has("second", "2"));
}

#[test]
fn what_only_the_standby_has_waits_for_a_ruling_and_is_set_aside() {
    let (_folder, one, mut other) = pair();
    other.lose(&one, 2);
    other.write("first", "other");
    let changed = |status: TreeStatus| status.local_changes > 0;
    other.wait("the change to be seen", |node| node.status().is_some_and(changed));
    other.dial(&one);
    other.wait("a question", |node| node.told(|told| matches!(told, Notice::Diverged(_, 1))));
    other.engine.say(Command::Rule("spool".into(), false));
    std::thread::sleep(A_WHILE);
    assert!(other.is(State::Diverged) && other.has("first", "other"), "{:?}", other.status());
    other.engine.say(Command::Rule("spool".into(), true));
    other.wait("the primary's", |node| node.has("first", "1"));
    assert!(other.kept("first"), "what was only here is lost");
}

#[test]
fn a_planned_move_waits_for_what_was_written_before_it() {
    let (_folder, one, mut other) = pair();
    let drain = |patience: Duration| {
        let (sender, answer) = mpsc::channel();
        let reply = Box::new(move |done| sender.send(done).expect("somebody waits"));
        one.engine.say(Command::Drain(Instant::now() + patience, reply));
        answer.recv_timeout(PATIENCE).expect("an answer")
    };
    for file in 0..300 {
        one.write(&format!("f{file}"), "x");
    }
    assert_eq!(drain(PATIENCE), Ok(()));
    assert!((0..300).all(|file| other.has(&format!("f{file}"), "x")), "shipped, it was said");
    other.lose(&one, 2);
    one.write("late", "x");
    let refused = drain(A_WHILE).unwrap_err();
    assert!(refused.contains("no standby is connected"), "{refused}");
    other.dial(&one);
    other.wait("the late one", |node| node.has("late", "x"));
}
