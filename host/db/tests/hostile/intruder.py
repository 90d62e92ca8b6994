#!/usr/bin/env python3
"""Tries to write to a fenced copy all the time: intruder.py DATABASE SECONDS SEED

Waits 0 to 100 ms for the lock each time. Prints how many commits it got.
"""
import random
import sqlite3
import sys
import time

R = random.Random(int(sys.argv[3]))
until, commits, locked = time.time() + float(sys.argv[2]), 0, 0
while time.time() < until:
    c = sqlite3.connect(sys.argv[1], timeout=R.random() * 0.1, isolation_level=None)
    for _ in range(20):
        try:
            c.execute("select count(*) from first").fetchone()
            c.execute(R.choice(["insert into first values(99)", "begin immediate",
                                "create table if not exists mine(a)"]))
            commits += 1
            if c.in_transaction:
                c.execute("commit")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            locked += 1
        if R.random() < 0.1:
            c.execute("pragma wal_checkpoint(%s)" % R.choice(["passive", "truncate"])).fetchone()
    c.close()
print(f"commits {commits} locked {locked}")
