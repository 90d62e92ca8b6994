//! Who may speak: AEAD with a key per sender and pair of start ids.
//!
//! Both nodes hold the cluster secret and draw a random start id for each life. A data frame is
//! sealed with a key derived from (secret, sender, sender's start id, receiver's start id); opening
//! one proves that the sender knows the receiver's present start id, so nothing recorded in another
//! life can be replayed, without wall-clock time. Start ids are learned from hello frames, which
//! prove knowledge of the secret only and never displace a living session by themselves.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use staffetta_core::{Mono, Side, Span};
use std::collections::VecDeque;

/// Bytes before the sealed part; authenticated with it.
pub(super) const HEADER_BYTES: usize = 40;
/// Bytes of the tag (NIST SP 800-38D).
pub(super) const TAG_BYTES: usize = 16;
/// Version of the envelope.
const VERSION: u8 = 1;
const MAGIC: [u8; 2] = *b"ST";
/// A hello is answered or volunteered at most this often.
const HELLO_INTERVAL: Span = Span::ms(10);
/// Displaced lives of the peer that are remembered: a thousand restarts within one life of this
/// node.
const RETIRED_MAX: usize = 1_000;
/// Counters behind the newest one that are still told apart.
const WINDOW: u64 = 128;

/// The 32 bytes that both nodes share.
#[derive(Clone)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a datagram was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reject {
    /// Not a frame of this cluster: magic, cluster id, side, length or authentication.
    Foreign,
    /// A frame of a version of the envelope that this daemon does not speak.
    Version(u8),
    /// Of a life of the sender or receiver that is not the present one.
    OtherLife,
    /// Seen before, or too old to tell.
    Replayed,
}

/// A refusal, and perhaps a hello that lets the peer learn our start id.
#[derive(Debug)]
pub(super) struct Rejection {
    pub reject: Reject,
    pub hello: Option<Vec<u8>>,
}

/// What a datagram held.
#[derive(Debug)]
pub(super) enum Opened<'a> {
    Frame { start: u64, bytes: &'a [u8] },
    Hello { reply: Option<Vec<u8>> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hello,
    Data,
}

#[derive(Debug, Clone, Copy)]
struct Header {
    kind: Kind,
    side: u8,
    salt: [u8; 4],
    from: u64,
    to: u64,
    counter: u64,
}

/// Keys shared with one life of the peer.
#[derive(Debug)]
struct Keys {
    start: u64,
    send: LessSafeKey,
    receive: LessSafeKey,
    seen: Window,
}

/// Sliding window of accepted counters (RFC 4303 §3.4.3).
#[derive(Debug, Default)]
struct Window {
    newest: u64,
    bits: u128,
}

impl Window {
    fn accept(&mut self, counter: u64) -> bool {
        if counter == 0 {
            return false;
        }
        if counter > self.newest {
            let ahead = counter - self.newest;
            self.bits = if ahead >= WINDOW { 0 } else { self.bits << ahead };
            self.bits |= 1;
            self.newest = counter;
            return true;
        }
        let behind = self.newest - counter;
        if behind >= WINDOW || self.bits & (1 << behind) != 0 {
            return false;
        }
        self.bits |= 1 << behind;
        true
    }
}

/// The keys of this node, and of the lives of the peer that it knows.
#[derive(Debug)]
pub(super) struct Session {
    side: Side,
    tag: [u8; 8],
    secret: Secret,
    salt: [u8; 16],
    start: u64,
    random: SystemRandom,
    hello_send: LessSafeKey,
    hello_receive: LessSafeKey,
    /// The life of the peer that proved itself.
    current: Option<Keys>,
    /// A life that said hello and has not proved itself yet.
    candidate: Option<Keys>,
    /// Lives that were displaced: they never come back, whatever is replayed.
    retired: VecDeque<u64>,
    /// One counter for all keys of this life: no nonce is ever used twice with one key.
    counter: u64,
    hello_at: Option<Mono>,
    volunteered_at: Option<Mono>,
}

impl Session {
    pub(super) fn new(side: Side, cluster: [u8; 16], secret: &Secret, start: u64) -> Session {
        let mut tag = [0; 8];
        tag.copy_from_slice(&cluster[..8]);
        let hello = |from: Side| derive(secret, &cluster, &[b"hello v1", &[number(from)]]);
        Session {
            side,
            tag,
            secret: secret.clone(),
            salt: cluster,
            start,
            random: SystemRandom::new(),
            hello_send: hello(side),
            hello_receive: hello(side.other()),
            current: None,
            candidate: None,
            retired: VecDeque::new(),
            counter: 0,
            hello_at: None,
            volunteered_at: None,
        }
    }

    /// The datagrams that carry `plain` to every life of the peer that may be the present one; a
    /// hello to nobody known.
    pub(super) fn seal(&mut self, plain: &[u8]) -> [Option<Vec<u8>>; 2] {
        if self.current.is_none() && self.candidate.is_none() {
            return [self.hello(0), None];
        }
        let (side, tag, start) = (self.side, self.tag, self.start);
        let mut counter = self.counter;
        let mut seal = |keys: &Keys| {
            counter += 1;
            let header = Header {
                kind: Kind::Data,
                side: number(side),
                salt: [0; 4],
                from: start,
                to: keys.start,
                counter,
            };
            seal_with(&keys.send, &tag, header, plain)
        };
        // The candidate is told too, so that a peer that started again can hear before it speaks.
        let sealed = [self.current.as_ref().map(&mut seal), self.candidate.as_ref().map(&mut seal)];
        self.counter = counter;
        sealed
    }

    /// Opens a datagram in place.
    pub(super) fn open<'a>(
        &mut self,
        now: Mono,
        datagram: &'a mut [u8],
    ) -> Result<Opened<'a>, Rejection> {
        let plain = |reject| Rejection { reject, hello: None };
        let header = self.header(datagram).map_err(plain)?;
        match header.kind {
            Kind::Hello => {
                open_with(&self.hello_receive, header, datagram).ok_or(plain(Reject::Foreign))?;
                Ok(Opened::Hello { reply: self.meet(now, header) })
            }
            Kind::Data if header.to != self.start => Err(Rejection {
                reject: Reject::OtherLife,
                hello: self.volunteer(now, header.from),
            }),
            Kind::Data => {
                let known = [&self.current, &self.candidate];
                let at = known
                    .iter()
                    .position(|keys| keys.as_ref().is_some_and(|k| k.start == header.from));
                let Some(at) = at else {
                    let hello = self.volunteer(now, header.from);
                    return Err(Rejection { reject: Reject::OtherLife, hello });
                };
                if at == 1 {
                    // Only the present life of the peer can have sealed this with our start id in
                    // the key.
                    let candidate = self.candidate.as_ref().expect("found above");
                    let bytes = open_with(&candidate.receive, header, datagram)
                        .ok_or(plain(Reject::Foreign))?;
                    let mut proved = self.candidate.take().expect("found above");
                    proved.seen.accept(header.counter);
                    if let Some(old) = self.current.replace(proved) {
                        if self.retired.len() == RETIRED_MAX {
                            self.retired.pop_front();
                        }
                        self.retired.push_back(old.start);
                    }
                    return Ok(Opened::Frame { start: header.from, bytes });
                }
                let current = self.current.as_mut().expect("found above");
                let bytes =
                    open_with(&current.receive, header, datagram).ok_or(plain(Reject::Foreign))?;
                if !current.seen.accept(header.counter) {
                    return Err(plain(Reject::Replayed));
                }
                Ok(Opened::Frame { start: header.from, bytes })
            }
        }
    }

    fn header(&self, datagram: &[u8]) -> Result<Header, Reject> {
        if datagram.len() < HEADER_BYTES + TAG_BYTES || datagram[..2] != MAGIC {
            return Err(Reject::Foreign);
        }
        if datagram[2] != VERSION {
            return Err(Reject::Version(datagram[2]));
        }
        let kind = match datagram[3] {
            1 => Kind::Hello,
            2 => Kind::Data,
            _ => return Err(Reject::Foreign),
        };
        let u64_at =
            |at: usize| u64::from_be_bytes(datagram[at..at + 8].try_into().expect("eight bytes"));
        let side = datagram[4];
        if datagram[8..16] != self.tag || side != number(self.side.other()) {
            return Err(Reject::Foreign);
        }
        Ok(Header {
            kind,
            side,
            salt: [0, datagram[5], datagram[6], datagram[7]],
            from: u64_at(16),
            to: u64_at(24),
            counter: u64_at(32),
        })
    }

    /// A hello of an unknown life makes it a candidate; the answer lets it prove itself.
    fn meet(&mut self, now: Mono, header: Header) -> Option<Vec<u8>> {
        let known = |keys: &Option<Keys>| keys.as_ref().is_some_and(|k| k.start == header.from);
        if header.from == 0 {
            return None;
        }
        let retired = self.retired.contains(&header.from);
        if retired {
            return None;
        }
        if !known(&self.current) && !known(&self.candidate) {
            self.candidate = Some(self.keys(header.from));
        }
        let again = self.hello_at.is_some_and(|at| now.since(at) < HELLO_INTERVAL);
        if header.to == self.start || again {
            return None;
        }
        self.hello_at = Some(now);
        self.hello(header.from)
    }

    /// A hello to whoever sent a frame that cannot be authentic in this life. It has a budget of
    /// its own: a flood of such frames must not use up the answers to authentic hellos.
    fn volunteer(&mut self, now: Mono, to: u64) -> Option<Vec<u8>> {
        if self.volunteered_at.is_some_and(|at| now.since(at) < HELLO_INTERVAL) {
            return None;
        }
        self.volunteered_at = Some(now);
        self.hello(to)
    }

    fn hello(&mut self, to: u64) -> Option<Vec<u8>> {
        let mut salt = [0; 4];
        let mut counter = [0; 8];
        // Without randomness there is no nonce; an all-zero one would be a repeated one, so the
        // frame stays unsent.
        let drawn =
            self.random.fill(&mut salt[1..]).is_ok() && self.random.fill(&mut counter).is_ok();
        let header = Header {
            kind: Kind::Hello,
            side: number(self.side),
            salt,
            from: self.start,
            to,
            counter: u64::from_be_bytes(counter),
        };
        drawn.then(|| seal_with(&self.hello_send, &self.tag, header, &[]))
    }

    fn keys(&self, peer: u64) -> Keys {
        let key = |from: Side, a: u64, b: u64| {
            let (a, b) = (a.to_be_bytes(), b.to_be_bytes());
            derive(&self.secret, &self.salt, &[b"data v1", &[number(from)], &a, &b])
        };
        Keys {
            start: peer,
            send: key(self.side, self.start, peer),
            receive: key(self.side.other(), peer, self.start),
            seen: Window::default(),
        }
    }
}

fn number(side: Side) -> u8 {
    match side {
        Side::A => b'A',
        Side::B => b'B',
    }
}

fn derive(secret: &Secret, salt: &[u8], info: &[&[u8]]) -> LessSafeKey {
    struct Bytes(usize);
    impl KeyType for Bytes {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut key = [0; 32];
    Salt::new(HKDF_SHA256, salt)
        .extract(&secret.0)
        .expand(info, Bytes(key.len()))
        .and_then(|okm| okm.fill(&mut key))
        .expect("32 bytes are a valid HKDF length");
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("32 bytes are an AES-256 key"))
}

fn nonce(header: &Header) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..4].copy_from_slice(&header.salt);
    nonce[4..].copy_from_slice(&header.counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn seal_with(key: &LessSafeKey, tag: &[u8; 8], header: Header, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + plain.len() + TAG_BYTES);
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.push(match header.kind {
        Kind::Hello => 1,
        Kind::Data => 2,
    });
    out.push(header.side);
    out.extend_from_slice(&header.salt[1..]);
    out.extend_from_slice(tag);
    out.extend_from_slice(&header.from.to_be_bytes());
    out.extend_from_slice(&header.to.to_be_bytes());
    out.extend_from_slice(&header.counter.to_be_bytes());
    debug_assert_eq!(out.len(), HEADER_BYTES);
    out.extend_from_slice(plain);
    let (head, body) = out.split_at_mut(HEADER_BYTES);
    let sealed = key
        .seal_in_place_separate_tag(nonce(&header), Aad::from(&*head), body)
        .expect("frames are far below the limit of the cipher");
    out.extend_from_slice(sealed.as_ref());
    out
}

fn open_with<'a>(key: &LessSafeKey, header: Header, datagram: &'a mut [u8]) -> Option<&'a [u8]> {
    let (head, body) = datagram.split_at_mut(HEADER_BYTES);
    key.open_in_place(nonce(&header), Aad::from(&*head), body).ok().map(|plain| &*plain)
}
