//! Golden scenarios: text in, trace out. `REWRITE=1 cargo test -p staffetta-core --test golden`
//! rewrites the traces.

mod pair;

use pair::{Arbiter, Disk, Says, Ships, World, timing};
use staffetta_core::{Answerer, Event, Mono, Order, Span};
use std::path::Path;

fn seat(word: &str) -> usize {
    match word {
        "a" => 0,
        "b" => 1,
        other => panic!("unknown node {other:?}"),
    }
}

fn command(world: &mut World, words: &[&str]) {
    match words {
        ["boot", node] => world.boot(seat(node)),
        ["crash", node] => world.crash(seat(node)),
        ["freeze", node] => world.freeze(seat(node)),
        ["thaw", node] => world.thaw(seat(node)),
        ["cut", "a>b"] => world.cut[0] = true,
        ["cut", "b>a"] => world.cut[1] = true,
        ["cut", "both"] => world.cut = [true, true],
        ["heal"] => {
            world.cut = [false, false];
            world.lan = true;
        }
        ["lan", "off"] => world.lan = false,
        ["arbiter", rest @ ..] => arbiter(world, rest),
        ["announced", node] => {
            world.feed(seat(node), Event::Probed(Answerer::Peer));
        }
        ["hand", "again", "from", node] => world.hand_again(seat(node)),
        ["release", node, ms] => world.seats[seat(node)].release_ms = ms.parse().unwrap(),
        ["delay", ms] => world.delay = Span::ms(ms.parse().unwrap()),
        // Before the first boot.
        ["data"] => world.data = true,
        ["ships", node, how] => {
            world.seats[seat(node)].ships = match *how {
                "fails" => Ships::Fails,
                "never" => Ships::Never,
                ms => Ships::Takes(Span::ms(ms.parse().unwrap())),
            }
        }
        ["synced", node, word] => world.synced(seat(node), *word == "yes"),
        ["disk", node, "fails"] => world.seats[seat(node)].disk_takes = Disk::Fails,
        ["disk", node, ms] => {
            world.seats[seat(node)].disk_takes = Disk::Takes(Span::ms(ms.parse().unwrap()));
        }
        ["policy", node, says] => {
            world.seats[seat(node)].says = match *says {
                "built-in" => Says::BuiltIn,
                "hold" => Says::Hold,
                "nothing" => Says::Nothing,
                "late" => Says::Late,
                "take-over" => Says::TakeOver,
                other => panic!("unknown policy {other:?}"),
            }
        }
        ["order", node, order] => {
            let order = match *order {
                "switchover" => Order::Switchover,
                "maintenance" => Order::Maintenance(true),
                "start-alone" => Order::StartAlone,
                "clear" => Order::Clear,
                "stop" => Order::Stop,
                other => panic!("unknown order {other:?}"),
            };
            world.order(seat(node), order);
        }
        ["expect", node @ ("a" | "b"), what @ ("stale" | "fit")] => {
            let stale = world.stale(seat(node));
            assert_eq!(
                stale,
                *what == "stale",
                "{node} {what} at {:?}\n{}",
                world.now,
                world.trace
            );
        }
        ["expect", node @ ("a" | "b"), "level", level] => {
            let is = format!("{:?}", world.level(seat(node)).expect("a live node"));
            assert_eq!(is, *level, "{node} at {:?}\n{}", world.now, world.trace);
        }
        ["expect", node @ ("a" | "b"), what] => {
            let serving = world.serving(seat(node));
            let want = *what == "serves";
            assert_eq!(serving, want, "{node} {what} at {:?}\n{}", world.now, world.trace);
        }
        ["expect", "dual", ms] => {
            let ms: u64 = ms.parse().unwrap();
            assert!(world.dual.as_ms() <= ms, "dual {}\n{}", world.dual, world.trace);
        }
        ["expect", "dual", "over", ms] => {
            let ms: u64 = ms.parse().unwrap();
            assert!(world.dual.as_ms() > ms, "dual only {}\n{}", world.dual, world.trace);
        }
        other => panic!("unknown command {other:?}"),
    }
}

/// `arbiter new` comes before the first boot; the rest changes the way to it.
fn arbiter(world: &mut World, words: &[&str]) {
    if words == ["new"] {
        let delay = [Span(500_000); 2];
        world.arbiter = Some(Arbiter {
            register: None,
            delay,
            away: [false; 2],
            mute: [false; 2],
            refuses: false,
        });
        return;
    }
    let arbiter = world.arbiter.as_mut().expect("`arbiter new` first");
    match words {
        ["delay", ms] => arbiter.delay = [Span::ms(ms.parse().unwrap()); 2],
        ["delay", node, ms] => arbiter.delay[seat(node)] = Span::ms(ms.parse().unwrap()),
        ["away"] => arbiter.away = [true; 2],
        ["away", node] => arbiter.away[seat(node)] = true,
        ["mute", node] => arbiter.mute[seat(node)] = true,
        ["back"] => {
            (arbiter.away, arbiter.mute, arbiter.refuses) = ([false; 2], [false; 2], false);
        }
        ["refuses"] => arbiter.refuses = true,
        ["wipe"] => arbiter.register = None,
        ["holds", "nothing"] => assert_eq!(arbiter.register, None),
        ["holds", node, how] => {
            let held = arbiter.register.expect("a register");
            let holder = held.holder().map(|side| side as usize);
            let ok = holder == Some(seat(node)) && held.alone == (*how == "alone");
            assert!(ok, "register: {held:?}\n{}", world.trace);
        }
        other => panic!("unknown command arbiter {other:?}"),
    }
}

fn run(script: &str) -> String {
    let mut world = World::new(timing(50, 300, 10, 20));
    for line in script.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((at, words)) = words.split_first() else { continue };
        world.run_until(Mono(at.parse::<u64>().unwrap() * 1_000_000));
        if words != ["end"] {
            command(&mut world, words);
        }
    }
    world.trace
}

#[test]
fn every_scenario_has_its_trace() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let (mut ran, mut failed) = (0, Vec::new());
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "txt")) {
        let text = std::fs::read_to_string(file).unwrap();
        let (script, want) = text.split_once("---\n").unwrap_or((&text, ""));
        let name = file.file_name().unwrap().to_string_lossy().into_owned();

        let got = match std::panic::catch_unwind(|| run(script)) {
            Ok(got) => got,
            Err(_) => {
                failed.push(name);
                continue;
            }
        };
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(file, format!("{script}---\n{got}")).unwrap();
        } else {
            assert_eq!(got, want, "{name}");
        }
        ran += 1;
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
    assert!(ran >= 20, "only {ran} scenarios found in {}", dir.display());
}
