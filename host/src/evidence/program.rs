//! Programs of the site: their exit code, and what they print.

use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

/// Runs a program to its end, at most for `patience`; gives back what it printed. More than
/// `bytes_max` is an error, and where nothing is wanted nothing is read.
pub(super) async fn run(
    words: &[String],
    patience: Duration,
    bytes_max: usize,
) -> Result<Vec<u8>, String> {
    let [program, arguments @ ..] = words else { return Err("no program is named".into()) };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(if bytes_max == 0 { Stdio::null() } else { Stdio::piped() })
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let ended = async {
        let mut printed = Vec::new();
        if let Some(output) = child.stdout.take() {
            let mut output = output.take(bytes_max as u64 + 1);
            output.read_to_end(&mut printed).await.map_err(|e| format!("{program}: {e}"))?;
        }
        if printed.len() > bytes_max {
            return Err(format!("{program} prints more than {bytes_max} bytes"));
        }
        match child.wait().await {
            Ok(status) if status.success() => Ok(printed),
            Ok(status) => Err(format!("{program} ends with {status}")),
            Err(error) => Err(format!("{program}: {error}")),
        }
    };
    match timeout(patience, ended).await {
        Ok(result) => result,
        Err(_) => Err(format!("{program} is not done within {} ms", patience.as_millis())),
    }
}
