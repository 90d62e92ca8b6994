#!/usr/bin/env python3
"""Writes whatever an application may: writer.py DATABASE SECONDS SEED [option...]

Options: switch   tries to leave WAL mode now and then, as some applications do at each start
         delete   keeps the database in rollback-journal mode
         big=N    rows of the largest transaction (default 20000)
Another process and another version of SQLite than the follower's. Ends with 1 on any error but a lock.
"""
import random
import sqlite3
import sys
import time

db, seconds, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
options = sys.argv[4:]
switch = "switch" in options
journal = "delete" if "delete" in options else "wal"
big = next((int(o[4:]) for o in options if o.startswith("big=")), 20000)
R = random.Random(seed)
done, locked = {}, 0


def connect():
    return sqlite3.connect(db, timeout=30, isolation_level=None)


def prepare(c):
    c.execute(f"pragma journal_mode={journal}")
    c.execute("begin immediate")
    for table in (
        "acct(id integer primary key, bal integer not null)",
        "cdr(id integer primary key, ts integer, a text, b blob)",
        "ctl(k text primary key, v integer)",
    ):
        c.execute(f"create table if not exists {table}")
    c.execute("create index if not exists cdr_ts on cdr(ts)")
    if c.execute("select count(*) from acct").fetchone()[0] == 0:
        c.executemany("insert into acct values(?,1000)", [(i,) for i in range(1000)])
        c.execute("insert into ctl values('rows',0)")
    c.execute("commit")


def calls(fill, count):
    return ((time.time_ns(), fill * R.randint(1, 200), R.randbytes(R.randint(0, 600)))
            for _ in range(count))


def insert(c, fill, count):
    c.executemany("insert into cdr(ts,a,b) values(?,?,?)", calls(fill, count))
    c.execute("update ctl set v=v+? where k='rows'", (count,))


def small(c):
    c.execute("begin immediate")
    for _ in range(R.randint(1, 8)):
        a, b, m = R.randrange(1000), R.randrange(1000), R.randrange(50)
        c.execute("update acct set bal=bal-? where id=?", (m, a))
        c.execute("update acct set bal=bal+? where id=?", (m, b))
    insert(c, "x", R.randint(1, 20))
    c.execute("commit" if R.random() < 0.9 else "rollback")


def remove(c):
    c.execute("begin immediate")
    some = "select id from cdr order by random() limit ?"
    n = c.execute(f"delete from cdr where id in ({some})", (R.randint(1, 60),)).rowcount
    c.execute("update ctl set v=v-? where k='rows'", (n,))
    c.execute("commit")


def spill(c):
    """A large transaction in a small cache: uncommitted frames reach the WAL, often to be undone."""
    c.execute("pragma cache_size=20")
    c.execute("begin immediate")
    insert(c, "y", R.randint(big // 10, big))
    c.execute("update acct set bal=bal+1")
    c.execute("update acct set bal=bal-1")
    c.execute("commit" if R.random() < 0.6 else "rollback")
    c.execute("pragma cache_size=-2000")


def shrink(c):
    c.execute("begin immediate")
    n = c.execute("delete from cdr where id%3!=0").rowcount
    c.execute("update ctl set v=v-? where k='rows'", (n,))
    c.execute("commit")
    c.execute(R.choice(["vacuum", "pragma incremental_vacuum"])).fetchall()


def checkpoint(c):
    mode = R.choice(["passive", "full", "restart", "truncate"])
    c.execute(f"pragma wal_checkpoint({mode})").fetchone()


def schema(c):
    t = "t%d" % R.randrange(5)
    if R.random() < 0.4:
        c.execute(f"drop table if exists {t}")
        return
    c.execute("begin immediate")
    c.execute(f"create table if not exists {t}(a,b)")
    c.executemany(f"insert into {t} values(?,?)", [(i, "z" * 300) for i in range(R.randint(1, 500))])
    if R.random() < 0.5:
        c.execute(f"create index if not exists {t}_i on {t}(a)")
    c.execute("commit")


def savepoint(c):
    c.execute("begin immediate")
    c.execute("savepoint s")
    c.execute("update acct set bal=bal+7")
    c.execute("rollback to s")
    c.execute("commit")


def leave_wal(c):
    if switch:
        c.execute("pragma journal_mode=%s" % R.choice(["delete", "truncate", "persist"]))
        c.execute(f"pragma journal_mode={journal}")


deeds = [(small, 70), (remove, 15), (spill, 2), (shrink, 2), (checkpoint, 3), (schema, 4),
         (savepoint, 1), (leave_wal, 1), (lambda c: time.sleep(R.random() * 0.02), 1)]
c = connect()
while True:
    try:
        prepare(c)
        break
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
until = time.time() + seconds
while time.time() < until:
    deed = R.choices([d for d, _ in deeds], [w for _, w in deeds])[0]
    try:
        deed(c)
        done[deed.__name__] = done.get(deed.__name__, 0) + 1
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        locked += 1
        if c.in_transaction:
            c.execute("rollback")
    if R.random() < 0.015:
        c.close()
        c = connect()
if c.execute("select count(*), (select v from ctl where k='rows') from cdr").fetchone().__len__() != 2:
    sys.exit(1)
c.close()
print("writer", seed, done, "locked", locked)
