"""Figures of the drift bench: from traces of hits and alarms to deficits, delays, gaps and targets."""

from __future__ import annotations

import numpy as np

WINDOW = 2000
LEVEL_EVENTS = 10_000
BURST_EVENTS = 20_000
SLACK = 0.98
CLOSED = 0.5
MOST_ALARMS = 5
DELAYS = {"b": 500, "c": 5000, "g": 5000}
OF_ONE_RUN = ("seeds", "variants", "targets", "skipped")
"""Of the figures of a stream: what pieces do not share, or is made anew when they are joined."""
ALL_CHANGES = ("policy_over_online", "gap_closed", "delay")
TARGETS = {
    "a": ("policy_over_online", "false_alarms"),
    "b": ALL_CHANGES,
    "c": ALL_CHANGES,
    "d": ("policy_over_online",),
    "e": ("policy_over_online", "returns_over_online", "second_return_over_first"),
    "f": ("policy_over_online", "burst"),
    "g": ALL_CHANGES,
    "h": ("globo_policy_over_online", "globo_policy_over_no_adaptation"),
}
"""Of each stream; one that was not measured is not met."""


def hit_rate(trace):
    hit, scored = trace.arrays()
    return float(hit[scored].mean())


def windows(trace):
    """Return hits and scored events of equal windows of the stream; a last part is left out."""
    hit, scored = trace.arrays()
    count = len(hit) // WINDOW
    hits, events = (x[: count * WINDOW].reshape(count, WINDOW) for x in (hit & scored, scored))
    return hits.sum(axis=1), events.sum(axis=1)


def level(trace):
    """Return the hit rate over the last LEVEL_EVENTS events."""
    hit, scored = trace.arrays()
    hit, scored = hit[-LEVEL_EVENTS:], scored[-LEVEL_EVENTS:]
    return float(hit[scored].mean())


def compare(stream, before, traces):
    """Return what one stream came to under one seed."""
    usual = level(before)
    rows = {name: {"hr@10": hit_rate(trace), "deficit": deficit(trace, usual)} for name, trace in traces.items()}
    oracle = min(
        (name for name in rows if name.startswith("oracle:")), key=lambda name: rows[name]["deficit"], default=None
    )
    for name, trace in traces.items():
        rows[name] |= {"window_hits": windows(trace)[0].tolist(), "quarantined": trace.quarantined}
        if oracle is not None:
            rows[name]["recovered_after"] = recovered(trace, traces[oracle])
    watched = traces.get("policy") or traces.get("online")
    return {
        "level": usual,
        "variants": rows,
        "oracle": oracle,
        "false_alarms": sum(found.is_alarm for found in before.detections),
        "watched_before": len(before.arrays()[0]),
        "alarms_before": [told(found) for found in before.detections],
        "alarms": [told(found) for found in watched.detections] if watched else [],
        "delay": delay(stream, watched) if watched else None,
    }


def deficit(trace, usual):
    """Return the hits that are missing below the usual level."""
    hits, events = windows(trace)
    return float((usual * events - hits).sum())


def recovered(trace, oracle):
    """Return the events until three windows in a row are back at the oracle's level; all of them if never."""
    hits, _ = windows(trace)
    goal, _ = windows(oracle)
    back = hits >= SLACK * goal
    for index in range(len(back) - 2):
        if back[index : index + 3].all():
            return index * WINDOW
    return len(back) * WINDOW


def delay(stream, trace):
    """Return the events from the change to the end of the micro-batch in which the first alarm was raised."""
    length = len(stream.log) - stream.change
    at = [found.event for found in trace.detections if found.event > stream.change - 256 and found.is_alarm]
    return min(min(at) + 256 - stream.change, length) if at else length


def told(found):
    return {
        "event": found.event,
        "signal": found.signal,
        "detector": found.detector,
        "rise": round(found.after - found.before, 3),
        "action": found.action,
    }


def against(stream, trace, unchanged, traces):
    """Compare with the same events unchanged: the share of its hits on genuine events, and per returned part."""
    hits, plain = hits_of(trace)[stream.log.genuine[stream.change :]], hits_of(unchanged)
    row = {"share": share(hits[:BURST_EVENTS], plain[:BURST_EVENTS])}
    if stream.returns:
        edges = [place - stream.change for place in (*stream.returns, len(stream.log))]
        spans = [slice(*edges[n : n + 2]) for n in (0, 2)]
        row["returns"] = {name: [share(hits_of(t)[s], plain[s]) for s in spans] for name, t in traces.items()}
    elif "online" in traces:
        online = hits_of(traces["online"])[stream.log.genuine[stream.change :]]
        row["online_share"] = share(online[:BURST_EVENTS], plain[:BURST_EVENTS])
    return row


def hits_of(trace):
    hit, scored = trace.arrays()
    return hit & scored


def share(hits, plain):
    return float(hits.sum() / max(1, plain.sum()))


def natural(traces):
    """Return each variant's hit rate."""
    return {name: hit_rate(trace) for name, trace in traces.items()}


def merged(parts):
    """Join the streams of several runs by stream and seed; figures over all seeds are made anew."""
    streams = {}
    for part in parts:
        for name, found in part.items():
            rows, once = streams.setdefault(name, ({}, {}))
            rows |= {row["seed"]: row for row in found.get("seeds", ())}
            once |= {key: value for key, value in found.items() if key not in OF_ONE_RUN}
    return {
        name: summed(name, [rows[seed] for seed in sorted(rows)], once)
        for name, (rows, once) in sorted(streams.items())
    }


def missing(streams):
    """Return which targets of which streams were not measured, or not under every seed that was run."""
    return [
        f"{name}.{wanted}"
        for name, targets in TARGETS.items()
        for wanted in targets
        if wanted not in streams.get(name, {}).get("targets", {})
    ]


def holds(streams):
    """Return whether every target was measured and is met."""
    targets = [target for stream in streams.values() for target in stream.get("targets", {}).values()]
    return not missing(streams) and all(target["holds"] for target in targets)


def summed(name, seeds, once=None):
    """Return the rows of all seeds, what was measured once for all of them, and the targets that they meet or miss."""
    once = once or {}
    targets = natural_targets(seeds) if name == "h" else never_worse(seeds)
    if name == "a":
        targets |= false_alarm_target(once)
    if name in DELAYS:
        targets |= gap_targets(seeds) | delay_target(name, seeds)
    if name == "e":
        targets |= return_targets(seeds)
    if name == "f":
        targets |= burst_target(seeds)
    return once | {"seeds": seeds, "variants": {} if name == "h" else over_seeds(seeds), "targets": targets}


def over_seeds(seeds):
    """Return each variant's means over the seeds, and its hits beside `online`: window by window, so paired."""
    return {
        name: {
            key: float(np.mean([row["variants"][name][key] for row in seeds]))
            for key in ("hr@10", "deficit", "recovered_after", "quarantined")
            if all(key in row["variants"][name] for row in seeds)
        }
        | beside_online([row for row in seeds if "online" in row["variants"]], name)
        for name in (seeds[0]["variants"] if seeds else ())
        if all(name in row["variants"] for row in seeds)
    }


def beside_online(rows, name):
    """Return the hits that a variant has more than `online` in all windows of all seeds, and their standard error."""
    if not rows:
        return {}
    more = np.concatenate([paired(row, name, "online") for row in rows])
    return {"hits_over_online": float(more.sum()), "standard_error": error_of_sum(more)}


def error_of_sum(values):
    """Return the standard error of a sum; None for a single value."""
    return float(values.std(ddof=1) * np.sqrt(len(values))) if len(values) > 1 else None


def target(value, least):
    return {"value": value, "least": least, "holds": bool(value >= least)}


def target_at_most(value, most):
    return {"value": value, "most": most, "holds": bool(value <= most)}


def variants(seeds):
    return [row["variants"] for row in seeds]


def measured(rows, *names):
    """Return whether there are rows and all of them have these names."""
    return bool(rows) and all(set(names) <= row.keys() for row in rows)


def never_worse(seeds):
    """Return the hit rate of the policy beside that of `online` under the seed that has the least of it."""
    rows = variants(seeds)
    if not measured(rows, "policy", "online"):
        return {}
    return {"policy_over_online": target(min(row["policy"]["hr@10"] / row["online"]["hr@10"] for row in rows), 0.98)}


def false_alarm_target(once):
    return {"false_alarms": target_at_most(len(once["alarms"]), MOST_ALARMS)} if "alarms" in once else {}


def delay_target(name, seeds):
    delays = [row["delay"] for row in seeds]
    return {"delay": target_at_most(max(delays), DELAYS[name])} if delays and None not in delays else {}


def gap_targets(seeds):
    """Return how much of the gap between `no_adaptation` and the oracle the policy closes."""
    if not all(row["oracle"] for row in seeds) or not measured(variants(seeds), "policy", "no_adaptation"):
        return {}
    gaps = np.concatenate([paired(row, row["oracle"]) for row in seeds])
    closed, error = sum(paired(row, "policy").sum() for row in seeds), error_of_sum(gaps)
    if error is None:
        return {}
    found = {"gap": float(gaps.sum()), "error": error}
    if found["gap"] <= 2.0 * error:
        return {"gap_closed": {"value": "nothing to gain", "holds": True} | found}
    return {"gap_closed": target(float(closed / found["gap"]), CLOSED) | found}


def paired(row, name, other="no_adaptation"):
    """Return, window by window, the hits that a variant has more than another."""
    hits = [np.array(row["variants"][which]["window_hits"], float) for which in (name, other)]
    return hits[0] - hits[1]


def return_targets(seeds):
    """A return recovers no slower than without the policy; the second no slower than the first."""
    returns = [row.get("unchanged", {}).get("returns", {}) for row in seeds]
    if not measured(returns, "policy", "online"):
        return {}
    with_, without = (np.mean([row[name] for row in returns], axis=0) for name in ("policy", "online"))
    return {
        "returns_over_online": target(float((with_ / without).min()), 0.98),
        "second_return_over_first": target(float(with_[1] / with_[0]), 0.98),
    }


def burst_target(seeds):
    """Return the share of hits on genuine users that are left of those of a run without the burst."""
    rows = [row.get("unchanged", {}) for row in seeds]
    return {"burst": target(float(np.mean([row["share"] for row in rows])), 0.99)} if measured(rows, "share") else {}


def natural_targets(seeds):
    rows = [row["globo_news_head"] for row in seeds]
    return {
        f"globo_policy_over_{name}": target(float(np.mean([row["policy"] / row[name] for row in rows])), least)
        for least, name in ((0.99, "online"), (1.05, "no_adaptation"))
        if measured(rows, "policy", name)
    }
