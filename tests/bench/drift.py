"""What drift costs, what the policy wins back, and how soon and how falsely the detectors speak.

Streams: a stationary simulator (false alarms, and what the policy does where nothing changes) · b abrupt · c abrupt for
30 % of users · d gradual · e recurring · f burst of bots · g new catalogue · h natural. Variants, which share a prefix
and branch from it: `frozen` · `no_adaptation` (one half-life for all memories, the best of three on the first quarter;
no policy) · `online` (no policy) · `policy` · `oracle` (of the actions of the policy the best one, ordered at the very
event of the change). Deficits are areas in hits below the level that `online` had over the 10,000 events before the
change. `holds` says whether every target of every stream was measured and is met, the one on cost aside; `missing`
names those that were not measured.

In pieces, each of which goes on where it was interrupted, and then joined:

    python -m tests.bench drift --data DIR --keep KEPT --json --stream b --seeds 0 > b0.json
    python -m tests.bench drift --json --merge a.json b0.json b1.json b2.json c0.json ... > drift.json

At full size one piece takes, on a free core that learns 1,000 events per second: b, c, d, e, f, g 12 minutes each for one
seed (13 variants of 60,000 events), and 3 more for the first of a seed, whose prefixes (150,000 events) the others find
in KEPT; h 30 minutes for one seed; a 15 minutes once (alone with `--quiet-learned 0`) and 4 for each seed (alone with
`--quiet-events 0`). All of it with three seeds: 6 hours. A KEPT folder belongs to one version of the code and of the
settings: others find nothing in it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from consumer.settings import Settings
from tests.bench import drift_figures as figures
from tests.bench.keep import Keep
from tests.bench.quiet import quiet
from tests.bench.runner import Run
from tests.bench.simulator import simulate
from tests.bench.streams import STREAMS, read, write

HALF_LIVES = (10_000.0, 50_000.0, 200_000.0)
NATURAL = {"globo_news_head": None, "online_retail_uci": 1}
"""Logs of stream h, and the seed by which their ties are shuffled."""
SHORT_LIVED = ("popularity_now", "next_item_now", "transitions_now", "co_occurrence_now")
"""Components of the second, shorter half-life."""
ONCE = 1 << 40
NO_ACTION = dict.fromkeys(
    (
        *("short_half_lives", "rehearse_recent", "boost_learning_rate", "restart_mixture", "restart_ranker"),
        *("restart_items", "restart_heads", "quarantine", "pause_quarantine", "roll_back"),
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
    "short_half_lives+rehearse_recent+boost_learning_rate+restart_mixture",
    "quarantine",
)


def parse(arguments):
    parser = argparse.ArgumentParser(prog="tests.bench drift", description=__doc__)
    parser.add_argument("--stream", action="append", choices=tuple(STREAMS), help="repeatable; default: all")
    parser.add_argument("--before", type=int, default=60_000, help="events before the change")
    parser.add_argument("--after", type=int, default=60_000, help="events after it")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--variants", default="frozen,no_adaptation,online,policy,oracle", help="comma-separated")
    parser.add_argument("--oracle", default=",".join(ORACLE), help="actions that the oracle chooses from")
    parser.add_argument("--change", action="append", default=[], metavar="SECTION.KEY=JSON", help="other settings")
    parser.add_argument("--quiet-events", type=int, default=500_000, help="of stream a, in each of ten series; 0: none")
    parser.add_argument("--quiet-warm-up", type=int, default=100_000, help="of stream a")
    parser.add_argument("--quiet-recorded", type=int, default=100_000, help="of stream a: learned, then drawn from")
    parser.add_argument("--quiet-learned", type=int, default=60_000, help="of stream a, by each variant; 0: none")
    parser.add_argument("--data", default=os.environ.get("TIDEMILL_BENCH_DATA"), help="or TIDEMILL_BENCH_DATA")
    parser.add_argument("--set", default="ml1m_pos", help="the log of streams b to g; without --data the simulator")
    parser.add_argument("--items", type=int, default=1500, help="of the simulator")
    parser.add_argument("--keep", metavar="DIR", help="keep prefixes and traces, and take what is kept there")
    parser.add_argument(
        "--write", metavar="DIR", help="run nothing: write the streams as event logs, STREAM-SEED.parquet"
    )
    parser.add_argument("--merge", nargs="+", metavar="FILE", help="run nothing: join the objects of earlier runs")
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
        self._made, self.keep = {}, Keep(options.keep)

    def online(self):
        return self._once("online", lambda: self._run(policy={"enabled": False}))

    def unchanged(self):
        """Return what comes of the log as it is, with the policy, after the place of the change."""
        return self._once("unchanged", self._unchanged)

    def no_adaptation(self):
        """Of three half-lives the one with the best hit rate on the first quarter goes on."""
        return self._once("no_adaptation", self._best_half_life)

    def _once(self, name, make):
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _unchanged(self):
        settings, before = settings_of(self._options, self._seed), self._options.before

        def go():
            return self.online().branch(settings).go(self._log[before:])

        return self.keep.trace(settings, self._log, go, "unchanged", before)

    def _best_half_life(self):
        quarter, off = self._options.before // 4, {"enabled": False}
        runs = [self._run(quarter, model=one_half_life(h), policy=off, drift=off) for h in HALF_LIVES]
        best = max(runs, key=lambda run: figures.hit_rate(run.trace))
        before = self._log[: self._options.before]
        return self.keep.run(best.settings, before, lambda: advanced(best, before[quarter:]))

    def _run(self, stop=None, **sections):
        settings, log = settings_of(self._options, self._seed, **sections), self._log[: stop or self._options.before]
        return self.keep.run(settings, log, lambda: advanced(Run(settings), log))


def one_half_life(half_life):
    """Return the model's settings with one half-life for all memories."""
    return {
        "popularity_half_life_events": half_life,
        "memory_half_life_events": half_life,
        "leave_out": ",".join(SHORT_LIVED),
    }


def advanced(run, log):
    run.go(log)
    return run


def variants_of(options, stream, prefixes, seed):
    """Run the variants that are wanted over what comes after the change; returns name → trace."""
    after, wanted, traces = stream.log[stream.change :], options.variants.split(","), {}

    def branch(name, prefix, learn=True, order=(), **sections):
        settings = settings_of(options, seed, **sections)

        def go():
            run = prefix.branch(settings)
            for action in order:
                run.parts.learner.adaptation.order(action)
            return run.go(after, learn=learn)

        traces[name] = prefixes.keep.trace(settings, stream.log, go, stream.name, stream.change, learn, order)
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
    row = {"seed": seed} | figures.compare(stream, before, traces)
    if name in "ef" and "policy" in traces:  # the same events without the change, for comparison
        row["unchanged"] = figures.against(stream, traces["policy"], prefixes.unchanged(), traces)
    return row


def stationary(options, seed):
    """Return what `online` and `policy` came to where nothing changes, both learning as they do elsewhere.

    They branch from one run over the first `--quiet-warm-up` events of the simulator under this seed and go on for
    `--quiet-learned`: a part of what the detectors alone go through, which could not be learned in hours.
    """
    sizes = {"before": options.quiet_warm_up, "after": options.quiet_learned}
    simulated = vars(options) | sizes | {"data": None, "variants": "online,policy"}
    row = one_stream(argparse.Namespace(**simulated), "a", seed, {})
    return {name: row[name] for name in ("seed", "variants", "alarms")}  # there is no change to be late for


def natural(options, seed):
    """Return the hit rates on logs that drift by themselves, over what comes after the first `--before` events."""
    rows = {"seed": seed, "quarantined": {}}
    for name, log in zip(NATURAL, log_of(options, "h", seed), strict=True):
        prefixes = Prefixes(options, log, seed)
        stream = STREAMS["h"](log, options.before, seed)
        traces = variants_of(options, stream, prefixes, seed)
        rows[name] = figures.natural(traces)
        rows["quarantined"][name] = {variant: trace.quarantined for variant, trace in traces.items()}
    return rows


def bench(options):
    seeds, shared, streams = [int(seed) for seed in options.seeds.split(",")], {}, {}
    for name in options.stream or STREAMS:
        say(f"stream {name}")
        found = figures_of(options, name, seeds, shared)
        streams[name] = found
        say(json.dumps(found.get("targets", found)))
    return judged(vars(options), streams)


def written(options):
    """Write the streams, but h, which is logs as they are; return the names of the files."""
    folder, files = Path(options.write), []
    folder.mkdir(parents=True, exist_ok=True)
    for name in [name for name in options.stream or STREAMS if name != "h"]:
        for seed in [int(seed) for seed in options.seeds.split(",")]:
            files.append(str(folder / f"{name}-{seed}.parquet"))
            write(files[-1], STREAMS[name](log_of(options, name, seed), options.before, seed).log)
    return {"written": files}


def merged(files):
    """Return one object from those of several runs, each of some streams and seeds; of the same ones the last counts."""
    results = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files]
    return judged([result["options"] for result in results], figures.merged([result["streams"] for result in results]))


def judged(options, streams):
    missing, holds = figures.missing(streams), figures.holds(streams)
    return {"options": options, "streams": streams, "missing": missing, "holds": holds}


def figures_of(options, name, seeds, shared):
    """Return the rows of one stream and the targets that they meet or miss."""
    if name == "a":
        once = quiet(options, settings_of(options, seeds[0])) if options.quiet_events else {}
        return figures.summed(name, [stationary(options, seed) for seed in seeds if options.quiet_learned], once)
    if name == "h" and options.data is None:
        return {"skipped": "needs --data"}
    rows = [natural(options, seed) if name == "h" else one_stream(options, name, seed, shared) for seed in seeds]
    return figures.summed(name, rows)


def say(text):
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments):
    options = parse(arguments)
    if options.write:
        result = written(options)
    elif options.merge:
        result = merged(options.merge)
    else:
        result = bench(options)
    if options.json:
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0
