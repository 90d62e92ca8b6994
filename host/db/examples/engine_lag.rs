//! What a pair costs and how late it is:
//! `cargo run --release -p staffetta-db --example engine_lag [seconds] [commits-per-second...]`.
//!
//! Two engines in one process over the real channel; python3 writes as an application would, on a
//! core of its own, and both engines share another one. Lag: from inside the transaction to what a
//! reader of the standby sees. CPU: percent of a core, threads of both engines and of the channel.

#[path = "../tests/pair/mod.rs"]
mod pair;

use pair::{Node, wait};
use rusqlite::{Connection, OpenFlags};
use staffetta_db::State;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Both engines, the channel, and whoever reads: the writer has the other one.
const ENGINES_CPU: usize = 0;
const WRITER_CPU: usize = 1;
/// The standby is looked at this often: where commits are paced, and where they are not.
const LOOK_PACED: Duration = Duration::from_micros(100);
const LOOK_FLAT_OUT: Duration = Duration::from_millis(2);
/// Idle databases.
const IDLE_DATABASES: usize = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<u64> =
        std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let seconds = numbers.first().copied().unwrap_or(5);
    let paces = if numbers.len() > 1 { &numbers[1..] } else { &[1, 20, 200, 2000][..] };
    let root = tempfile::tempdir_in(".")?;
    pin(ENGINES_CPU);
    println!("workload      commits/s  ratio | lag ms p50   p99   max | CPU % of a core");
    for pace in paces {
        let text = format!("{pace}/s");
        run(root.path(), &text, seconds, 1, *pace)?;
    }
    for (name, rows) in [("small", 1), ("batch", 100)] {
        run(root.path(), name, seconds, rows, 0)?;
    }
    idle(root.path(), seconds, 1)?;
    idle(root.path(), seconds, IDLE_DATABASES)
}

/// One workload, alone first where the ratio matters.
fn run(root: &Path, name: &str, seconds: u64, rows: u32, pace: u64) -> Result<(), Box<dyn Error>> {
    let folder = root.join(name.replace('/', "-"));
    std::fs::create_dir_all(&folder)?;
    let alone = if pace == 0 {
        rate(flood(&folder.join("alone.db"), seconds, rows, pace)?)?
    } else {
        pace as f64
    };
    let one = Node::start(&folder, "na", "nb");
    let mut other = Node::start(&folder, "nb", "na");
    one.lead(2);
    let path = one.database("a.db");
    Connection::open(&path)?.execute_batch(
        "PRAGMA journal_mode=WAL; CREATE TABLE lag(id INTEGER PRIMARY KEY, ts INTEGER)",
    )?;
    other.attend(&one);
    one.shipped("a.db");
    let before = cpu_ms()?;
    let began = Instant::now();
    let child = flood(&path, seconds, rows, pace)?;
    let look = if pace == 0 { LOOK_FLAT_OUT } else { LOOK_PACED };
    let (child, lags) = watch(&other.database("a.db"), child, look)?;
    let (took, after) = (began.elapsed(), cpu_ms()?);
    let ended = Instant::now();
    one.shipped("a.db");
    let caught_up = ended.elapsed();
    let followed = rate(child)?;
    let counters = one.status("a.db").map(|status| status.counters);
    println!(
        "{name:12} {followed:10.0} {:6.2} | {:10.2} {:5.2} {:5.1} | {}{}",
        followed / alone,
        percentile(&lags, 0.5),
        percentile(&lags, 0.99),
        percentile(&lags, 1.0),
        spent(&before, &after, took),
        if pace == 0 {
            {
                let (stalls, us) = counters.map_or((0, 0), |c| (c.stalls, c.stall_us_max));
                format!(
                    " (alone {alone:.0}/s, caught up after {caught_up:.0?}, {stalls} stalls of \
                 {us} us at most)"
                )
            }
        } else {
            String::new()
        },
    );
    Ok(())
}

/// Databases that nobody writes.
fn idle(root: &Path, seconds: u64, databases: usize) -> Result<(), Box<dyn Error>> {
    let folder = root.join(format!("idle-{databases}"));
    let data = folder.join("na/data");
    std::fs::create_dir_all(&data)?;
    for at in 0..databases {
        let connection = Connection::open(data.join(format!("{at}.db")))?;
        connection.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a)")?;
    }
    let one = Node::start(&folder, "na", "nb");
    let mut other = Node::start(&folder, "nb", "na");
    one.lead(2);
    other.attend(&one);
    wait("all databases", || {
        let all = one.engine.status();
        all.len() == databases && all.iter().all(|database| database.state == State::Leading)
    });
    // They become quiet first.
    std::thread::sleep(Duration::from_secs(4));
    let (began, before) = (Instant::now(), cpu_ms()?);
    std::thread::sleep(Duration::from_secs(seconds));
    println!("{databases:4} idle: {}", spent(&before, &cpu_ms()?, began.elapsed()));
    Ok(())
}

fn flood(path: &Path, seconds: u64, rows: u32, pace: u64) -> std::io::Result<Child> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/flood.py");
    let mut command = Command::new("taskset");
    command.args(["-c", &WRITER_CPU.to_string(), "python3"]).arg(script).arg(path);
    command.args([seconds.to_string(), rows.to_string(), pace.to_string()]);
    command.stdout(Stdio::piped()).spawn()
}

/// Commits a second.
fn rate(child: Child) -> Result<f64, Box<dyn Error>> {
    let output = child.wait_with_output()?.stdout;
    let text = String::from_utf8(output)?;
    let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [commits, seconds, ..] = numbers[..] else { return Err(text.into()) };
    Ok(commits / seconds)
}

/// How old, in ms, each newest transaction was when the standby showed it.
fn watch(
    path: &PathBuf,
    mut child: Child,
    look: Duration,
) -> Result<(Child, Vec<f64>), Box<dyn Error>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reader = Connection::open_with_flags(path, flags)?;
    let mut statement = reader.prepare("SELECT max(ts) FROM lag")?;
    let (mut lags, mut seen) = (Vec::new(), 0);
    while child.try_wait()?.is_none() {
        let ts: Option<i64> = statement.query_row([], |row| row.get(0))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let ts = ts.unwrap_or(0);
        if ts != seen {
            seen = ts;
            lags.push((now as f64 - ts as f64) / 1e6);
        }
        std::thread::sleep(look);
    }
    lags.sort_by(f64::total_cmp);
    Ok((child, lags))
}

fn percentile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}

/// CPU of every kind of thread of this process so far, without the one that looks.
fn cpu_ms() -> Result<BTreeMap<String, f64>, Box<dyn Error>> {
    let mut spent: BTreeMap<String, f64> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        let task = entry?.path();
        let Ok(name) = std::fs::read_to_string(task.join("comm")) else { continue };
        // schedstat(5): nanoseconds on a core. The ticks of `stat` would be too coarse.
        let Ok(text) = std::fs::read_to_string(task.join("schedstat")) else { continue };
        let on_core: f64 = text.split_whitespace().next().ok_or("no number")?.parse()?;
        if task.file_name() != Some(std::process::id().to_string().as_ref()) {
            *spent.entry(name.trim().to_owned()).or_default() += on_core / 1e6;
        }
    }
    Ok(spent)
}

fn spent(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, took: Duration) -> String {
    let percent = |ms: f64| ms / took.as_secs_f64() / 10.0;
    let each: Vec<(&String, f64)> = after
        .iter()
        .map(|(name, ms)| (name, percent(ms - before.get(name).unwrap_or(&0.0))))
        .collect();
    let all: f64 = each.iter().map(|(_, percent)| percent).sum();
    let loud = each.iter().filter(|(_, percent)| *percent >= 0.05);
    let parts: Vec<String> = loud.map(|(name, part)| format!("{name} {part:.1}")).collect();
    format!("{all:.2} ({})", parts.join(", "))
}

/// This thread, and those that it starts from now on, run on one core.
fn pin(cpu: usize) {
    // SAFETY: all zeros is an empty set; the set outlives the call; 0 means this thread. A machine
    // without that core leaves it where it is.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}
