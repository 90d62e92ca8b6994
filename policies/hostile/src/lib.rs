//! A failover policy that misbehaves as its settings say. It shows that the sandbox holds.

use serde::Deserialize;
use staffetta_sdk::failover::{self, Outcome, Policy, Question, Situation};
use staffetta_sdk::{Given, failover_policy, log};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What to do, and at which question.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Settings {
    behave: Behave,
    on: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Behave {
    #[default]
    Hold,
    TakeOver,
    /// Never returns.
    Spin,
    /// Asks for memory until there is no more.
    Allocate,
    /// Calls itself for ever.
    Recurse,
    /// Executes `unreachable`.
    Trap,
    /// Panics with a message.
    Panic,
    /// Claims what is not so.
    Lie,
    /// Answers with megabytes.
    Huge,
    /// Writes to the log for ever.
    LogFlood,
    /// Leaves something behind everywhere, and tells what it found.
    Remember,
    /// Leaves something behind everywhere, and crashes.
    RememberAndPanic,
}

/// The policy.
pub struct Hostile;

impl Policy for Hostile {
    type Settings = Settings;

    fn decide(situation: &Situation, given: &Given<Settings>) -> Outcome {
        let settings = &given.settings;
        let on = settings.on.as_deref().unwrap_or("peer-silent");
        if on != "any" && on != situation.question.to_string() {
            return Ok(failover::hold("biding its time"));
        }
        misbehave(settings.behave, &situation.question)
    }
}

fn misbehave(behave: Behave, question: &Question) -> Outcome {
    Ok(match behave {
        Behave::Hold => failover::hold("told to hold"),
        Behave::TakeOver => failover::take_over("told to take over"),
        Behave::Spin => spin(),
        Behave::Allocate => allocate(),
        Behave::Recurse => failover::hold(format!("{}", recurse(1))),
        Behave::Trap => trap(),
        Behave::Panic => panic!("boom at {question}"),
        Behave::Lie => failover::take_over("the peer is on fire")
            .because("a witness who does not exist")
            .recheck_ms(0),
        Behave::Huge => huge(),
        Behave::LogFlood => flood(),
        Behave::Remember => failover::hold(format!("found {}", leave())),
        Behave::RememberAndPanic => panic!("left {}", leave()),
    })
}

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

fn allocate() -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(Vec::<u8>::with_capacity(1 << 20));
        std::hint::black_box(&hoard);
    }
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    std::hint::black_box(depth) + recurse(std::hint::black_box(depth + 1))
}

#[cfg(target_arch = "wasm32")]
fn trap() -> ! {
    core::arch::wasm32::unreachable()
}

#[cfg(not(target_arch = "wasm32"))]
fn trap() -> ! {
    std::process::abort()
}

fn huge() -> failover::Verdict {
    let mut verdict = failover::hold("x".repeat(100_000)).remember("m".repeat(100_000));
    verdict.because = vec!["y".repeat(10_000); 100];
    verdict.recheck = Some(u32::MAX);
    verdict
}

fn flood() -> ! {
    loop {
        log::warn("z".repeat(1_000));
    }
}

/// In the image of the memory, behind it, and beyond what it begins with.
fn leave() -> u32 {
    static IMAGE: AtomicU32 = AtomicU32::new(7);
    static BEHIND: [AtomicU32; 100_000] = [const { AtomicU32::new(0) }; 100_000];
    let mut found = IMAGE.fetch_add(1, Relaxed) - 7;
    found += BEHIND.iter().map(|word| word.fetch_add(1, Relaxed)).sum::<u32>();
    let mut grown = vec![0_u8; 3 << 20];
    found += std::hint::black_box(&grown).iter().map(|byte| u32::from(*byte)).sum::<u32>();
    grown.fill(1);
    std::hint::black_box(&grown);
    found
}

failover_policy!(Hostile);
