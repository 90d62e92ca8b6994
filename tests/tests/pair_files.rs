//! Trees of files of a pair: real daemons, programs that know nothing of them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

use anyhow::{Context, ensure};
use staffetta_lab::{Node, Role};
use staffetta_tests::trees::{
    TREE, alike, all_aligned, count, kept, open, wait, wait_for_takeover,
};
use staffetta_tests::{aligned, said, world};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn everything_that_a_file_is_arrives() {
    world(|| {
        let mut scene = open("ignore = [\"*.tmp\"]", |_| Ok(()))?;
        scene.ready()?;
        let pair = scene.pair();
        let (from, to) = (scene.primary(), scene.primary().peer());
        let (one, other) = (pair.tree(from, TREE), pair.tree(to, TREE));
        fs::create_dir_all(one.join("deep/er/est"))?;
        fs::create_dir(one.join("empty"))?;
        fs::write(one.join("deep/er/est/a"), b"a")?;
        fs::write(one.join("left.tmp"), b"out")?;
        fs::write(one.join("line\nbreak"), b"odd")?;
        symlink("/nowhere/../at all", one.join("dangling"))?;
        fs::hard_link(one.join("deep/er/est/a"), one.join("same"))?;
        fs::set_permissions(one.join("same"), fs::Permissions::from_mode(0o4751))?;
        std::os::unix::fs::chown(one.join("same"), Some(1234), Some(4321))?;
        let sparse = fs::File::create(one.join("sparse"))?;
        sparse.set_len(1 << 30)?;
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (1 << 30) - 3)?;
        drop(sparse);
        fs::write(one.join("large"), vec![7u8; 3_000_000])?;
        alike(pair)?;
        ensure!(!other.join("left.tmp").exists(), "left out, and sent");
        ensure!(fs::metadata(other.join("same"))?.nlink() == 2, "hard links are one file");
        ensure!(fs::metadata(other.join("sparse"))?.blocks() < 10_000, "holes stay holes");
        fs::rename(one.join("deep"), one.join("moved"))?;
        fs::remove_file(one.join("dangling"))?;
        fs::remove_dir(one.join("empty"))?;
        fs::write(one.join("empty"), b"a file now")?;
        fs::remove_file(one.join("large"))?;
        symlink("/etc", one.join("large"))?;
        alike(pair)?;
        ensure!(fs::read(other.join("moved/er/est/a"))? == b"a", "moved");
        said(pair, from, &["switchover"])?;
        wait("the other way", pair, || {
            pair.status(to).is_ok_and(|status| status.role == Role::Primary)
        })?;
        scene.ready()?;
        let pair = scene.pair();
        fs::write(other.join("from the other"), b"side")?;
        alike(pair)?;
        ensure!(fs::read(one.join("from the other"))? == b"side", "the direction follows the role");
        ensure!(kept(&one, "conflicts", "same").is_none(), "nothing was in conflict");
        Ok(())
    });
}

#[test]
fn what_only_a_dead_primary_had_is_kept_when_it_returns() {
    world(|| {
        let mut scene = open("", |_| Ok(()))?;
        scene.ready()?;
        let pair = scene.pair();
        let (old, new) = (scene.primary(), scene.primary().peer());
        let (was, is) = (pair.tree(old, TREE), pair.tree(new, TREE));
        fs::write(was.join("both"), b"one")?;
        fs::write(was.join("untouched"), b"same")?;
        alike(pair)?;
        pair.lab().node(old).kill9();
        fs::write(was.join("both"), b"of the dead")?;
        fs::write(was.join("only"), b"of the dead")?;
        wait_for_takeover(pair, new)?;
        fs::write(is.join("both"), b"of the living")?;
        pair.start(old)?;
        scene.ready()?;
        let pair = scene.pair();
        alike(pair)?;
        ensure!(fs::read(was.join("both"))? == b"of the living", "the primary's stays");
        for (name, content) in [("both", b"of the dead"), ("only", b"of the dead")] {
            let kept = kept(&was, "conflicts", name).with_context(|| format!("{name} is lost"))?;
            ensure!(fs::read(&kept)? == content, "{} holds something else", kept.display());
        }
        ensure!(kept(&was, "conflicts", "untouched").is_none(), "it was not in conflict");
        Ok(())
    });
}

#[test]
fn changes_on_the_standby_are_kept_aside_and_replaced() {
    world(|| {
        let mut scene = open("", |_| Ok(()))?;
        scene.ready()?;
        let pair = scene.pair();
        let (one, other) = (scene.primary(), scene.primary().peer());
        fs::write(pair.tree(one, TREE).join("greeting"), b"hello")?;
        alike(pair)?;
        fs::write(pair.tree(other, TREE).join("greeting"), b"tampered with")?;
        fs::write(pair.tree(other, TREE).join("extra"), b"extra")?;
        fs::remove_dir_all(pair.tree(other, TREE).join("gone")).ok();
        let there = pair.tree(other, TREE);
        wait("the primary's version", pair, || {
            fs::read(there.join("greeting")).is_ok_and(|bytes| bytes == b"hello")
                && !there.join("extra").exists()
        })?;
        alike(pair)?;
        for name in ["greeting", "extra"] {
            ensure!(kept(&there, "conflicts", name).is_some(), "{name} was not kept");
        }
        wait("the word of it", pair, || {
            said(pair, other, &["files", "status"])
                .is_ok_and(|shown| shown.contains("changed here by others"))
        })?;
        let listed = said(pair, other, &["files", "restore", TREE])?;
        ensure!(listed.contains("conflicts") && listed.contains("extra"), "{listed}");
        Ok(())
    });
}

#[test]
fn a_source_emptied_while_the_daemon_was_down_empties_no_standby() {
    world(|| {
        let mut scene = open("", |_| Ok(()))?;
        scene.ready()?;
        let pair = scene.pair();
        let (one, other) = (scene.primary(), scene.primary().peer());
        let (from, to) = (pair.tree(one, TREE), pair.tree(other, TREE));
        for folder in 0..30 {
            fs::create_dir(from.join(format!("d{folder}")))?;
            for file in 0..10 {
                fs::write(from.join(format!("d{folder}/f{file}")), format!("{folder} {file}"))?;
            }
        }
        alike(pair)?;
        for node in Node::BOTH {
            pair.lab().node(node).kill9();
        }
        for entry in fs::read_dir(&from)?.flatten() {
            if entry.file_name() != ".staffetta" {
                fs::remove_dir_all(entry.path())?;
            }
        }
        pair.start(one)?;
        wait("a start alone", pair, || {
            pair.command(one, &["start", "--alone"]).is_ok_and(|out| out.status.success())
        })?;
        pair.start(other)?;
        scene.ready()?;
        let pair = scene.pair();
        ensure!(scene.primary() == one, "the node with the empty tree serves");
        wait("deletions that are held", pair, || {
            said(pair, one, &["files", "status"]).is_ok_and(|shown| shown.contains("held:"))
        })?;
        std::thread::sleep(ms(1_500));
        ensure!(count(&to) == 300, "{} of 300 files are left", count(&to));
        ensure!(!aligned(pair, one), "not aligned while deletions wait");
        fs::write(from.join("new"), b"goes on")?;
        wait("what is new", pair, || to.join("new").exists())?;
        said(pair, one, &["files", "approve", TREE])?;
        wait("the approved deletions", pair, || count(&to) == 1)?;
        alike(pair)?;
        ensure!(kept(&to, "trash", "f9").is_some(), "deletions go to the trash");
        Ok(())
    });
}

#[test]
fn a_root_that_is_not_mounted_stops_the_tree() {
    world(|| {
        let mut scene = open("", |_| Ok(()))?;
        scene.ready()?;
        let pair = scene.pair();
        let (one, other) = (scene.primary(), scene.primary().peer());
        let (from, to) = (pair.tree(one, TREE), pair.tree(other, TREE));
        fs::write(from.join("a"), b"a")?;
        alike(pair)?;
        // Another folder in its place, as under an unmounted disk.
        let away = from.with_extension("away");
        fs::rename(&from, &away)?;
        fs::create_dir(&from)?;
        wait("a halt", pair, || {
            said(pair, one, &["files", "status"]).is_ok_and(|shown| shown.contains("halted"))
        })?;
        std::thread::sleep(ms(500));
        ensure!(to.join("a").exists(), "the standby's copy is gone");
        fs::remove_dir(&from)?;
        fs::rename(&away, &from)?;
        wait("the tree again", pair, || {
            said(pair, one, &["files", "status"]).is_ok_and(|shown| shown.contains("leading"))
        })?;
        alike(pair)
    });
}

#[test]
fn a_planned_move_takes_all_files_along() {
    world(|| {
        let mut scene = open("", |_| Ok(()))?;
        for round in 0..3 {
            scene.ready()?;
            let pair = scene.pair();
            let (from, to) = (scene.primary(), scene.primary().peer());
            all_aligned(pair)?;
            for file in 0..500 {
                fs::write(pair.tree(from, TREE).join(format!("r{round}-{file}")), [0u8; 2_000])?;
            }
            said(pair, from, &["switchover"])?;
            let there = count(&pair.tree(to, TREE));
            ensure!(there == 500 * (round + 1), "{there} files of {}", 500 * (round + 1));
            wait("the move", pair, || {
                pair.status(to).is_ok_and(|status| status.role == Role::Primary)
            })?;
        }
        scene.ready()?;
        alike(scene.pair())
    });
}

#[test]
fn growing_files_are_followed_while_they_grow() {
    world(|| {
        let mut scene = open("", |_| Ok(()))?;
        scene.ready()?;
        let pair = scene.pair();
        let (one, other) = (scene.primary(), scene.primary().peer());
        let path = pair.tree(one, TREE).join("call.wav");
        let mut file = fs::File::create(&path)?;
        let there = pair.tree(other, TREE).join("call.wav");
        let mut seen = 0;
        for part in 0..40u8 {
            std::io::Write::write_all(&mut file, &[part; 1_600])?;
            std::thread::sleep(ms(50));
            seen += usize::from(fs::metadata(&there).is_ok_and(|found| found.len() > 0));
        }
        ensure!(seen > 20, "it was seen {seen} times of 40 while it grew");
        // The header is written at the end, as recorders do.
        std::os::unix::fs::FileExt::write_all_at(&file, b"RIFF", 0)?;
        drop(file);
        alike(pair)?;
        ensure!(fs::read(&there)?.starts_with(b"RIFF"), "the header");
        Ok(())
    });
}
