//! The follower as a process of its own that is frozen and killed while others write.

mod hostile;

use hostile::{Followed, Lab, Program, integrity_of, seconds};
use staffetta_db::{Attached, Guard};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Tells the child what to follow; without it, the child's test is over at once.
const FOLLOW: &str = "STAFFETTA_TEST_FOLLOW";
const UNGUARDED: &str = "STAFFETTA_TEST_PIN_ONLY";

/// The child: follows until its standard input ends, then says how its copy compares.
#[test]
fn follower_process() {
    let Some(database) = std::env::var_os(FOLLOW).map(PathBuf::from) else { return };
    let guard = match std::env::var_os(UNGUARDED) {
        Some(_) => Guard::PinOnly,
        None => Guard::PinAndBridge,
    };
    let attached = Rc::new(Attached::open(&database).expect("attached"));
    let mut followed = Followed::start(attached, guard);
    println!("following");
    let input = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    followed.follow_while(|| !input.is_finished());
    let folder = database.parent().expect("a folder");
    let difference = followed.model.difference(&database);
    let integrity = followed.model.integrity(folder);
    let good = difference.is_none() && integrity == "ok";
    println!("{:?}", followed.follower.counters());
    println!("{difference:?} {integrity}");
    println!(
        "good={good} lost={} transactions={}",
        followed.lost.len(),
        followed.model.transactions
    );
}

struct Frozen {
    good: bool,
    lost: bool,
}

fn child(lab: &Lab, guard: Guard) -> Program {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "follower_process", "--nocapture"]).env(FOLLOW, &lab.database);
    if guard == Guard::PinOnly {
        command.env(UNGUARDED, "1");
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = Program(command.spawn().expect("this test runs"));
    let mut output = BufReader::new(program.0.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("following") {
        line.clear();
        assert!(output.read_line(&mut line).expect("a line") > 0, "the child ended");
    }
    program.0.stdout = Some(output.into_inner());
    program
}

fn signal(program: &Program, signal: i32) {
    let id = i32::try_from(program.0.id()).expect("a process id");
    // SAFETY: no pointers are passed; the child is not reaped before it is dropped.
    assert_eq!(unsafe { libc::kill(id, signal) }, 0);
}

/// Writers and checkpoints against a follower that stands still at random moments.
fn freeze(guard: Guard, time: u64) -> Frozen {
    let lab = Lab::new();
    let mut child = child(&lab, guard);
    let text = time.to_string();
    let mut others = [
        lab.python("flood.py", &[&text, "1"]),
        lab.python("flood.py", &[&text, "3"]),
        lab.python("storm.py", &[&text]),
    ];
    // Moments that do not repeat with the storm's; seeded so that a run can be told.
    let mut random = 0x2545_f491_u64;
    while others.iter_mut().any(Program::is_running) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        signal(&child, libc::SIGSTOP);
        std::thread::sleep(Duration::from_millis(random % 290));
        signal(&child, libc::SIGCONT);
        std::thread::sleep(Duration::from_millis(random / 1000 % 80));
    }
    for other in others {
        println!("{}", other.end().trim());
    }
    drop(child.0.stdin.take());
    let told = child.end();
    println!("{told}");
    let good = told.contains("good=true");
    assert!(good || told.contains("good=false"), "the child said nothing: {told}");
    Frozen { good, lost: !told.contains("lost=0 ") }
}

#[test]
fn a_frozen_follower_misses_nothing() {
    let frozen = freeze(Guard::PinAndBridge, seconds(8));
    assert!(frozen.good && !frozen.lost);
}

/// The negative control: the test above would see it.
#[test]
fn without_the_bridge_a_frozen_follower_has_another_database() {
    let until = Instant::now() + Duration::from_secs(60);
    while freeze(Guard::PinOnly, 4).good {
        assert!(Instant::now() < until, "pin alone sufficed: does the test still freeze?");
    }
}

#[test]
fn a_killed_follower_leaves_a_healthy_database_behind() {
    let lab = Lab::new();
    let time = seconds(4);
    let mut writer = lab.python("writer.py", &[&time.to_string(), "7", "big=3000"]);
    let mut rounds = 0;
    while writer.is_running() {
        let follower = child(&lab, Guard::PinAndBridge);
        std::thread::sleep(Duration::from_millis(300));
        signal(&follower, libc::SIGKILL);
        drop(follower);
        rounds += 1;
    }
    writer.end();
    assert!(rounds > 2, "{rounds} rounds");
    assert_eq!(integrity_of(&lab.database), "ok");
    let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
    followed.turn();
    followed.model.assert_same(&lab);
}
