//! Service checks: TCP, HTTP, SIP OPTIONS, or a program, with rise and fall counts.
//!
//! A check that cannot be tried (no such program) is failed, with the reason; one that is late is
//! failed too, but only after `fall` attempts in a row: a busy machine is not a dead service.

use super::{Evidence, program};
use crate::config::{CheckConfig, CheckTarget};
use crate::link::Health;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Longest answer that is looked at.
const ANSWER_BYTES_MAX: usize = 2_048;

/// Runs one check until it is dropped; calls `changed` whenever its health changes.
pub(crate) async fn run_checks(
    evidence: Evidence,
    index: usize,
    config: CheckConfig,
    changed: impl Fn(),
) {
    let mut every = interval(config.interval);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut good, mut bad) = (0, 0);
    let mut health = Health::Unknown;
    loop {
        every.tick().await;
        let result = match timeout(config.timeout, attempt(&config)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} ms", config.timeout.as_millis())),
        };
        let why = match result {
            Ok(()) => {
                (good, bad) = (good + 1, 0);
                String::new()
            }
            Err(why) => {
                (good, bad) = (0, bad + 1);
                why
            }
        };
        health = match health {
            Health::Failed if good < config.rise => Health::Failed,
            Health::Ok | Health::Degraded if bad >= config.fall => Health::Failed,
            Health::Ok | Health::Degraded if bad > 0 => Health::Degraded,
            Health::Unknown if bad >= config.fall => Health::Failed,
            Health::Unknown if bad > 0 => Health::Unknown,
            Health::Ok | Health::Degraded | Health::Failed | Health::Unknown => Health::Ok,
        };
        if evidence.check(index, health, why) {
            changed();
        }
    }
}

async fn attempt(config: &CheckConfig) -> Result<(), String> {
    match &config.target {
        CheckTarget::Tcp(address) => match TcpStream::connect(address).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("cannot connect to {address}: {error}")),
        },
        CheckTarget::Http { address, path } => http(*address, path).await,
        CheckTarget::Sip(address) => sip(*address).await,
        CheckTarget::Exec(words) => {
            program::run(words, config.timeout, None).await.map(|_nothing| ())
        }
    }
}

async fn http(address: SocketAddr, path: &str) -> Result<(), String> {
    let mut stream = TcpStream::connect(address)
        .await
        .map_err(|e| format!("cannot connect to {address}: {e}"))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|e| format!("{address}: {e}"))?;
    let mut answer = [0; 16];
    let mut len = 0;
    while len < answer.len() {
        match stream.read(&mut answer[len..]).await {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) => return Err(format!("{address}: {error}")),
        }
    }
    let line = String::from_utf8_lossy(&answer[..len]).into_owned();
    let status = line.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    match status {
        Some(code) if code < 400 => Ok(()),
        Some(code) => Err(format!("{address}{path} answers {code}")),
        None => Err(format!("{address} does not answer in HTTP")),
    }
}

/// SIP OPTIONS (RFC 3261 §11): any final answer shows that the server works.
async fn sip(address: SocketAddr) -> Result<(), String> {
    let local: SocketAddr = match address {
        SocketAddr::V4(_) => "0.0.0.0:0".parse().expect("an address"),
        SocketAddr::V6(_) => "[::]:0".parse().expect("an address"),
    };
    let fail = |error: std::io::Error| format!("{address}: {error}");
    let socket = UdpSocket::bind(local).await.map_err(fail)?;
    socket.connect(address).await.map_err(fail)?;
    let me = socket.local_addr().map_err(fail)?;
    let tag = format!("{:x}", me.port());
    let request = format!(
        "OPTIONS sip:{address} SIP/2.0\r\nVia: SIP/2.0/UDP {me};branch=z9hG4bK{tag}\r\n\
         Max-Forwards: 1\r\nFrom: <sip:staffetta@{me}>;tag={tag}\r\nTo: <sip:{address}>\r\n\
         Call-ID: {tag}@{me}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    );
    socket.send(request.as_bytes()).await.map_err(fail)?;
    let mut answer = [0; ANSWER_BYTES_MAX];
    loop {
        let len = socket.recv(&mut answer).await.map_err(fail)?;
        let line = String::from_utf8_lossy(&answer[..len.min(16)]).into_owned();
        match line.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..1)) {
            Some("1") => {}
            Some("2" | "3" | "4") => return Ok(()),
            Some(_) => return Err(format!("{address} answers {}", line.trim())),
            None => return Err(format!("{address} does not answer in SIP")),
        }
    }
}
