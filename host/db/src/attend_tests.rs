//! Shipments that follow from nothing: the copy stays as it was.

use super::*;
use crate::apply::{Durability, Owner, create};
use crate::attach::Attached;
use crate::hash::page_hash;
use std::rc::Rc;

const PAGE_BYTES: usize = 512;

/// A copy of two pages that follows.
struct Copy {
    attend: Attend,
    ledger: Ledger,
    sum: u128,
    _folder: tempfile::TempDir,
}

impl Copy {
    fn new() -> Copy {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("copy.db");
        let page_bytes = PAGE_BYTES as u32;
        // SAFETY: cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        create(&path, page_bytes, Owner { uid, gid, mode: 0o640 }).expect("created");
        let connection = rusqlite::Connection::open(&path).expect("a database");
        connection.execute_batch("CREATE TABLE t(x)").expect("a table");
        drop(connection);
        let attached = Rc::new(Attached::open(&path).expect("attached"));
        let replica = Replica::open(attached, Durability::Applied).expect("a replica");
        let scanned = replica.scan().expect("a scan").table(|| true).expect("a table");
        let mut ledger = Ledger::open(folder.path(), &path).expect("a ledger");
        let mut attend = Attend::new(replica);
        attend.scanned(scanned, &mut ledger).expect("as it was read");
        let entry = Entry {
            id: 7,
            name: "copy".into(),
            page_bytes,
            owner: (uid, gid, 0o640),
            lineage: Vec::new(),
            head: Position { epoch: 2, txid: 5 },
        };
        attend.named(entry);
        attend.stage = Stage::Following;
        let table = attend.replica.table().expect("scanned");
        assert_eq!(table.pages(), 2);
        let sum = table.sum();
        Copy { attend, ledger, sum, _folder: folder }
    }

    /// Page 2 as the primary would have it, and the head of a shipment of it.
    fn shipment(&self, pages: u32) -> Head {
        let old = self.attend.replica.table().and_then(|table| table.hash(2)).expect("a page");
        let after = self.sum ^ old ^ page_hash(2, &[0; PAGE_BYTES]);
        let position = Position { epoch: 2, txid: 6 };
        let (id, copy) = (7, false);
        Head { id, first: true, last: false, copy, position, pages, before: self.sum, after }
    }

    fn hear(&mut self, head: Head, numbers: &[u32]) -> Result<Outcome, AttendError> {
        let mut bytes = head.encode().to_vec();
        for number in numbers {
            bytes.extend(number.to_le_bytes());
            bytes.extend([0; PAGE_BYTES]);
        }
        let Ok(wire::Frame::Pages(head, pages)) = wire::decode(&bytes) else { panic!("no pages") };
        self.attend.pages(head, pages, &mut self.ledger, &mut Outlet::new(None))
    }

    /// What was heard does not follow: it is undone, and the copy is as it was.
    #[track_caller]
    fn is_a_gap(&mut self, head: Head, numbers: &[u32]) {
        let heard = self.hear(head, numbers);
        assert!(matches!(heard, Err(AttendError::Gap)), "{heard:?}");
        self.attend.pause("a gap".into(), Instant::now(), &mut Outlet::new(None));
        assert_eq!(self.attend.replica.table().map(Table::sum), Some(self.sum));
        let found = self.attend.replica.scan().expect("a scan").table(|| true).expect("a table");
        assert_eq!(found.table.sum(), self.sum);
    }
}

#[test]
fn a_shipment_that_follows_is_applied() {
    let mut copy = Copy::new();
    let head = copy.shipment(2);
    copy.hear(head, &[]).expect("begun");
    copy.hear(Head { first: false, last: true, ..head }, &[2]).expect("applied");
    assert_eq!(copy.attend.replica.table().map(Table::sum), Some(head.after));
    assert_eq!(copy.attend.position(), Some(head.position));
}

#[test]
fn a_shipment_on_another_state_is_a_gap() {
    let mut copy = Copy::new();
    let head = copy.shipment(2);
    copy.is_a_gap(Head { before: copy.sum ^ 1, ..head }, &[2]);
}

#[test]
fn a_shipment_whose_head_changes_is_a_gap() {
    let later = Position { epoch: 2, txid: 7 };
    let changes: [fn(&mut Head, Position); 2] =
        [|head, later| head.position = later, |head, _| head.pages = 3];
    for change in changes {
        let mut copy = Copy::new();
        let head = copy.shipment(2);
        copy.hear(head, &[2]).expect("begun");
        let mut other = Head { first: false, last: true, ..head };
        change(&mut other, later);
        copy.is_a_gap(other, &[]);
    }
}

#[test]
fn a_page_far_beyond_the_end_is_a_gap() {
    let mut copy = Copy::new();
    let head = copy.shipment(1 << 20);
    let most = 2 + GAP_PAGES_MAX + 1;
    copy.hear(head, &[most]).expect("those between may be zeros");
    copy.is_a_gap(Head { first: false, ..head }, &[most + GAP_PAGES_MAX + 2]);
}
