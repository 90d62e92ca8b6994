#!/usr/bin/env python3
"""One kind of transaction, flat out: flood.py DATABASE SECONDS ROWS [tx-per-second]

Prints transactions, seconds, MB of rows, and milliseconds of the slowest and the 99.9th commit.
"""
import os
import sqlite3
import sys
import time

db, seconds, rows = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
pace = float(sys.argv[4]) if len(sys.argv) > 4 else 0
c = sqlite3.connect(db, timeout=30, isolation_level=None)
c.execute("pragma journal_mode=wal")
c.execute("pragma synchronous=normal")
c.execute("create table if not exists cdr(id integer primary key, ts integer, a text, b blob)")
c.execute("create table if not exists lag(id integer primary key, ts integer)")
blob, took, began = os.urandom(400), [], time.time()
while time.time() - began < seconds:
    if pace:
        time.sleep(max(0, began + len(took) / pace - time.time()))
    t = time.perf_counter()
    c.execute("begin immediate")
    c.executemany("insert into cdr(ts,a,b) values(?,?,?)",
                  ((i, "100%d" % i, blob) for i in range(rows)))
    c.execute("insert or replace into lag values(1,?)", (time.time_ns(),))
    c.execute("commit")
    took.append(time.perf_counter() - t)
elapsed = time.time() - began
took.sort()
print("%d %.3f %.1f %.2f %.2f" % (len(took), elapsed, len(took) * rows * 430 / 1e6, took[-1] * 1e3,
                                  took[int(len(took) * 0.999)] * 1e3))
