//! A client that waits: for the command line and for programs in Rust.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::PATH_BYTES_MAX;
use crate::answer::{ANSWER_BYTES_MAX, Answer, Malformed};

/// Why there is no answer.
#[derive(Debug)]
pub enum BarrierError {
    /// Nobody listens.
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What connect(2) said.
        source: io::Error,
    },
    /// The path cannot be put into a question.
    Path {
        /// That path.
        path: PathBuf,
    },
    /// The connection broke.
    Io(io::Error),
    /// The daemon closed the connection without an answer.
    Closed,
    /// It answered something else.
    Malformed(Malformed),
}

impl fmt::Display for BarrierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { socket, source } => {
                let socket = socket.display();
                write!(f, "cannot reach the daemon at {socket}: {source} (does staffetta run?)")
            }
            Self::Path { path } => write!(
                f,
                "{:?} cannot be asked for: give an absolute path without line breaks of at most \
                 {PATH_BYTES_MAX} bytes",
                path.display()
            ),
            Self::Io(source) => {
                write!(f, "the connection to the daemon broke: {source} (ask again)")
            }
            Self::Closed => {
                write!(f, "the daemon closed the connection without an answer (ask again)")
            }
            Self::Malformed(source) => source.fmt(f),
        }
    }
}

impl std::error::Error for BarrierError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect { source, .. } | Self::Io(source) => Some(source),
            Self::Malformed(source) => Some(source),
            Self::Path { .. } | Self::Closed => None,
        }
    }
}

/// How waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The daemon answered.
    Answered(Answer<'a>),
    /// It did not in the time that the caller gave. The connection still owes that answer: it
    /// cannot be asked again, and [`Client::ask`] says [`BarrierError::Closed`].
    Silent,
}

/// A connection to the daemon.
pub struct Client {
    stream: UnixStream,
    buffer: [u8; ANSWER_BYTES_MAX],
    is_spent: bool,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens at `socket`, or this user may not connect to it.
    pub fn connect(socket: &Path) -> Result<Self, BarrierError> {
        let stream = UnixStream::connect(socket)
            .map_err(|source| BarrierError::Connect { socket: socket.to_owned(), source })?;
        Ok(Self { stream, buffer: [0; ANSWER_BYTES_MAX], is_spent: false })
    }

    /// Asks whether everything that was committed to `database` is on the standby, and waits for
    /// the answer for at most `patience`; none: as long as the daemon takes.
    ///
    /// # Errors
    /// When the path cannot be asked for, the connection broke, or the answer is none.
    pub fn ask(
        &mut self,
        database: &Path,
        patience: Option<Duration>,
    ) -> Result<Outcome<'_>, BarrierError> {
        let question = question(database)?;
        if self.is_spent {
            return Err(BarrierError::Closed);
        }
        // Whatever ends this early leaves an answer, or a part of it, on the connection.
        self.is_spent = true;
        let end = patience.map(|patience| Instant::now() + patience);
        if !self.within(end, |stream| stream.write_all(&question))? {
            return Ok(Outcome::Silent);
        }
        let mut filled = 0;
        while !self.buffer[..filled].ends_with(b"\n") {
            if filled == self.buffer.len() {
                return Err(BarrierError::Malformed(Malformed::new(&self.buffer)));
            }
            let mut piece = [0; ANSWER_BYTES_MAX];
            let room = self.buffer.len() - filled;
            let mut got = 0;
            let read = |stream: &mut UnixStream| {
                got = stream.read(&mut piece[..room])?;
                Ok(())
            };
            if !self.within(end, read)? {
                return Ok(Outcome::Silent);
            }
            if got == 0 {
                return Err(BarrierError::Closed);
            }
            self.buffer[filled..filled + got].copy_from_slice(&piece[..got]);
            filled += got;
        }
        self.is_spent = false;
        let answer = Answer::parse(&self.buffer[..filled]).map_err(BarrierError::Malformed)?;
        Ok(Outcome::Answered(answer))
    }

    /// Does `job` on the stream before `end`; false when the time ran out.
    fn within(
        &mut self,
        end: Option<Instant>,
        mut job: impl FnMut(&mut UnixStream) -> io::Result<()>,
    ) -> Result<bool, BarrierError> {
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(false);
            }
            let set = self.stream.set_read_timeout(left);
            set.and_then(|()| self.stream.set_write_timeout(left)).map_err(BarrierError::Io)?;
            match job(&mut self.stream) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(BarrierError::Io(error)),
            }
        }
    }
}

fn question(database: &Path) -> Result<Vec<u8>, BarrierError> {
    let path = database.as_os_str().as_bytes();
    if !path.starts_with(b"/") || path.len() > PATH_BYTES_MAX || path.contains(&b'\n') {
        return Err(BarrierError::Path { path: database.to_owned() });
    }
    Ok([path, b"\n"].concat())
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
