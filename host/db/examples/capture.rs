//! What following costs: `cargo run --release -p staffetta-db --example capture [seconds]`.
//!
//! Writers run alone first, then followed, in the same folder; python3 writes as an application
//! would. MB are of pages captured, CPU is this process's, its checkpoints included.

use rusqlite::Connection;
use staffetta_db::{Attached, Changes, Drained, Follower, WalWatch, page_hash};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// After an event of the WAL its index is looked at so often, and for so long.
const LOOK_PAUSE: Duration = Duration::from_micros(50);
const AWAKE: Duration = Duration::from_millis(20);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds: u64 = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    let folder = tempfile::tempdir_in(".")?;
    println!(
        "workload   writer tx/s alone  followed  ratio | MB/s captured  CPU ms/MB | commit ms \
              p99.9, worst alone > followed | stalls, worst ms | WAL frames"
    );
    for (name, rows, pace) in
        [("paced", 1, 200), ("small", 1, 0), ("batch", 100, 0), ("big", 20_000, 0)]
    {
        let alone =
            flood(&database(folder.path(), &format!("{name}-alone"))?, seconds, rows, pace)?;
        let path = database(folder.path(), name)?;
        let alone = alone.wait_with_output()?;
        let followed = follow(&path, seconds, rows, pace)?;
        let (a, f) = (numbers(&alone.stdout)?, numbers(&followed.writer)?);
        println!(
            "{name:9} {:10.0} {:18.0} {:6.2} | {:8.1} {:12.1} | {:8.2} {:8.1} > {:.2} {:.1} | \
             {} {:.1} | {}",
            a[0] / a[1],
            f[0] / f[1],
            f[0] / f[1] / (a[0] / a[1]),
            followed.mb / f[1],
            followed.cpu_ms / followed.mb,
            a[4],
            a[3],
            f[4],
            f[3],
            followed.stalls,
            followed.stall_ms_max,
            followed.wal_frames_max,
        );
    }
    idle(folder.path())?;
    drain_speed(&database(folder.path(), "drain")?)?;
    snapshot_speed(&database(folder.path(), "snapshot")?)
}

struct Run {
    writer: Vec<u8>,
    mb: f64,
    cpu_ms: f64,
    stalls: u64,
    stall_ms_max: f64,
    wal_frames_max: u32,
}

fn database(folder: &Path, name: &str) -> Result<PathBuf, rusqlite::Error> {
    let path = folder.join(name);
    Connection::open(&path)?.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE first(a)")?;
    Ok(path)
}

fn flood(path: &Path, seconds: u64, rows: u32, pace: u32) -> std::io::Result<std::process::Child> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/flood.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(path);
    command.args([seconds.to_string(), rows.to_string(), pace.to_string()]);
    command.stdout(Stdio::piped()).spawn()
}

fn numbers(text: &[u8]) -> Result<Vec<f64>, Box<dyn std::error::Error>> {
    let text = std::str::from_utf8(text)?;
    Ok(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

fn follow(
    path: &Path,
    seconds: u64,
    rows: u32,
    pace: u32,
) -> Result<Run, Box<dyn std::error::Error>> {
    let attached = Rc::new(Attached::open(path)?);
    let mut follower = Follower::start(attached)?;
    let watch = WalWatch::new()?;
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    watch.add(Path::new(&wal))?;
    let mut changes = Changes::new(256 << 20);
    let mut writer = flood(path, seconds, rows, pace)?;
    let began = cpu_ms();
    let (mut bytes, mut wal_frames_max, mut awake_until) = (0, 0, Instant::now());
    loop {
        let over = writer.try_wait()?.is_some();
        let drained = follower.drain(&mut changes, 4096)?;
        follower.tend(Instant::now(), &mut changes)?;
        bytes += changes.bytes();
        changes.clear();
        wal_frames_max = wal_frames_max.max(follower.trail().frame);
        match drained {
            Drained::Lost(lost) => return Err(Box::new(lost)),
            Drained::Some | Drained::More => awake_until = Instant::now() + AWAKE,
            Drained::Nothing if over => break,
            Drained::Nothing if Instant::now() < awake_until => std::thread::sleep(LOOK_PAUSE),
            Drained::Nothing => {
                let due = follower.next_due().unwrap_or_else(Instant::now);
                let wait = due.saturating_duration_since(Instant::now()).as_millis();
                let mut poll =
                    libc::pollfd { fd: watch.fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: one structure, which outlives the call.
                let ready = unsafe { libc::poll(&raw mut poll, 1, i32::try_from(wait)?) };
                if ready > 0 {
                    watch.woken()?;
                    awake_until = Instant::now() + AWAKE;
                }
            }
        }
    }
    let counters = follower.counters();
    Ok(Run {
        writer: writer.wait_with_output()?.stdout,
        mb: bytes as f64 / 1e6,
        cpu_ms: cpu_ms() - began,
        stalls: counters.stalls,
        stall_ms_max: counters.stall_us_max as f64 / 1e3,
        wal_frames_max,
    })
}

/// A hundred databases that nobody writes, as an engine would tend them.
fn idle(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    const DATABASES: u32 = 100;
    let paths: Vec<_> = (0..DATABASES).map(|at| database(folder, &format!("idle{at}"))).collect();
    let before = resident_kib()?;
    let mut followers = Vec::new();
    let mut changes = Changes::new(1 << 20);
    for path in paths {
        followers.push(Follower::start(Rc::new(Attached::open(&path?)?))?);
    }
    let mut began = (Instant::now(), cpu_ms());
    let start = began.0;
    // They become quiet first.
    while start.elapsed() < Duration::from_secs(8) {
        let now = Instant::now();
        for follower in &mut followers {
            if follower.next_due().is_some_and(|due| due <= now) {
                follower.tend(now, &mut changes)?;
            }
        }
        if start.elapsed() < Duration::from_secs(4) {
            began = (Instant::now(), cpu_ms());
        }
        let due = followers.iter().filter_map(Follower::next_due).min().unwrap_or(now);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    println!(
        "{DATABASES} idle: {:.2} % CPU, {} KiB each",
        (cpu_ms() - began.1) / began.0.elapsed().as_secs_f64() / 10.0,
        (resident_kib()? - before) / u64::from(DATABASES)
    );
    Ok(())
}

fn resident_kib() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}

/// Reading, checking and storing alone: a log of 100 MB that is there already.
fn drain_speed(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut follower = Follower::start(Rc::new(Attached::open(path)?))?;
    let app = Connection::open(path)?;
    app.execute_batch(
        "PRAGMA wal_autocheckpoint=0;
         WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<100000)
         INSERT INTO first SELECT randomblob(980) FROM n",
    )?;
    let mut changes = Changes::new(256 << 20);
    let (began, cpu) = (Instant::now(), cpu_ms());
    while follower.drain(&mut changes, 4096)? == Drained::More {}
    let mb = changes.bytes() as f64 / 1e6;
    println!(
        "drain alone: {:.0} MB/s, {:.2} CPU ms/MB ({mb:.0} MB)",
        mb / began.elapsed().as_secs_f64(),
        (cpu_ms() - cpu) / mb
    );
    Ok(())
}

/// Hashing a database of 375 MB.
fn snapshot_speed(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    Connection::open(path)?.execute_batch(
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<370000)
         INSERT INTO first SELECT randomblob(980) FROM n",
    )?;
    let mut follower = Follower::start(Rc::new(Attached::open(path)?))?;
    let mut changes = Changes::new(1 << 20);
    for _ in 0..3 {
        let began = Instant::now();
        let (snapshot, _) = follower.snapshot(&mut changes)?;
        let taken = began.elapsed();
        let mut sum = 0;
        snapshot.for_each(1..u32::MAX, |number, page| {
            sum ^= page_hash(number, page);
            ControlFlow::Continue(())
        })?;
        println!(
            "snapshot of {} pages in {taken:?}, hashed after {:?} ({sum:032x})",
            snapshot.pages_total(),
            began.elapsed()
        );
    }
    Ok(())
}

/// CPU of this process, its threads included.
fn cpu_ms() -> f64 {
    // SAFETY: all zeros is a valid value of this structure of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the structure outlives the call.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let ms = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    ms(usage.ru_utime) + ms(usage.ru_stime)
}
