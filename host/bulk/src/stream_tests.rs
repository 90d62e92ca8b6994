//! Frames, as the peer gets them, and what a peer can do wrong.

use std::net::Shutdown;
use std::num::NonZeroU64;
use std::time::Duration;

use super::*;
use crate::tests::{LONG, check, drain, pair, receive, wait};

/// Bytes that show a shift or a repetition.
fn body(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed as u8).collect()
}

fn free() -> Bandwidth {
    Bandwidth::default()
}

/// Says something that is not a frame of this crate.
fn say(stream: &mut Stream, bytes: &[u8]) {
    stream.tls.writer().write_all(bytes).expect("alive");
    stream.flush().expect("alive");
}

#[test]
fn frames_of_all_sizes_go_both_ways() {
    let (mut left, mut right) = pair(&free());
    let sizes = [0, 1, 3, 4, 4_095, 16_379, 16_380, 16_383, 16_384, 16_385, 65_536, 1 << 20];
    for (seed, size) in sizes.into_iter().enumerate() {
        let frame = body(size, seed);
        let (one, two) = frame.split_at(size / 3);
        left.send(&[one, &[], two]).expect("room");
        assert_eq!(receive_while_writing(&mut right, &mut left), frame, "{size} bytes");
        right.send(&[&frame]).expect("room");
        assert_eq!(receive_while_writing(&mut left, &mut right), frame, "{size} bytes back");
    }
    assert_eq!((left.queued(), right.queued()), (0, 0));
}

/// The next frame, while the other end writes the rest of it.
fn receive_while_writing(to: &mut Stream, from: &mut Stream) -> Vec<u8> {
    let deadline = Instant::now() + LONG;
    loop {
        from.flush().expect("alive");
        if let Some(frame) = to.receive().expect("alive") {
            return frame.to_vec();
        }
        assert!(
            wait(to, deadline.min(Instant::now() + Duration::from_millis(1)))
                || Instant::now() < deadline
        );
    }
}

#[test]
fn many_small_frames_arrive_in_order() {
    let (mut left, mut right) = pair(&free());
    let mut expected = 0;
    for n in 0..20_000_u32 {
        let frame = n.to_le_bytes();
        left.queue(&[&frame, &body(n as usize % 40, 0)]).expect("room");
        if n % 1_000 == 999 {
            while expected <= n {
                let frame = receive_while_writing(&mut right, &mut left);
                assert_eq!(frame[..4], expected.to_le_bytes());
                assert_eq!(frame.len(), 4 + expected as usize % 40);
                expected += 1;
            }
        }
    }
}

#[test]
fn frames_over_the_limit_are_refused_on_both_sides() {
    let (mut left, mut right) = pair(&free());
    let half = vec![0; FRAME_BYTES_MAX / 2];
    let result = left.send(&[&half, &half, &[0]]);
    assert_eq!(result, Err(BulkError::FrameTooLong { bytes: FRAME_BYTES_MAX + 1 }));
    left.send(&[b"good"]).expect("nothing of it was sent");
    // An authentic peer that goes wrong: what came before it counts, and no memory is spent.
    say(&mut left, &u32::MAX.to_le_bytes());
    assert_eq!(receive(&mut right).expect("before"), b"good");
    let error = BulkError::FrameRefused { bytes: u32::MAX as usize, max: FRAME_BYTES_MAX };
    assert_eq!(receive(&mut right), Err(error.clone()));
    assert_eq!(right.receive(), Err(error.clone()), "it stays so");
    assert_eq!(right.send(&[b"x"]), Err(error));
    assert!(right.arrived.bytes.capacity() <= 2 * READ_BYTES);
}

#[test]
fn half_frames_wait_for_the_rest() {
    let (mut left, mut right) = pair(&free());
    let frame = body(40_000, 1);
    let bytes = [&40_000_u32.to_le_bytes()[..], &frame, &3_u32.to_le_bytes(), b"end"].concat();
    for piece in bytes.chunks(9_999) {
        assert_eq!(right.receive(), Ok(None));
        say(&mut left, piece);
        wait(&right, Instant::now() + LONG);
        if right.receive().expect("alive").is_some() {
            break;
        }
    }
    say(&mut left, &[]);
    assert_eq!(receive(&mut right).expect("alive"), b"end");
}

#[test]
fn a_peer_that_does_not_read_loses_nothing() {
    let (mut left, mut right) = pair(&free());
    let mut sent = 0;
    let error = loop {
        match left.send(&[&body(300_000, sent)]) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(left.queued() <= QUEUE_BYTES_MAX);
    };
    assert_eq!(error, BulkError::QueueFull { queued: left.queued() });
    assert!(left.queued() > QUEUE_BYTES_MAX - 400_000 && left.wants_write());
    let small = left.send(&[b"small"]);
    assert_eq!(small, Ok(()), "a small one still fits");
    for seed in 0..sent {
        assert!(receive_while_writing(&mut right, &mut left) == body(300_000, seed), "{seed}");
    }
    assert_eq!(receive_while_writing(&mut right, &mut left), b"small");
    assert_eq!((left.queued(), left.wants_write()), (0, false));
    left.send(&[b"again"]).expect("room again");
    assert_eq!(receive(&mut right).expect("alive"), b"again");
}

#[test]
fn idle_streams_keep_little() {
    let (mut left, mut right) = pair(&free());
    left.send(&[&body(FRAME_BYTES_MAX, 0)]).expect("room");
    receive_while_writing(&mut right, &mut left);
    assert_eq!(right.receive(), Ok(None));
    assert!(right.arrived.bytes.capacity() <= IDLE_BYTES_MAX);
    assert!(!left.wants_write() && left.ready_at().is_none());
    let mut fds = [crate::socket::entry(left.fd(), libc::POLLIN)];
    crate::socket::poll(&mut fds, Some(Instant::now() + Duration::from_millis(50)));
    assert_eq!(fds[0].revents, 0, "nothing wakes its loop");
}

#[test]
fn whole_frames_come_before_the_end() {
    for is_cut in [false, true] {
        let (mut left, mut right) = pair(&free());
        left.send(&[b"first"]).expect("room");
        left.send(&[b"second"]).expect("room");
        if is_cut {
            say(&mut left, &100_u32.to_le_bytes());
            say(&mut left, b"half of a fr");
            left.tcp.shutdown(Shutdown::Both).expect("a connection");
        } else {
            drop(left);
        }
        wait(&right, Instant::now() + LONG);
        assert_eq!(receive(&mut right).expect("whole"), b"first");
        assert_eq!(receive(&mut right).expect("whole"), b"second");
        let reason = if is_cut { "cut it" } else { "the peer closed it" };
        check(receive(&mut right), &["the stream has ended", reason]);
        check(right.send(&[b"x"]), &[reason]);
        check(right.flush(), &[reason]);
        assert!(!right.wants_write());
    }
}

#[test]
fn bytes_changed_on_the_way_end_the_stream() {
    let (mut left, mut right) = pair(&free());
    left.send(&[b"good"]).expect("room");
    // A record of the right form, and not of the peer.
    let forged = [&[23, 3, 3, 0, 32][..], &[9; 32]].concat();
    (&left.tcp).write_all(&forged).expect("a connection");
    assert_eq!(receive(&mut right).expect("before it"), b"good");
    check(receive(&mut right), &["the stream has ended", "decrypt"]);
}

/// Sends as fast as it may; bytes a second.
fn rate(bandwidth: &Bandwidth, for_s: u64) -> f64 {
    let (mut left, mut right) = pair(bandwidth);
    let reader = std::thread::spawn(move || {
        let mut sum = 0;
        while let Ok(frame) = receive(&mut right) {
            sum += frame.len() as u64;
        }
        sum
    });
    let frame = body(200_000, 0);
    let start = Instant::now();
    let end = start + Duration::from_secs(for_s);
    while Instant::now() < end {
        while left.queued() < 1 << 20 {
            left.send(&[&frame]).expect("room");
        }
        left.flush().expect("alive");
        wait(&left, end);
    }
    let waiting = left.queued() as f64;
    let elapsed_s = start.elapsed().as_secs_f64();
    left.bandwidth = Bandwidth::default();
    left.held_until = None;
    drain(&mut left);
    drop(left);
    (reader.join().expect("the reader") as f64 - waiting) / elapsed_s
}

#[test]
fn the_cap_holds() {
    let cap = |bytes_per_s| Bandwidth::new(NonZeroU64::new(bytes_per_s));
    let (slow, fast) = (4_000_000, 16_000_000);
    let (slow_rate, fast_rate) = (rate(&cap(slow), 2), rate(&cap(fast), 2));
    println!("caps {slow} and {fast}: {slow_rate:.0} and {fast_rate:.0} bytes/s");
    // Never above; below by as much as a busy machine lets a loop sleep too long.
    for (cap, rate) in [(slow, slow_rate), (fast, fast_rate)] {
        assert!(rate < cap as f64 * 1.15, "{rate} of {cap}");
    }
    assert!(slow_rate > slow as f64 * 0.85, "{slow_rate} of {slow}");
    let ratio = fast_rate / slow_rate;
    assert!((3.0..4.7).contains(&ratio), "{ratio} instead of 4");
}

#[test]
fn streams_share_a_cap_and_small_frames_pass() {
    let bandwidth = Bandwidth::new(NonZeroU64::new(200_000));
    let (mut large, _other) = pair(&bandwidth);
    let (mut small, mut right) = pair(&bandwidth);
    large.send(&[&body(FRAME_BYTES_MAX, 0)]).expect("room");
    assert!(large.queued() > FRAME_BYTES_MAX / 2 && large.ready_at().is_some());
    assert!(!large.wants_write(), "its loop would not sleep");
    for n in 0..8_u32 {
        small.send(&[&n.to_le_bytes(), &[0; 4_000]]).expect("room");
        assert_eq!(small.queued(), 0, "a small frame does not wait");
        assert_eq!(receive(&mut right).expect("alive")[..4], n.to_le_bytes());
    }
    small.send(&[&body(SMALL_FRAME_BYTES_MAX + 1, 0)]).expect("room");
    assert!(small.queued() > 0, "a large one does");
    small.bandwidth = free();
    small.held_until = None;
    small.flush().expect("alive");
    assert_eq!((small.queued(), small.ready_at()), (0, None));
}

/// Random sizes, pauses and directions on both ends: all arrive, in order, each once.
#[test]
fn random_traffic_arrives_as_it_was_sent() {
    let (left, right) = pair(&free());
    let mut ends = [left, right];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut sent: [std::collections::VecDeque<Vec<u8>>; 2] = Default::default();
    let mut frames = 0;
    while frames < 3_000 || sent.iter().any(|sent| !sent.is_empty()) {
        let at = next(2) as usize;
        let size = match next(10) {
            0 => next(300_000),
            1..4 => next(20_000),
            _ => next(300),
        } as usize;
        if frames < 3_000 && ends[at].queued() + size < QUEUE_BYTES_MAX - 10_000 {
            let frame = body(size, frames);
            let (one, two) = frame.split_at(next(size as u64 + 1) as usize);
            ends[at].send(&[one, two]).expect("room");
            sent[at].push_back(frame);
            frames += 1;
        }
        ends[1 - at].flush().expect("alive");
        for _ in 0..next(4) {
            let Some(frame) = ends[at].receive().expect("alive") else { break };
            assert!(Some(frame) == sent[1 - at].front().map(Vec::as_slice), "{frames}");
            sent[1 - at].pop_front();
        }
    }
}

#[test]
fn a_dead_peer_is_noticed_by_the_kernel() {
    let (left, right) = pair(&free());
    for stream in [&left, &right] {
        let socket = socket2::SockRef::from(&stream.tcp);
        assert!(socket.tcp_nodelay().expect("an option"));
        assert!(socket.keepalive().expect("an option"));
        let timeout = socket.tcp_user_timeout().expect("an option");
        assert_eq!(timeout, Some(Duration::from_millis(crate::SILENCE_MS_MAX)));
        let seconds = Duration::from_secs(crate::KEEPALIVE_S);
        assert_eq!(socket.tcp_keepalive_time().expect("an option"), seconds);
        assert_eq!(socket.tcp_keepalive_interval().expect("an option"), seconds);
    }
}

/// Its host answers, its process does not read: that is a dead peer, too.
#[test]
fn a_peer_that_never_reads_is_given_up() {
    let (mut left, _right) = pair(&free());
    while left.send(&[&body(300_000, 0)]).is_ok() {}
    let start = Instant::now();
    while left.flush().is_ok() {
        assert!(wait(&left, start + 2 * LONG), "it waits for ever");
    }
    let waited = start.elapsed();
    println!("given up after {waited:?}");
    assert!(waited >= Duration::from_millis(crate::SILENCE_MS_MAX / 2), "{waited:?}");
    check(left.flush(), &["the stream has ended", "timed out"]);
}
