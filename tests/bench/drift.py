"""What drift costs, what the policy wins back, and how soon and how falsely the detectors speak.

Streams: a stationary simulator (false alarms alone) · b abrupt · c abrupt for 30 % of users · d gradual · e recurring ·
f burst of bots · g new catalogue · h natural. Variants, which share a prefix and branch from it: `frozen` ·
`no_adaptation` (one half-life for all memories, the best of three on the first quarter; no policy) · `online` (no
policy) · `policy` · `oracle` (of the actions of the policy the best one, ordered at the very event of the change).
Deficits are areas in hits below the level that `online` had over the 10,000 events before the change.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from consumer.settings import Settings
from tests.bench import drift_figures as figures
from tests.bench.quiet import quiet
from tests.bench.runner import Run
from tests.bench.simulator import simulate
from tests.bench.streams import STREAMS, read

HALF_LIVES = (10_000.0, 50_000.0, 200_000.0)
NATURAL = {"globo_news_head": None, "online_retail_uci": 1}
"""Logs of stream h, and the seed by which their ties are shuffled."""
ONCE = 1 << 40
NO_ACTION = dict.fromkeys(
    (
        *("short_half_lives", "rehearse_recent", "boost_learning_rate", "restart_mixture", "restart_ranker"),
        *("restart_items", "restart_heads", "quarantine", "roll_back"),
    ),
    False,
)
ORACLE = (
    "short_half_lives",
    "rehearse_recent",
    "boost_learning_rate",
    "restart_mixture",
    "restart_ranker",
    "restart_items",
    "short_half_lives+rehearse_recent+boost_learning_rate",
    "quarantine",
)


def parse(arguments):
    parser = argparse.ArgumentParser(prog="tests.bench drift", description=__doc__)
    parser.add_argument("--stream", action="append", choices=("a", *STREAMS), help="repeatable; default: all")
    parser.add_argument("--before", type=int, default=60_000, help="events before the change")
    parser.add_argument("--after", type=int, default=60_000, help="events after it")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--variants", default="frozen,no_adaptation,online,policy,oracle", help="comma-separated")
    parser.add_argument("--oracle", default=",".join(ORACLE), help="actions that the oracle chooses from")
    parser.add_argument("--change", action="append", default=[], metavar="SECTION.KEY=JSON", help="other settings")
    parser.add_argument("--quiet-events", type=int, default=500_000, help="of stream a, for each of ten seeds")
    parser.add_argument("--quiet-warm-up", type=int, default=100_000, help="of stream a")
    parser.add_argument("--quiet-recorded", type=int, default=100_000, help="of stream a: learned, then drawn from")
    parser.add_argument("--data", default=os.environ.get("TIDEMILL_BENCH_DATA"), help="or TIDEMILL_BENCH_DATA")
    parser.add_argument("--set", default="ml1m_pos", help="the log of streams b to g; without --data the simulator")
    parser.add_argument("--items", type=int, default=1500, help="of the simulator")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(arguments)


def settings_of(options, seed, **sections):
    """Return the bench's settings, with those of `--change` and, over them, `sections`."""
    made = {"worker": {"seed": seed}, "evaluation": {"baselines": False}}
    for change in options.change:
        name, _, value = change.partition("=")
        section, _, key = name.partition(".")
        made.setdefault(section, {})[key] = json.loads(value)
    for section, values in sections.items():
        made[section] = made.get(section, {}) | values
    return Settings.model_validate(made)


def log_of(options, name, seed):
    events = options.before + options.after
    if options.data is None:
        return simulate(events, seed, items=options.items)
    if name == "h":
        return [
            read(Path(options.data) / log / "events.parquet", events, ties_seed=ties) for log, ties in NATURAL.items()
        ]
    return read(Path(options.data) / options.set / "events.parquet", events)


class Prefixes:
    """What ran before the change, once per configuration and seed."""

    def __init__(self, options, log, seed):
        self._options, self._log, self._seed = options, log, seed
        self._made = {}

    def online(self):
        if "online" not in self._made:
            self._made["online"] = self._run(policy={"enabled": False})
        return self._made["online"]

    def unchanged(self):
        """Return what comes of the log as it is, with the policy, after the place of the change."""
        if "unchanged" not in self._made:
            run = self.online().branch(settings_of(self._options, self._seed))
            self._made["unchanged"] = run.go(self._log[self._options.before :])
        return self._made["unchanged"]

    def no_adaptation(self):
        """Of three half-lives the one with the best hit rate on the first quarter goes on."""
        if "no_adaptation" not in self._made:
            quarter = self._options.before // 4
            runs = [self._one_half_life(half_life, quarter) for half_life in HALF_LIVES]
            best = max(runs, key=lambda run: figures.hit_rate(run.trace))
            self._made["no_adaptation"] = self._go(best, quarter)
        return self._made["no_adaptation"]

    def _one_half_life(self, half_life, stop):
        model = {
            "popularity_half_life_events": half_life,
            "memory_half_life_events": half_life,
            "leave_out": "popularity_now",
        }
        run = Run(
            settings_of(self._options, self._seed, model=model, policy={"enabled": False}, drift={"enabled": False})
        )
        run.go(self._log[:stop])
        return run

    def _run(self, **sections):
        return self._go(Run(settings_of(self._options, self._seed, **sections)), 0)

    def _go(self, run, start):
        run.go(self._log[start : self._options.before])
        return run


def variants_of(options, stream, prefixes, seed):
    """Run the variants that are wanted over what comes after the change; returns name → trace."""
    after, wanted, traces = stream.log[stream.change :], options.variants.split(","), {}

    def branch(name, prefix, learn=True, order=(), **sections):
        run = prefix.branch(settings_of(options, seed, **sections))
        for action in order:
            run.parts.learner.adaptation.order(action)
        traces[name] = run.go(after, learn=learn)
        say(f"  {name}: hr@10 {figures.hit_rate(traces[name]):.4f}")

    online, off = prefixes.online(), {"enabled": False}
    if "frozen" in wanted:
        branch("frozen", online, learn=False, policy=off, drift=off)
    if "no_adaptation" in wanted:
        prefix = prefixes.no_adaptation()
        branch("no_adaptation", prefix, policy=off, drift=off, model=prefix.settings.model.model_dump())
    if "online" in wanted:
        branch("online", online, policy=off)
    if "policy" in wanted:
        branch("policy", online)
    for actions in options.oracle.split(",") if "oracle" in wanted else ():
        names = actions.split("+")
        policy = NO_ACTION | dict.fromkeys(names, True) | {"cool_down_events": ONCE}
        order = [name for name in names if name != "quarantine"]
        branch(f"oracle:{actions}", online, order=order, policy=policy, drift=off)
    return traces


def one_stream(options, name, seed, shared):
    """Return the figures of one stream under one seed; `shared`: log and prefixes by seed, which all streams begin with."""
    if seed not in shared:
        log = log_of(options, name, seed)
        shared[seed] = log, Prefixes(options, log, seed)
    log, prefixes = shared[seed]
    stream = STREAMS[name](log, options.before, seed)
    before = prefixes.online().trace
    traces = variants_of(options, stream, prefixes, seed)
    row = figures.compare(stream, before, traces)
    if name in "ef":  # the same events without the change, for comparison
        row["unchanged"] = figures.against(stream, traces["policy"], prefixes.unchanged(), traces)
    return row


def natural(options, seed):
    """Return the hit rates on logs that drift by themselves, over all but the first quarter."""
    rows = {}
    for name, log in zip(NATURAL, log_of(options, "h", seed), strict=True):
        prefixes = Prefixes(options, log, seed)
        stream = STREAMS["h"](log, options.before, seed)
        traces = variants_of(options, stream, prefixes, seed)
        rows[name] = figures.natural(traces)
    return rows


def bench(options):
    result = {"options": vars(options), "streams": {}}
    seeds, shared = [int(seed) for seed in options.seeds.split(",")], {}
    for name in options.stream or ("a", *STREAMS):
        say(f"stream {name}")
        found = figures_of(options, name, seeds, shared)
        result["streams"][name] = found
        say(json.dumps(found.get("targets", found)))
    targets = [value for stream in result["streams"].values() for value in stream.get("targets", {}).values()]
    result["holds"] = all(target["holds"] for target in targets)
    return result


def figures_of(options, name, seeds, shared):
    """Return the rows of one stream and the targets that they meet or miss."""
    if name == "a":
        return quiet(options, settings_of(options, seeds[0]))
    if name == "h" and options.data is None:
        return {"skipped": "needs --data"}
    rows = [natural(options, seed) if name == "h" else one_stream(options, name, seed, shared) for seed in seeds]
    return figures.summed(name, rows)


def say(text):
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments):
    options = parse(arguments)
    result = bench(options)
    if options.json:
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0
