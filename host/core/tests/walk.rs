//! Random histories without a cut: at most one gate is open, whatever crashes, freezes, slow disks
//! and orders do (G3).

mod pair;

use pair::{Disk, World, timing};
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

#[test]
fn a_seed_is_one_history() {
    for seed in 1..20 {
        assert_eq!(history(seed).trace, history(seed).trace);
    }
}
