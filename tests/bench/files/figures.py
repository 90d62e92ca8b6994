"""What the runs come to: medians, ratios, and how they are shown."""
import json, statistics

import trees
from world import say

SLACK_S = 0.1       # the status is made anew every so often
# What is measured: the part it comes from, its unit, what it must be, how that is compared, and by whom the rival's value is.
METRICS = {
    "change_p50_ms": ("change", "ms", 8, "<=", "lsyncd"),
    "change_p99_ms": ("change", "ms", 100, "<=", "lsyncd"),
    "append_age_p99_ms": ("append", "ms", 250, "<=", "lsyncd"),
    "cold_small_ratio": ("cold_small", "ratio", 2, ">=", "rsync"),
    "cold_large_ratio": ("cold_large", "ratio", 1, ">=", "rsync"),
    "delta_cpu_ratio": ("delta", "ratio", 0.5, "<=", "rsync"),
    "delta_mb": ("delta", "MB", 15, "<=", "rsync"),
    "reconcile_cpu_ratio": ("reconcile", "ratio", 1, "<=", "rsync"),
    "storm_lost": ("storm", "files", 0, "<=", None),
    "mv_dir_ms": ("folder", "ms", 100, "<=", "lsyncd"),
    "rm_dir_ms": ("folder", "ms", 100, "<=", "lsyncd"),
    "rss_mb_1m_files": ("rss", "MB", 100, "<=", None),
}


def median(runs, *keys):
    """Of what lies below the keys in each run."""
    values = []
    for run in runs:
        for key in keys: run = run.get(key) if isinstance(run, dict) else None
        if run is not None: values.append(run)
    return statistics.median(values) if values else None


def ratio(a, b):
    return round(a / b, 3) if a is not None and b else None


def metrics(notes):
    """name -> (value, rival's value, reason where there is no value). Where the value is a ratio, the rival's value is that
    which it is a ratio to."""
    of = lambda part, who="staffetta": notes.get((part, who), [])
    found = {}
    def put(name, value, rival=None, reason=None):
        value = None if value is None or reason else round(value, 3)
        found[name] = (value, rival, None if value is not None else reason or "not measured")
    lost = sum(run["lost"] for run in of("change"))
    why = f"{lost} changes never came" if lost else None
    put("change_p50_ms", median(of("change"), "lag_ms", "p50"), median(of("change", "lsyncd_delay0"), "lag_ms", "p50"), why)
    put("change_p99_ms", median(of("change"), "lag_ms", "p99"), median(of("change", "lsyncd_delay0"), "lag_ms", "p99"), why)
    wrong = [run for run in of("append") if run["torn"] or not run["same"]]
    why = f"{len(wrong)} runs with wrong content on the standby" if wrong else None
    rival = [v for v in (median(of("append", f"lsyncd_delay{d}"), "age_ms", "p99") for d in (0, 1)) if v is not None]
    put("append_age_p99_ms", median(of("append"), "age_ms", "p99"), min(rival, default=None), why)
    for name in ("cold_small", "cold_large"):
        other = [run["differences"] for run in of(name) if trees.differs(run["differences"])]
        rival = median(of(name, "rsync"), "files_s")
        put(name + "_ratio", ratio(median(of(name), "files_s"), rival), rival, f"the trees differ: {other[0]}" if other else None)
    rival = median(of("delta", "rsync"), "cpu_s")
    put("delta_cpu_ratio", ratio(median(of("delta"), "cpu_s"), rival), rival)
    put("delta_mb", median(of("delta"), "mb"), median(of("delta", "rsync"), "mb"))
    rival = median(of("reconcile", "rsync"), "cpu_s")
    put("reconcile_cpu_ratio", ratio(median(of("reconcile"), "cpu_s"), rival), rival)
    both = [of("storm", mechanism) for mechanism in ("fanotify", "inotify")]
    lost = sum(run["lost"] for runs in both for run in runs) if all(both) else None
    put("storm_lost", lost, median(of("storm", "lsyncd_delay1"), "lost"))
    put("mv_dir_ms", median(of("folder"), "mv_ms"), median(of("folder", "lsyncd_delay1"), "mv_ms"))
    put("rm_dir_ms", median(of("folder"), "rm_ms"), median(of("folder", "lsyncd_delay1"), "rm_ms"))
    fewer = sorted({run["files"] for run in of("rss")} - {1_000_000})
    rss = [max(run["rss_mb"].values()) for run in of("rss")]
    why = f"measured with {fewer[0]} files: {statistics.median(rss):g} MB" if fewer else None
    put("rss_mb_1m_files", statistics.median(rss) if rss else None, None, why)
    return found


def limit(name, times):
    """A smaller file has fewer changes."""
    return METRICS[name][2] * times.big_mib / 1024 if name == "delta_mb" else METRICS[name][2]


def untrue(notes):
    """Runs in which `status --aligned` said so, its bound and more after a change that was not there."""
    return [f"{part}: until {run['wrong_s']} s after its bound" for (part, _), runs in notes.items() for run in runs
            if run.get("wrong_s", 0) > SLACK_S]


def as_object(notes, parts, times, about):
    found = {name: row for name, row in metrics(notes).items() if METRICS[name][0] in parts}
    out = {name: value for name, (value, _, _) in found.items()}
    rss = notes.get(("rss", "staffetta"))
    if rss and out.get("rss_mb_1m_files") is None:
        out[f"rss_mb_{rss[-1]['files'] // 1000}k_files"] = max(rss[-1]["rss_mb"].values())
    storms = [run["later"] for (part, _), runs in notes.items() if part == "storm" for run in runs if "later" in run]
    if storms: out["storm_lost_later"] = sum(storms)
    rivals, own = {}, {}
    for (part, who), runs in notes.items():
        if who.startswith(("rsync", "lsyncd")): rivals.setdefault(who, {})[part] = runs
        else: own[f"{part}_{who}" if part == "storm" else part] = runs
    return {**out, "rival": {name: rival for name, (_, rival, _) in found.items() if rival is not None},
            "must": {name: [METRICS[name][3], limit(name, times)] for name in found},
            "reason": {name: reason for name, (_, _, reason) in found.items() if reason},
            "aligned_untrue": untrue(notes), **about,
            "rivals": rivals, "staffetta": own}


def report(notes, parts, times, as_json, about):
    if as_json: return print(json.dumps(as_object(notes, parts, times, about)))
    for name, (value, rival, reason) in metrics(notes).items():
        part, unit, _, how, _ = METRICS[name]
        if part not in parts: continue
        must = limit(name, times)
        is_good = value is not None and (value <= must if how == "<=" else value >= must)
        shown = "-" if value is None else f"{value:g}"
        mark = "" if is_good else f"   not counted: {reason}" if value is None else "   MISSED"
        theirs = "-" if rival is None else f"{rival:g}"
        print(f"{name:22} {shown:>10} {how} {must:<6g} {unit:6} {METRICS[name][4] or '-':>7} {theirs:>9}{mark}")
    late = [run for (part, _), runs in notes.items() if part == "storm" for run in runs if run["lost"] and "later" in run]
    if late: say(f"in {len(late)} storms files came after `aligned`; {sum(run['later'] for run in late)} were never seen")
    for row in untrue(notes): say(f"`status --aligned` was not true: {row}")


def brief(part, who, run):
    shown = {}
    for key, value in run.items():
        if isinstance(value, dict) and "p50" in value: value = [value["p50"], value["p99"], value["max"]]
        if key != "named" or value: shown[key] = value
    say(f"{part:11} {who:14} {shown}")
