//! As much of SIP (RFC 3261) over UDP as a phone and its registrar need here: REGISTER and OPTIONS.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::instrument::{Answer, Answers, PATIENCE_MS, Worker, readable};
use crate::lab::{CLIENT_IP, Lab, Node, VIP};
use crate::pktinfo::Responder;

/// UDP port of SIP.
const SIP_PORT: u16 = 5060;
/// Time between two OPTIONS of the phone, in milliseconds.
const OPTIONS_INTERVAL_MS: u64 = 20;
/// The phone registers again after so many OPTIONS.
const REGISTER_EVERY: u64 = 50;
/// Longest message that is looked at.
const MESSAGE_BYTES_MAX: usize = 4096;
/// What the registrar grants, in seconds.
const EXPIRES_S: u32 = 60;
/// Header fields that an answer repeats (RFC 3261 §8.2.6.2).
const REPEATED: [&str; 5] = ["Via", "From", "To", "Call-ID", "CSeq"];

/// What the phone asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Where the phone can be reached.
    Register,
    /// Are you there.
    Options,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Register => "REGISTER",
            Self::Options => "OPTIONS",
        }
    }
}

/// The SIP server of one node; it answers from the address it was asked on.
pub struct SipServer {
    _worker: Worker,
}

impl SipServer {
    /// Starts the server on `node`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(lab: &Lab, node: Node) -> Result<Self> {
        let patience = Duration::from_millis(PATIENCE_MS);
        let responder = lab
            .node(node)
            .space()
            .run(move || Responder::bind(SIP_PORT, patience))
            .with_context(|| format!("cannot bind the SIP port on {}", node.name()))?;
        let worker = Worker::start("sip-server", move |stop| {
            let mut buffer = [0; MESSAGE_BYTES_MAX];
            while !stop.load(Ordering::Relaxed) {
                let Ok(asked) = responder.receive(&mut buffer) else { continue };
                if let Some(text) = respond(&buffer[..asked.len], node.name()) {
                    // A phone that cannot be reached is part of the experiment.
                    let _ = responder.answer(&asked, text.as_bytes());
                }
            }
        })?;
        Ok(Self { _worker: worker })
    }
}

/// The phone: it registers at the service address and asks it every 20 ms.
pub struct SipClient {
    options: Answers,
    registrations: Answers,
    _worker: Worker,
}

impl SipClient {
    /// Starts the phone in the client's namespace.
    ///
    /// # Errors
    /// When its socket cannot be made.
    pub fn start(lab: &Lab) -> Result<Self> {
        let socket = lab
            .client()
            .run(|| UdpSocket::bind((CLIENT_IP, SIP_PORT)))
            .context("cannot make the phone's socket")?;
        let (options, registrations) = (Answers::default(), Answers::default());
        let lists = (options.clone(), registrations.clone());
        let worker = Worker::start("sip-client", move |stop| {
            phone(&socket, &lists.0, &lists.1, stop);
        })?;
        Ok(Self { options, registrations, _worker: worker })
    }

    /// Answers to OPTIONS.
    #[must_use]
    pub fn options(&self) -> &Answers {
        &self.options
    }

    /// Accepted registrations.
    #[must_use]
    pub fn registrations(&self) -> &Answers {
        &self.registrations
    }
}

fn phone(socket: &UdpSocket, options: &Answers, registrations: &Answers, stop: &AtomicBool) {
    let interval = Duration::from_millis(OPTIONS_INTERVAL_MS);
    let to = SocketAddr::from((VIP, SIP_PORT));
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    let mut next = Instant::now();
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next {
            if number.is_multiple_of(REGISTER_EVERY) {
                // Nobody may be there: that is what is measured.
                let _ = socket.send_to(request(Method::Register, number, VIP).as_bytes(), to);
            }
            let _ = socket.send_to(request(Method::Options, number, VIP).as_bytes(), to);
            number += 1;
            next = (next + interval).max(now);
            continue;
        }
        if !readable(socket.as_raw_fd(), next - now) {
            continue;
        }
        let Ok((len, _)) = socket.recv_from(&mut buffer) else { continue };
        if let Some((method, node)) = read_answer(&buffer[..len]) {
            let answer = Answer { at: Instant::now(), node };
            match method {
                Method::Options => options.push(answer),
                Method::Register => registrations.push(answer),
            }
        }
    }
}

fn request(method: Method, number: u64, server: Ipv4Addr) -> String {
    let name = method.name();
    let phone = CLIENT_IP;
    let contact = match method {
        Method::Register => {
            format!("Contact: <sip:100@{phone}:{SIP_PORT}>\r\nExpires: {EXPIRES_S}\r\n")
        }
        Method::Options => "Accept: application/sdp\r\n".to_owned(),
    };
    format!(
        "{name} sip:{server} SIP/2.0\r\n\
         Via: SIP/2.0/UDP {phone}:{SIP_PORT};branch=z9hG4bK-{name}-{number}\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:100@{server}>;tag=phone\r\n\
         To: <sip:100@{server}>\r\n\
         Call-ID: {name}-{number}@{phone}\r\n\
         CSeq: {} {name}\r\n\
         {contact}Content-Length: 0\r\n\r\n",
        number + 1
    )
}

/// The answer of the server called `node`; none to what is not a request.
fn respond(message: &[u8], node: &str) -> Option<String> {
    let text = std::str::from_utf8(message).ok()?;
    let method = text.split(' ').next()?;
    let is_request = text.lines().next()?.ends_with(" SIP/2.0");
    if !is_request || method == "ACK" {
        return None;
    }
    let mut repeated = String::new();
    for name in REPEATED {
        let value = header(text, name)?;
        let tag = if name == "To" && !value.contains(";tag=") { ";tag=server" } else { "" };
        repeated.push_str(&format!("{name}: {value}{tag}\r\n"));
    }
    let (status, more) = match method {
        "REGISTER" => {
            let contact = header(text, "Contact").unwrap_or("<sip:unknown>");
            ("200 OK", format!("Contact: {contact};expires={EXPIRES_S}\r\n"))
        }
        "OPTIONS" => ("200 OK", "Allow: REGISTER, OPTIONS\r\n".to_owned()),
        _ => ("501 Not Implemented", "Allow: REGISTER, OPTIONS\r\n".to_owned()),
    };
    Some(format!("SIP/2.0 {status}\r\n{repeated}Server: {node}\r\n{more}Content-Length: 0\r\n\r\n"))
}

fn read_answer(message: &[u8]) -> Option<(Method, Node)> {
    let text = std::str::from_utf8(message).ok()?;
    if !text.starts_with("SIP/2.0 200 ") {
        return None;
    }
    let asked = header(text, "CSeq")?.rsplit(' ').next()?;
    let method = [Method::Register, Method::Options].into_iter().find(|m| m.name() == asked)?;
    Some((method, Node::named(header(text, "Server")?)?))
}

fn header<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().skip(1).take_while(|line| !line.is_empty()).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_phone_asks_the_server_answers() {
        for method in [Method::Register, Method::Options] {
            let answer = respond(request(method, 7, VIP).as_bytes(), "nb").expect("an answer");
            assert_eq!(read_answer(answer.as_bytes()), Some((method, Node::B)), "{answer}");
            assert!(answer.contains("branch=z9hG4bK-"), "{answer}");
            assert!(answer.contains("To: <sip:100@10.77.0.50>;tag=server\r\n"), "{answer}");
        }
    }

    #[test]
    fn a_registration_is_granted_with_its_contact() {
        let answer = respond(request(Method::Register, 0, VIP).as_bytes(), "na").expect("answer");
        assert!(answer.contains("Contact: <sip:100@10.77.0.100:5060>;expires=60\r\n"), "{answer}");
    }

    #[test]
    fn other_methods_and_garbage() {
        let invite = request(Method::Options, 1, VIP).replace("OPTIONS", "INVITE");
        assert!(respond(invite.as_bytes(), "na").is_some_and(|text| text.contains(" 501 ")));
        for garbage in
            ["", "\r\n", "OPTIONS", "OPTIONS sip:a SIP/2.0\r\n\r\n", "SIP/2.0 200 OK\r\n"]
        {
            assert_eq!(respond(garbage.as_bytes(), "na"), None, "{garbage:?}");
        }
        assert_eq!(respond(&[0xff, 0xfe], "na"), None);
    }
}
