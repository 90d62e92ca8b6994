//! Programs of the site: their exit code, and what they print.

use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::Child;
use tokio::time::timeout;

/// What a program has printed when it ends is in the pipe; one that it left behind may keep the
/// pipe open for ever.
const REST_PATIENCE: Duration = Duration::from_millis(20);

/// Runs a program to its end, at most for `patience`; gives back what it printed, nothing where
/// `bytes_max` is none.
///
/// # Errors
///
/// Words for people: it cannot be started, fails, prints more than `bytes_max`, or is not done in
/// time; then it is killed, with all that it started.
pub(super) async fn run(
    words: &[String],
    patience: Duration,
    bytes_max: Option<usize>,
) -> Result<Vec<u8>, String> {
    let [program, arguments @ ..] = words else { return Err("no program is named".into()) };
    let child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(bytes_max.map_or_else(Stdio::null, |_| Stdio::piped()))
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let mut group = Group(child);
    match timeout(patience, ended(&mut group.0, program, bytes_max.unwrap_or(0))).await {
        Ok(result) => result,
        Err(_) => Err(format!("{program} is not done within {} ms", patience.as_millis())),
    }
}

async fn ended(child: &mut Child, program: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut printed = Vec::new();
    let status = match child.stdout.take() {
        None => child.wait().await,
        Some(output) => {
            let mut output = output.take(bytes_max as u64 + 1);
            let mut read = pin!(output.read_to_end(&mut printed));
            tokio::select! {
                status = child.wait() => {
                    // What is missing of the rest would be missing in the value, too.
                    let _open = timeout(REST_PATIENCE, read).await;
                    status
                }
                end = &mut read => match end {
                    Ok(bytes) if bytes > bytes_max => {
                        return Err(format!("{program} prints more than {bytes_max} bytes"));
                    }
                    Ok(_) => child.wait().await,
                    Err(error) => Err(error),
                }
            }
        }
    };
    match status {
        Ok(_) if printed.len() > bytes_max => {
            Err(format!("{program} prints more than {bytes_max} bytes"))
        }
        Ok(status) if status.success() => Ok(printed),
        Ok(status) => Err(format!("{program} ends with {status}")),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// A program and what it started; a program that has not ended yet ends with all of it.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // None once it was waited for: its number may be somebody else's by now.
        let Some(pid) = self.0.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
        // SAFETY: a plain system call; the group is that of a child which was not waited for.
        let _gone = unsafe { libc::killpg(pid, libc::SIGKILL) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn sh(script: &str, bytes_max: Option<usize>) -> Result<Vec<u8>, String> {
        let words = ["/bin/sh", "-c", script].map(str::to_owned);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&words, Duration::from_secs(3), bytes_max))
    }

    #[test]
    fn what_a_program_printed_counts_when_it_ends_well() {
        assert_eq!(sh("echo 42", Some(8)), Ok(b"42\n".to_vec()));
        assert_eq!(sh("echo 42", None), Ok(Vec::new()));
        assert_eq!(sh("printf 12345678", Some(8)), Ok(b"12345678".to_vec()));
        let more = "/bin/sh prints more than 8 bytes".to_owned();
        assert_eq!(sh("printf 123456789", Some(8)), Err(more.clone()));
        assert_eq!(sh("while :; do echo flood; done", Some(8)), Err(more));
        assert!(sh("echo 42; exit 3", Some(8)).unwrap_err().contains("exit status: 3"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let gone = runtime.block_on(run(&["/no/such".into()], REST_PATIENCE, None));
        assert!(gone.unwrap_err().starts_with("cannot run /no/such: "));
    }

    #[test]
    fn what_a_program_leaves_behind_does_not_keep_its_word_back() {
        let began = Instant::now();
        assert_eq!(sh("echo 42; sleep 20 & exit 0", Some(8)), Ok(b"42\n".to_vec()));
        assert!(began.elapsed() < Duration::from_secs(2), "it waited for the one left behind");
    }

    #[test]
    fn a_program_that_is_late_ends_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 60 | sleep 61 & echo $! > {}; sleep 62", file.display());
        let why = sh(&script, Some(8)).unwrap_err();
        assert_eq!(why, "/bin/sh is not done within 3000 ms");
        let pid = std::fs::read_to_string(&file).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        let until = Instant::now() + Duration::from_secs(5);
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        while runs() {
            assert!(Instant::now() < until, "{pid} still runs");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
