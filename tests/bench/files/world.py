"""Two daemons with one tree each, on the pair of machines that the benchmark of databases makes; and the rivals, between
the same two machines. Both trees are on the disk of this machine: the benchmark sees both by their outer paths.
"""
import contextlib, json, os, shutil, signal, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
os.environ.setdefault("BENCH_PREFIX", "sffs")
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "databases"))
import pair, trees
from pair import IP, NAMES, PREFIX, VIP, proc_cpu_s, proc_kib, say, sh

RSYNC_PORT = 8730
ALIGNED_BOUND_S = 1.0   # `aligned` says that the standby has all that is older (`alignment.bound_ms`)
ASK_EVERY_S = 0.05      # between two questions whether the nodes are aligned
READY_S_MAX, RESTART_S_MAX = 20, 600
# CPU of rsync and all that it forks; its daemon does not wait for all of them, so that wait(2) does not tell.
UNIFIED = "/sys/fs/cgroup/unified" if os.path.exists("/sys/fs/cgroup/unified/cgroup.procs") else "/sys/fs/cgroup"
CGROUP = f"{UNIFIED}/{PREFIX}rsync"

CONFIG = pair.NODE_CONFIG + """
[[tree]]
name = "recordings"
path = "{data}"
source = "{source}"
delete_share_max = {share}

[alignment]
bound_ms = 1000
"""


class Image:
    """A file system of its own in one file: no other program's data is flushed with ours, nor do its changes wake us, and
    nothing has to be removed file by file. Space is taken at once, and the page cache passed by: else a flush costs
    four times as much."""
    def __init__(self, path, at, gib, inodes):
        self.path, self.at = path, at
        os.makedirs(at, exist_ok=True)
        self.end()
        sh("fallocate", "-l", f"{gib}G", path)
        sh("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", "-N", str(inodes), path)
        sh("mount", "-o", "loop", path, at)
        sh("losetup", "--direct-io=on", sh("findmnt", "-no", "SOURCE", at).strip())

    def end(self):
        while os.path.ismount(self.at): sh("umount", "-l", self.at)
        with contextlib.suppress(FileNotFoundError): os.unlink(self.path)


def wire():
    """Bytes and packets that both ends have sent so far."""
    bytes_, packets = 0, 0
    for name in NAMES:
        sent = json.loads(sh("ip", "-n", PREFIX + name, "-j", "-s", "link", "show", "dev", "eth0"))[0]["stats64"]["tx"]
        bytes_ += sent["bytes"]
        packets += sent["packets"]
    return bytes_, packets


class Files(pair.Pair):
    """The daemons. `source` and `target` are the trees of who serves and of who stands by. Each node has a disk: an image of
    so many GiB, or, with none, the disk of `home` for both."""
    is_real, many = True, 0

    def __init__(self, home, staffetta, gib=0, inodes=0):
        self.is_up, self.images = False, []
        disks = [(f"{home}/{name}.img", f"{home}/{name}") for name in NAMES]
        if gib: self.images = [Image(*disk, gib, inodes) for disk in disks]
        else: shutil.rmtree(home, ignore_errors=True)
        super().__init__(home, staffetta)
        self.corpora = f"{home}/{NAMES[0]}/corpora"
        os.makedirs(self.corpora)

    def configure(self, source, share):
        for node in self.nodes.values():
            peer = NAMES[1 - NAMES.index(node.name)]
            with open(f"{node.home}/staffetta.toml", "w") as f:
                f.write(CONFIG.format(name=node.name, peer=peer, home=node.home, ip=IP[node.name], peer_ip=IP[peer], vip=VIP,
                                      data=pair.DATA, source=source, share=share))

    def fresh(self, source="auto", share=10):
        """Both daemons as on their first day, with empty trees."""
        self.clear()
        self.configure(source, share)
        self.start()
        self.is_up = True
        self.wait_aligned()

    def start(self):
        super().start()
        self.wait_roles()

    def wait_roles(self):
        """Until one node says that it serves and the other one that it stands by. Bears that they change places."""
        end = time.monotonic() + pair.UP_S_MAX
        while True:
            by = {self.role(node): node for node in self.nodes.values()}
            if {"primary", "standby"} <= set(by): break
            dead = [node for node in self.nodes.values() if node.daemon.poll() is not None]
            if dead: raise RuntimeError(f"the daemon of {dead[0].name} ended:\n{dead[0].tail()}")
            if time.monotonic() > end: raise RuntimeError(f"no primary and standby after {pair.UP_S_MAX} s: {sorted(by)}")
            time.sleep(ASK_EVERY_S)
        self.primary, self.standby = by["primary"], by["standby"]
        self.source, self.target = self.primary.data, self.standby.data

    def role(self, node):
        try: return json.loads(node.ask("status", "--json")[1])["role"]
        except (ValueError, KeyError, TypeError): return "unknown"

    def clear(self):
        """No daemons, empty trees."""
        self.rest()
        self.many = 0
        for node in self.nodes.values():
            trees.empty(node.data)
            for name in ("state", "run"): shutil.rmtree(f"{node.home}/{name}", ignore_errors=True)
            with contextlib.suppress(FileNotFoundError): os.unlink(f"{node.home}/identity")

    def rest(self):
        for node in (self.standby, self.primary) if self.is_up else (): node.stop()
        self.is_up = False

    def restart_primary(self):
        """Stops who serves and starts it again; the other one serves from then on. Until they say aligned, the CPU seconds
        of both; `cpu` tells how many it is later."""
        old, other = self.primary, self.standby
        before, begin = proc_cpu_s(other.daemon.pid), time.monotonic()
        old.stop()
        old.start()
        cpu = lambda: round(proc_cpu_s(other.daemon.pid) - before + proc_cpu_s(old.daemon.pid), 3)
        self.wait_roles()
        run = self.wait_same(lambda: True, RESTART_S_MAX, begin)
        return {"seconds": run["seconds"], "cpu_s": cpu(), "cpu": cpu}

    def cpu_s(self):
        return sum(proc_cpu_s(pid) for pid in self.pids())

    def rss_mb(self, key="VmRSS"):
        return {node.name: round(proc_kib(node.daemon.pid, key) / 1024, 1) for node in self.nodes.values()}

    def aligned(self):
        return self.primary.ask("status", "--aligned")[0] == 0

    def why(self):
        """What the daemons say of their trees, in short."""
        said = self.primary.ask("status", "--aligned")[1].strip()
        try: said += " | " + self.primary.ask("files", "status")[1].strip()
        except RuntimeError as why: said += f" | {why}"
        return said[:800]

    def wait_same(self, is_same, seconds, begin=None, every=ASK_EVERY_S):
        """Until the daemon says aligned and the target has everything. `wrong_s`: how long after the bound of that word the
        daemon still said so, and the target had not: what was done at the beginning must be there then."""
        begin, wrong = begin or time.monotonic(), 0.0
        while time.monotonic() < begin + seconds:
            is_aligned, at = self.aligned(), time.monotonic()
            if is_aligned:
                if is_same():
                    self.check()
                    return {"seconds": round(at - begin, 3), "wrong_s": round(wrong, 3)}
                wrong = max(wrong, at - begin - ALIGNED_BOUND_S)
            time.sleep(every)
        raise RuntimeError(f"not aligned and the same after {seconds} s: {self.why()}")

    def wait_bound(self, begin, seconds=RESTART_S_MAX):
        """Until the daemon says aligned, its bound after that moment: all that was done before then is there, by its word."""
        time.sleep(max(0, begin + ALIGNED_BOUND_S - time.monotonic()))
        return self.wait_same(lambda: True, seconds, begin)["seconds"]

    def end(self):
        self.is_up = False
        super().end()
        for name in NAMES:
            with contextlib.suppress(FileNotFoundError): shutil.copyfile(f"{self.home}/{name}/log", f"{self.home}/{name}.log")
        for image in self.images: image.end()


class OneTree:
    """No daemons: the target is the source. For the self-test of what surrounds them."""
    is_real, many = False, 0

    def __init__(self, home):
        self.home = home
        shutil.rmtree(home, ignore_errors=True)
        self.source = self.target = f"{home}/tree"
        self.corpora, self.is_up = f"{home}/corpora", True
        os.makedirs(self.corpora)

    def fresh(self, source="auto", share=10): trees.empty(self.source)
    def rest(self): pass
    def clear(self): trees.empty(self.source); self.many = 0
    def restart_primary(self): return {"seconds": 0.1, "cpu_s": 0.1, "cpu": lambda: 0.1}
    def cpu_s(self): return time.process_time()
    def rss_mb(self, key="VmRSS"): return {"self": round(proc_kib("self", key) / 1024, 1)}
    def aligned(self): return True
    def wait_same(self, is_same, seconds, begin=None, every=ASK_EVERY_S):
        if not is_same(): raise RuntimeError("not the same")
        return {"seconds": max(0.001, round(time.monotonic() - (begin or time.monotonic()), 3)), "wrong_s": 0.0}
    def wait_bound(self, begin, seconds=1): return 0.001
    def check(self): pass
    def end(self): shutil.rmtree(self.home, ignore_errors=True)


class Rival:
    """A tree at na, a module of an rsync daemon at nb, on the same disks as the daemons' trees."""
    def __init__(self, home):
        self.home = f"{home}/{self.name}"
        os.makedirs(self.home, exist_ok=True)
        self.source, self.target = (f"{home}/{node}/{self.name}" for node in NAMES)
        self.url, self.server = f"rsync://{IP['nb']}:{RSYNC_PORT}/tree/", None
        os.makedirs(self.source); os.makedirs(self.target)
        with open(f"{self.home}/rsyncd.conf", "w") as f:
            f.write(f"uid = 0\ngid = 0\nport = {RSYNC_PORT}\naddress = {IP['nb']}\nlog file = {self.home}/rsyncd.log\n"
                    f"lock file = {self.home}/rsyncd.lock\n[tree]\npath = {self.target}\nread only = no\n")

    def inside(self, name, *command):
        return ["nsenter", f"--net=/run/netns/{PREFIX}{name}", *command]

    def counted(self, name, *command):
        """The same, and its CPU counts."""
        os.makedirs(CGROUP, exist_ok=True)
        return ["sh", "-c", f'echo $$ > {CGROUP}/cgroup.procs && exec "$@"', "sh", *self.inside(name, *command)]

    def serve(self):
        command = self.counted("nb", "rsync", "--daemon", "--no-detach", f"--config={self.home}/rsyncd.conf")
        self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + READY_S_MAX
        while not sh("ss", "-N", PREFIX + "nb", "-Hltn", f"sport = :{RSYNC_PORT}"):
            if time.monotonic() > end: raise RuntimeError("the rsync daemon does not listen")
            time.sleep(0.05)

    def fresh(self):
        trees.empty(self.source); trees.empty(self.target)
        if not self.server: self.serve()

    def end(self):
        if self.server: self.server.terminate(); self.server.wait(); self.server = None
        with contextlib.suppress(OSError): os.rmdir(CGROUP)


class Rsync(Rival):
    name = "rsync"

    def serving(self):
        """Whether somebody but the daemon itself is still at work."""
        with open(f"{CGROUP}/cgroup.procs") as f: return len(f.read().split()) > 1

    def cpu_s(self):
        with open(f"{CGROUP}/cpu.stat") as f: return int(f.read().split()[1]) / 1e6

    def copy(self, *options, seconds=1800):
        """One pass over the tree: how long, CPU of both ends, what went over the wire."""
        command = self.counted("na", "rsync", "-a", "--delete", *options, self.source + "/", self.url)
        (sent, _), cpu, begin = wire(), self.cpu_s(), time.monotonic()
        r = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        took = time.monotonic() - begin
        if r.returncode: raise RuntimeError(f"rsync ended with {r.returncode}: {r.stderr.strip()[:300]}")
        while self.serving(): time.sleep(0.01)
        return {"seconds": round(took, 3), "cpu_s": round(self.cpu_s() - cpu, 3), "mb": round((wire()[0] - sent) / 1e6, 2)}


class Lsyncd(Rival):
    name = "lsyncd"
    daemon = None

    def start(self, delay_s, while_open=False):
        """With empty trees; while_open: it also looks at files that are still being written."""
        self.stop()
        self.fresh()
        mode = "CloseWrite or Modify" if while_open else "CloseWrite"
        with open(f"{self.home}/lsyncd.lua", "w") as f:
            f.write('settings { nodaemon = true, insist = true, '
                    f'logfile = "{self.home}/lsyncd.log", inotifyMode = "{mode}" }}\n'
                    f'sync {{ default.rsync, source = "{self.source}", target = "{self.url}", delay = {delay_s}, delete = true,\n'
                    f'  rsync = {{ archive = true }} }}\n')
        log = open(f"{self.home}/lsyncd.out", "ab")
        command = self.inside("na", "lsyncd", f"{self.home}/lsyncd.lua")
        self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        os.mkdir(f"{self.source}/ready")
        self.wait(lambda: os.path.isdir(f"{self.target}/ready"), READY_S_MAX)

    def wait(self, is_done, seconds, every=0.005, begin=None):
        """Seconds until it is done."""
        begin = begin or time.monotonic()
        while not is_done():
            if time.monotonic() > begin + seconds: raise RuntimeError(f"lsyncd was not there after {seconds} s")
            if self.daemon.poll() is not None: raise RuntimeError(f"lsyncd ended with {self.daemon.returncode}")
            time.sleep(every)
        return round(time.monotonic() - begin, 3)

    def stop(self):
        if not self.daemon: return
        with contextlib.suppress(ProcessLookupError): os.killpg(self.daemon.pid, signal.SIGTERM)
        try: self.daemon.wait(5)
        except subprocess.TimeoutExpired: pass
        with contextlib.suppress(ProcessLookupError): os.killpg(self.daemon.pid, signal.SIGKILL)
        self.daemon.wait()
        self.daemon = None

    def end(self):
        self.stop()
        super().end()
