//! What the environment says, read once when the library is loaded.

use std::ffi::{CStr, CString, OsStr, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use crate::tally;

/// Ours unless `STAFFETTA_TIMEOUT_MS` says otherwise.
const TIMEOUT_MS: u64 = 1_000;
const TIMEOUT_MS_MAX: u64 = 3_600_000;
/// Room in `sockaddr_un`, with the zero at the end.
pub(crate) const SOCKET_BYTES_MAX: usize = 108;
/// Never watched: it replicates what it would wait for.
const DAEMON: &str = "staffetta";

/// How commits wait.
pub(crate) struct Settings {
    /// Where the daemon listens.
    pub(crate) socket: Vec<u8>,
    /// How long a commit waits for it; none: as long as it lives.
    pub(crate) timeout: Option<Duration>,
    /// Patterns of databases; none: every database.
    databases: Option<Vec<CString>>,
}

static SETTINGS: OnceLock<Settings> = OnceLock::new();

/// None before they were loaded, and where nothing is to be watched.
pub(crate) fn get() -> Option<&'static Settings> {
    SETTINGS.get()
}

/// Reads the environment.
#[cfg(not(test))]
pub(crate) fn load() {
    tally::remember_streams(std::env::var_os("STAFFETTA_COMMIT_STATS").as_deref());
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let read = Settings::read(&program, |name| std::env::var_os(name));
    if let Some(settings) = read {
        // Loaded once; a second time would bring the same.
        let _ = SETTINGS.set(settings);
    }
}

/// The daemon of a test, once for all of them.
#[cfg(test)]
pub(crate) fn set_for_tests(socket: &Path) {
    let socket = socket.as_os_str().as_bytes().to_owned();
    let timeout = Some(Duration::from_millis(TIMEOUT_MS));
    assert!(SETTINGS.set(Settings { socket, timeout, databases: None }).is_ok(), "set twice");
}

impl Settings {
    /// What the variables say in the program of that name; none when nothing is to be watched.
    pub(crate) fn read(
        program: &Path,
        variable: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Option<Self> {
        if program.file_name() == Some(OsStr::new(DAEMON)) {
            return None;
        }
        let socket = variable("STAFFETTA_BARRIER");
        let socket = socket.as_deref().unwrap_or(OsStr::new(staffetta_barrier::SOCKET)).as_bytes();
        if socket.is_empty() {
            return None;
        }
        if socket.len() >= SOCKET_BYTES_MAX {
            tally::warn(
                "STAFFETTA_BARRIER is too long for a socket (at most 107 bytes): no commit \
                         waits",
            );
            return None;
        }
        Some(Self {
            socket: socket.to_owned(),
            timeout: timeout(variable("STAFFETTA_TIMEOUT_MS").as_deref()),
            databases: variable("STAFFETTA_DATABASES").map(|list| patterns(&list)),
        })
    }

    /// Whether commits to the database wait.
    pub(crate) fn watches(&self, database: &DatabasePath) -> bool {
        let Some(patterns) = &self.databases else { return true };
        let Some(path) = database.as_c_str() else { return false };
        patterns.iter().any(|pattern| {
            // SAFETY: two C strings that outlive the call.
            unsafe { libc::fnmatch(pattern.as_ptr(), path.as_ptr(), libc::FNM_PATHNAME) == 0 }
        })
    }
}

fn timeout(text: Option<&OsStr>) -> Option<Duration> {
    let ms = match text.map(|text| text.to_str().and_then(|text| text.parse::<u64>().ok())) {
        None => TIMEOUT_MS,
        Some(Some(ms)) if ms <= TIMEOUT_MS_MAX => ms,
        Some(_) => {
            tally::warn("STAFFETTA_TIMEOUT_MS is no number of milliseconds up to 3600000: 1000");
            TIMEOUT_MS
        }
    };
    (ms > 0).then(|| Duration::from_millis(ms))
}

fn patterns(list: &OsStr) -> Vec<CString> {
    let pieces = list.as_bytes().split(|byte| *byte == b':').filter(|piece| !piece.is_empty());
    for piece in pieces.clone().filter(|piece| !piece.starts_with(b"/")) {
        let piece = String::from_utf8_lossy(piece);
        tally::warn(&format!(
            "STAFFETTA_DATABASES: {piece:.200} does not begin with /: no database is meant by it"
        ));
    }
    pieces.filter_map(|piece| CString::new(piece).ok()).collect()
}

const SUFFIX: &[u8] = b"-shm";

/// The absolute path of a database, in a buffer of its own: no memory is asked for.
pub(crate) struct DatabasePath {
    bytes: [u8; staffetta_barrier::PATH_BYTES_MAX + 1],
    len: usize,
}

impl DatabasePath {
    /// The database whose WAL-index is open on the descriptor, by the name that the file has now;
    /// none when it is something else, has no name anymore, or one with a line break.
    pub(crate) fn of_index(fd: c_int) -> Option<Self> {
        let mut link = [0; 32];
        write_to(&mut link, format_args!("/proc/self/fd/{fd}\0"))?;
        let mut path = Self { bytes: [0; _], len: 0 };
        // SAFETY: the link ends with a zero; the buffer is as long as said. What does not fit is
        // cut off, and is refused below because the buffer is full.
        let got = unsafe {
            libc::readlink(link.as_ptr().cast(), path.bytes.as_mut_ptr().cast(), path.bytes.len())
        };
        let got = usize::try_from(got).ok().filter(|got| *got < path.bytes.len())?;
        let name = path.bytes.get(..got)?.strip_suffix(SUFFIX)?;
        if !name.starts_with(b"/") || name.contains(&b'\n') {
            return None;
        }
        path.len = name.len();
        // The first byte of the suffix becomes the end of the C string, or of the question.
        *path.bytes.get_mut(path.len)? = 0;
        Some(path)
    }

    /// The question of the barrier protocol.
    pub(crate) fn question(&mut self) -> &[u8] {
        if let Some(end) = self.bytes.get_mut(self.len) {
            *end = b'\n';
        }
        self.bytes.get(..=self.len).unwrap_or_default()
    }

    fn as_c_str(&self) -> Option<&CStr> {
        CStr::from_bytes_with_nul(self.bytes.get(..=self.len)?).ok()
    }
}

/// Formats into a buffer; the number of bytes, or none when they do not fit.
pub(crate) fn write_to(buffer: &mut [u8], text: std::fmt::Arguments<'_>) -> Option<usize> {
    let mut rest = &mut *buffer;
    std::io::Write::write_fmt(&mut rest, text).ok()?;
    let left = rest.len();
    Some(buffer.len() - left)
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
