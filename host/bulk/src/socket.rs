//! Sockets of the channel, and how its threads wait for them.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::signal::Signal;
use crate::{BulkError, CONNECT_MS_MAX, KEEPALIVE_S, SILENCE_MS_MAX};

/// Connections that the kernel completes before the thread takes them.
const BACKLOG: i32 = 64;

/// A local address (port 0: any) and the peer's.
pub(crate) type Route = (SocketAddr, SocketAddr);

/// Listens on an address, also on one that this node does not have yet (`IP_FREEBIND`).
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, BulkError> {
    let bind = || {
        let socket = socket(address)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv4() {
            socket.set_freebind_v4(true)?;
        } else {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
        socket.bind(&SockAddr::from(address))?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    bind().map_err(|error: io::Error| BulkError::Listen { address, detail: error.to_string() })
}

/// Connects over a route within [`CONNECT_MS_MAX`], unless `stop` is raised.
pub(crate) fn connect((local, remote): Route, stop: &Signal) -> Result<TcpStream, BulkError> {
    let failed = |error: io::Error| BulkError::Connect { detail: error.to_string() };
    let socket = socket(remote).map_err(failed)?;
    socket.bind(&SockAddr::from(local)).map_err(failed)?;
    match socket.connect(&SockAddr::from(remote)) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(failed(error)),
    }
    let deadline = Instant::now() + Duration::from_millis(CONNECT_MS_MAX);
    if !stop.wait(socket.as_raw_fd(), libc::POLLOUT, deadline)? {
        let detail = format!("no answer within {CONNECT_MS_MAX} ms");
        return Err(BulkError::Connect { detail });
    }
    if let Some(error) = socket.take_error().map_err(failed)? {
        return Err(failed(error));
    }
    let stream = TcpStream::from(socket);
    tune(&stream).map_err(failed)?;
    Ok(stream)
}

/// A nonblocking TCP socket of the family of `address`.
fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Frames leave at once, and a dead peer is noticed in seconds: on an idle stream too, where the
/// kernel's questions go unanswered for the user timeout, which stands for their number (tcp(7)).
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let seconds = Duration::from_secs(KEEPALIVE_S);
    let keepalive = TcpKeepalive::new().with_time(seconds).with_interval(seconds);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(Duration::from_millis(SILENCE_MS_MAX)))
}

/// Waits until one of the descriptors is ready, or until the deadline. An interruption counts as
/// readiness: callers look again.
pub(crate) fn poll(fds: &mut [libc::pollfd], deadline: Option<Instant>) {
    let timeout = deadline.map_or(-1, |deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: else the last millisecond would be spent spinning.
        i32::try_from(left.as_micros().div_ceil(1_000)).unwrap_or(i32::MAX)
    });
    // A poll that fails leaves the answers as they are: nothing old may be read then.
    fds.iter_mut().for_each(|fd| fd.revents = 0);
    // SAFETY: the slice is valid for its length. It can fail by a signal only, see above.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
}

/// One entry of [`poll`].
pub(crate) fn entry(fd: RawFd, events: i16) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}
