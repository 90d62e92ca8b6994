//! What applying costs: `cargo run --release -p staffetta-db --example apply [FOLDER]`
//!
//! Prints processor time for each MB and each transaction, that of checkpoints apart, and how long
//! a scan of the copy takes.

use staffetta_db::{Attached, Durability, Owner, Replica, Table, create, page_hash};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

const PAGE_BYTES: u32 = 4096;
const PAGES: u32 = 91_459;
const SMALL: u32 = 20_000;
const SMALL_PAGES: u32 = 4;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let folder = match std::env::args_os().nth(1) {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    let copy = folder.path().join("copy.db");
    // SAFETY: cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    create(&copy, PAGE_BYTES, Owner { uid, gid, mode: 0o600 })?;
    let mut first = std::fs::read(&copy)?;
    first[28..32].copy_from_slice(&PAGES.to_be_bytes());
    let mut replica = Replica::open(Rc::new(Attached::open(&copy)?), Durability::Applied)?;
    let scanned = replica.scan()?.table(|| true)?;
    replica.adopt(scanned)?;
    let mut table = Table::new(PAGE_BYTES);
    let mut seed = 1u64;

    let (begun, cpu) = (Instant::now(), cpu_time());
    replica.begin(PAGES)?;
    send(&mut replica, &mut table, 1, &first)?;
    for number in 2..=PAGES {
        send(&mut replica, &mut table, number, &page(&mut seed))?;
    }
    replica.commit(table.sum(), PAGES)?;
    report("first copy", PAGES, 1, begun, cpu);

    for (name, transactions, pages) in
        [("small", SMALL, SMALL_PAGES), ("batch", 400, 250), ("large", 10, 10_000)]
    {
        let (begun, cpu) = (Instant::now(), cpu_time());
        let (mut slowest, mut moved, mut moves) = (Duration::ZERO, Duration::ZERO, 0);
        for _ in 0..transactions {
            let one = Instant::now();
            replica.begin(PAGES)?;
            for _ in 0..pages {
                let image = page(&mut seed);
                let number = 2 + (seed >> 33) as u32 % (PAGES - 1);
                send(&mut replica, &mut table, number, &image)?;
            }
            replica.commit(table.sum(), PAGES)?;
            slowest = slowest.max(one.elapsed());
            if let Some(checkpoint) = replica.checkpoint_due(Instant::now()) {
                let before = cpu_time();
                checkpoint.run()?;
                moved += cpu_time() - before;
                moves += 1;
            }
        }
        report(name, transactions * pages, transactions, begun, cpu + moved);
        println!("{:10} slowest {slowest:?}; {moves} checkpoints, {moved:?} of CPU", "");
    }
    measure_scan(&replica, &copy)
}

fn measure_scan(replica: &Replica, copy: &Path) -> Outcome {
    let begun = Instant::now();
    let scanned = replica.scan()?.table(|| true)?;
    assert_eq!(Some(&scanned.table), replica.table());
    let bytes = std::fs::metadata(copy)?.len();
    println!("scan     {} MB in {:?}", bytes / 1_000_000, begun.elapsed());
    Ok(())
}

fn send(replica: &mut Replica, table: &mut Table, number: u32, image: &[u8]) -> Outcome {
    table.set(number, page_hash(number, image));
    Ok(replica.page(number, image)?)
}

/// A page of its own, made at little cost.
fn page(seed: &mut u64) -> Vec<u8> {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    seed.to_le_bytes().repeat(PAGE_BYTES as usize / 8)
}

fn report(name: &str, pages: u32, transactions: u32, begun: Instant, cpu: Duration) {
    let (wall, cpu) = (begun.elapsed(), cpu_time() - cpu);
    let megabytes = f64::from(pages) * f64::from(PAGE_BYTES) / 1e6;
    println!(
        "{name:10} {megabytes:6.0} MB: {:5.2} ms CPU a MB, {:8.1} us CPU and {:8.1} us each",
        cpu.as_secs_f64() * 1e3 / megabytes,
        cpu.as_secs_f64() * 1e6 / f64::from(transactions),
        wall.as_secs_f64() * 1e6 / f64::from(transactions),
    );
}

/// Processor time of this process.
fn cpu_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure outlives the call.
    unsafe {
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut now);
    }
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
