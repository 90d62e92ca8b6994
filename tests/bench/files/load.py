#!/usr/bin/env python3
"""The programs that the benchmark runs: each prints one JSON object when it ends. They see both trees, the source's and
the target's, by their paths outside the namespaces. Times come from CLOCK_MONOTONIC.

  load.py change SOURCE TARGET COUNT --pause MS     small files, new and rewritten: from close() until the target has them
  load.py append SOURCE TARGET FILES RATE SECONDS   growing files: how old the last visible byte is
  load.py storm FOLDER CHAINS PER_FOLDER            mkdir -p and files at once, by two processes
"""
import argparse, array, ctypes, json, os, random, select, struct, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "databases"))
from work import summary

mono = time.monotonic_ns
CHANGE_BYTES = 4096
REWRITTEN = 8           # files that are rewritten in turn
GIVE_UP_S = 10          # a change that is later than that is lost
SECOND_S = 1.1          # rsync takes files for the same whose times differ by less
TICK_NS = 20_000_000    # between two writes to a growing file, and between two looks at all
SLOTS = 10              # a tick's writes are spread over so many moments
STORM_PROCESSES = 2
STORM_DEPTH = "bc"      # a storm's chain is aN/b/c

# inotify(7)
IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_TO, IN_CREATE = 0x2, 0x4, 0x8, 0x80, 0x100
LIBC = ctypes.CDLL(None, use_errno=True)


class Wake:
    """Wakes when something in a folder changed; whoever asks looks for himself."""
    def __init__(self, folder):
        self.fd = LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        mask = IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE
        if LIBC.inotify_add_watch(self.fd, os.fsencode(folder), mask) < 0:
            raise OSError(ctypes.get_errno(), f"cannot watch {folder}")

    def wait(self, seconds):
        if select.select([self.fd], [], [], seconds)[0]:
            try: os.read(self.fd, 65536)
            except BlockingIOError: pass


def content_of(path):
    try:
        with open(path, "rb", buffering=0) as f: return f.read(2 * CHANGE_BYTES)
    except FileNotFoundError: return None


def put(path, content):
    """Writes a file; the time when close() returned."""
    fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
    os.write(fd, content)
    os.close(fd)
    return mono()


def seen(wake, path, content, seconds=GIVE_UP_S):
    """When the target first had this content."""
    end = mono() + int(seconds * 1e9)
    while mono() < end:
        if content_of(path) == content: return mono()
        wake.wait(0.05)
    return None


def await_folder(path):
    end = mono() + GIVE_UP_S * 1_000_000_000
    while not os.path.isdir(path):
        if mono() > end: raise SystemExit(f"{path} did not come within {GIVE_UP_S} s")
        time.sleep(0.005)


def change(a):
    rng, name = random.Random(os.getpid()), f"change{os.getpid()}"
    source, target = f"{a.source}/{name}", f"{a.target}/{name}"
    os.mkdir(source)
    await_folder(target)
    wake, lags, lost = Wake(target), {"new": [], "rewritten": []}, 0
    first = rng.randbytes(CHANGE_BYTES)
    for n in range(REWRITTEN): put(f"{source}/old{n}", first)
    if any(seen(wake, f"{target}/old{n}", first) is None for n in range(REWRITTEN)):
        raise SystemExit(f"the first files did not come within {GIVE_UP_S} s")
    time.sleep(SECOND_S)
    for n in range(a.count):
        kind, file = ("new", f"new{n}") if n % 2 else ("rewritten", f"old{n // 2 % REWRITTEN}")
        time.sleep(rng.uniform(0.5, 1.5) * a.pause / 1000)
        content = rng.randbytes(CHANGE_BYTES)
        closed = put(f"{source}/{file}", content)
        at = seen(wake, f"{target}/{file}", content)
        if at is None: lost += 1
        else: lags[kind].append(max(0, at - closed))
    return {"lag_ms": summary(lags["new"] + lags["rewritten"]), "new_ms": summary(lags["new"]),
            "rewritten_ms": summary(lags["rewritten"]), "n": a.count, "lost": lost}


def word(file, k):
    """Content of a growing file: every 8 bytes tell which write they belong to."""
    return struct.pack("<II", k + 1, file + 1)


def grow(source, files, chunk, ticks, log):
    """Writes to all files at the pace of a tick, and logs when each write was done."""
    fds = [os.open(f"{source}/g{i}", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644) for i in range(files)]
    times, begin = array.array("q"), mono()
    per_slot = -(-files // SLOTS)
    for k in range(ticks):
        for slot in range(0, files, per_slot):
            late = begin + k * TICK_NS + slot // per_slot * TICK_NS // SLOTS - mono()
            if late > 0: time.sleep(late / 1e9)
            for i in range(slot, min(slot + per_slot, files)):
                os.write(fds[i], word(i, k) * (chunk // 8))
                times.append(mono())
    for fd in fds: os.close(fd)
    times.append(mono())
    with open(log + ".new", "wb") as f: times.tofile(f)
    os.rename(log + ".new", log)


def sizes(target, files):
    for i in range(files):
        try: yield os.stat(f"{target}/g{i}").st_size
        except FileNotFoundError: yield 0


def torn(target, file, size, chunk):
    """Whether the last 8 bytes that show are others than were written there."""
    at = size // 8 * 8 - 8
    if at < 0: return False
    try: fd = os.open(f"{target}/g{file}", os.O_RDONLY)
    except FileNotFoundError: return False
    shown = os.pread(fd, 8, at)
    os.close(fd)
    return shown != word(file, at // chunk)


def append(a):
    name = f"append{os.getpid()}"
    source, target, log = f"{a.source}/{name}", f"{a.target}/{name}", f"/tmp/{name}.log"
    chunk, ticks = int(a.rate * TICK_NS / 1e9) // 8 * 8, int(a.seconds * 1e9) // TICK_NS
    os.mkdir(source)
    await_folder(target)
    writer = os.fork()
    if writer == 0:
        grow(source, a.files, chunk, ticks, log)
        os._exit(0)
    looks, n_torn, final, give_up, caught = [], 0, chunk * ticks, None, None
    while True:
        begin = mono()
        shown = list(sizes(target, a.files))
        looks.append((begin, shown))
        look = len(looks) % a.files
        n_torn += torn(target, look, shown[look], chunk)
        if give_up is None and os.path.exists(log): give_up = mono() + GIVE_UP_S * 1_000_000_000
        if give_up is not None and all(size == final for size in shown): caught = begin; break
        if give_up is not None and mono() > give_up: break
        time.sleep(max(0, (begin + TICK_NS - mono()) / 1e9))
    os.waitpid(writer, 0)
    times = array.array("q")
    with open(log, "rb") as f: times.frombytes(f.read())
    os.unlink(log)
    closed = times.pop()
    ages, worst = [], []
    for i in range(a.files):
        written, own = times[i::a.files], []
        for at, shown in looks:
            if at < written[0] or at > closed: continue
            # The write that the last visible byte belongs to; of a file that does not show, the first.
            own.append(max(0, at - written[max(0, min(len(written), -(-shown[i] // chunk)) - 1)]))
        ages += own
        worst.append(max(own, default=0))
    same = all(content_all(f"{source}/g{i}") == content_all(f"{target}/g{i}") for i in range(a.files))
    return {"age_ms": summary(ages), "worst_file_ms": summary(worst), "looks": len(looks), "torn": n_torn, "same": same,
            "caught_up_s": None if caught is None else round((caught - closed) / 1e9, 3)}


def content_all(path):
    try:
        with open(path, "rb") as f: return f.read()
    except FileNotFoundError: return None


def storm(a):
    def write(share):
        for n in share:
            folder = f"{a.folder}/a{n}"
            os.makedirs("/".join([folder, *STORM_DEPTH]))
            for inner in ("", "/b", "/b/c"):
                for i in range(a.per_folder): put(f"{folder}{inner}/f{i}", f"{folder}{inner}/f{i}\n".encode() * 4)
    os.mkdir(a.folder)
    begin, children = mono(), []
    for process in range(STORM_PROCESSES):
        child = os.fork()
        if child == 0:
            write(range(process, a.chains, STORM_PROCESSES))
            os._exit(0)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children): raise SystemExit("a writer of the storm failed")
    return {"write_s": round((mono() - begin) / 1e9, 3), "files": 3 * a.per_folder * a.chains, "folders": 3 * a.chains}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest="what", required=True)
    p = sub.add_parser("change")
    p.add_argument("source"); p.add_argument("target"); p.add_argument("count", type=int)
    p.add_argument("--pause", type=float, default=50)
    p = sub.add_parser("append")
    p.add_argument("source"); p.add_argument("target"); p.add_argument("files", type=int)
    p.add_argument("rate", type=int); p.add_argument("seconds", type=float)
    p = sub.add_parser("storm")
    p.add_argument("folder"); p.add_argument("chains", type=int); p.add_argument("per_folder", type=int)
    a = ap.parse_args()
    print(json.dumps({"change": change, "append": append, "storm": storm}[a.what](a)))


if __name__ == "__main__":
    main()
