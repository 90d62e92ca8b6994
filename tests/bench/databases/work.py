#!/usr/bin/env python3
"""The programs that the benchmark runs: each prints one JSON object when it ends. Times come from CLOCK_MONOTONIC,
which all processes of a machine share, whatever namespace they are in.

  work.py write DB KIND SECONDS [--pace TX_PER_S]   transactions of 1 row (small) or 100 rows (batch)
  work.py read DB END_FILE                          a reader on the standby: how old is what it sees
  work.py probe SECONDS                             how late this machine wakes a sleeper
  work.py fill DB MIB                               a database of that size
  work.py change DB PAGES                           rewrites one row on each of so many pages
"""
import argparse, json, os, random, resource, sqlite3, sys, time

mono = time.monotonic_ns
ROWS = {"small": 1, "batch": 100}
ROW_BYTES = 400         # of random content; with the rest some 430 on a page
POLL_S = 0.0001         # between two looks of the reader
GIVE_UP_S = 60          # a reader that was told the end and does not see it
PAGE_BYTES = 4096


def quantile(values, p):
    """The p-quantile, by the nearest rank."""
    values = sorted(values)
    if not values: return None
    return values[min(len(values) - 1, max(0, -(-int(len(values) * p * 1e6) // 1_000_000) - 1))]


def summary(ns):
    """Quantiles of nanoseconds, in milliseconds."""
    named = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1}
    return {name: None if not ns else round(quantile(ns, p) / 1e6, 4) for name, p in named.items()}


def connect(path):
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    db.execute("pragma journal_mode=wal").fetchall()
    db.execute("pragma synchronous=normal")
    db.execute("create table if not exists lag(id integer primary key, ts integer)")
    db.execute("create table if not exists cdr(id integer primary key, ts integer, src text, dst text, b blob)")
    return db


def write(a):
    db, rows = connect(a.db), ROWS[a.kind]
    blob = os.urandom(ROW_BYTES)
    values = [(i, f"100{i}", f"200{i}", blob) for i in range(rows)]
    waits, commits, n = [], [], 0
    # Counted from here: the interpreter's start is not the writer's work.
    before, begin = resource.getrusage(resource.RUSAGE_SELF), mono()
    end = begin + int(a.seconds * 1e9)
    while mono() < end:
        if a.pace:
            late = begin + int(n / a.pace * 1e9) - mono()
            if late > 0: time.sleep(late / 1e9)
        t0 = mono()
        db.execute("begin immediate")
        t1 = mono()
        db.executemany("insert into cdr(ts,src,dst,b) values(?,?,?,?)", values)
        ts = mono()
        # Paced: a row for each, so that the reader sees the age of each. Flat out: the newest one only.
        if a.pace: db.execute("insert into lag(ts) values(?)", (ts,))
        else: db.execute("insert or replace into lag values(1,?)", (ts,))
        t2 = mono()
        db.execute("commit")
        t3 = mono()
        waits.append(t1 - t0); commits.append(t3 - t2); n += 1
    end_ns = mono()
    wall, after = end_ns - begin, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    db.close()
    return {"tx": n, "tx_s": n / wall * 1e9, "cpu_us_tx": cpu / max(n, 1) * 1e6, "wait_ms": summary(waits),
            "commit_ms": summary(commits), "last_ts": ts if n else 0, "end_ns": end_ns}


def read(a):
    """Notes, at each change that it sees, how old the newest transaction is (flat out), or each new one (paced). Ends
    when it sees the transaction that the end file names."""
    db, version, seen_id, seen_ts, seen_at, lags, errors = None, None, 0, 0, 0, [], 0
    last, last_look, give_up = None, 0, None
    while True:
        now = mono()
        if last is None and now - last_look > 20_000_000:
            last_look = now
            try:
                with open(a.end) as f: last = int(f.read())
                give_up = now + GIVE_UP_S * 1_000_000_000
            except (OSError, ValueError): pass
        if last is not None and (seen_ts >= last or now > give_up): break
        try:
            if db is None:
                db = sqlite3.connect(f"file:{a.db}?mode=ro", uri=True, timeout=1, isolation_level=None)
                version = None
            is_now = db.execute("pragma data_version").fetchone()[0]
            if is_now != version:
                fresh = db.execute("select id, ts from lag where id > ? or ts > ? order by id",
                                   (seen_id, seen_ts)).fetchall()
                now = mono()
                # What was there before this reader is not lag.
                if version is not None: lags += [now - ts for _, ts in fresh]
                for at, ts in fresh: seen_id, seen_ts, seen_at = max(seen_id, at), max(seen_ts, ts), now
                version = is_now
        except sqlite3.Error:
            # The copy is not there yet, or is being made.
            errors += 1
            if db is not None: db.close()
            db = None
            time.sleep(0.01)
        time.sleep(POLL_S)
    caught = last is not None and seen_ts >= last
    return {"lag_ms": summary(lags), "n": len(lags), "errors": errors, "caught_ns": seen_at if caught else None}


def probe(a):
    late, end = [], mono() + int(a.seconds * 1e9)
    while mono() < end:
        t = mono()
        time.sleep(0.001)
        late.append(mono() - t - 1_000_000)
    return {"late_ms": summary(late)}


def fill(a):
    db = connect(a.db)
    db.execute("create table if not exists bulk(id integer primary key, b blob)")
    # Two rows of this length and a third would not fit: two rows a page.
    row, rows = PAGE_BYTES * 45 // 100, a.mib * (1 << 20) // PAGE_BYTES * 2
    for first in range(0, rows, 2000):
        db.execute("begin immediate")
        db.executemany("insert into bulk(b) values(?)", ((os.urandom(row),) for _ in range(first, min(first + 2000, rows))))
        db.execute("commit")
    pages = db.execute("pragma page_count").fetchone()[0]
    db.close()
    return {"pages": pages, "bytes": pages * PAGE_BYTES}


def change(a):
    db = connect(a.db)
    rows = db.execute("select max(id) from bulk").fetchone()[0]
    # Neighbors 2n-1 and 2n share a page: one of each pair.
    chosen = random.Random(7).sample(range(1, rows // 2), a.pages)
    db.execute("begin immediate")
    length = len(db.execute("select b from bulk where id=1").fetchone()[0])
    db.executemany("update bulk set b=? where id=?", ((os.urandom(length), 2 * pair) for pair in chosen))
    ts = mono()
    db.execute("insert or replace into lag values(1,?)", (ts,))
    db.execute("commit")
    db.close()
    return {"last_ts": ts}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest="what", required=True)
    p = sub.add_parser("write")
    p.add_argument("db"); p.add_argument("kind", choices=ROWS); p.add_argument("seconds", type=float)
    p.add_argument("--pace", type=float, default=0)
    p = sub.add_parser("read"); p.add_argument("db"); p.add_argument("end")
    p = sub.add_parser("probe"); p.add_argument("seconds", type=float)
    p = sub.add_parser("fill"); p.add_argument("db"); p.add_argument("mib", type=int)
    p = sub.add_parser("change"); p.add_argument("db"); p.add_argument("pages", type=int)
    a = ap.parse_args()
    print(json.dumps({"write": write, "read": read, "probe": probe, "fill": fill, "change": change}[a.what](a)))


if __name__ == "__main__":
    main()
