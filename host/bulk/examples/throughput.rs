//! What the channel costs on this machine: two threads, one stream over the loopback.
//!
//! `cargo run --release -p staffetta-bulk --example throughput [SECONDS]`

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use staffetta_bulk::{
    Bandwidth, BulkError, Credentials, FRAME_BYTES_MAX, Listener, ListenerConfig, Purpose,
    Reception, Stream, dial,
};

/// What the sender lets wait in the stream.
const AHEAD_BYTES: usize = 2 * FRAME_BYTES_MAX;
const ROUNDS: usize = 20_000;
const MB: f64 = 1e6;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(3), |text| text.parse())?;
    for frame_bytes in [4 * 1024, 64 * 1024, FRAME_BYTES_MAX] {
        throughput(frame_bytes, Duration::from_secs(seconds))?;
    }
    for frame_bytes in [64, 4 * 1024] {
        round_trips(frame_bytes)?;
    }
    Ok(())
}

/// Both ends of a stream.
fn pair() -> Outcome<(Stream, Stream)> {
    let (streams, receiver) = channel();
    let (secret, cluster) = ([1; 32], [2; 16]);
    let any: SocketAddr = "127.0.0.1:0".parse()?;
    let reception = Reception {
        purpose: Purpose::Databases,
        streams,
        wake: Arc::new(|| {}),
        answer: Arc::new(|_| Ok(Vec::new())),
    };
    let listener = Listener::start(ListenerConfig {
        credentials: Credentials::derive(&secret, cluster, "a", "b")?,
        bandwidth: Bandwidth::default(),
        addresses: vec![any],
        expected: Vec::new(),
        receptions: vec![reception],
    })?;
    let own = Credentials::derive(&secret, cluster, "b", "a")?;
    let routes = [(any, listener.addresses()[0])];
    let start = Instant::now();
    let dialed = dial(&own, &Bandwidth::default(), &routes, Purpose::Databases, b"")?;
    println!("handshake and hellos: {:.2} ms", start.elapsed().as_secs_f64() * 1e3);
    Ok((dialed, receiver.recv()?))
}

fn throughput(frame_bytes: usize, time: Duration) -> Outcome<()> {
    let (mut from, mut to) = pair()?;
    let reader = std::thread::spawn(move || {
        let start = cpu_s();
        let mut bytes = 0;
        loop {
            match to.receive() {
                Ok(Some(frame)) => bytes += frame.len(),
                Ok(None) => wait(&to),
                Err(_) => return (bytes, cpu_s() - start),
            }
        }
    });
    let frame = vec![0x5a; frame_bytes];
    let (start, cpu) = (Instant::now(), cpu_s());
    // What waits is written in one call: a sender that has much to say should do so.
    while start.elapsed() < time {
        while from.queued() < AHEAD_BYTES {
            from.queue(&[&frame])?;
        }
        from.flush()?;
        if from.queued() > 0 {
            wait(&from);
        }
    }
    while from.queued() > 0 {
        wait(&from);
        from.flush()?;
    }
    let cpu = cpu_s() - cpu;
    drop(from);
    let (bytes, reader_cpu) = reader.join().map_err(|_| "the reader failed")?;
    let megabytes = bytes as f64 / MB;
    println!(
        "frames of {frame_bytes:>7}: {:>5.0} MB/s, CPU ms/MB: sender {:.3}, receiver {:.3}",
        megabytes / start.elapsed().as_secs_f64(),
        cpu * 1e3 / megabytes,
        reader_cpu * 1e3 / megabytes
    );
    Ok(())
}

fn round_trips(frame_bytes: usize) -> Outcome<()> {
    let (mut from, mut to) = pair()?;
    let echo = std::thread::spawn(move || -> Result<(), BulkError> {
        loop {
            match to.receive()?.map(<[u8]>::to_vec) {
                Some(frame) => to.send(&[&frame])?,
                None => wait(&to),
            }
        }
    });
    let frame = vec![0x5a; frame_bytes];
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        from.send(&[&frame])?;
        while from.receive()?.is_none() {
            wait(&from);
        }
        times.push(start.elapsed());
    }
    drop(from);
    // It ends with the stream.
    let _ = echo.join();
    times.sort();
    let us = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    println!("round trip of {frame_bytes}: p50 {:.0} us, p99 {:.0} us", us(0.5), us(0.99));
    Ok(())
}

/// Sleeps until the stream has something to do.
fn wait(stream: &Stream) {
    let writes = if stream.wants_write() { libc::POLLOUT } else { 0 };
    let mut fd = libc::pollfd { fd: stream.fd(), events: libc::POLLIN | writes, revents: 0 };
    // SAFETY: one entry, valid during the call.
    unsafe { libc::poll(&raw mut fd, 1, -1) };
}

/// Processor time of this thread.
fn cpu_s() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
