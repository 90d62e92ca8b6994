//! Trees of files of a pair whose daemons are killed, whose disks are full, whose files cannot be
//! read, and whose clocks differ.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use staffetta_lab::{Node, Pair};
use staffetta_tests::trees::{TREE, alike, count, kept, open, wait, wait_for_takeover};
use staffetta_tests::{Churn, aligned, can_launch, moved_clocks, said, world};

/// The disk of a tree that is filled.
const DISK_KIB: u64 = 16 * 1024;
/// Starts a daemon without root's right to read everybody's files.
const WITHOUT_DAC_OVERRIDE: [&str; 2] =
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];
/// Seconds by which one daemon's clocks began before the other's: 100 days.
const APART_S: i64 = 100 * 86_400;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// More in a row where the environment says so.
fn rounds(few: u64) -> u64 {
    std::env::var("STAFFETTA_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

/// Whether a node says this of its trees.
fn says(pair: &Pair, node: Node, words: &str) -> bool {
    said(pair, node, &["files", "status"]).is_ok_and(|shown| shown.contains(words))
}

#[test]
fn trees_are_alike_after_the_standbys_daemon_was_killed_under_load() {
    world(|| {
        let mut scene = open("delete_share_max = 100", |_| Ok(()))?;
        for round in 0..rounds(4) {
            scene.ready()?;
            let pair = scene.pair();
            let (one, other) = (scene.primary(), scene.primary().peer());
            let churn = Churn::start(&pair.tree(one, TREE), round)?;
            std::thread::sleep(ms(400 + 130 * (round % 7)));
            pair.lab().node(other).kill9();
            std::thread::sleep(ms(300));
            pair.start(other)?;
            std::thread::sleep(ms(200));
            churn.end()?;
            scene.ready()?;
            alike(scene.pair())?;
            let shown = said(scene.pair(), other, &["files", "status"])?;
            ensure!(!shown.contains("changed here"), "nobody else wrote there: {shown}");
            ensure!(!shown.contains("conflicts"), "nothing was in conflict: {shown}");
        }
        Ok(())
    });
}

#[test]
fn trees_are_alike_after_the_primarys_daemon_was_killed_under_load() {
    world(|| {
        let mut scene = open("delete_share_max = 100", |_| Ok(()))?;
        for round in 0..rounds(3) {
            scene.ready()?;
            let pair = scene.pair();
            let (old, new) = (scene.primary(), scene.primary().peer());
            let churn = Churn::start(&pair.tree(old, TREE), round)?;
            std::thread::sleep(ms(400 + 130 * (round % 7)));
            pair.lab().node(old).kill9();
            fs::write(pair.tree(old, TREE).join("only"), format!("{round}"))?;
            wait_for_takeover(pair, new)?;
            // Programs follow the service.
            churn.end()?;
            let churn = Churn::start(&pair.tree(new, TREE), round + 1_000)?;
            std::thread::sleep(ms(300));
            pair.start(old)?;
            std::thread::sleep(ms(500));
            churn.end()?;
            scene.ready()?;
            let pair = scene.pair();
            ensure!(scene.primary() == new, "the one that took over goes on");
            alike(pair)?;
            let kept = kept(&pair.tree(old, TREE), "conflicts", "only").context("it is lost")?;
            ensure!(fs::read_to_string(&kept)? == format!("{round}"), "{}", kept.display());
            fs::remove_file(&kept)?;
        }
        Ok(())
    });
}

#[test]
fn a_standby_without_room_loses_nothing_and_catches_up() {
    world(|| {
        let mut scene = open("", |pair| pair.small_tree(TREE, DISK_KIB))?;
        scene.ready()?;
        let pair = scene.pair();
        let (one, other) = (scene.primary(), scene.primary().peer());
        let (from, to) = (pair.tree(one, TREE), pair.tree(other, TREE));
        for file in 0..50 {
            fs::write(from.join(format!("old{file}")), [file; 2_000])?;
        }
        alike(pair)?;
        pair.fill_disk(other)?;
        for file in 0..100 {
            fs::write(from.join(format!("new{file}")), [file; 9_000])?;
        }
        fs::write(from.join("old7"), [7; 400_000])?;
        wait("the full disk in status", pair, || says(pair, one, "make room on the standby"))?;
        for node in Node::BOTH {
            wait("the end of alignment", pair, || !aligned(pair, node))?;
        }
        for file in (0..50).filter(|file| *file != 7) {
            let there = fs::read(to.join(format!("old{file}")))?;
            ensure!(there == [file; 2_000], "old{file} was touched");
        }
        let old = fs::read(to.join("old7"))?;
        ensure!(old == [7; 2_000] || old == [7; 400_000], "half of it: {} bytes", old.len());
        pair.free_disk(other)?;
        alike(pair)?;
        ensure!(scene.primary() == one && count(&to) == 150, "{} files", count(&to));
        Ok(())
    });
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_holds_up_no_other() {
    world(|| {
        if !can_launch(&WITHOUT_DAC_OVERRIDE.map(ToOwned::to_owned)) {
            println!("SKIPPED: capabilities cannot be taken away here (setpriv)");
            return Ok(());
        }
        let mut scene = open("", |pair| {
            let words = WITHOUT_DAC_OVERRIDE.map(ToOwned::to_owned).to_vec();
            Node::BOTH.into_iter().for_each(|node| pair.launch_by(node, words.clone()));
            Ok(())
        })?;
        scene.ready()?;
        let pair = scene.pair();
        let (one, other) = (scene.primary(), scene.primary().peer());
        let (from, to) = (pair.tree(one, TREE), pair.tree(other, TREE));
        let secret = from.join("voicemail");
        fs::write(&secret, b"was readable")?;
        alike(pair)?;
        fs::write(&secret, b"is not")?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
        chown(&secret, Some(1234), Some(1234))?;
        fs::write(from.join("greeting"), b"hello")?;
        wait("the others", pair, || to.join("greeting").exists())?;
        fs::write(&secret, b"cannot be read")?;
        wait("its name in status", pair, || says(pair, one, "voicemail"))?;
        ensure!(to.join("voicemail").exists(), "the old version is not deleted");
        for node in Node::BOTH {
            wait("the end of alignment", pair, || !aligned(pair, node))?;
        }
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o644))?;
        alike(pair)?;
        ensure!(fs::read(to.join("voicemail"))? == b"cannot be read", "the last version");
        Ok(())
    });
}

/// Of a file's times only that which no program can set (ctime) is compared with a clock, the
/// node's own; no clock is compared with the peer's. The wall clock cannot be moved for one node.
#[test]
fn daemons_that_began_100_days_apart_and_times_of_files_in_past_and_future_agree() {
    world(|| {
        if !can_launch(&moved_clocks(0, 0)) {
            println!("SKIPPED: no time namespace can be made here (unshare --time)");
            return Ok(());
        }
        let mut scene = open("", |_| Ok(()))?;
        let pair = scene.pair();
        for node in Node::BOTH {
            pair.lab().node(node).kill9();
        }
        pair.launch_by(Node::B, moved_clocks(APART_S, APART_S));
        pair.start(Node::B)?;
        pair.start(Node::A)?;
        scene.ready()?;
        let pair = scene.pair();
        let (one, other) = (scene.primary(), scene.primary().peer());
        let day = Duration::from_secs(86_400);
        let now = SystemTime::now();
        let dated = |name: &str, bytes: &[u8], at: SystemTime| -> Result<()> {
            let path = pair.tree(one, TREE).join(name);
            fs::write(&path, bytes)?;
            Ok(fs::File::options().write(true).open(&path)?.set_modified(at)?)
        };
        let times = [
            ("future", now + 20_000 * day),
            ("past", SystemTime::UNIX_EPOCH),
            ("before", SystemTime::UNIX_EPOCH - 10_000 * day),
        ];
        for round in 0..3u8 {
            for (name, at) in times {
                // The same size and time as before: only the content differs.
                dated(name, &[round; 100], at)?;
            }
            alike(pair)?;
            for (name, _) in times {
                let there = fs::read(pair.tree(other, TREE).join(name))?;
                ensure!(there == [round; 100], "{name} is of round {}", there[0]);
            }
        }
        Ok(())
    });
}
