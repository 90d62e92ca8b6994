//! A TCP proxy that does harm on order: it stands between a client and etcd, and what it does is
//! changed while it runs. For tests.
//!
//! It has a thread of its own, which belongs to the network namespace of the thread that starts it.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::message::TXN;

/// Most pieces that wait in one direction of a connection.
const PIECES_MAX: usize = 256;
const PIECE_BYTES_MAX: usize = 16 * 1024;
/// How long the end of a client's sending is kept from the server. etcd gives up a request whose
/// client has gone: this lets the request be carried out, as it is where the end got lost.
const END_DELAY: Duration = Duration::from_millis(500);

/// What the proxy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Hands everything on.
    Pass,
    /// Hands everything on, later.
    Delay {
        /// On the way to the server.
        to_server: Duration,
        /// On the way back.
        to_client: Duration,
    },
    /// Resets all connections, those that stand and those that come.
    Refuse,
    /// Hands nothing on. Connections stand; what was sent arrives when this ends, as it does behind
    /// a cut that TCP outlives.
    BlackHole,
    /// Hands requests on, swallows the replies and closes.
    DropReplies,
    /// The same for etcd's transactions only: what was written stays written, and nobody is told.
    /// Reads pass. Works without TLS.
    DropWriteReplies,
}

/// A running proxy; it ends with this value, and all its connections with it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    counts: Arc<Counts>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    dropped: AtomicU64,
}

impl Proxy {
    /// Listens on `listen` (port 0: any free one) and hands on to `target`.
    ///
    /// # Errors
    /// When it cannot listen, or the thread cannot start.
    pub fn start(listen: SocketAddr, target: SocketAddr) -> io::Result<Proxy> {
        let listener = StdListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (behaviour, orders) = watch::channel(Behaviour::Pass);
        let (stop, stopped) = oneshot::channel();
        let counts = Arc::new(Counts::default());
        let counted = counts.clone();
        let thread = std::thread::Builder::new().name("proxy".to_owned()).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener, target, orders, counted) => {}
                }
            });
        })?;
        Ok(Proxy { address, behaviour, counts, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does, for connections that stand as well.
    pub fn set(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Connections since the start.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Replies swallowed since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // To drop the sender is the order to stop.
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn accept(
    listener: StdListener,
    target: SocketAddr,
    orders: watch::Receiver<Behaviour>,
    counts: Arc<Counts>,
) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        counts.connections.fetch_add(1, Ordering::Relaxed);
        let (orders, counts) = (orders.clone(), counts.clone());
        tokio::spawn(async move { drop(serve(client, target, orders, counts).await) });
    }
}

/// What both directions of a connection share.
#[derive(Clone)]
struct Shared {
    orders: watch::Receiver<Behaviour>,
    counts: Arc<Counts>,
    /// The request on its way is a transaction.
    writes: Arc<AtomicBool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

async fn serve(
    mut client: TcpStream,
    target: SocketAddr,
    orders: watch::Receiver<Behaviour>,
    counts: Arc<Counts>,
) -> io::Result<()> {
    if *orders.borrow() == Behaviour::Refuse {
        return client.set_zero_linger();
    }
    let mut refused = orders.clone();
    let Ok(mut server) = TcpStream::connect(target).await else { return client.set_zero_linger() };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let shared = Shared { orders, counts, writes: Arc::default() };
    let both = async {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let forward = pump(from_client, to_server, Direction::ToServer, shared.clone());
        let back = pump(from_server, to_client, Direction::ToClient, shared.clone());
        tokio::try_join!(forward, back)
    };
    let reset = tokio::select! {
        order = refused.wait_for(|order| *order == Behaviour::Refuse) => order.is_ok(),
        _ = both => false,
    };
    if reset { client.set_zero_linger() } else { Ok(()) }
}

/// Hands one direction on until it ends. An error ends the whole connection.
async fn pump(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    direction: Direction,
    shared: Shared,
) -> io::Result<()> {
    let (pieces, waiting) = mpsc::channel(PIECES_MAX);
    let delay = shared.clone();
    tokio::try_join!(
        take(from, pieces, move || match (*delay.orders.borrow(), direction) {
            (Behaviour::Delay { to_server, .. }, Direction::ToServer) => to_server,
            (Behaviour::Delay { to_client, .. }, Direction::ToClient) => to_client,
            (_, _) => Duration::ZERO,
        }),
        hand_on(waiting, to, direction, shared),
    )?;
    Ok(())
}

/// Reads pieces and says when each is due; an empty one is the end.
async fn take(
    mut from: ReadHalf<'_>,
    pieces: mpsc::Sender<(Instant, Vec<u8>)>,
    delay: impl Fn() -> Duration,
) -> io::Result<()> {
    loop {
        let mut piece = vec![0; PIECE_BYTES_MAX];
        let length = from.read(&mut piece).await?;
        piece.truncate(length);
        let sent = pieces.send((Instant::now() + delay(), piece)).await;
        if length == 0 || sent.is_err() {
            return Ok(());
        }
    }
}

async fn hand_on(
    mut waiting: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    mut shared: Shared,
) -> io::Result<()> {
    while let Some((due, piece)) = waiting.recv().await {
        sleep_until(due).await;
        let open = shared.orders.wait_for(|order| *order != Behaviour::BlackHole).await;
        let order = *open.map_err(io::Error::other)?;
        match direction {
            Direction::ToServer if piece.starts_with(b"POST ") => {
                let write = piece[b"POST ".len()..].starts_with(TXN.as_bytes());
                shared.writes.store(write, Ordering::Relaxed);
            }
            Direction::ToServer => {}
            Direction::ToClient => {
                let swallow = match order {
                    Behaviour::DropReplies => true,
                    Behaviour::DropWriteReplies => shared.writes.load(Ordering::Relaxed),
                    Behaviour::Pass
                    | Behaviour::Delay { .. }
                    | Behaviour::Refuse
                    | Behaviour::BlackHole => false,
                };
                if swallow && !piece.is_empty() {
                    shared.counts.dropped.fetch_add(1, Ordering::Relaxed);
                    return Err(io::Error::other("a reply was dropped"));
                }
            }
        }
        // The end of one direction is handed on as the end of that direction.
        if piece.is_empty() {
            if direction == Direction::ToServer {
                tokio::time::sleep(END_DELAY).await;
            }
            to.shutdown().await?;
        } else {
            to.write_all(&piece).await?;
        }
    }
    Ok(())
}
