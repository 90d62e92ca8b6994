use std::fs;

use super::super::tests::{drain, every_folder_is_seen, hints, path, scene};
use super::*;

/// More than `fs.inotify.max_queued_events` as the kernel has it by default.
const EVENTS: usize = 16_384 + 2_000;

#[test]
fn after_an_overflow_of_the_kernels_queue_no_folder_is_blind() {
    let (_dir, root) = scene();
    fs::create_dir_all(root.join("old/er")).unwrap();
    fs::create_dir_all(root.join("swap/er")).unwrap();
    let mut source = Inotify::new(&root, 65_536).unwrap();
    let mailbox = Arc::clone(&source.mailbox);
    {
        // The crate's thread waits for this with its first event, and reads no more.
        let _notes = mailbox.notes();
        for folder in 0..300 {
            fs::create_dir_all(root.join(format!("old/{folder}/a"))).unwrap();
        }
        for file in 0..EVENTS / 2 {
            fs::write(root.join(format!("old/f{file}")), "x").unwrap();
        }
        fs::create_dir_all(root.join("late/a/b")).unwrap();
        fs::rename(root.join("old/er"), root.join("t")).unwrap();
        fs::rename(root.join("swap/er"), root.join("old/er")).unwrap();
        fs::rename(root.join("t"), root.join("swap/er")).unwrap();
    }
    drop(mailbox);
    let before = Instant::now();
    let seen = drain(&mut source);
    let overflows = seen.iter().filter(|(hint, _)| *hint == Hint::Overflow).count();
    assert!(overflows >= 2, "one at once, one when all is watched again");
    println!("quiet after {:?}, {overflows} overflows told", before.elapsed());
    every_folder_is_seen(&mut source, &root);
}

#[test]
fn after_an_overflow_of_our_own_queue_no_folder_is_blind() {
    let (_dir, root) = scene();
    let mut source = Inotify::new(&root, 600).unwrap();
    for folder in 0..1_000 {
        fs::create_dir_all(root.join(format!("{folder}"))).unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(hints(&mut source).contains(&Hint::Overflow));
    every_folder_is_seen(&mut source, &root);
}

#[test]
fn folders_that_cannot_be_watched_are_polled_and_tried_again() {
    let (_dir, root) = scene();
    let mut source = Inotify::new(&root, 65_536).unwrap();
    assert_eq!(source.trouble(), None);
    source.limited = true;
    fs::create_dir_all(root.join("a/b")).unwrap();
    assert!(hints(&mut source).contains(&Hint::Below(path("a"))));
    let trouble = source.trouble().unwrap();
    assert!(trouble.contains("max_user_watches"), "{trouble}");
    fs::write(root.join("a/b/f"), "x").unwrap();
    assert_eq!(hints(&mut source), []);
    source.poll_at = Instant::now();
    let mut seen = Vec::new();
    while source.take(&mut seen).unwrap() {}
    assert_eq!(seen, [Hint::Below(path("a"))]);
    assert_eq!(source.trouble(), None);
    every_folder_is_seen(&mut source, &root);
}
