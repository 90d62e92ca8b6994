//! Hostile writers: what was captured is the database, page by page.

mod hostile;

use hostile::{Followed, Lab, seconds};
use staffetta_db::Guard;

#[test]
fn one_writer_of_everything() {
    let lab = Lab::new();
    let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
    let mut writer = lab.python("writer.py", &[&seconds(6).to_string(), "1"]);
    followed.follow_while(|| writer.is_running());
    println!("{}", writer.end());
    println!("{:?} wal {} frames", followed.follower.counters(), followed.wal_frames_max);
    followed.model.assert_same(&lab);
    assert_eq!(followed.lost, []);
    assert!(followed.model.transactions > 50, "{} transactions", followed.model.transactions);
}

#[test]
fn two_writers_and_a_storm_of_checkpoints() {
    let lab = Lab::new();
    let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
    let time = seconds(6).to_string();
    let mut writers = [
        lab.python("writer.py", &[&time, "2", "switch", "big=3000"]),
        lab.python("writer.py", &[&time, "3", "switch", "big=3000"]),
        lab.python("storm.py", &[&time]),
    ];
    followed.follow_while(|| writers.iter_mut().any(|writer| writer.is_running()));
    for writer in writers {
        println!("{}", writer.end());
    }
    println!("{:?} wal {} frames", followed.follower.counters(), followed.wal_frames_max);
    followed.model.assert_same(&lab);
    assert_eq!(followed.lost, []);
}

#[test]
fn the_wal_stays_small_under_load() {
    let lab = Lab::new();
    let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
    let mut writer = lab.python("flood.py", &[&seconds(4).to_string(), "1"]);
    followed.follow_while(|| writer.is_running());
    println!("{}", writer.end());
    println!("{:?} wal {} frames", followed.follower.counters(), followed.wal_frames_max);
    followed.model.assert_same(&lab);
    assert!(followed.wal_frames_max < 4 * 800, "{} frames", followed.wal_frames_max);
}
