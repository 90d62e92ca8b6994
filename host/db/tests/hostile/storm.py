#!/usr/bin/env python3
"""Checkpoints of every kind every few milliseconds: storm.py DATABASE SECONDS"""
import random
import sqlite3
import sys
import time

c = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
until, took = time.time() + float(sys.argv[2]), []
while time.time() < until:
    began = time.perf_counter()
    mode = random.choice(["passive", "full", "restart", "truncate"])
    c.execute(f"pragma wal_checkpoint({mode})").fetchone()
    took.append(time.perf_counter() - began)
    time.sleep(random.random() * 0.01)
took.sort()
print("storm", len(took), "worst %.0f ms" % (took[-1] * 1e3))
