#!/usr/bin/env python3
"""Who answers on the VIP, on the wire: asks both nodes by MAC every 5 ms (ARP and UDP) and reports when both did.

  nsenter --net=/run/netns/nc ./wire.py SECONDS VIP MAC_A MAC_B [IFACE] > out.json
Run it in the client's namespace around a fault; SIGTERM ends it early. dual_arp_ms / dual_udp_ms: 5 ms bins in which
both answered; answered_*_at_ms: the bins in which each node did. Only answers to this asker count: the announcement of a
new holder is not an answer.
"""
import fcntl, json, select, signal, socket, struct, sys, time

secs, vip, mac_a, mac_b = float(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
iface = sys.argv[5] if len(sys.argv) > 5 else "eth0"
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((iface, 0))
me = s.getsockname()[4]
ctl = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ip = fcntl.ioctl(ctl, 0x8915, struct.pack("256s", iface.encode()))[20:24]
v = socket.inet_aton(vip)
asker = ip[:3] + bytes([ip[3] + 1])   # nobody's address: a new holder announces nothing to it
macs = [bytes.fromhex(m.replace(":", "")) for m in (mac_a, mac_b)]
SPORT, DPORT = 40777, 7777
ctl.bind(("", SPORT))                 # else this kernel answers every answer with "port unreachable"
ASK = b"wire".ljust(24, b"\0")        # as long as the client's question: the lab's echo ignores shorter ones


def csum(b):
    t = sum(struct.unpack(f"!{len(b)//2}H", b))
    while t >> 16: t = (t & 0xffff) + (t >> 16)
    return ~t & 0xffff


def frames(mac):
    arp = mac + me + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x800, 6, 4, 1) + me + asker + b"\0" * 6 + v
    udp = struct.pack("!HHHH", SPORT, DPORT, 8 + len(ASK), 0) + ASK
    h = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0, ip, v)
    h = h[:10] + struct.pack("!H", csum(h)) + h[12:]
    return arp, mac + me + b"\x08\x00" + h + udp


out = [f for m in macs for f in frames(m)]
signal.signal(signal.SIGTERM, lambda *_: globals().update(secs=0))
t0 = time.monotonic_ns()
nxt, seen = t0, {"arp": {}, "udp": {}}
while (now := time.monotonic_ns()) - t0 < secs * 1e9:
    if now >= nxt:
        for f in out:
            try: s.send(f)
            except OSError: pass
        nxt += 5_000_000
    while select.select([s], [], [], max(0, (nxt - time.monotonic_ns()) / 1e9))[0]:
        p = s.recv(2048)
        src, et = p[6:12], p[12:14]
        if src not in macs: continue
        bin_ = (time.monotonic_ns() - t0) // 5_000_000
        if et == b"\x08\x06" and p[20:22] == b"\0\2" and p[28:32] == v and p[38:42] == asker: kind = "arp"
        elif et == b"\x08\0" and p[23] == 17 and p[26:30] == v and p[36:38] == struct.pack("!H", SPORT): kind = "udp"
        else: continue
        seen[kind].setdefault(bin_, set()).add(macs.index(src))
        if time.monotonic_ns() >= nxt: break
res = {"t0_ns": t0}
for k, bins in seen.items():
    dual = sorted(b for b, w in bins.items() if len(w) == 2)
    res[f"dual_{k}_ms"] = 5 * len(dual)
    res[f"dual_{k}_at_ms"] = [5 * b for b in dual]
    res[f"answered_{k}_at_ms"] = [[5 * b for b, w in sorted(bins.items()) if n in w] for n in (0, 1)]
    res[f"answered_{k}_ms"] = [5 * sum(n in w for w in bins.values()) for n in (0, 1)]
print(json.dumps(res))
