//! A primary that lies, and a disk that refuses.

use super::*;
use std::process::Command;

#[test]
fn no_path_leads_out_through_a_symlink() {
    let mut bed = Bed::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), b"kept").unwrap();
    let target = outside.path().to_str().unwrap().as_bytes().to_vec();
    bed.apply(vec![put_dir("d"), put("d/a", b"one"), put_link("out", &target)]);
    assert_eq!(bed.refused(put("out/secret", b"overwritten")), Refusal::Missing);
    bed.apply(vec![Deed::Delete(path("out/secret"))]);
    let sum = bed.sum("d/a");
    let rename = Deed::Rename { from: path("d/a"), to: path("out/a"), sum };
    assert_eq!(bed.refused(rename), Refusal::Missing);
    // A folder that somebody replaces by a symlink behind our back.
    std::fs::rename(bed.root.join("d"), outside.path().join("d")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("d"), bed.root.join("d")).unwrap();
    bed.send(vec![put("d/a", b"two"), put("d/b", b"new"), Deed::Delete(path("d/a"))]);
    bed.run();
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"kept");
    assert_eq!(std::fs::read(outside.path().join("d/a")).unwrap(), b"one");
    assert!(!outside.path().join("d/b").exists() && !outside.path().join("a").exists());
    bed.check();
}

#[test]
fn a_content_with_another_digest_changes_nothing() {
    let mut bed = Bed::new();
    bed.apply(vec![put("a", b"one")]);
    let said = |bytes: &[u8]| entry(Kind::File, bytes);
    let packed = zstd::bulk::compress(&[7; 1_000], 1).unwrap();
    let bodies: Vec<(Entry, Body<'_>)> = vec![
        (said(b"two"), Body::Bytes(b"owt")),
        (said(&[7; 1_000]), Body::Packed(1_000, b"no zstd")),
        (said(&[7; 1_001]), Body::Packed(1_001, &packed)),
        (said(&[7; 10]), Body::Packed(10, &packed)),
        (Entry { xattrs: Digest([1; 32]), ..said(b"two") }, Body::Bytes(b"two")),
    ];
    for (entry, body) in bodies {
        let xattrs = Xattrs::default();
        let deed = Deed::Put { path: path("a"), entry, xattrs, body };
        assert_eq!(bed.refused(deed), Refusal::Damaged);
        assert_eq!(bed.read("a"), b"one");
    }
    let xattrs = Xattrs(vec![Xattr { name: b"system.evil".to_vec(), value: vec![] }]);
    let entry = Entry { xattrs: xattrs.digest(), ..said(b"two") };
    let deed = Deed::Put { path: path("a"), entry, xattrs, body: Body::Bytes(b"two") };
    assert!(matches!(bed.refused(deed), Refusal::Failed(_)));
    assert_eq!(bed.read("a"), b"one");
    assert_eq!(std::fs::read_dir(bed.root.join(".staffetta/tmp")).unwrap().count(), 0);
}

#[test]
fn numbers_that_nobody_began_end_the_connection() {
    let mut bed = Bed::new();
    bed.apply(vec![put("a", b"one")]);
    let attend = bed.attend();
    let step = |seq| Step { seq, deed: Deed::Delete(path("x")) };
    assert_eq!(attend.steps(vec![step(1)]), Err(AttendError::Order(1, 1)));
    let part = Part { id: 7, seq: 9, offset: 0, bytes: 1, packed: false };
    assert_eq!(attend.part(part, b"x"), Err(AttendError::Unknown(9)));
    let end = End { id: 7, seq: 1, entry: entry(Kind::File, b""), xattrs: Xattrs::default() };
    assert_eq!(attend.end(end), Err(AttendError::Unknown(1)));
    assert_eq!(attend.blocks(1, vec![0]), Err(AttendError::Unknown(1)));
    assert_eq!(attend.drop_step(1), Err(AttendError::Unknown(1)));
    let begin = |seq| {
        let (path, entry) = (path(&format!("f{seq}")), entry(Kind::File, b""));
        let deed = Deed::Put { path, entry, xattrs: Xattrs::default(), body: Body::Parts };
        Step { seq, deed }
    };
    attend.steps((20..24).map(begin).collect()).unwrap();
    assert_eq!(attend.steps(vec![begin(24)]), Err(AttendError::Many(24)));
    let far = Part { seq: 20, offset: LARGE_BYTES_MAX, ..part };
    assert_eq!(attend.part(far, b"x"), Err(AttendError::Range(20)));
    bed.run();
    assert_eq!(bed.attend().blocks(20, vec![0]), Err(AttendError::Range(20)));
}

/// A small file system in memory, gone when it is dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "needs root");
        Self(dir)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_what_does_not_fit_and_takes_the_rest() {
    let disk = Disk::mount("size=1m");
    let mut bed = Bed::at(disk.0.path());
    let large = vec![1; 200 * 1024];
    bed.apply(vec![put("small", b"one"), put("log", b"0")]);
    let names: Vec<String> = (0..6).map(|at| format!("large{at}")).collect();
    bed.send(names.iter().map(|name| put(name, &large)).collect());
    bed.send(vec![put("small", b"two"), put_dir("d")]);
    bed.run();
    let (mut acked, mut refused) = (0, 0);
    for message in bed.take() {
        match message {
            Message::Ack(_, numbers) => acked += numbers.len(),
            Message::Refuse(_, _, Refusal::Failed(why)) => {
                assert!(why.contains("make room"), "{why}");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused >= 1 && acked >= 5 && acked + refused == 8, "{acked} {refused}");
    assert!(bed.attend().status().counters.trouble.is_some());
    bed.check();
    // An addition is whole or not at all.
    let longer = [b"0".as_slice(), &[7; 250 * 1024]].concat();
    assert!(matches!(bed.refused(append("log", &longer, 1)), Refusal::Failed(_)));
    assert_eq!((bed.read("log"), bed.mtime("log")), (b"0".to_vec(), MTIME));
    std::fs::remove_file(bed.root.join("large0")).unwrap();
    bed.apply(vec![Deed::Delete(path("large0")), put("small", b"three")]);
    assert_eq!(bed.read("small"), b"three");
    assert_eq!(bed.attend().status().counters.trouble, None);
    bed.attend = None;
}
