//! The heartbeat links: authenticated, encrypted UDP frames, over one path or several.
//!
//! Promises: only frames of the other node of this cluster, of its present life, each at most once,
//! come out of [`Links::receive`]; nothing that a stranger sends costs more than one failed
//! authentication. Refuses: wall-clock time, frames over [`FRAME_BYTES_MAX`], and to interpret what
//! a beat means.

mod frame;
mod session;
mod stamp;

pub(crate) use frame::FACT_TEXT_BYTES_MAX;
pub use frame::{
    About, CheckReport, DATA_REPORTS_MAX, DataReport, FRAME_BYTES_MAX, FactReport, Frame,
    FrameError, Health, LICENSE_BYTES_MAX, REPORTS_MAX, TargetReport,
};
pub use session::Secret;
pub use stamp::{LinkView, Minute};

use self::session::{Opened, Reject, Session};
use self::stamp::Meter;
use crate::config::LinkConfig;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use staffetta_core::{Beat, Mono, Side};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

/// Frames taken from one link before the other links and the timers have their turn.
const FRAMES_PER_TURN_MAX: usize = 64;
/// Receive buffer of a link: some thousand frames of a stalled node.
const RECEIVE_BYTES: usize = 1 << 20;
/// Network control (RFC 4594 CS6), so that queues in between do not delay a promise.
const DSCP_NETWORK_CONTROL: u32 = 0xC0;

/// One datagram socket and what is measured on it.
#[derive(Debug)]
struct Link {
    socket: UdpSocket,
    peer: SocketAddr,
    meter: Meter,
}

/// Counts of what was refused, by reason; for status and doctor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rejected {
    /// Not ours: other magic, cluster, or a failed authentication.
    pub foreign: u64,
    /// Of an envelope that this version does not speak.
    pub other_version: u64,
    /// The envelope of the last one of these.
    pub version_seen: u8,
    /// Ours, but of another life or seen before.
    pub stale: u64,
    /// Authentic, but not a frame that this version understands.
    pub unreadable: u64,
}

/// All links of the node.
#[derive(Debug)]
pub struct Links {
    links: Vec<Link>,
    session: Session,
    rejected: Rejected,
    last_unreadable: String,
    buffer: Box<[u8; 2048]>,
}

/// Cannot open a link.
#[derive(Debug, thiserror::Error)]
#[error("link {name}: cannot use {local}: {error} ({remedy})")]
pub struct LinkError {
    name: String,
    local: SocketAddr,
    error: io::Error,
    remedy: &'static str,
}

/// An authentic frame and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// Index of the link in the configuration.
    pub link: usize,
    /// What the peer says to the core.
    pub beat: Beat,
    /// What the peer says about itself, now and then.
    pub about: Option<About>,
    /// The peer's license document, now and then.
    pub license: Option<Vec<u8>>,
}

impl Links {
    /// Opens every link.
    ///
    /// # Errors
    /// When an address cannot be bound; names the link and the remedy.
    pub fn open(
        configs: &[LinkConfig],
        side: Side,
        cluster: [u8; 16],
        secret: &Secret,
        start: u64,
    ) -> Result<Links, LinkError> {
        let links = configs.iter().map(open_link).collect::<Result<Vec<_>, _>>()?;
        Ok(Links {
            links,
            session: Session::new(side, cluster, secret, start),
            rejected: Rejected::default(),
            last_unreadable: String::new(),
            buffer: Box::new([0; 2048]),
        })
    }

    /// Descriptors to poll for reading, in the order of the configuration.
    #[must_use]
    pub fn fds(&self) -> Vec<RawFd> {
        self.links.iter().map(|link| link.socket.as_raw_fd()).collect()
    }

    /// Sends a beat over every link; a link that fails is as good as a lost frame and shows in its
    /// loss.
    ///
    /// While the peer confirms this node's frames the kernel is told so (MSG_CONFIRM, `send(2)`):
    /// it keeps the peer's link-layer address even where answers to its own questions get lost,
    /// as they do on links that each lose one direction.
    pub fn send(
        &mut self,
        now: Mono,
        beat: &Beat,
        about: Option<&About>,
        license: Option<&[u8]>,
        confirmed: bool,
    ) {
        let flags = if confirmed { libc::MSG_CONFIRM } else { 0 };
        for link in &mut self.links {
            let stamp = link.meter.stamp(now);
            let bytes = frame::encode(beat, stamp, about, license);
            for datagram in self.session.seal(&bytes).into_iter().flatten() {
                // A full queue or a missing route loses this frame only; the meter and the peer's
                // lease notice.
                let socket = SockRef::from(&link.socket);
                let _ = socket.send_to_with_flags(&datagram, &link.peer.into(), flags);
            }
        }
    }

    /// Takes what has arrived, up to a bounded number of frames a link.
    pub fn receive(&mut self, now: Mono, out: &mut Vec<Received>) {
        for index in 0..self.links.len() {
            for _ in 0..FRAMES_PER_TURN_MAX {
                let link = &mut self.links[index];
                let Ok((len, from)) = link.socket.recv_from(&mut self.buffer[..]) else { break };
                if from.ip() != link.peer.ip() {
                    self.rejected.foreign += 1;
                    continue;
                }
                match self.session.open(now, &mut self.buffer[..len]) {
                    Ok(Opened::Frame { start, bytes }) => match frame::decode(start, bytes) {
                        Ok(Frame { beat, stamp, about, license }) => {
                            link.meter.heard(now, stamp);
                            out.push(Received { link: index, beat, about, license });
                        }
                        Err(error) => {
                            self.rejected.unreadable += 1;
                            self.last_unreadable = error.to_string();
                        }
                    },
                    Ok(Opened::Hello { reply: Some(reply) }) => {
                        let _ = link.socket.send_to(&reply, from);
                    }
                    Ok(Opened::Hello { reply: None }) => {}
                    Err(rejection) => {
                        match rejection.reject {
                            Reject::Foreign => self.rejected.foreign += 1,
                            Reject::Version(version) => {
                                self.rejected.other_version += 1;
                                self.rejected.version_seen = version;
                            }
                            Reject::OtherLife | Reject::Replayed => self.rejected.stale += 1,
                        }
                        if let Some(hello) = rejection.hello {
                            let _ = link.socket.send_to(&hello, from);
                        }
                    }
                }
            }
        }
    }

    /// What is measured on each link, in the order of the configuration.
    #[must_use]
    pub fn view(&self, now: Mono) -> Vec<LinkView> {
        self.links.iter().map(|link| link.meter.view(now)).collect()
    }

    /// Counts of the last minute of each link; begins the next minute.
    pub fn take_minutes(&mut self) -> Vec<Minute> {
        self.links.iter_mut().map(|link| link.meter.take_minute()).collect()
    }

    /// What was refused since the start.
    #[must_use]
    pub fn rejected(&self) -> Rejected {
        self.rejected
    }

    /// Why the last frame that was refused as unreadable was that; empty while there was none.
    #[must_use]
    pub fn last_unreadable(&self) -> &str {
        &self.last_unreadable
    }
}

fn open_link(config: &LinkConfig) -> Result<Link, LinkError> {
    let fail = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another daemon uses the port: is staffetta running already?"
            }
            io::ErrorKind::AddrNotAvailable => {
                "this host does not have the address: see `ip address`"
            }
            io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE",
            _ => "see `local` of this link in the configuration",
        };
        LinkError { name: config.name.clone(), local: config.local, error, remedy }
    };
    let socket = Socket::new(Domain::for_address(config.local), Type::DGRAM, Some(Protocol::UDP))
        .map_err(fail)?;
    socket.set_nonblocking(true).map_err(fail)?;
    // Best effort: a smaller buffer or plain priority only makes a loss likelier.
    let _ = socket.set_recv_buffer_size(RECEIVE_BYTES);
    match config.local {
        // The address may come up later than the daemon (ip(7), IP_FREEBIND).
        SocketAddr::V4(_) => {
            socket.set_freebind_v4(true).map_err(fail)?;
            let _ = socket.set_tos_v4(DSCP_NETWORK_CONTROL);
        }
        SocketAddr::V6(_) => {
            socket.set_only_v6(true).map_err(fail)?;
            socket.set_freebind_v6(true).map_err(fail)?;
            let _ = socket.set_tclass_v6(DSCP_NETWORK_CONTROL);
        }
    }
    socket.bind(&config.local.into()).map_err(fail)?;
    Ok(Link { socket: socket.into(), peer: config.peer, meter: Meter::default() })
}

#[cfg(test)]
mod tests;
