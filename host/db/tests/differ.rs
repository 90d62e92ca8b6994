//! A database that keeps its rollback journal.

mod hostile;

use hostile::{Lab, Model, seconds};
use staffetta_db::{AttachError, Attached, Changes, Differ, Drained, LostTrail};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::{Duration, Instant};

struct Followed {
    model: Model,
    changes: Changes,
    differ: Differ,
}

impl Followed {
    fn start(lab: &Lab) -> Followed {
        let attached = Attached::open_as_is(&lab.database).expect("attached");
        let differ = Differ::start(Rc::new(attached)).expect("begun");
        let (model, changes) = (Model::default(), Changes::new(1 << 30));
        let mut followed = Followed { model, changes, differ };
        let (snapshot, gapless) = followed.differ.snapshot(&mut followed.changes).expect("taken");
        assert!(gapless);
        followed.changes.clear();
        followed.model.total = snapshot.pages_total();
        let pages = &mut followed.model.pages;
        snapshot
            .for_each(1..u32::MAX, |number, page| {
                pages.insert(number, page.to_vec());
                ControlFlow::Continue(())
            })
            .expect("pages");
        followed
    }

    fn follow_while(&mut self, mut running: impl FnMut() -> bool) {
        loop {
            let goes_on = running();
            let drained = self.differ.tend(Instant::now(), &mut self.changes).expect("tended");
            self.model.apply(&mut self.changes);
            match drained {
                Drained::Nothing if !goes_on => return,
                Drained::Lost(lost) => panic!("{lost}"),
                Drained::Nothing | Drained::Some | Drained::More => {}
            }
            let due = self.differ.next_due().expect("always due");
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
}

#[test]
fn a_rollback_journal_is_followed_by_difference() {
    let lab = Lab::new();
    let mut followed = Followed::start(&lab);
    let time = seconds(4);
    let mut writer = lab.python("writer.py", &[&time.to_string(), "5", "delete", "big=3000"]);
    followed.follow_while(|| writer.is_running());
    println!("{} {} scans", writer.end(), followed.differ.scans());
    assert!(followed.differ.scans() > 5);
    followed.model.assert_same(&lab);
}

#[test]
fn held_writers_wait_and_the_last_commit_is_captured() {
    let lab = Lab::new();
    let mut followed = Followed::start(&lab);
    let app = lab.application();
    app.execute_batch("INSERT INTO first VALUES(2)").expect("a row");
    assert!(followed.differ.hold_writers(Duration::from_secs(1)).expect("held"));
    app.busy_timeout(Duration::from_millis(5)).expect("a timeout");
    assert!(app.execute_batch("INSERT INTO first VALUES(3)").is_err(), "a writer got through");
    followed.follow_while(|| false);
    followed.model.assert_same(&lab);
    followed.differ.release_writers().expect("released");
    app.execute_batch("INSERT INTO first VALUES(4)").expect("a row");
    assert!(followed.model.difference(&lab.database).is_some());
    followed.follow_while(|| false);
    followed.model.assert_same(&lab);
}

#[test]
fn another_mode_or_another_page_size_is_a_lost_trail() {
    for (order, expected) in [
        ("PRAGMA journal_mode=WAL", LostTrail::JournalMode),
        ("PRAGMA page_size=8192; VACUUM", LostTrail::PageSize),
    ] {
        let lab = Lab::new();
        let mut followed = Followed::start(&lab);
        let app = lab.application();
        app.execute_batch(order).expect("ran");
        app.execute_batch("INSERT INTO first VALUES(9)").expect("a row");
        let until = Instant::now() + Duration::from_secs(10);
        let lost = loop {
            assert!(Instant::now() < until, "{order}: nothing was told");
            let tended = followed.differ.tend(Instant::now(), &mut followed.changes);
            if let Drained::Lost(lost) = tended.expect("tended") {
                break lost;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert_eq!(lost, expected);
        assert!(followed.differ.restart().is_err());
        if expected == LostTrail::JournalMode {
            let error = Attached::open_as_is(&lab.database).expect_err("in WAL mode");
            assert!(matches!(error, AttachError::IsWal { .. }), "{error}");
        }
    }
}
