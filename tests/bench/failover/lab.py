#!/usr/bin/env python3
"""Two nodes (na, nb), a client (nc), an arbiter (ar) and a switch (sw) in network namespaces, and one measured fault at a time.

A profile says how to run one HA daemon on a node (see *.json beside this file):
  name, start (foreground command), optional: files{name:text}, stop (command, run on the node; default SIGTERM to
  the started process), switchover (command), up_timeout_s, settle_s, phase_s (random wait before the fault),
  observe_s, probe_us, status (command that prints JSON), level (the guarantee that
  both nodes must show before the fault), keep [folders below @dir@ that runs pass on to each other]
In files and commands @node@ @peer@ @ip@ @peer_ip@ @vip@ @iface@ @prio@ @dir@ @arbiter@ and @run@ (another one every run) are
replaced.
Everything a node runs lives in one cgroup v2, so kill -9 and freeze hit exactly that node's processes and no others.
"""
import collections, itertools, json, os, random, shutil, signal, subprocess, tempfile, threading, time
from arbiter import NEAR_MS, Arbiter

LAB = os.path.dirname(os.path.abspath(__file__))
PFX = os.environ.get("LAB_PREFIX", "sfb")
NA, NB, NC, AR, SW = (PFX + x for x in ("na", "nb", "nc", "ar", "sw"))
IP = {NA: "10.77.0.1", NB: "10.77.0.2", NC: "10.77.0.100", AR: "10.77.0.200"}
PORT = {NA: "pa", NB: "pb", NC: "pc", AR: "pr"}      # switch side of each veth; the node side is eth0
VIP, UDP = "10.77.0.50", 7777
RESULTS = LAB + "/results"
CG = ("/sys/fs/cgroup/unified" if os.path.exists("/sys/fs/cgroup/unified/cgroup.procs") else "/sys/fs/cgroup") + "/" + PFX + "lab"
PROBE = RESULTS + "/probe"
RT = "" if os.environ.get("LAB_NORT") else "chrt -f 10 "   # the instruments (not the daemons) run at real-time priority
mono = time.monotonic_ns
ARBITER = Arbiter(f"nsenter --net=/run/netns/{AR} {RT}".split(), IP[AR], RESULTS + "/arbiter")


def sh(cmd, check=True, quiet=True, timeout=30):
    r = subprocess.run(cmd, shell=isinstance(cmd, str), capture_output=True, text=True, timeout=timeout)
    if check and r.returncode:
        raise RuntimeError(f"{cmd}: rc={r.returncode} {r.stderr.strip()}")
    return r.stdout


def ns(node, cmd):
    return f"nsenter --net=/run/netns/{node} {cmd}"


# ---------------------------------------------------------------- topology
def up(arbiter=False):
    """Builds the world; arbiter: with an etcd that answers on the arbiter's machine."""
    os.makedirs(RESULTS, exist_ok=True)
    sh(["gcc", "-O2", "-Wall", "-o", PROBE, LAB + "/probe.c"])
    down()
    for n in (SW, NA, NB, NC, AR):
        sh(f"ip netns add {n} && ip -n {n} link set lo up")
    sh(f"ip -n {SW} link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0 && ip -n {SW} link set br0 up")
    for n, p in PORT.items():
        sh(f"ip link add eth0 netns {n} type veth peer name {p} netns {SW}")
        sh(f"ip -n {SW} link set {p} master br0 up; ip -n {n} link set eth0 up; ip -n {n} addr add {IP[n]}/24 brd + dev eth0")
        sh(ns(n, "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv6.conf.all.accept_dad=0"))
    net_heal()
    for n in (NA, NB):
        os.makedirs(f"{CG}/{n}", exist_ok=True)
    if arbiter: ARBITER.start()


def down():
    ARBITER.stop()
    for n in (NA, NB):
        if os.path.isdir(f"{CG}/{n}"):
            kill_all(n)
            try: os.rmdir(f"{CG}/{n}")
            except OSError: pass
    try: os.rmdir(CG)
    except OSError: pass
    for n in (NA, NB, NC, AR, SW):
        if os.path.exists(f"/run/netns/{n}"):
            sh(f"ip netns del {n}", check=False)


def nft(rules):
    txt = "table bridge lab\ndelete table bridge lab\ntable bridge lab {\n chain faults {\n  type filter hook forward priority 0; policy accept;\n"
    txt += "".join(f"  {r}\n" for r in rules) + " }\n}\n"
    r = subprocess.run(ns(SW, "nft -f -").split(), input=txt, text=True, capture_output=True)
    if r.returncode: raise RuntimeError(r.stderr)


def net_heal():
    nft([])
    for p in PORT.values():
        sh(f"ip -n {SW} link set {p} up")


def holders():
    return [n for n in (NA, NB) if VIP in sh(f"ip -n {n} -4 -o addr show to {VIP}")]


# ---------------------------------------------------------------- nodes
def pids(node):
    try: return [int(x) for x in open(f"{CG}/{node}/cgroup.procs").read().split()]
    except FileNotFoundError: return []


def kill_all(node):
    open(f"{CG}/{node}/cgroup.kill", "w").write("1")
    for _ in range(200):
        if not pids(node): return
        time.sleep(0.005)


def sig_all(node, s):
    for p in pids(node):
        try: os.kill(p, s)
        except ProcessLookupError: pass


class Node:
    def __init__(self, prof, name, run="0"):
        self.prof, self.name, self.id = prof, name, run
        self.peer = NB if name == NA else NA
        self.dir = f"{RESULTS}/run/{prof['name']}/{name}"
        self.proc = None

    def sub(self, s):
        m = dict(node=self.name, peer=self.peer, ip=IP[self.name], peer_ip=IP[self.peer], vip=VIP, iface="eth0",
                 prio="150" if self.name == NA else "100", dir=self.dir, arbiter=IP[AR], run=self.id)
        for k, v in m.items(): s = s.replace(f"@{k}@", v)
        return s

    def fresh(self):
        """A node that never ran, but for the folders of the profile's `keep`: caches that only make its start quicker."""
        kept = {f: tempfile.mkdtemp(dir=RESULTS) for f in self.prof.get("keep", []) if os.path.isdir(f"{self.dir}/{f}")}
        for f, at in kept.items(): os.rename(f"{self.dir}/{f}", at)
        shutil.rmtree(self.dir, ignore_errors=True)
        for f, at in kept.items():
            os.makedirs(os.path.dirname(f"{self.dir}/{f}"), exist_ok=True)
            os.rename(at, f"{self.dir}/{f}")

    def start(self):
        os.makedirs(self.dir, exist_ok=True)
        for f, t in self.prof.get("files", {}).items():
            t = "\n".join(t) if isinstance(t, list) else t
            with open(f"{self.dir}/{f}", "w") as fh: fh.write(self.sub(t))
            if t.startswith("#!"): os.chmod(f"{self.dir}/{f}", 0o755)
        log = open(f"{self.dir}/log", "ab")
        self.proc = subprocess.Popen(
            ["sh", "-c", f"echo $$ > {CG}/{self.name}/cgroup.procs; exec ip netns exec {self.name} bash -c '{self.sub(self.prof['start'])}'"],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)

    def run(self, cmd, timeout=60):
        c = self.sub(cmd)
        return sh(["nsenter", f"--net=/run/netns/{self.name}", "bash", "-c", c], check=False, timeout=timeout)

    def status(self):
        try: return json.loads(self.run(self.prof["status"], timeout=5))
        except (ValueError, subprocess.TimeoutExpired): return {}

    def term(self):
        if self.prof.get("stop"): self.run(self.prof["stop"])
        elif self.proc and self.proc.poll() is None: os.kill(self.proc.pid, signal.SIGTERM)

    def reap(self):
        if self.proc:
            try: self.proc.wait(0.2)
            except subprocess.TimeoutExpired: pass

    def clean_stop(self):
        sig_all(self.name, signal.SIGCONT)
        self.term()
        for _ in range(40):
            if self.proc: self.proc.poll()
            if not pids(self.name): break
            time.sleep(0.05)
        kill_all(self.name)
        self.reap()
        for _ in range(3):
            sh(f"ip -n {self.name} addr del {VIP}/24 dev eth0", check=False)
            sh(f"ip -n {self.name} addr del {VIP}/32 dev eth0", check=False)
        sh(f"ip -n {self.name} neigh flush all", check=False)
        sh(ns(self.name, "nft flush ruleset"), check=False)   # the gate of a killed daemon would hit the next one


# ---------------------------------------------------------------- faults: (apply, heal or None, least seconds watched)
def f_kill9(m, s, M, S): kill_all(m)
def f_cut(m, s, M, S): sh(f"ip -n {SW} link set {PORT[m]} down")
def f_ow_ms(m, s, M, S): nft([f'iifname "{PORT[m]}" oifname "{PORT[s]}" drop'])
def f_ow_sm(m, s, M, S): nft([f'iifname "{PORT[s]}" oifname "{PORT[m]}" drop'])
def f_split(m, s, M, S): nft([f'iifname "{PORT[m]}" oifname "{PORT[s]}" drop', f'iifname "{PORT[s]}" oifname "{PORT[m]}" drop'])
def f_filtered(m, s, M, S): nft(["ip protocol 112 drop", "udp dport 7411 drop"])   # VRRP, and Staffetta's beats
def f_loss20(m, s, M, S):
    nft([f'iifname {{"{PORT[m]}","{PORT[s]}"}} oifname {{"{PORT[m]}","{PORT[s]}"}} numgen random mod 100 < 20 drop'])
def h_net(m, s, M, S): nft([])
def f_term(m, s, M, S): M.term()
def f_switch(m, s, M, S): M.run(M.prof["switchover"])
def f_stop(m, s, M, S): sig_all(m, signal.SIGSTOP)
def h_cont(m, s, M, S): sig_all(m, signal.SIGCONT)
def f_control(m, s, M, S):
    """The daemon is frozen first, then the gate's rules and lifetime are removed: what would happen without a gate."""
    f_stop(m, s, M, S)
    for table in sh(ns(m, "nft list tables"), check=False).splitlines():
        sh(ns(m, "nft delete " + table), check=False)
    sh(f"ip -n {m} addr change {VIP}/24 dev eth0 valid_lft forever preferred_lft forever", check=False)
    f_split(m, s, M, S)
def h_control(m, s, M, S): nft([]); h_cont(m, s, M, S)
def f_slave_kill9(m, s, M, S): kill_all(s)
HOGS = []
def f_hog(m, s, M, S): HOGS[:] = [subprocess.Popen(["timeout", "70", "sh", "-c", "while :; do :; done"]) for _ in range(6)]
def h_hog(m, s, M, S):
    for p in HOGS: p.terminate(); p.wait()

def apart(a, b): return [f'iifname "{PORT[a]}" oifname "{PORT[b]}" drop', f'iifname "{PORT[b]}" oifname "{PORT[a]}" drop']
def one_way(a, b): return apart(a, b)[:1]
def partition(rules): return lambda m, s, M, S: nft(rules(m, s))
def h_all(m, s, M, S): net_heal()

# Partitions of a pair with an arbiter: (rules, who must serve in the end: old, new, one, nobody, what it is)
PARTITIONS = {
    "split": (lambda m, s: apart(m, s), "one", "the nodes apart, both reach the arbiter"),
    "split_old": (lambda m, s: apart(m, s) + apart(s, AR), "old", "the nodes apart, the primary reaches the arbiter"),
    "split_new": (lambda m, s: apart(m, s) + apart(m, AR), "new", "the nodes apart, the standby reaches the arbiter"),
    "split_nobody": (lambda m, s: apart(m, s) + apart(m, AR) + apart(s, AR), "nobody", "the nodes apart, nobody reaches it"),
    "cut": (None, "new", "switch port of the primary down, up again after the fault"),
    "oneway_ms": (one_way, "one", "frames primary->standby dropped, both reach the arbiter"),
    "oneway_ms_old": (lambda m, s: one_way(m, s) + apart(s, AR), "old", "the same, the primary reaches the arbiter"),
    "oneway_ms_new": (lambda m, s: one_way(m, s) + apart(m, AR), "new", "the same, the standby reaches the arbiter"),
    "oneway_sm": (lambda m, s: one_way(s, m), "one", "frames standby->primary dropped, both reach the arbiter"),
    "oneway_sm_old": (lambda m, s: one_way(s, m) + apart(s, AR), "old", "the same, the primary reaches the arbiter"),
    "oneway_sm_new": (lambda m, s: one_way(s, m) + apart(m, AR), "new", "the same, the standby reaches the arbiter"),
}

FAULTS = {
    "kill9": (f_kill9, None, 3, "SIGKILL of all HA daemon processes on the master"),
    "cut": (f_cut, None, 0, "bridge-side port of the master down (power loss, cable, carrier lost)"),
    "oneway_ms": (f_ow_ms, None, 5, "frames master->backup dropped"),
    "oneway_sm": (f_ow_sm, None, 5, "frames backup->master dropped"),
    "split": (f_split, h_net, 10, "all node-to-node frames dropped for 10 s, client reaches both; heal = no drop"),
    "filtered": (f_filtered, None, 5, "the heartbeats' protocol is filtered between the nodes, everything else passes"),
    "loss20": (f_loss20, h_net, 10, "20 % random loss each way between the nodes"),
    "term": (f_term, None, 0, "graceful stop of the master's daemon"),
    "switchover": (f_switch, None, 0, "planned switchover command"),
    "sigstop": (f_stop, h_cont, 10, "SIGSTOP of all HA processes on the master for 10 s (kernel and network go on), then SIGCONT"),
    "control": (f_control, h_control, 5, "negative control: SIGSTOP, then gate and lifetime removed, then split"),
    "slave_kill9": (f_slave_kill9, None, 3, "SIGKILL of the BACKUP's daemon; should be harmless"),
    "hog": (f_hog, h_hog, 10, "6 busy loops on the cores: false failovers?"),
    **{"arb_" + k: (partition(rules) if rules else f_cut, h_all, 4, text) for k, (rules, _, text) in PARTITIONS.items()},
}


# ---------------------------------------------------------------- one measured run
class Monitor(threading.Thread):
    def __init__(self, node):
        super().__init__(daemon=True)
        self.ev = []
        self.p = subprocess.Popen(ns(node, f"{RT}{PROBE} mon {VIP} {node}").split(), stdout=subprocess.PIPE, text=True)
        self.start()
    def run(self):
        for line in self.p.stdout:
            t, n, k = line.split(); self.ev.append((int(t), n, k))


def wait_one(prof):
    end = time.time() + prof.get("up_timeout_s", 30)
    since = None; cur = None
    while time.time() < end:
        h = holders()
        if len(h) == 1 and h[0] == cur:
            if time.time() - since >= prof.get("settle_s", 2): return cur
        elif len(h) == 1: cur, since = h[0], time.time()
        else: cur = None
        time.sleep(0.05)
    raise RuntimeError(f"no single holder, holders={holders()}")


def spans(ev, hold0, t0, t1):
    """ms with two / with no holder in [t0,t1], and the set held at t1"""
    h = set(hold0); last = t0; two = none = 0
    for t, n, k in sorted(e for e in ev if e[2] != "ready"):
        if t > t1: break
        if t > t0:
            d = t - last
            two += d if len(h) == 2 else 0; none += d if not h else 0; last = t
        h = h | {n} if k == "add" else h - {n}
    d = t1 - last
    two += d if len(h) == 2 else 0; none += d if not h else 0
    return round(two / 1e6, 1), round(none / 1e6, 1), sorted(h)


def changes(events):
    """Without the adds of who holds the address already: a renewed lifetime is announced like a new address."""
    held, out = set(), []
    for t, n, k in sorted(events):
        if k == "add" and n in held: continue
        held = held | {n} if k == "add" else held - {n} if k == "del" else held
        out.append((t, n, k))
    return out


def max_gap(rx, a, b, end):
    """largest silence that starts in [a,b): ms, and whether it was still open at the end"""
    best, opened, at = 0, False, None
    for i, t in enumerate(rx):
        if not a <= t < b: continue
        nxt = rx[i + 1] if i + 1 < len(rx) else None
        g = (nxt or end) - t
        if g > best: best, opened, at = g, nxt is None, t
    return round(best / 1e6, 1), opened, at


def wait_level(prof, nodes, delay_ms=0):
    """Until every node shows the profile's guarantee, and an arbiter that answers as late as it was told to."""
    end = time.time() + prof.get("up_timeout_s", 30) + delay_ms / 50
    while time.time() < end:
        seen = {n: shown(x.status()) for n, x in nodes.items()}
        if all(level == prof["level"] and us is not None and us >= 1000 * delay_ms for level, us in seen.values()): return seen
        time.sleep(0.2)
    raise RuntimeError(f"not on every node: level {prof['level']} with an arbiter that answers after {delay_ms} ms: {seen}")


def shown(status):
    """Guarantee and latency of the arbiter, in microseconds, as a node shows them."""
    return status.get("level", {}).get("name"), (status.get("arbiter") or {}).get("latency_us")


def serving(seen, a, b):
    """The nodes that answered the wire watcher in [a, b)."""
    bins = zip((NA, NB), seen["answered_udp_at_ms"])
    return [n for n, at in bins if any(a <= seen["t0_ns"] + x * 1_000_000 < b for x in at)]


def mac(node):
    return sh(f"ip -n {node} -o link show eth0").split("link/ether ")[1].split()[0]


RUNS = itertools.count()


def measure(prof, fault, rep, secs=None, delay_ms=0, pre_s=1):
    """One run; secs: how long the fault lasts, where its own minimum is not enough; delay_ms: how late the arbiter answers;
    pre_s: how long the client asks before the fault. Of a node that goes on serving, its own address, which no daemon moves,
    is asked as well (machine_gap_ms): a silence of both is the machine's."""
    apply_, heal_, min_obs, _ = FAULTS[fault]
    min_obs = secs or min_obs
    run_id = str(next(RUNS))
    nodes = {n: Node(prof, n, run_id) for n in (NA, NB)}
    aux, rec = [], {"profile": prof["name"], "fault": fault, "rep": rep}
    try:
        net_heal()
        sh(f"ip -n {NC} neigh flush all", check=False)
        mons = [Monitor(n) for n in (NA, NB)]; aux += [x.p for x in mons]
        for n in (NA, NB): aux.append(subprocess.Popen(ns(n, f"{RT}{PROBE} echo {UDP} {n}").split()))
        t_start = mono()
        for n in nodes.values(): n.fresh(); n.start()
        m = wait_one(prof); s = NB if m == NA else NA
        rec["up_s"] = round((mono() - t_start) / 1e9 - prof.get("settle_s", 2), 2)
        if "level" in prof: wait_level(prof, nodes)
        if delay_ms:
            ARBITER.delay(delay_ms)
            wait_level(prof, nodes, delay_ms)
        obs, hs = max(prof.get("observe_s", 6), min_obs), (prof.get("heal_s", 6) if heal_ else 0)
        out = f"{RESULTS}/probe.log"
        pr = subprocess.Popen(ns(NC, f"{RT}{PROBE} run {VIP} {UDP} {prof.get('probe_us', 2000)} {obs + hs + pre_s + 30} {out}").split()); aux.append(pr)
        wout = f"{RESULTS}/witness.log"
        if fault == "slave_kill9":
            witness = subprocess.Popen(ns(NC, f"{RT}{PROBE} run {IP[m]} {UDP} 2000 {obs + hs + pre_s + 30} {wout}").split()); aux.append(witness)
        wi = subprocess.Popen(ns(NC, f"{RT}{LAB}/wire.py {obs + hs + pre_s + 30} {VIP} {mac(NA)} {mac(NB)}").split(), stdout=subprocess.PIPE, text=True); aux.append(wi)
        time.sleep(pre_s)
        if "level" in prof:
            before = {n: shown(x.status()) for n, x in nodes.items()}
            rec["arbiter_us"] = [us for _, us in before.values()]
            if any(level != prof["level"] for level, _ in before.values()): rec["prefault"] = f"levels {before}"
        time.sleep(random.random() * prof.get("phase_s", 1))
        pre = holders()
        if pre != [m]: rec["prefault"] = pre          # the pair flapped by itself (machine noise) before the fault
        t0 = mono(); apply_(m, s, nodes[m], nodes[s]); t0b = mono()
        time.sleep(max(0, obs - (mono() - t0) / 1e9))
        th = the = mono()
        if heal_:
            heal_(m, s, nodes[m], nodes[s]); the = mono()
            time.sleep(hs)
        tend = mono()
        pr.terminate(); wi.terminate(); pr.wait()
        seen = json.loads(wi.communicate()[0])
        if seen["t0_ns"] > t0: rec["prefault"] = "the wire watcher was late"
        dual = lambda a, b: max(5 * sum(1 for x in seen[f"dual_{k}_at_ms"] if a <= seen["t0_ns"] + x * 1_000_000 < b) for k in ("arp", "udp"))
        rec["wire_dual_ms"], rec["heal_wire_dual_ms"] = dual(t0, th), dual(th, tend)
        rec["serving"] = ["old" if n == m else "new" for n in serving(seen, max(t0, th - 1_000_000_000), th)]
        time.sleep(0.05)
        ev = changes(e for x in mons for e in x.ev)
        rows = [l.split() for l in open(out)]
        good = sorted((int(r), n) for _, _, r, n in rows if r != "0")
        rx = [g[0] for g in good]
        W = 50_000_000
        rec.update(master=m, apply_ms=round((t0b - t0) / 1e6, 1), load=os.getloadavg()[0])
        rec["gap_pre_ms"] = max_gap(rx, 0, t0 - W, tend)[0]
        rec["gap_ms"], rec["gap_open"], _ = max_gap(rx, t0 - W, th, tend)
        if fault == "slave_kill9":
            witness.terminate(); witness.wait()
            own = sorted(int(r) for _, _, r, _ in map(str.split, open(wout)) if r != "0")
            rec["machine_gap_ms"] = max_gap(own, t0 - W, th, tend)[0]
        rec["lost"] = sum(1 for _, tx, r, _ in rows if r == "0" and t0 - W <= int(tx) < th)
        add = [t for t, n, k in ev if n == s and k == "add" and t > t0]
        rel = [t for t, n, k in ev if n == m and k == "del" and t > t0]
        rec["takeover_ms"] = round((min(add) - t0) / 1e6, 1) if add and min(add) < th else None
        rec["release_ms"] = round((min(rel) - t0) / 1e6, 1) if rel and min(rel) < th else None
        rec["dual_ms"], rec["none_ms"], rec["held_before_heal"] = spans(ev, [], t0, th)
        ph = lambda a, b: [n for t, n in good if a <= t < b]
        cnt = lambda l: dict(collections.Counter("old" if n == m else "new" for n in l))
        flips = lambda l: sum(1 for x, y in zip(l, l[1:]) if x != y)
        rec["answers"], rec["flips"] = cnt(ph(t0, th)), flips(ph(t0, th))
        if heal_:
            rec["heal_gap_ms"], rec["heal_gap_open"], _ = max_gap(rx, th, tend, tend)
            rec["heal_lost"] = sum(1 for _, tx, r, _ in rows if r == "0" and int(tx) >= th)
            d, no, fin = spans(ev, [], the, tend)
            rec["heal_dual_ms"], rec["heal_none_ms"], rec["held_end"] = d, no, ["old" if x == m else "new" for x in fin]
            chg = [(t, "old" if n == m else "new", k) for t, n, k in sorted(ev) if t >= th and k != "ready"]
            rec["heal_events"] = [(round((t - the) / 1e6, 1), n, k) for t, n, k in chg][:40]
            rec["heal_answers"], rec["heal_flips"] = cnt(ph(th, tend)), flips(ph(th, tend))
        rec["events"] = [(round((t - t0) / 1e6, 1), "old" if n == m else "new", k) for t, n, k in sorted(ev) if t >= t0 and k != "ready"][:60]
        rec["held_before_heal"] = ["old" if x == m else "new" for x in rec["held_before_heal"]]
    except Exception as e:
        rec["error"] = f"{type(e).__name__}: {e}"
    finally:
        for p in HOGS:
            if p.poll() is None: p.kill(); p.wait()
        try: net_heal()
        except Exception: pass
        if delay_ms: ARBITER.delay(NEAR_MS)
        for n in nodes.values(): n.clean_stop()
        for p in aux:
            if p.poll() is None: p.terminate()
            try: p.wait(1)
            except subprocess.TimeoutExpired: p.kill()
    return rec


def idle(prof, secs):
    nodes = {n: Node(prof, n) for n in (NA, NB)}
    out = []
    try:
        for n in nodes.values(): n.fresh(); n.start()
        m = wait_one(prof); time.sleep(5)
        use = lambda n: int(open(f"{CG}/{n}/cpu.stat").read().split()[1])
        stat = lambda p: sum(int(x) for x in open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()[11:13])
        a = {n: use(n) for n in nodes}; sw = {n: ctxsw(n) for n in nodes}; t = time.time()
        net = {n: netdev(n) for n in nodes}
        time.sleep(secs); dt = time.time() - t
        for n in nodes:
            rss = pss = 0; names = []
            for p in pids(n):
                try:
                    names.append(open(f"/proc/{p}/comm").read().strip())
                    for l in open(f"/proc/{p}/smaps_rollup"):
                        if l.startswith("Rss:"): rss += int(l.split()[1])
                        if l.startswith("Pss:"): pss += int(l.split()[1])
                except (FileNotFoundError, ProcessLookupError): pass
            nd = netdev(n)
            out.append({"profile": prof["name"], "idle": True, "role": "master" if n == m else "backup", "secs": round(dt, 1),
                        "cpu_pct": round((use(n) - a[n]) / 1e4 / dt, 3), "rss_kb": rss, "pss_kb": pss, "procs": names,
                        "ctxsw_per_s": round((ctxsw(n) - sw[n]) / dt, 1),
                        "tx_pkt_s": round((nd[1] - net[n][1]) / dt, 1), "tx_B_s": round((nd[0] - net[n][0]) / dt)})
    finally:
        for n in nodes.values(): n.clean_stop()
    return out


def ctxsw(node):
    c = 0
    for p in pids(node):
        try:
            for t in os.listdir(f"/proc/{p}/task"):
                for l in open(f"/proc/{p}/task/{t}/status"):
                    if "ctxt_switches" in l: c += int(l.split()[1])
        except (FileNotFoundError, ProcessLookupError): pass
    return c


def netdev(node):
    for l in sh(ns(node, "cat /proc/net/dev")).splitlines():
        if "eth0:" in l:
            f = l.split(":")[1].split(); return int(f[8]), int(f[9])
