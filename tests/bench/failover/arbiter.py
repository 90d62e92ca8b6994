"""The arbiter's machine: a real etcd on its loopback interface, and the proxy that makes it as far away as a run wants."""
import os, select, shutil, signal, subprocess, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ETCD, PEERS = "127.0.0.1:2379", "127.0.0.1:2380"
READY_TIMEOUT_S = 25
# etcd writes to memory: the disk here is shared with the nodes and with whatever else runs, that of a third machine is not.
# In its place, and in that of a network, every answer is this late.
NEAR_MS = 5


class Arbiter:
    def __init__(self, inside, address, folder):
        """inside: words before a command that make it run on the arbiter's machine, at the instruments' priority."""
        self.inside, self.address, self.folder = inside, address, folder
        self.etcd = self.proxy = self.data = None

    def start(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        self.control = f"{self.folder}/delay_ms"
        with open(self.control, "w") as f: f.write(str(NEAR_MS))
        self.data = tempfile.mkdtemp(prefix="staffetta-arbiter-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.etcd = self.popen([
            "etcd", "--name", "arbiter", "--data-dir", self.data,
            "--listen-client-urls", f"http://{ETCD}", "--advertise-client-urls", f"http://{ETCD}",
            "--listen-peer-urls", f"http://{PEERS}", "--initial-advertise-peer-urls", f"http://{PEERS}",
            "--initial-cluster", f"arbiter=http://{PEERS}", "--initial-cluster-token", f"arbiter-bench-{os.getpid()}",
            "--auto-compaction-mode", "periodic", "--auto-compaction-retention", "5m"], f"{self.folder}/etcd.log")
        self.proxy = self.popen([f"{HERE}/proxy.py", f"{self.address}:2379", ETCD, self.control], None)
        self.acknowledged(NEAR_MS)

    def popen(self, command, log):
        """It ends with this process, whatever ends this process."""
        out = open(log, "wb") if log else subprocess.PIPE
        err = subprocess.STDOUT if log else None
        words = self.inside + ["setpriv", "--pdeathsig", "TERM"] + command
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, text=not log)
        if log: out.close()
        return process

    def delay(self, ms):
        """The time by which every answer is late from now on; it is in force when this returns."""
        with open(self.control, "w") as f: f.write(str(ms))
        self.proxy.send_signal(signal.SIGHUP)
        self.acknowledged(ms)

    def acknowledged(self, ms):
        ready, _, _ = select.select([self.proxy.stdout], [], [], READY_TIMEOUT_S)
        line = self.proxy.stdout.readline().strip() if ready else ""
        if line != f"delay {ms:g}":
            raise RuntimeError(f"the proxy of the arbiter said {line!r} for a delay of {ms} ms: see {self.folder}/etcd.log")

    def stop(self):
        for process in (self.proxy, self.etcd):
            if not process: continue
            if process.poll() is None: process.terminate()
            try: process.wait(5)
            except subprocess.TimeoutExpired: process.kill(); process.wait()
        if self.data: shutil.rmtree(self.data, ignore_errors=True)
        self.etcd = self.proxy = self.data = None
