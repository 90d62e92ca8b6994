//! Processes that want all of the processors.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use anyhow::{Context, Result};

/// Busy processes; they end with this value.
pub(crate) struct Hogs(Vec<Child>);

impl Hogs {
    pub(crate) fn start(processes: usize) -> Result<Self> {
        let mut hogs = Self(Vec::new());
        for _ in 0..processes {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]);
            // SAFETY: prctl is async-signal-safe and allocates nothing.
            unsafe {
                command.pre_exec(|| {
                    if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                    Ok(())
                });
            }
            hogs.0.push(command.spawn().context("cannot start a busy process")?);
        }
        Ok(hogs)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            // It never ends by itself.
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}
