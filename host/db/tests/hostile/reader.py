#!/usr/bin/env python3
"""Reads a copy of writer.py's database all the time: reader.py DATABASE SECONDS SEED

Many short snapshots and some long ones; each must be the state after some whole transaction. Ends
with 1 on the first that is not. A lock is an error too: nothing on the standby hinders readers.
"""
import random
import sqlite3
import sys
import time

db, seconds, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
R = random.Random(seed)
snapshots = checked = waited = 0
c = None
until = time.time() + seconds


def connect():
    c = sqlite3.connect(f"file:{db}?mode=ro", uri=True, timeout=10, isolation_level=None)
    if R.random() < 0.3:
        c.execute("pragma mmap_size=268435456")
    return c


def one(c, sql):
    return c.execute(sql).fetchone()[0]


def look(c):
    global checked
    balance, accounts = c.execute("select sum(bal), count(*) from acct").fetchone()
    if accounts:
        assert (balance, accounts) == (1000000, 1000), (balance, accounts)
    said = one(c, "select v from ctl where k='rows'") if accounts else 0
    counted = one(c, "select count(*) from cdr not indexed")
    indexed = one(c, "select count(*) from cdr indexed by cdr_ts where ts>0")
    assert said == counted == indexed, (said, counted, indexed)
    if R.random() < 0.05:
        checked += 1
        health = one(c, "pragma integrity_check")
        assert health == "ok", health
    if R.random() < 0.05:
        time.sleep(R.random() * 0.5)
    assert one(c, "select count(*) from cdr") == counted, "the snapshot moved"


while time.time() < until:
    if c is None or R.random() < 0.05:
        if c:
            c.close()
        c = connect()
    c.execute("begin")
    try:
        look(c)
        snapshots += 1
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        waited += 1
    c.execute("rollback")
c.close()
print("reader", seed, "snapshots", snapshots, "integrity", checked, "before the tables", waited)
