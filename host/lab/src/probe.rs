//! The bare question "who answers on the service address": a UDP echo on each node and a client
//! that asks every 2 ms.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::instrument::{Answer, Answers, PATIENCE_MS, Worker, readable};
use crate::lab::{Lab, Node, VIP};
use crate::pktinfo::Responder;

/// UDP port of the echo.
pub(crate) const ECHO_PORT: u16 = 7777;
/// Bytes of a question; an answer is the question and the name of the node.
pub(crate) const QUESTION_BYTES: usize = 8;
/// Time between two questions of the client, in milliseconds.
const ASK_INTERVAL_MS: u64 = 2;

/// A UDP echo on every address of a node, which adds the node's name.
pub struct EchoServer {
    _worker: Worker,
}

impl EchoServer {
    /// Starts the echo of `node`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(lab: &Lab, node: Node) -> Result<Self> {
        let patience = Duration::from_millis(PATIENCE_MS);
        let responder = lab
            .node(node)
            .space()
            .run(move || Responder::bind(ECHO_PORT, patience))
            .with_context(|| format!("cannot bind UDP port {ECHO_PORT} on {}", node.name()))?;
        let worker = Worker::start("echo", move |stop| serve(&responder, node, stop))?;
        Ok(Self { _worker: worker })
    }
}

fn serve(responder: &Responder, node: Node, stop: &AtomicBool) {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        let Ok(asked) = responder.receive(&mut buffer) else { continue };
        if asked.len >= QUESTION_BYTES {
            let mut answer = buffer[..QUESTION_BYTES].to_vec();
            answer.extend_from_slice(node.name().as_bytes());
            // A client that cannot be reached is part of the experiment.
            let _ = responder.answer(&asked, &answer);
        }
    }
}

/// The client that asks the service address every 2 ms.
pub struct Probe {
    answers: Answers,
    _worker: Worker,
}

impl Probe {
    /// Starts asking from the client's namespace.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(lab: &Lab) -> Result<Self> {
        let socket = lab
            .client()
            .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))
            .context("cannot make the client's socket")?;
        let answers = Answers::default();
        let list = answers.clone();
        let worker = Worker::start("probe", move |stop| ask(&socket, &list, stop))?;
        Ok(Self { answers, _worker: worker })
    }

    /// What was answered so far.
    #[must_use]
    pub fn answers(&self) -> &Answers {
        &self.answers
    }
}

fn ask(socket: &UdpSocket, answers: &Answers, stop: &AtomicBool) {
    let interval = Duration::from_millis(ASK_INTERVAL_MS);
    let to = SocketAddr::from((VIP, ECHO_PORT));
    let mut buffer = [0; 64];
    let mut next = Instant::now();
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next {
            number += 1;
            // Nobody may be there: that is what is measured.
            let _ = socket.send_to(&number.to_be_bytes(), to);
            next = (next + interval).max(now);
            continue;
        }
        if !readable(socket.as_raw_fd(), next - now) {
            continue;
        }
        let Ok((len, _)) = socket.recv_from(&mut buffer) else { continue };
        let name = buffer.get(QUESTION_BYTES..len).and_then(|name| std::str::from_utf8(name).ok());
        if let Some(node) = name.and_then(Node::named) {
            answers.push(Answer { at: Instant::now(), node });
        }
    }
}
