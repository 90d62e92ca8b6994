"""Two daemons in two network namespaces joined by one cable, each with a folder of its own under one name: the mount
namespaces make `/run/sfdb-data` a different folder on each node, as it is on two machines.
"""
import contextlib, json, os, shutil, signal, subprocess, sys, time

PREFIX = os.environ.get("BENCH_PREFIX", "sfdb")
VIP = "10.79.0.50"
DATA = f"/run/{PREFIX}-data"       # where both nodes have their databases
NAMES = ("na", "nb")
IP = {"na": "10.79.0.1", "nb": "10.79.0.2"}
UP_S_MAX = 60
STOP_S_MAX = 20


def say(text):
    print(text, file=sys.stderr, flush=True)


def sh(*command, check=True):
    r = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if check and r.returncode: raise RuntimeError(f"{' '.join(command)}: {r.stderr.strip()}")
    return r.stdout


def proc_cpu_s(pid):
    """CPU seconds of a process so far (proc(5): fields 14 and 15, counted after the name in parentheses)."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def proc_kib(pid, key):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith(key + ":"): return int(line.split()[1])
    return 0


def forget_peak(pid):
    """VmHWM begins anew (proc(5), clear_refs)."""
    with open(f"/proc/{pid}/clear_refs", "w") as f: f.write("5")


def unlink(path):
    """A database and what belongs to it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError): os.unlink(path + suffix)


NODE_CONFIG = """[cluster]
name = "bench"
id = "6f1c0e1f9a4b4d0e8c1d2b3a49586777"
secret_file = "secret"

[node]
name = "{name}"
state_dir = "{home}/state"
run_dir = "{home}/run"
identity_file = "identity"

[peer]
name = "{peer}"

[timing]
profile = "default"

[[link]]
name = "lan"
local = "{ip}:7411"
peer = "{peer_ip}:7411"

[[vip]]
address = "{vip}/24"
interface = "eth0"
"""

CONFIG = NODE_CONFIG + """
[[database]]
path = "{data}/*.db"
"""


class Node:
    def __init__(self, name, home, staffetta):
        self.name, self.home, self.staffetta = name, f"{home}/{name}", staffetta
        self.netns, self.daemon, self.holder = PREFIX + name, None, None
        self.data = f"{self.home}/data"      # the folder behind DATA
        os.makedirs(self.data)
        with open(f"{self.home}/secret", "w") as f: f.write("00112233445566778899aabbccddeeff" * 2 + "\n")
        os.chmod(f"{self.home}/secret", 0o600)
        peer = NAMES[1 - NAMES.index(name)]
        with open(f"{self.home}/staffetta.toml", "w") as f:
            f.write(CONFIG.format(name=name, peer=peer, home=self.home, ip=IP[name], peer_ip=IP[peer], vip=VIP, data=DATA))
        hold = f"mount --bind {self.data} {DATA} && echo held && exec sleep infinity"
        self.holder = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", hold],
                                       stdout=subprocess.PIPE, text=True, start_new_session=True)
        if self.holder.stdout.readline() != "held\n": raise RuntimeError(f"cannot mount a folder on {DATA} for {name}")

    def inside(self, *command, cores=None):
        """The command as a process of this node; it keeps its process number."""
        pin = ["taskset", "-c", cores] if cores else []
        return ["nsenter", f"--net=/run/netns/{self.netns}", f"--mount=/proc/{self.holder.pid}/ns/mnt", *pin, *command]

    def start(self, cores=None):
        log = open(f"{self.home}/log", "ab")
        command = self.inside(self.staffetta, "run", "--config", f"{self.home}/staffetta.toml", cores=cores)
        self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def stop(self):
        if not self.daemon: return
        if self.daemon.poll() is None: self.daemon.send_signal(signal.SIGTERM)
        try: self.daemon.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.daemon.kill(); self.daemon.wait()
        self.daemon = None

    def pin(self, cores):
        """All threads of the daemon."""
        sh("taskset", "-a", "-c", "-p", cores, str(self.daemon.pid))

    def ask(self, *words):
        """A command of the daemon: exit code, and what it printed."""
        command = self.inside(self.staffetta, *words, "--config", f"{self.home}/staffetta.toml")
        try: r = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except subprocess.TimeoutExpired: return None, ""
        if "unexpected argument" in r.stderr or "unrecognized subcommand" in r.stderr:
            raise RuntimeError(f"this daemon has no `staffetta {' '.join(words)}`")
        return r.returncode, r.stdout + r.stderr

    def tail(self):
        with contextlib.suppress(OSError):
            return "".join(open(f"{self.home}/log", errors="replace").readlines()[-15:])
        return ""

    def end(self):
        self.stop()
        if self.holder: self.holder.kill(); self.holder.wait()


class Pair:
    """What the parts of the benchmark know of the world."""
    is_real = True

    def __init__(self, home, staffetta):
        self.home, self.nodes = home, {}
        shutil.rmtree(home, ignore_errors=True)
        os.makedirs(DATA, exist_ok=True)
        self.network_down()
        for name in NAMES: sh("ip", "netns", "add", PREFIX + name)
        a, b = (PREFIX + name for name in NAMES)
        sh("ip", "link", "add", "eth0", "netns", a, "type", "veth", "peer", "name", "eth0", "netns", b)
        for name in NAMES:
            sh("ip", "-n", PREFIX + name, "link", "set", "lo", "up")
            sh("ip", "-n", PREFIX + name, "link", "set", "eth0", "up")
            sh("ip", "-n", PREFIX + name, "addr", "add", f"{IP[name]}/24", "dev", "eth0")
            self.nodes[name] = Node(name, home, staffetta)

    def network_down(self):
        for name in NAMES:
            if os.path.exists(f"/run/netns/{PREFIX}{name}"): sh("ip", "netns", "del", PREFIX + name, check=False)

    def start(self):
        for node in self.nodes.values(): node.start()
        end = time.time() + UP_S_MAX
        while len(self.holders()) != 1:
            dead = [n for n in self.nodes.values() if n.daemon.poll() is not None]
            if dead or time.time() > end:
                raise RuntimeError("the pair does not serve: " + "\n".join(f"[{n.name}] {n.tail()}" for n in self.nodes.values()))
            time.sleep(0.1)
        self.primary = self.nodes[self.holders()[0]]
        self.standby = self.nodes[NAMES[1 - NAMES.index(self.primary.name)]]

    def holders(self):
        return [n for n in NAMES if VIP in sh("ip", "-n", PREFIX + n, "-4", "-o", "addr", "show", "to", VIP, check=False)]

    def check(self):
        """The measurement is of this pair as it began: nobody died, nobody took over."""
        if self.holders() != [self.primary.name]: raise RuntimeError(f"the service moved: {self.holders()}")
        for node in self.nodes.values():
            if node.daemon.poll() is not None: raise RuntimeError(f"the daemon of {node.name} ended:\n{node.tail()}")

    def pids(self):
        return [n.daemon.pid for n in self.nodes.values() if n.daemon]

    def wait_aligned(self, seconds=60):
        """Until `staffetta status --aligned` says so on the primary; seconds that it took."""
        begin, said = time.time(), None
        while time.time() < begin + seconds:
            code, said = self.primary.ask("status", "--aligned")
            if code == 0: return time.time() - begin
            time.sleep(0.02)
        _, status = self.primary.ask("db", "status", "--json")
        raise RuntimeError(f"not aligned after {seconds} s: {said.strip()} {status.strip()[:600]}")

    def on_primary(self, *command, cores=None): return self.primary.inside(*command, cores=cores)
    def on_standby(self, *command, cores=None): return self.standby.inside(*command, cores=cores)

    def replicated(self, name): return f"{DATA}/{name}.db"

    def alone(self, name):
        """A database on the same disk that nobody replicates."""
        folder = f"{self.home}/alone"
        os.makedirs(folder, exist_ok=True)
        return f"{folder}/{name}.db"

    def remove(self, *names):
        """On both nodes, the primary first: the daemons see databases vanish."""
        for folder in (self.primary.data, self.standby.data, f"{self.home}/alone"):
            for name in names: unlink(f"{folder}/{name}.db")
            if folder == self.primary.data: time.sleep(0.5)

    def barrier(self): return f"{self.primary.home}/run/barrier.sock"
    def pin(self, cores):
        for node in self.nodes.values(): node.pin(cores[node is self.standby])
    def stop_standby(self): self.standby.stop()
    def start_standby(self): self.standby.start()

    def end(self):
        for node in self.nodes.values(): node.end()
        self.network_down()
        with contextlib.suppress(OSError): os.rmdir(DATA)


class OneFolder:
    """No daemons: the standby's database is the primary's. For the self-test of what surrounds them."""
    is_real = False

    def __init__(self, home):
        self.home = home
        shutil.rmtree(home, ignore_errors=True)
        os.makedirs(home)
        self.idle = subprocess.Popen(["sleep", "infinity"])

    def start(self): pass
    def check(self): pass
    def pids(self): return [self.idle.pid]
    def wait_aligned(self, seconds=60): return 0.0
    def on_primary(self, *command, cores=None): return (["taskset", "-c", cores] if cores else []) + list(command)
    on_standby = on_primary
    def replicated(self, name): return f"{self.home}/{name}.db"
    def alone(self, name): return f"{self.home}/alone-{name}.db"
    def remove(self, *names):
        for name in names:
            for stem in (name, "alone-" + name): unlink(f"{self.home}/{stem}.db")
    def barrier(self): return f"{self.home}/barrier.sock"
    def pin(self, cores): pass
    def stop_standby(self): pass
    def start_standby(self): pass
    def end(self): self.idle.kill(); self.idle.wait()
