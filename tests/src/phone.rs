//! A phone: it registers, answers every call, and calls others through the proxy (RFC 3261 over
//! UDP, with the retransmissions of §17).

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use staffetta_lab::{CLIENT_IP, Lab, VIP};

use crate::kamailio::KAMAILIO_PORT;

/// Timer T1: the first retransmission (RFC 3261 §17.1.1.1), in milliseconds.
const RETRANSMIT_MS: u64 = 500;
/// The longest time between two retransmissions (T2), in milliseconds.
const RETRANSMIT_MS_MAX: u64 = 4_000;
/// How often the listener looks whether it is over, in milliseconds.
const LOOK_MS: u64 = 50;
/// Longest message that is looked at.
const MESSAGE_BYTES_MAX: usize = 8_192;
/// What registrations ask for, in seconds.
const EXPIRES_S: u32 = 600;
/// Header fields that an answer repeats (RFC 3261 §8.2.6.2).
const REPEATED: [&str; 6] = ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"];

/// A phone in the client's namespace. It answers calls until it is dropped.
pub struct Phone {
    user: String,
    port: u16,
    socket: UdpSocket,
    responses: Mutex<Receiver<String>>,
    number: AtomicU32,
    answered: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Phone {
    /// A phone of the user, on a UDP port of its own.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn new(lab: &Lab, user: &str, port: u16) -> Result<Self> {
        let socket = lab
            .client()
            .run(move || UdpSocket::bind((CLIENT_IP, port)))
            .with_context(|| format!("cannot bind port {port} for the phone of {user}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(LOOK_MS)))?;
        let (to_caller, responses) = channel();
        let answered = Arc::new(AtomicUsize::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let ears = Ears {
            socket: socket.try_clone()?,
            contact: contact(user, port),
            responses: to_caller,
            answered: Arc::clone(&answered),
            last_call: String::new(),
        };
        let over = Arc::clone(&is_over);
        let listener = std::thread::Builder::new()
            .name(format!("phone-{user}"))
            .spawn(move || ears.listen(&over))?;
        Ok(Self {
            user: user.to_owned(),
            port,
            socket,
            responses: Mutex::new(responses),
            number: AtomicU32::new(0),
            answered,
            is_over,
            listener: Some(listener),
        })
    }

    /// Registers, and returns the status of the answer (200: it is registered); none when nobody
    /// answers for so long.
    ///
    /// # Errors
    /// When it cannot send.
    pub fn register(&self, patience: Duration) -> Result<Option<u16>> {
        let more =
            format!("Contact: {}\r\nExpires: {EXPIRES_S}\r\n", contact(&self.user, self.port));
        let uri = format!("sip:{VIP}");
        let answer = self.request("REGISTER", &uri, &self.user, &more, patience)?;
        Ok(answer.map(|answer| answer.status))
    }

    /// Registers as a phone does that wants to be reached: again and again until it is. Kamailio
    /// answers 500 to a registration that meets another writer of its database. False when the time
    /// is over.
    ///
    /// # Errors
    /// When it cannot send.
    pub fn register_until_ok(&self, patience: Duration) -> Result<bool> {
        let end = Instant::now() + patience;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if self.register(left)? == Some(200) {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(LOOK_MS));
        }
        Ok(false)
    }

    /// Calls a user, and returns the final status (200: the call was answered); none when there is
    /// none for so long.
    ///
    /// # Errors
    /// When it cannot send.
    pub fn call(&self, user: &str, patience: Duration) -> Result<Option<u16>> {
        let uri = format!("sip:{user}@{VIP}:{KAMAILIO_PORT}");
        let more = format!("Contact: {}\r\n", contact(&self.user, self.port));
        let Some(answer) = self.request("INVITE", &uri, user, &more, patience)? else {
            return Ok(None);
        };
        self.acknowledge(&answer, &uri)?;
        Ok(Some(answer.status))
    }

    /// Calls that it has answered; a repeated INVITE of one call counts once.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    fn request(
        &self,
        method: &str,
        uri: &str,
        to: &str,
        more: &str,
        patience: Duration,
    ) -> Result<Option<Final>> {
        let responses = self.responses.lock().expect("no panic under this lock");
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let (user, port) = (&self.user, self.port);
        let id = format!("{method}-{port}-{number}");
        let text = format!(
            "{method} {uri} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {CLIENT_IP}:{port};branch=z9hG4bK-{id}\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:{user}@{VIP}>;tag={port}\r\n\
             To: <sip:{to}@{VIP}>\r\n\
             Call-ID: {id}@{CLIENT_IP}\r\n\
             CSeq: {number} {method}\r\n\
             {more}Content-Length: 0\r\n\r\n"
        );
        let end = Instant::now() + patience;
        let mut wait = Duration::from_millis(RETRANSMIT_MS);
        let mut is_heard = false;
        while Instant::now() < end {
            // Once the proxy has taken an INVITE over, it is its to repeat (§17.1.1.2).
            if !(is_heard && method == "INVITE") {
                send(&self.socket, &text, proxy())?;
            }
            let again = (Instant::now() + wait).min(end);
            while let Some(response) = next(&responses, again) {
                let is_mine = header(&response, "Call-ID").is_some_and(|it| it.starts_with(&id));
                match status(&response).filter(|_| is_mine) {
                    Some(100..200) => is_heard = true,
                    Some(status) => return Ok(Some(Final { status, request: text, response })),
                    None => {}
                }
            }
            wait = (wait * 2).min(Duration::from_millis(RETRANSMIT_MS_MAX));
        }
        Ok(None)
    }

    /// ACK: to the phone that answered, or to the proxy when nobody did (§13.2.2.4, §17.1.1.3).
    fn acknowledge(&self, answer: &Final, uri: &str) -> Result<()> {
        let line = |name: &str, text: &str| {
            header(text, name).map(|value| format!("{name}: {value}\r\n")).unwrap_or_default()
        };
        let is_answered = answer.status < 300;
        let target = header(&answer.response, "Contact").filter(|_| is_answered);
        let target = target.and_then(|contact| contact.split(['<', '>']).nth(1)).unwrap_or(uri);
        let via = line("Via", &answer.request);
        // The ACK of an answered call is a transaction of its own.
        let via = if is_answered { via.replacen("z9hG4bK-", "z9hG4bK-ack-", 1) } else { via };
        let text = format!(
            "ACK {target} SIP/2.0\r\n{via}Max-Forwards: 70\r\n{}{}{}{}Content-Length: 0\r\n\r\n",
            line("From", &answer.request),
            line("To", &answer.response),
            line("Call-ID", &answer.request),
            line("CSeq", &answer.request).replace("INVITE", "ACK"),
        );
        let to = if is_answered { address(target).unwrap_or_else(proxy) } else { proxy() };
        send(&self.socket, &text, to)
    }
}

impl Drop for Phone {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            // A panic there was already reported.
            let _ = listener.join();
        }
    }
}

/// The last answer to a request.
struct Final {
    status: u16,
    request: String,
    response: String,
}

/// What listens: requests are answered here, responses go to whoever asked.
struct Ears {
    socket: UdpSocket,
    contact: String,
    responses: Sender<String>,
    answered: Arc<AtomicUsize>,
    last_call: String,
}

impl Ears {
    fn listen(mut self, is_over: &AtomicBool) {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        while !is_over.load(Ordering::Relaxed) {
            let Ok((len, from)) = self.socket.recv_from(&mut buffer) else { continue };
            let Ok(text) = std::str::from_utf8(&buffer[..len]) else { continue };
            if text.starts_with("SIP/2.0 ") {
                // Nobody waits for it when the phone is about to go.
                let _ = self.responses.send(text.to_owned());
            } else if let Some(answer) = self.respond(text) {
                // A proxy that cannot be reached is part of the experiment.
                let _ = self.socket.send_to(answer.as_bytes(), from);
            }
        }
    }

    /// 200 to every request but ACK.
    fn respond(&mut self, request: &str) -> Option<String> {
        let method = request.split(' ').next()?;
        if method == "ACK" {
            return None;
        }
        let id = header(request, "Call-ID")?;
        if method == "INVITE" && id != self.last_call {
            id.clone_into(&mut self.last_call);
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        let mut text = "SIP/2.0 200 OK\r\n".to_owned();
        for name in REPEATED {
            for value in headers(request, name) {
                let is_new = name == "To" && !value.contains(";tag=");
                let tag = if is_new { ";tag=answered" } else { "" };
                text.push_str(&format!("{name}: {value}{tag}\r\n"));
            }
        }
        text.push_str(&format!("Contact: {}\r\nContent-Length: 0\r\n\r\n", self.contact));
        Some(text)
    }
}

fn proxy() -> SocketAddr {
    SocketAddr::from((VIP, KAMAILIO_PORT))
}

fn contact(user: &str, port: u16) -> String {
    format!("<sip:{user}@{CLIENT_IP}:{port}>")
}

/// A service address that nobody has is part of the experiment; it answers nothing.
fn send(socket: &UdpSocket, text: &str, to: SocketAddr) -> Result<()> {
    match socket.send_to(text.as_bytes(), to) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            Err(error).with_context(|| format!("cannot send to {to}"))
        }
        _ => Ok(()),
    }
}

fn next(responses: &Receiver<String>, until: Instant) -> Option<String> {
    responses.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
}

fn status(response: &str) -> Option<u16> {
    response.split(' ').nth(1)?.parse().ok()
}

/// Where a SIP URI leads, when it says so in numbers.
fn address(uri: &str) -> Option<SocketAddr> {
    let host = uri.rsplit('@').next()?.split(';').next()?;
    let (ip, port) = host.split_once(':').unwrap_or((host, "5060"));
    let ip: Ipv4Addr = ip.parse().ok()?;
    Some(SocketAddrV4::new(ip, port.parse().ok()?).into())
}

fn headers<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().skip(1).take_while(|line| !line.is_empty()).filter_map(move |line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn header<'a>(text: &'a str, name: &'a str) -> Option<&'a str> {
    headers(text, name).next()
}
