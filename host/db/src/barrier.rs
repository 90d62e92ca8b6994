//! The socket at which commits wait for the standby (docs/synchronous-commits.md).
//!
//! Promises: one line in, one line out, in order; a client that sends nonsense or stops reading
//! costs itself only. What an answer means is the engine's business.

use staffetta_barrier::{Answer, PATH_BYTES_MAX};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Clients at one time; more wait in the listener's queue.
pub(crate) const CLIENTS_MAX: usize = 1_024;
/// Bytes of a request, at most: a path and its newline.
const LINE_BYTES_MAX: usize = PATH_BYTES_MAX + 1;
/// Requests of one client that wait at one time; more are read when these are answered.
const WAITING_MAX: usize = 64;
/// Bytes of answers that a client may leave unread before it is closed.
const UNREAD_BYTES_MAX: usize = 64 * 1_024;
/// Where the kernel was not asked what happened, for lack of sleep, that is tried so often.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);

/// Number of a request, for the engine's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestId(u64);

/// A request that waits for its answer.
#[derive(Debug)]
pub(crate) struct Request {
    pub id: RequestId,
    pub database: PathBuf,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    read: Vec<u8>,
    /// In the order of arrival, with the answers that are already known.
    waiting: VecDeque<(RequestId, Option<String>)>,
    unsent: Vec<u8>,
    /// It will ask nothing more, and still waits for answers (`echo PATH | nc -U`).
    silent: bool,
    ended: bool,
}

/// The listener and its clients.
#[derive(Debug)]
pub(crate) struct Barrier {
    listener: UnixListener,
    clients: Vec<Client>,
    asked: u64,
    /// Somebody may have asked, or may be read again.
    is_ready: bool,
    looked_at: Instant,
}

impl Barrier {
    /// Binds the socket, with the permissions of everybody who may write databases: mode 0666, as
    /// waiting does no harm.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn bind(path: &Path) -> io::Result<Barrier> {
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        listener.set_nonblocking(true)?;
        let (clients, looked_at) = (Vec::new(), Instant::now());
        Ok(Barrier { listener, clients, asked: 0, is_ready: true, looked_at })
    }

    /// What to poll: descriptors, and what is waited for at each.
    pub(crate) fn polled(&self) -> impl Iterator<Item = (RawFd, i16)> {
        let accept =
            (self.clients.len() < CLIENTS_MAX).then(|| (self.listener.as_raw_fd(), libc::POLLIN));
        accept.into_iter().chain(self.clients.iter().filter_map(|client| {
            let reads = client.waiting.len() < WAITING_MAX && !client.silent;
            let read = if reads { libc::POLLIN } else { 0 };
            let write = if client.unsent.is_empty() { 0 } else { libc::POLLOUT };
            // One that only waits is not polled: its end would be reported again and again.
            (read | write != 0).then(|| (client.stream.as_raw_fd(), read | write))
        }))
    }

    /// The kernel says that something happened at one of the descriptors.
    pub(crate) fn wakes(&mut self) {
        self.is_ready = true;
    }

    /// Whether it is time to receive.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.is_ready || now >= self.looked_at + LOOK_INTERVAL
    }

    /// Takes what clients sent, into `requests`.
    pub(crate) fn receive(&mut self, now: Instant, requests: &mut Vec<Request>) {
        (self.is_ready, self.looked_at) = (false, now);
        while self.clients.len() < CLIENTS_MAX {
            let Ok((stream, _)) = self.listener.accept() else { break };
            if stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client {
                    stream,
                    read: Vec::new(),
                    waiting: VecDeque::new(),
                    unsent: Vec::new(),
                    silent: false,
                    ended: false,
                });
            }
        }
        for client in &mut self.clients {
            client.receive(&mut self.asked, requests);
            client.send();
        }
        self.clients.retain(|client| !client.ended);
    }

    /// Answers a request. The answer goes out when those before it are answered.
    pub(crate) fn answer(&mut self, id: RequestId, answer: Answer<'_>) {
        self.is_ready = true;
        for client in &mut self.clients {
            let Some(place) = client.waiting.iter_mut().find(|(waiting, _)| *waiting == id) else {
                continue;
            };
            place.1 = Some(answer.to_string());
            client.send();
            return;
        }
    }
}

impl Client {
    fn receive(&mut self, asked: &mut u64, requests: &mut Vec<Request>) {
        let mut buffer = [0; LINE_BYTES_MAX];
        while !self.ended && !self.silent {
            self.lines(asked, requests);
            if self.waiting.len() >= WAITING_MAX {
                return;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => self.silent = true,
                Ok(count) => self.read.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.ended = true,
            }
        }
        self.lines(asked, requests);
    }

    fn lines(&mut self, asked: &mut u64, requests: &mut Vec<Request>) {
        while self.waiting.len() < WAITING_MAX {
            let Some(end) = self.read.iter().position(|byte| *byte == b'\n') else { break };
            let line: Vec<u8> = self.read.drain(..=end).collect();
            *asked += 1;
            let id = RequestId(*asked);
            let path = &line[..end];
            if path.starts_with(b"/") && path.len() <= PATH_BYTES_MAX {
                self.waiting.push_back((id, None));
                requests.push(Request { id, database: OsStr::from_bytes(path).into() });
            } else {
                let text = "write the absolute path of a database and a newline";
                self.waiting.push_back((id, Some(Answer::Error { text }.to_string())));
            }
        }
        if self.read.len() >= LINE_BYTES_MAX && !self.read.contains(&b'\n') {
            self.ended = true;
        }
    }

    fn send(&mut self) {
        while let Some((_, Some(answer))) = self.waiting.front() {
            self.unsent.extend_from_slice(answer.as_bytes());
            self.unsent.push(b'\n');
            self.waiting.pop_front();
        }
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.ended = true;
                    break;
                }
            }
        }
        self.ended |= self.unsent.len() > UNREAD_BYTES_MAX;
        self.ended |= self.silent && self.waiting.is_empty() && self.unsent.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    const OK: Answer<'static> = Answer::Ok { epoch: 1, transaction: 1 };

    fn bound() -> (tempfile::TempDir, Barrier, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("barrier.sock");
        let barrier = Barrier::bind(&path).unwrap();
        (folder, barrier, path)
    }

    fn asked(barrier: &mut Barrier) -> Vec<Request> {
        let mut requests = Vec::new();
        barrier.receive(Instant::now(), &mut requests);
        requests
    }

    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        let (_folder, mut barrier, path) = bound();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"/a.db\nnonsense\n/b.db\n").unwrap();
        let requests = asked(&mut barrier);
        let paths: Vec<_> = requests.iter().map(|r| r.database.to_str().unwrap()).collect();
        assert_eq!(paths, ["/a.db", "/b.db"]);
        barrier.answer(requests[1].id, Answer::Ok { epoch: 2, transaction: 9 });
        barrier.answer(requests[0].id, Answer::Ok { epoch: 2, transaction: 8 });
        let mut lines = BufReader::new(client).lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), "ok 2 8");
        assert!(lines.next().unwrap().starts_with("error write the absolute path"));
        assert_eq!(lines.next().unwrap(), "ok 2 9");
    }

    #[test]
    fn a_client_that_floods_costs_itself() {
        let (_folder, mut barrier, path) = bound();
        let mut flood = UnixStream::connect(&path).unwrap();
        flood.set_nonblocking(true).unwrap();
        let mut calm = UnixStream::connect(&path).unwrap();
        calm.write_all(b"/a.db\n").unwrap();
        // Its own error: nobody reads what a full socket refuses.
        let _ = flood.write_all(&[b'x'; 1 << 20]);
        let requests = asked(&mut barrier);
        assert_eq!((requests.len(), barrier.clients.len()), (1, 1));
        barrier.answer(requests[0].id, OK);
        let mut line = String::new();
        BufReader::new(calm).read_line(&mut line).unwrap();
        assert_eq!(line, "ok 1 1\n");
    }

    #[test]
    fn it_is_looked_at_when_somebody_may_have_asked_and_now_and_then() {
        let (_folder, mut barrier, _path) = bound();
        let now = Instant::now();
        barrier.receive(now, &mut Vec::new());
        assert!(!barrier.is_due(now) && barrier.is_due(now + LOOK_INTERVAL));
        barrier.wakes();
        assert!(barrier.is_due(now));
        barrier.receive(now, &mut Vec::new());
        barrier.answer(RequestId(1), OK);
        assert!(barrier.is_due(now), "its client may be read again");
    }

    #[test]
    fn only_so_many_wait_at_one_time() {
        let (_folder, mut barrier, path) = bound();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all("/a.db\n".repeat(WAITING_MAX + 9).as_bytes()).unwrap();
        let first = asked(&mut barrier);
        assert_eq!(first.len(), WAITING_MAX);
        assert!(barrier.polled().skip(1).all(|(_, events)| events & libc::POLLIN == 0));
        for request in &first {
            barrier.answer(request.id, OK);
        }
        assert_eq!(asked(&mut barrier).len(), 9);
    }

    #[test]
    fn a_client_that_goes_is_forgotten() {
        let (_folder, mut barrier, path) = bound();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"/a.db\n").unwrap();
        let requests = asked(&mut barrier);
        drop(client);
        asked(&mut barrier);
        // Not polled while it only waits, and gone with its answer.
        assert_eq!(barrier.polled().count(), 1);
        barrier.answer(requests[0].id, OK);
        asked(&mut barrier);
        assert!(barrier.clients.is_empty());
    }

    #[test]
    fn a_client_that_asks_no_more_gets_its_answer() {
        let (_folder, mut barrier, path) = bound();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"/a.db\n").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let requests = asked(&mut barrier);
        assert_eq!(asked(&mut barrier).len(), 0);
        barrier.answer(requests[0].id, OK);
        let mut line = String::new();
        BufReader::new(client).read_line(&mut line).unwrap();
        assert_eq!(line, "ok 1 1\n");
    }

    #[test]
    fn a_path_is_bytes_and_as_long_as_linux_has_them() {
        let (_folder, mut barrier, path) = bound();
        let longest = [b"/".as_slice(), &[0xff; PATH_BYTES_MAX - 1], b"\n"].concat();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(&longest).unwrap();
        let requests = asked(&mut barrier);
        assert_eq!(requests[0].database.as_os_str().as_bytes(), &longest[..PATH_BYTES_MAX]);
        client.write_all(&[b'/'; LINE_BYTES_MAX]).unwrap();
        assert_eq!(asked(&mut barrier).len(), 0);
        assert!(barrier.clients.is_empty(), "a line without an end");
    }

    #[test]
    fn a_client_that_does_not_read_is_closed() {
        let (_folder, mut barrier, path) = bound();
        let mut client = UnixStream::connect(&path).unwrap();
        client.set_nonblocking(true).unwrap();
        // Far more answers than the socket and the client's share of memory hold.
        for _ in 0..20_000 {
            // Its own error: what a full socket refuses is asked in the next round.
            let _ = client.write_all(&b"?\n".repeat(WAITING_MAX));
            asked(&mut barrier);
            let Some(client) = barrier.clients.first() else { return };
            assert!(client.unsent.len() <= UNREAD_BYTES_MAX);
        }
        panic!("it may leave {} bytes unread", barrier.clients[0].unsent.len());
    }

    #[test]
    fn more_clients_than_there_is_room_for_wait_their_turn() {
        more_descriptors();
        let (_folder, mut barrier, path) = bound();
        let mut clients = Vec::new();
        for _ in 0..CLIENTS_MAX + 1 {
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(b"/a.db\n").unwrap();
            clients.push(client);
            // The listener's queue is shorter than that.
            if clients.len().is_multiple_of(100) {
                asked(&mut barrier);
            }
        }
        asked(&mut barrier);
        assert_eq!(barrier.clients.len(), CLIENTS_MAX);
        let listener = barrier.listener.as_raw_fd();
        assert!(barrier.polled().all(|(fd, _)| fd != listener), "it would be woken for nothing");
        let first = barrier.clients[0].waiting[0].0;
        barrier.answer(first, OK);
        drop(clients.remove(0));
        // The end is seen in one turn, the place is free in the next.
        asked(&mut barrier);
        assert!(barrier.polled().any(|(fd, _)| fd == listener));
        assert_eq!(asked(&mut barrier).len(), 1, "who came last is heard");
    }

    /// For both ends of every client.
    fn more_descriptors() {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the structure outlives both calls.
        let raised = unsafe {
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
        };
        assert!(raised == 0 && limit.rlim_max > 2 * CLIENTS_MAX as u64 + 100);
    }
}
