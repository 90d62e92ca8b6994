//! Random histories without a cut: at most one gate is open, whatever crashes, freezes, slow disks
//! and orders do (G3).

mod pair;

use pair::{Arbiter, Cut, Disk, Says, Ships, World, timing};
use staffetta_core::{Mono, Order, Span};

/// xorshift64*: a seed is a history.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

/// Longest freeze or outage in a history.
const PAUSE_MS_MAX: u64 = 900;
const FAULTS: u64 = 30;

fn history(seed: u64) -> World {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut world = World::new(timing(50, 300, 10, 20));
    world.seats[0].ppm = -900;
    world.seats[1].ppm = 900;
    world.boot(0);
    world.boot(1);
    let mut now = 1_000;
    for _ in 0..FAULTS {
        let at = usize::try_from(dice.roll(2)).unwrap();
        world.run_until(Mono(now * 1_000_000 + dice.roll(1_000_000)));
        let pause = 1 + dice.roll(PAUSE_MS_MAX);
        match dice.roll(6) {
            0 => {
                world.crash(at);
                world.run_until(Mono((now + pause) * 1_000_000));
                world.boot(at);
            }
            1 | 2 => {
                world.freeze(at);
                world.run_until(Mono((now + pause) * 1_000_000));
                world.thaw(at);
            }
            3 => world.seats[at].disk_takes = Disk::Takes(Span::ms(1 + dice.roll(80))),
            4 => world.order(at, Order::Switchover),
            _ => world.delay = Span(1 + dice.roll(9_000_000)),
        }
        now += pause + dice.roll(600);
    }
    world.delay = Span::ms(1);
    world.seats[0].disk_takes = Disk::Takes(Span::ms(1));
    world.seats[1].disk_takes = Disk::Takes(Span::ms(1));
    world.run_until(Mono((now + 12_000) * 1_000_000));
    world
}

#[test]
fn at_most_one_gate_is_open_without_a_cut_and_service_returns() {
    let mut primaries = 0;
    for seed in 1..=1_500 {
        let world = history(seed);
        assert_eq!(world.dual, Span::ZERO, "seed {seed}\n{}", world.trace);
        let serving = usize::from(world.serving(0)) + usize::from(world.serving(1));
        assert_eq!(serving, 1, "seed {seed}: {serving} serve at the end\n{}", world.trace);
        primaries += world.primaries;
    }
    assert!(primaries > 5_000, "only {primaries} reigns: the histories are too tame");
}

/// A history with everything at once: crashes and freezes between two effects, duplicates up to 900
/// ms late, jitter up to the assumed delay, clocks at the edge of the drift, gates 15 ms late,
/// policies that answer anything, disks and kernels that refuse.
fn hostile(seed: u64) -> World {
    let mut world = World::new(timing(50, 300, 10, 20));
    world.dice = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for _ in 0..5 {
        world.roll(2);
    }
    world.gate_late = Span::ms(15);
    with_data(&mut world, seed);
    world.delay = Span(1_000);
    world.jitter = 9_900_000;
    world.dup_ms = 900;
    let fast = usize::try_from(world.roll(2)).unwrap();
    world.seats[fast].ppm = 990;
    world.seats[1 - fast].ppm = -990;
    for i in 0..2 {
        if world.roll(2) == 0 {
            world.seats[i].says = Says::Random;
        }
    }
    let now = disturb(&mut world, hurt);
    calm(&mut world, now);
    world
}

const HOSTILE_FAULTS: u64 = 60;

/// Every other history has data that ships soon, late, or never.
fn with_data(world: &mut World, seed: u64) {
    world.data = seed.is_multiple_of(2);
    let ships =
        [Ships::Takes(Span::ms(3)), Ships::Takes(Span::ms(400)), Ships::Fails, Ships::Never];
    for seat in &mut world.seats {
        seat.ships = ships[usize::try_from(world.dice % 4).unwrap()];
    }
}

/// Starts both nodes and brings faults over them; answers with the time of the last one, in ms.
fn disturb(world: &mut World, fault: fn(&mut World, usize)) -> u64 {
    world.boot(0);
    world.boot(1);
    let mut now = 500;
    for _ in 0..HOSTILE_FAULTS {
        let at = usize::try_from(world.roll(2)).unwrap();
        let ns = world.roll(1_000_000);
        world.run_until(Mono(now * 1_000_000 + ns));
        if world.seats[at].frozen {
            world.thaw(at);
        } else if world.seats[at].node.is_none() {
            world.boot(at);
        } else {
            fault(world, at);
        }
        let scale = [60, 300, 900][usize::try_from(world.roll(3)).unwrap()];
        now += 1 + world.roll(scale);
    }
    now
}

fn hurt(world: &mut World, at: usize) {
    match world.roll(13) {
        0 => world.crash(at),
        1 | 2 => world.freeze(at),
        3 => {
            let ms = 1 + world.roll(120);
            world.seats[at].disk_takes = Disk::Takes(Span::ms(ms));
        }
        4 => world.order(at, Order::Switchover),
        5 => world.order(at, Order::StartAlone),
        6 | 7 => {
            let effects = usize::try_from(world.roll(6)).unwrap();
            world.seats[at].mid = Some((Cut::Crash, effects));
        }
        8 | 9 => {
            let effects = usize::try_from(world.roll(6)).unwrap();
            world.seats[at].mid = Some((Cut::Freeze, effects));
        }
        10 => world.seats[at].claim_fails = world.roll(3) == 0,
        11 => world.seats[at].release_ms = world.roll(2) * world.roll(60),
        _ if world.roll(4) == 0 => world.seats[at].disk_takes = Disk::Fails,
        _ => world.order(at, Order::Stop),
    }
}

/// Any partition at all, with an arbiter that is slow, away, deaf, forgetful: at most one gate is
/// open (A1).
fn arbitrated(seed: u64) -> World {
    let mut world = World::new(timing(50, 300, 10, 20));
    world.dice = seed.wrapping_mul(0xD6E8_FEB8_6659_FD93) | 1;
    for _ in 0..5 {
        world.roll(2);
    }
    let (delay, away, mute) = ([Span::ms(1); 2], [false; 2], [false; 2]);
    world.arbiter = Some(Arbiter { register: None, delay, away, mute, refuses: false });
    world.gate_late = Span::ms(15);
    with_data(&mut world, seed);
    world.jitter = 50_000_000;
    world.dup_ms = 900;
    let fast = usize::try_from(world.roll(2)).unwrap();
    world.seats[fast].ppm = 990;
    world.seats[1 - fast].ppm = -990;
    for i in 0..2 {
        if world.roll(2) == 0 {
            world.seats[i].says = Says::Random;
        }
    }
    let now =
        disturb(
            &mut world,
            |world, at| {
                if world.roll(2) == 0 { part(world, at) } else { hurt(world, at) }
            },
        );
    world.cut = [false, false];
    if let Some(arbiter) = &mut world.arbiter {
        (arbiter.delay, arbiter.away, arbiter.mute) = (delay, away, mute);
    }
    calm(&mut world, now);
    world
}

fn part(world: &mut World, at: usize) {
    let (what, on, ms) = (world.roll(8), world.roll(2) == 0, 1 + world.roll(150));
    let arbiter = world.arbiter.as_mut().expect("an arbiter");
    match what {
        0 | 1 => world.cut[at] = on,
        2 => world.cut = [on, on],
        3 => arbiter.away[at] = on,
        4 => arbiter.mute[at] = on,
        5 => arbiter.delay[at] = Span::ms(ms),
        6 => arbiter.delay = [Span::ms(1); 2],
        _ if ms < 15 => arbiter.register = None,
        _ => world.cut = [false, false],
    }
}

#[test]
fn with_an_arbiter_no_partition_opens_two_gates() {
    let mut primaries = 0;
    for seed in 1..=ARBITRATED_SEEDS {
        let world = arbitrated(seed);
        assert_eq!(world.dual, Span::ZERO, "seed {seed}\n{}", world.trace);
        let serving = usize::from(world.serving(0)) + usize::from(world.serving(1));
        assert_eq!(serving, 1, "seed {seed}: {serving} serve at the end\n{}", world.trace);
        primaries += world.primaries;
    }
    assert!(
        primaries > ARBITRATED_SEEDS * 5,
        "only {primaries} reigns: the histories are too tame"
    );
}

const ARBITRATED_SEEDS: u64 = 2_000;

/// Everything is mended; the pair has half a minute to be whole again.
fn calm(world: &mut World, mut now: u64) {
    for i in 0..2 {
        world.seats[i].mid = None;
        world.seats[i].claim_fails = false;
        world.seats[i].release_ms = 0;
        world.seats[i].says = Says::BuiltIn;
        world.seats[i].disk_takes = Disk::Takes(Span::ms(1));
        if world.seats[i].frozen {
            world.thaw(i);
        } else if world.seats[i].node.is_none() {
            world.boot(i);
        }
    }
    world.dup_ms = 0;
    world.jitter = 0;
    for _ in 0..2 {
        now += 6_000;
        world.run_until(Mono(now * 1_000_000));
        for i in 0..2 {
            if world.seats[i].node.is_none() {
                world.boot(i);
            }
        }
    }
    world.run_until(Mono((now + 25_000) * 1_000_000));
}

#[test]
fn hostile_histories_never_open_two_gates_and_heal() {
    let (mut primaries, mut between_effects) = (0, 0);
    for seed in 1..=2_000 {
        let world = hostile(seed);
        assert_eq!(world.dual, Span::ZERO, "seed {seed}\n{}", world.trace);
        let serving = usize::from(world.serving(0)) + usize::from(world.serving(1));
        assert_eq!(serving, 1, "seed {seed}: {serving} serve at the end\n{}", world.trace);
        primaries += world.primaries;
        between_effects += world.fire;
    }
    assert!(primaries > 20_000, "only {primaries} reigns: the histories are too tame");
    assert!(between_effects > 5_000, "only {between_effects} stops between two effects");
}

#[test]
fn a_seed_is_one_history() {
    for seed in 1..20 {
        assert_eq!(history(seed).trace, history(seed).trace);
        assert_eq!(hostile(seed).trace, hostile(seed).trace);
    }
}
