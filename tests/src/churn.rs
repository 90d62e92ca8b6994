//! A program that changes a tree in every way, and knows nothing of the pair.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};

/// Files and folders that it plays with, at most.
const NAMES: u64 = 400;

/// Changes that go on until this ends.
pub struct Churn {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u64>>>,
}

impl Churn {
    /// Begins to change what is below `root`; another seed makes other changes.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(root: &Path, seed: u64) -> Result<Churn> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, root) = (Arc::clone(&stop), root.to_owned());
        let thread = std::thread::Builder::new().name("churn".into()).spawn(move || {
            let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                change(&root, &mut dice);
                count += 1;
                if count % 50 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            Ok(count)
        })?;
        Ok(Churn { stop, thread: Some(thread) })
    }

    /// Ends it, and says how many changes were tried.
    ///
    /// # Errors
    /// When its thread broke down.
    pub fn end(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or_else(|| anyhow!("ended twice"))?;
        thread.join().map_err(|_| anyhow!("the thread that changes files broke down"))?
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it would say was not asked for.
            let _ = thread.join();
        }
    }
}

/// xorshift64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn path(root: &Path, dice: &mut Dice) -> PathBuf {
    let mut path = root.to_owned();
    for _ in 0..dice.below(3) {
        path.push(format!("d{}", dice.below(6)));
    }
    path.join(format!("n{}", dice.below(NAMES)))
}

/// One change; many of them are refused by the file system, which is as good.
fn change(root: &Path, dice: &mut Dice) {
    let at = path(root, dice);
    let _ = match dice.below(12) {
        0 => fs::create_dir_all(at.parent().unwrap_or(root)),
        1..=4 => {
            let bytes = vec![dice.below(256) as u8; dice.below(9_000) as usize];
            fs::write(&at, bytes)
        }
        5 => fs::File::options()
            .append(true)
            .open(&at)
            .and_then(|mut file| file.write_all(&[dice.below(256) as u8; 700])),
        6 => fs::rename(&at, path(root, dice)),
        7 => fs::remove_file(&at),
        8 => fs::hard_link(&at, path(root, dice)),
        9 => std::os::unix::fs::symlink("n1", &at),
        10 => match dice.below(8) {
            0 => fs::rename(
                root.join(format!("d{}", dice.below(6))),
                root.join(format!("d{}", dice.below(6))),
            ),
            1 => fs::remove_dir_all(root.join(format!("d{}/d{}", dice.below(6), dice.below(6)))),
            2 => fs::write(&at, vec![dice.below(256) as u8; 600_000]),
            _ => std::os::unix::fs::lchown(&at, Some(dice.below(9) as u32), None),
        },
        _ => {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&at, fs::Permissions::from_mode(0o600 | dice.below(0o100) as u32))
        }
    };
}
