//! Databases of a pair: real daemons, applications that know nothing of them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use staffetta_lab::{Node, Pair, PairOptions, Role};
use staffetta_tests::{Kamailio, Phone, Scene, Writer, aligned, said, sql, text, world};

const PATIENCE: Duration = Duration::from_secs(20);
const COUNT: &str = "select count(*) from calls";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn options(more: &str) -> PairOptions {
    PairOptions { databases: vec![("app".into(), more.into())], ..PairOptions::default() }
}

/// Waits for something that must come.
fn wait(what: &str, pair: &Pair, there: impl FnMut() -> bool) -> Result<()> {
    staffetta_tests::wait(what, pair, PATIENCE, there)
}

fn all_aligned(pair: &Pair) -> Result<()> {
    wait("alignment", pair, || Node::BOTH.into_iter().all(|node| aligned(pair, node)))
}

/// Rows that every reader of a node's copy sees.
fn rows(pair: &Pair, node: Node) -> u64 {
    let count = sql(&pair.database(node, "app"), COUNT);
    count.ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn open(more: &str, prepare: fn(&Pair) -> Result<()>) -> Result<Scene> {
    Scene::open(&options(more), false, prepare)?.context("no pair")
}

#[test]
fn a_planned_move_under_load_loses_no_commit() {
    world(|| {
        let mut scene = open("", |_| Ok(()))?;
        for _ in 0..4 {
            scene.ready()?;
            let pair = scene.pair();
            let from = scene.primary();
            let mut writer = Writer::start(&pair.database(from, "app"), ms(1))?;
            writer.wait_for(300, PATIENCE)?;
            all_aligned(pair)?;
            said(pair, from, &["switchover"])?;
            let committed = writer.end();
            let to = from.peer();
            wait("every commit on the new primary", pair, || rows(pair, to) >= committed)?;
            ensure!(rows(pair, to) == committed, "{} rows of {committed}", rows(pair, to));
            all_aligned(pair)?;
        }
        let archives = Node::BOTH.map(|node| scene.pair().state(node).join("archive"));
        for folder in archives {
            ensure!(folder.read_dir()?.next().is_none(), "an archive in {}", folder.display());
        }
        Ok(())
    });
}

#[test]
fn a_standby_takes_over_with_all_that_was_shipped_and_keeps_what_was_not() {
    world(|| {
        let mut scene = open("", |_| Ok(()))?;
        scene.ready()?;
        let pair = scene.pair();
        let (old, new) = (scene.primary(), scene.primary().peer());
        let mut writer = Writer::start(&pair.database(old, "app"), ms(2))?;
        writer.wait_for(200, PATIENCE)?;
        all_aligned(pair)?;
        pair.lab().node(old).kill9();
        // The application of a dead primary's daemon writes on: nobody else has these.
        let alone = writer.wait_for(50, PATIENCE)?;
        drop(writer);
        wait("a takeover", pair, || {
            pair.status(new).is_ok_and(|status| status.role == Role::Primary)
        })?;
        let mut writer = Writer::start(&pair.database(new, "app"), ms(2))?;
        writer.wait_for(20, PATIENCE)?;
        ensure!(rows(pair, new) >= 200, "{} rows", rows(pair, new));
        pair.start(old)?;
        all_aligned(pair)?;
        drop(writer);
        wait("equal rows", pair, || rows(pair, old) == rows(pair, new))?;
        let shown = said(pair, old, &["db", "diff", "app"])?;
        ensure!(shown.contains("calls:") && shown.contains("changed"), "{shown}");
        let archive = pair.state(old).join("archive");
        let kept = archive
            .read_dir()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "sqlite"))
            .context("no archive")?;
        ensure!(sql(&kept, COUNT)?.parse::<u64>()? >= alone, "the archive lacks rows");
        let log = std::fs::read_to_string(pair.log_path(new))?;
        ensure!(log.contains("of the last primary"), "nothing was said of what may be missing");
        Ok(())
    });
}

#[test]
fn applications_on_the_standby_read_and_do_not_write() {
    world(|| {
        let mut scene = open("", |_| Ok(()))?;
        scene.ready()?;
        let pair = scene.pair();
        let (one, other) = (scene.primary(), scene.primary().peer());
        let mut writer = Writer::start(&pair.database(one, "app"), ms(5))?;
        writer.wait_for(20, PATIENCE)?;
        all_aligned(pair)?;
        ensure!(rows(pair, other) > 0, "no rows on the standby");
        let error = sql(&pair.database(other, "app"), "insert into calls values(-1, 0)");
        let error = error.err().context("a write on the standby")?.to_string();
        ensure!(error.contains("locked"), "{error}");
        let shown = said(pair, other, &["db", "status"])?;
        ensure!(shown.contains("following") && shown.contains("aligned"), "{shown}");
        said(pair, one, &["db", "scrub"])?;
        wait("a scrub", pair, || {
            said(pair, one, &["db", "status"]).is_ok_and(|shown| shown.contains("0 wrong"))
        })?;
        let error = pair.command(one, &["db", "resync", "nothing"])?;
        ensure!(text(&error).contains("no database `nothing`"), "{}", text(&error));
        Ok(())
    });
}

#[test]
fn a_synchronous_commit_waits_for_the_standby_and_goes_on_without_it() {
    world(|| {
        let mut scene = open("mode = \"sync\"\nsync_timeout_ms = 300", |_| Ok(()))?;
        scene.ready()?;
        let pair = scene.pair();
        let (one, other) = (scene.primary(), scene.primary().peer());
        let path = pair.database(one, "app");
        let mut writer = Writer::start(&path, ms(20))?;
        writer.wait_for(10, PATIENCE)?;
        all_aligned(pair)?;
        let path = path.to_str().context("a path")?;
        let answer = said(pair, one, &["barrier", path])?;
        ensure!(answer.starts_with("ok "), "{answer}");
        pair.lab().node(other).freeze();
        writer.wait_for(10, PATIENCE)?;
        let answer = pair.command(one, &["barrier", path])?;
        ensure!(text(&answer).starts_with("degraded "), "{}", text(&answer));
        ensure!(answer.status.code() == Some(1), "{:?}", answer.status);
        pair.lab().node(other).thaw();
        wait("synchronous commits again", pair, || {
            said(pair, one, &["barrier", path]).is_ok_and(|answer| answer.starts_with("ok "))
        })?;
        Ok(())
    });
}

/// The promise to the telephony platform: kamailio runs on both nodes all the time, keeps its
/// registrations in a replicated database, and a call reaches a phone that registered on the node
/// that crashed.
#[test]
fn a_call_reaches_a_phone_that_registered_on_the_node_that_crashed() {
    world(|| {
        if let Some(why) = Kamailio::missing() {
            println!("SKIPPED: {why}");
            return Ok(());
        }
        let tables = |pair: &Pair| {
            Node::BOTH
                .into_iter()
                .try_for_each(|node| Kamailio::create_database(&pair.database(node, "app")))
        };
        let mut scene = open("", tables)?;
        scene.ready()?;
        let pair = scene.pair();
        let (old, new) = (scene.primary(), scene.primary().peer());
        all_aligned(pair)?;
        let lab = pair.lab();
        let on = |node: Node| Kamailio::start(lab, node, &pair.database(node, "app"));
        let (_gone, stays) = (on(old)?, on(new)?);
        let (phone, caller) = (Phone::new(lab, "100", 5_070)?, Phone::new(lab, "200", 5_071)?);
        ensure!(phone.register_until_ok(PATIENCE)?, "the phone does not register");
        wait("the registration on the standby", pair, || {
            let count = sql(&pair.database(new, "app"), "select count(*) from location");
            count.is_ok_and(|count| count == "1")
        })?;
        // The whole node: daemon and kamailio.
        lab.node(old).kill9();
        wait("a takeover", pair, || {
            pair.status(new).is_ok_and(|status| status.role == Role::Primary)
        })?;
        ensure!(stays.is_running(), "kamailio of the standby ended: {}", stays.log());
        ensure!(caller.call("100", PATIENCE)? == Some(200), "{}", stays.log());
        ensure!(phone.answered() == 1, "{} calls answered", phone.answered());
        ensure!(caller.register_until_ok(PATIENCE)?, "no writing after the takeover");
        Ok(())
    });
}
