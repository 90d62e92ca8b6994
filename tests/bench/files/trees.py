"""Trees of files: made, changed, counted, compared. All content is random, so that nothing compresses and no two files
are the same."""
import hashlib, os, random, shutil, subprocess

OWN = b".staffetta"         # what a daemon keeps in the root of a tree
PAGE_BYTES = 4096
POOL_BYTES = 8 << 20        # content is cut out of so much randomness
NAMED_MAX = 5               # paths that a comparison names


def make(folder, count, per_folder, bytes_min, bytes_max, seed):
    """So many files in folders of so many each. Returns the bytes."""
    rng, total = random.Random(seed), 0
    pool = os.urandom(POOL_BYTES)
    for first in range(0, count, per_folder):
        inner = f"{folder}/d{first // per_folder:05}"
        os.makedirs(inner)
        for i in range(first, min(first + per_folder, count)):
            size = rng.randint(bytes_min, bytes_max)
            at = rng.randrange(POOL_BYTES - size)
            fd = os.open(f"{inner}/f{i:07}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            os.write(fd, pool[at:at + size])
            os.close(fd)
            total += size
    return total


def make_big(path, mib):
    with open(path, "wb") as f:
        for _ in range(mib): f.write(os.urandom(1 << 20))


def rewrite(path, share, seed):
    """New content for that share of the pages, in no order, in place. Returns their numbers."""
    rng = random.Random(seed)
    fd = os.open(path, os.O_WRONLY)
    pages = os.fstat(fd).st_size // PAGE_BYTES
    chosen = rng.sample(range(pages), int(pages * share))
    for page in chosen: os.pwrite(fd, rng.randbytes(PAGE_BYTES), page * PAGE_BYTES)
    os.close(fd)
    return chosen


def same_pages(a, b, pages):
    """Whether two files have the same size and the same content on these pages."""
    try: one, other = os.open(a, os.O_RDONLY), os.open(b, os.O_RDONLY)
    except FileNotFoundError: return False
    try:
        if os.fstat(one).st_size != os.fstat(other).st_size: return False
        at = lambda fd, page: os.pread(fd, PAGE_BYTES, page * PAGE_BYTES)
        return all(at(one, page) == at(other, page) for page in pages)
    finally:
        os.close(one); os.close(other)


def walk(root):
    """(path below the root, entry) of everything but what a daemon keeps for itself. Bears a tree that changes."""
    root = os.fsencode(root)
    left = [b""]
    while left:
        folder = left.pop()
        try: entries = list(os.scandir(os.path.join(root, folder)))
        except (FileNotFoundError, NotADirectoryError): continue
        for entry in entries:
            if not folder and entry.name.startswith(OWN): continue
            path = os.path.join(folder, entry.name)
            if entry.is_dir(follow_symlinks=False): left.append(path)
            yield path, entry


def count(root):
    """Files, at any depth."""
    return sum(1 for _, entry in walk(root) if not entry.is_dir(follow_symlinks=False))


def listing(root):
    """What the two sides must agree upon."""
    found = {}
    for path, entry in walk(root):
        try:
            stat = entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False): found[path] = ("folder", stat.st_mode, stat.st_uid, stat.st_gid)
            else:
                with open(entry.path, "rb") as f: digest = hashlib.blake2b(f.read(), digest_size=16).digest()
                found[path] = (stat.st_size, stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime_ns, digest)
        except FileNotFoundError: pass
    return found


def differences(source, target):
    """How many entries are missing on the target, other, or too many, and some of them by name."""
    here, there = listing(source), listing(target)
    missing = sorted(path for path in here if path not in there)
    other = sorted(path for path in here if path in there and here[path] != there[path])
    extra = sorted(path for path in there if path not in here)
    named = [os.fsdecode(path) for path in (missing + other + extra)[:NAMED_MAX]]
    return {"missing": len(missing), "other": len(other), "extra": len(extra), "named": named}


def differs(found):
    return found["missing"] + found["other"] + found["extra"]


def empty(folder):
    """Removes what is in it, and leaves the folder, which may be mounted elsewhere."""
    os.makedirs(folder, exist_ok=True)
    inside = [entry.path for entry in os.scandir(folder)]
    if inside: subprocess.run(["rm", "-rf", "--", *inside], check=True)


def free_bytes(folder):
    return shutil.disk_usage(folder).free
