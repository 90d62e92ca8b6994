//! Permission to make network namespaces: root has it, everybody else gets it in a user namespace
//! of their own, where the kernel allows that.

use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};

/// Set in the program that [`enter`] runs inside a user namespace.
const INSIDE: &str = "STAFFETTA_LAB_INSIDE";

/// What became of the wish to make namespaces.
#[derive(Debug)]
pub enum Entry {
    /// This process may make network namespaces.
    Here,
    /// This program ran again, with these arguments, inside a user namespace, and ended so: do
    /// nothing more.
    Ran(ExitStatus),
    /// It may not; the text says what is missing and how to get it.
    Refused(String),
}

/// Makes sure that network namespaces can be made: in this process, or else by running this program
/// again with `args` in a new user namespace.
///
/// # Errors
/// When this program cannot be run again for a reason that has nothing to do with permissions.
pub fn enter(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Entry> {
    if may_make_namespaces() {
        return Ok(Entry::Here);
    }
    if std::env::var_os(INSIDE).is_some() {
        return Ok(Entry::Refused(remedy("inside a user namespace the kernel refused")));
    }
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.args(args).env(INSIDE, "1");
    into_user_namespace(&mut command);
    match command.spawn() {
        Ok(mut child) => {
            ignore_interrupt();
            let status =
                child.wait().context("cannot wait for the program in the user namespace")?;
            Ok(Entry::Ran(status))
        }
        Err(error) if is_refusal(&error) => Ok(Entry::Refused(remedy(&error.to_string()))),
        Err(error) => Err(error).context("cannot run this program again in a user namespace"),
    }
}

/// Whether this process may use real-time priority (SCHED_FIFO).
#[must_use]
pub fn realtime_allowed() -> bool {
    std::thread::spawn(prefer).join().unwrap_or(false)
}

/// Real-time priority for the calling thread where it is allowed, so that the instruments measure
/// the nodes and not themselves. True when it was given.
pub(crate) fn prefer() -> bool {
    const INSTRUMENT_PRIORITY: libc::c_int = 10;
    let param = libc::sched_param { sched_priority: INSTRUMENT_PRIORITY };
    // SAFETY: param outlives the call; 0 means the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) == 0 }
}

/// The exit code of a program that ended so, as a shell would give it.
pub(crate) fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn may_make_namespaces() -> bool {
    std::thread::spawn(|| {
        // SAFETY: only this short-lived thread changes its namespace.
        unsafe { libc::unshare(libc::CLONE_NEWNET) == 0 }
    })
    .join()
    .unwrap_or(false)
}

fn is_refusal(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EPERM | libc::EACCES | libc::ENOSPC | libc::EUSERS | libc::EINVAL | libc::ENOSYS
        )
    )
}

fn remedy(why: &str) -> String {
    let mut ways = vec!["run it with sudo".to_owned()];
    for (key, wanted) in [
        ("kernel/unprivileged_userns_clone", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "0"),
    ] {
        let value = std::fs::read_to_string(format!("/proc/sys/{key}")).unwrap_or_default();
        if !value.is_empty() && value.trim() != wanted {
            ways.push(format!("sysctl -w {}={wanted} (as root)", key.replace('/', ".")));
        }
    }
    let max = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if max.trim() == "0" {
        ways.push("sysctl -w user.max_user_namespaces=10000 (as root)".to_owned());
    }
    if std::path::Path::new("/.dockerenv").exists() {
        ways.push("start the container with --cap-add NET_ADMIN --cap-add SYS_ADMIN".to_owned());
    }
    let ways = ways.join(", or ");
    format!("this user may not make network namespaces ({why}): {ways}")
}

fn into_user_namespace(command: &mut Command) {
    // SAFETY: geteuid and getegid have no preconditions.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let uid_map = format!("0 {uid} 1");
    let gid_map = format!("0 {gid} 1");
    // SAFETY: the child is single-threaded here and calls only async-signal-safe functions on
    // memory made before.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0
                || libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
            write_map(c"/proc/self/setgroups", b"deny")?;
            write_map(c"/proc/self/gid_map", gid_map.as_bytes())?;
            write_map(c"/proc/self/uid_map", uid_map.as_bytes())
        });
    }
}

fn write_map(path: &std::ffi::CStr, text: &[u8]) -> std::io::Result<()> {
    // SAFETY: path is a C string and text a live slice; the descriptor is closed on every way out.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let written = libc::write(fd, text.as_ptr().cast(), text.len());
        let error = std::io::Error::last_os_error();
        libc::close(fd);
        if written < 0 { Err(error) } else { Ok(()) }
    }
}

/// Ctrl-C goes to the program inside as well; this one waits for it to clean up.
fn ignore_interrupt() {
    // SAFETY: SIG_IGN is a valid disposition and no handler runs.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
}
