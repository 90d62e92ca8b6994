//! Kamailio alone, on one node without a daemon: what the tests of pairs with a real application
//! rely on.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use staffetta_lab::{Lab, LabOptions, Node};
use staffetta_tests::{Kamailio, Phone, world};

const PATIENCE: Duration = Duration::from_secs(5);
/// Its timers run every 2 s (`tests/fixtures/kamailio.cfg`).
const TIMERS: Duration = Duration::from_millis(5_000);

/// Holds the write lock of a database, as the fence on a standby does.
struct Fence(Child);

impl Fence {
    fn around(database: &Path) -> Result<Self> {
        let mut child = Command::new("sqlite3")
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run sqlite3")?;
        let input = child.stdin.as_mut().context("a pipe")?;
        input.write_all(b".timeout 5000\nbegin immediate;\n.print locked\n")?;
        let mut said = [0; 7];
        std::io::Read::read_exact(child.stdout.as_mut().context("a pipe")?, &mut said)?;
        ensure!(&said == b"locked\n", "sqlite3 said {said:?}");
        Ok(Self(child))
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        // Its end of input is the end of the transaction, which is rolled back.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

struct Scene {
    kamailio: Kamailio,
    phone: Phone,
    caller: Phone,
    database: std::path::PathBuf,
    lab: Lab,
    _folder: tempfile::TempDir,
}

fn scene() -> Result<Scene> {
    let folder = tempfile::tempdir()?;
    let database = folder.path().join("location.db");
    Kamailio::create_database(&database)?;
    let wal = Command::new("sqlite3").arg(&database).arg("pragma journal_mode=wal").output()?;
    ensure!(wal.stdout == b"wal\n", "{wal:?}");
    let lab = Lab::new(LabOptions::default())?;
    let kamailio = Kamailio::start(&lab, Node::A, &database)?;
    lab.node(Node::A).space().ip("addr add 10.77.0.50/24 dev eth0")?;
    let (phone, caller) = (Phone::new(&lab, "100", 5_070)?, Phone::new(&lab, "200", 5_071)?);
    Ok(Scene { kamailio, phone, caller, database, lab, _folder: folder })
}

#[test]
fn a_phone_registers_and_is_called() {
    world(|| {
        if let Some(why) = Kamailio::missing() {
            println!("SKIPPED: {why}");
            return Ok(());
        }
        let scene = scene()?;
        ensure!(scene.caller.call("100", PATIENCE)? == Some(404), "nobody registered yet");
        ensure!(scene.phone.register_until_ok(PATIENCE)?, "{}", scene.kamailio.log());
        ensure!(scene.caller.call("100", PATIENCE)? == Some(200), "{}", scene.kamailio.log());
        ensure!(scene.phone.answered() == 1, "{} calls", scene.phone.answered());
        Ok(())
    });
}

#[test]
fn it_lives_behind_a_fence_and_writes_again_after_it() {
    world(|| {
        if let Some(why) = Kamailio::missing() {
            println!("SKIPPED: {why}");
            return Ok(());
        }
        let scene = scene()?;
        let log = || scene.kamailio.log();
        ensure!(scene.phone.register_until_ok(PATIENCE)?, "{}", log());
        let fence = Fence::around(&scene.database)?;
        let begin = Instant::now();
        ensure!(scene.caller.register(PATIENCE)? == Some(500), "{}", log());
        ensure!(begin.elapsed() < Duration::from_secs(1), "it waited for the lock");
        std::thread::sleep(TIMERS);
        ensure!(scene.kamailio.logged("db_timer_udomain") >= 2, "no timer ran: {}", log());
        ensure!(scene.kamailio.is_running(), "{}", log());
        ensure!(scene.caller.call("100", PATIENCE)? == Some(200), "{}", log());

        drop(fence);
        ensure!(scene.caller.register_until_ok(PATIENCE)?, "{}", log());
        ensure!(scene.phone.call("200", PATIENCE)? == Some(200), "{}", log());
        let failed = scene.kamailio.logged("ERROR");
        std::thread::sleep(TIMERS);
        ensure!(scene.kamailio.logged("ERROR") == failed, "its timers still fail: {}", log());
        Ok(())
    });
}

#[test]
fn it_waits_without_the_address_and_ends_with_its_node() {
    world(|| {
        if let Some(why) = Kamailio::missing() {
            println!("SKIPPED: {why}");
            return Ok(());
        }
        let scene = scene()?;
        let node = scene.lab.node(Node::A);
        node.space().ip("addr del 10.77.0.50/24 dev eth0")?;
        ensure!(scene.phone.register(Duration::from_secs(1))?.is_none(), "answered from nowhere");
        ensure!(scene.kamailio.is_running(), "{}", scene.kamailio.log());
        node.space().ip("addr add 10.77.0.50/24 dev eth0")?;
        ensure!(scene.phone.register_until_ok(PATIENCE)?, "{}", scene.kamailio.log());
        node.kill9();
        ensure!(!scene.kamailio.is_running(), "it outlived its node");
        Ok(())
    });
}
