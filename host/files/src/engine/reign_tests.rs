//! What a reign leaves of the one before.

use super::hostile::spool;
use super::*;
use crate::attend::forget_intent;
use crate::index::Index;

/// What was under way when this node followed tells nothing of what is written while it leads.
#[test]
fn a_reign_ends_the_note_of_what_a_crash_came_between() {
    let folder = tempfile::tempdir().expect("a folder");
    let (root, state) = (folder.path().join("tree"), folder.path().join("state"));
    std::fs::create_dir_all(&root).expect("a folder");
    std::fs::create_dir_all(&state).expect("a folder");
    let note = |set: Option<&[u8]>| {
        let mut index = Index::open(&state.join("spool.index")).expect("an index");
        if let Some(bytes) = set {
            index.set_note("intent", bytes).expect("noted");
            index.commit().expect("kept");
        }
        index.note("intent").expect("read")
    };
    note(Some(&[0x81, 0x82, 0x41, b'a', 0x82, 1, 0x80]));
    let engine =
        start(Options { trees: vec![spool(root)], state: state.clone() }, |_| {}).expect("runs");
    engine.say(Command::Lead(2));
    let until = Instant::now() + Duration::from_secs(10);
    while !engine.status().first().is_some_and(|tree| tree.state == crate::State::Alone) {
        assert!(Instant::now() < until, "it does not lead: {:?}", engine.status());
        std::thread::sleep(Duration::from_millis(5));
    }
    // Its index is committed now and then.
    std::thread::sleep(Duration::from_secs(2));
    drop(engine);
    let nothing = {
        let mut index = Index::open(&folder.path().join("other")).expect("an index");
        forget_intent(&mut index).expect("noted");
        index.note("intent").expect("read")
    };
    assert_eq!(note(None), nothing);
}
