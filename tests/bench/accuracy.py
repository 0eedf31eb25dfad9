"""How well the worker predicts event logs, beside its components and the counting baselines.

`prequential` is a replay: every event is ranked by the state before its micro-batch and the events before it. `ader` is the protocol of Mi et
al. (RecSys 2020) on a log with periods: the state is frozen at each border and predicts the period that begins there;
actions on items not seen before it are removed first, then sessions of one action; Recall@20 and MRR@20 over the full
catalogue, unweighted mean over periods 1 and later. Learning goes on in stream order, one pass; the prequential
figures of the same run are given too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import consumer.histories
import consumer.parts
import incremental.learner
from consumer.clock import SystemClock
from consumer.events import event_of
from consumer.file_io import open_source
from consumer.health import HealthState
from consumer.histories import Histories, Stage
from consumer.metrics import Metrics
from consumer.parts import Parts
from consumer.pipeline import Pipeline
from consumer.ports import Record, TopicPartition
from consumer.replay import Discard, ReplayOptions, replay
from consumer.settings import Settings
from consumer.settings_rules import broken_rules
from incremental.learner import Learner
from incremental.prequential import OURS
from incremental.rehearsal import Rehearsal

SHOWN = ("hr@10", "ndcg@10", "mrr@10", "recall@20", "mrr@20", "log_loss")
SCORING_EVENTS = 512
STANDARD_OUTPUT = Path("-")
HALF = 5
"""Of the ten windows of a replay, the second half."""


def parse(arguments):
    parser = argparse.ArgumentParser(prog="tests.bench accuracy", description=__doc__)
    parser.add_argument("--set", required=True, help="folder of the event log below the data folder")
    parser.add_argument("--protocol", choices=("prequential", "ader"), default="prequential")
    parser.add_argument("--limit", type=int, help="records to read; for ader, periods")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--ablate", action="append", default=[], help="component to leave out; repeatable")
    parser.add_argument("--change", action="append", default=[], metavar="SECTION.KEY=JSON", help="other settings")
    parser.add_argument("--last-session-only", action="store_true", help="nothing sees a user's earlier sessions")
    parser.add_argument("--shuffle-ties", action="store_true", help="shuffle events of equal time")
    parser.add_argument("--data", default=os.environ.get("TIDEMILL_BENCH_DATA"), help="or TIDEMILL_BENCH_DATA")
    parser.add_argument("--json", type=Path, nargs="?", const=STANDARD_OUTPUT, help="one object; without a file: alone")
    options = parser.parse_args(arguments)
    if options.data is None:
        parser.error("--data or TIDEMILL_BENCH_DATA must name the folder of the event logs")
    return options


def settings_of(options, seed):
    sections = {"worker": {"seed": seed}, "model": {"leave_out": ",".join(options.ablate)}}
    for change in options.change:
        name, _, value = change.partition("=")
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = json.loads(value)
    settings = Settings(**sections)
    if problems := broken_rules(settings):
        sys.exit("\n".join(problems))
    return settings


def prequential(options, seed):
    """Return method → figures over the whole log and over its second half."""
    source = str(Path(options.data) / options.set / "events.parquet")
    replayed = ReplayOptions(source, limit=options.limit, shuffle_ties=options.shuffle_ties)
    WATCHED.begin()
    summary = replay(settings_of(options, seed), replayed, SystemClock())
    methods = {
        name: {"all": chosen(figures), "second_half": second_half(summary["windows"], name)}
        for name, figures in summary["metrics"].items()
    }
    seen = {"behind": behind(summary["windows"])} | WATCHED.figures()
    return (
        {"methods": methods, "metrics": summary["metrics"]}
        | seen
        | {
            name: summary[name]
            for name in ("same_batch_items", "first_events", "new_items", "heads", "speed", "scored")
        }
    )


def chosen(figures):
    return {name: figures[name] for name in SHOWN if name in figures}


def behind(windows):
    """Return the tenths of the stream in which another method hits more often: its number, the method, both hit rates."""
    rows = []
    for number, window in enumerate(windows):
        rates = {name: figures["hr@10"] for name, figures in window.items() if name != "events"}
        ours = rates.pop(OURS)
        rows += [(number, name, ours, rate) for name, rate in rates.items() if rate > ours]
    return rows


def second_half(windows, method):
    late = windows[HALF:]
    events = sum(window["events"] for window in late)
    return {
        name: sum(window["events"] * window[method][name] for window in late) / max(1, events)
        for name in SHOWN
        if all(name in window.get(method, {}) for window in late)
    }


class Watched:
    """What the learning steps of a run came to, over all learners that were made since it began."""

    def begin(self):
        self.events, self.targets, self.losses = 0, 0, np.zeros(1)

    def note(self, learned):
        """Take a step."""
        self.events += learned.events
        self.targets += 0 if learned.loss is None else learned.loss.targets

    def mixed(self, mixture, contexts, scores):
        """Take the losses of the mixture, and of each component, on the events that it is about to learn."""
        kept = np.flatnonzero(contexts.learn_B)
        p_BM = scores.p_BM[kept]
        mixed_B = (p_BM * mixture.weights(scores.bucket_B[kept])).sum(axis=1)
        self.losses = self.losses - np.log(np.column_stack([mixed_B, p_BM])).sum(axis=0)

    def figures(self):
        """Return the gradient visits of an event, and by how many nats the mixture was worse than its best component."""
        excess = {"excess_nats": float(self.losses[0] - self.losses[1:].min())} if len(self.losses) > 1 else {}
        bound = {"bound_nats": float(np.log(len(self.losses)) + np.log(max(1, self.events)))}
        return {
            "gradient_visits_per_event": self.targets / max(1, self.events),
            "mixture": excess | bound | {"events": self.events},
        }


WATCHED = Watched()
WATCHED.begin()


class WatchedLearner(Learner):
    """The production learner; what it does is counted."""

    def learn(self, contexts, scores, plan, left_out):
        if plan.learn:
            WATCHED.mixed(self.model.mixture, contexts, scores)
        learned = super().learn(contexts, scores, plan, left_out)
        WATCHED.note(learned)
        return learned


class LastSessionStage(Stage):
    """A staging whose rows begin with every session: no state sees an earlier one."""

    def _add(self, index, event):
        addition = self._addition(event)
        keep = not self._is_repeated(event, addition) and not (event.late and self._rules.on_late == "skip")
        if keep and self._opens_session(addition, event):
            self._begin_row(addition)
        super()._add(index, event)

    def _row_sequence(self, row):
        sequence, new = super()._row_sequence(row)
        start = max(np.flatnonzero(sequence.opens[: new + 1]), default=0)
        return sequence.each(lambda column: column[start:]), new - start


class LastSessionRehearsal(Rehearsal):
    """A rehearsal memory whose windows begin with the session."""

    def add(self, contexts, rows):
        fresh = rows[contexts.new_R[rows] < contexts.length_R[rows]]
        for user in contexts.user_R[fresh[contexts.session_RT[fresh, contexts.new_R[fresh]]]]:
            self._open.pop(int(user), None)
        super().add(contexts, rows)


def see_last_session_only():
    """Let the production classes be made with these two from now on."""
    consumer.histories.Stage, incremental.learner.Rehearsal = LastSessionStage, LastSessionRehearsal


class Periods:
    """A log with a column `period`: where each begins, and the sessions that are tested in it."""

    def __init__(self, path, limit):
        table = pq.read_table(path, columns=["user_id", "item_id", "period"])
        self.users, self.items, period = (table[name].to_numpy() for name in table.column_names)
        self.last = int(period.max()) if limit is None else min(limit, int(period.max()))
        self.borders = np.searchsorted(period, np.arange(self.last + 2))

    def tested(self, number):
        """Return users and items of the actions of a period that the protocol keeps, in stream order."""
        start, stop = self.borders[number], self.borders[number + 1]
        users, items = self.users[start:stop], self.items[start:stop]
        seen = np.isin(items, np.unique(self.items[:start]))
        users, items = users[seen], items[seen]
        actions = Counter(users.tolist())
        longer = np.array([actions[user] > 1 for user in users.tolist()], bool)
        return users[longer], items[longer]


def ader(options, seed):
    """Return Recall@20 and MRR@20 of every period, frozen and prequential."""
    path = Path(options.data) / options.set / "events.parquet"
    periods, settings, clock = Periods(path, options.limit), settings_of(options, seed), SystemClock()
    source = open_source(path, settings.input)
    parts = Parts(settings, Metrics(clock), HealthState(clock, settings.metrics.live_after_s))
    pipeline = Pipeline(settings, source, Discard(), parts, clock)
    rows, before = [], np.zeros(5)
    WATCHED.begin()
    begin = time.monotonic()
    for number in range(periods.last + 1):
        row = {"period": number} | (frozen(parts, periods.tested(number), settings) if number else {})
        while pipeline.records < periods.borders[number + 1]:
            pipeline.step(int(periods.borders[number + 1]) - pipeline.records)
        after = sums(parts.evaluation)
        recall, mrr, batch_recall, batch_mrr = (after - before)[1:] / max(1.0, after[0] - before[0])
        row |= {"preq_recall@20": recall, "preq_mrr@20": mrr}
        row |= {"strict_recall@20": recall - batch_recall, "strict_mrr@20": mrr - batch_mrr}
        row["events_per_s"] = pipeline.records / (time.monotonic() - begin)
        before = after
        rows.append(row)
        say(json.dumps(row))
    source.close()
    return {"periods": rows, "mean": mean_of(rows[1:]), "mean_from_4": mean_of(rows[4:])} | WATCHED.figures()


def mean_of(rows):
    names = [name for name in rows[0] if name != "period"] if rows else []
    return {name: float(np.mean([row[name] for row in rows])) for name in names}


def sums(evaluation):
    """Return scored events, sums of recall and MRR, and those of what first came in its own micro-batch, so far.

    Without the latter, which other systems do not know, the figures are "strict".
    """
    result, scored = evaluation.prequential.result(), evaluation.prequential.scored
    whole, batch = result["metrics"].get("tidemill", {}), result["same_batch_items"]
    counted = ((scored, whole), (batch["events"], batch.get("tidemill", {})))
    figures = [events * table.get(name, 0.0) for events, table in counted for name in ("recall@20", "mrr@20")]
    return np.array([scored, *figures])


def frozen(parts, tested, settings):
    """Predict the actions of a period without learning anything of them."""
    histories = Histories(settings.history, settings.input)
    histories.begin(TopicPartition("tested", 0))
    record = Record("tested", 0, 0, 0, None, None)
    ranks = []
    for start in range(0, len(tested[0]), SCORING_EVENTS):
        users, items = (column[start : start + SCORING_EVENTS].tolist() for column in tested)
        events = [event_of(record, user, item) for user, item in zip(users, items, strict=True)]
        staged = histories.stage(events)
        scores, predictions = parts.predictor.predict(staged.contexts, exclude_seen=False)
        histories.apply(staged, predictions.keys_BK)
        ranks.append(scores.rank_B[~staged.contexts.first_B])
    rank = np.concatenate(ranks)
    hit = rank < 20
    return {"recall@20": float(hit.mean()), "mrr@20": float((hit / (rank + 1.0)).mean()), "tested": len(rank)}


def say(text):
    """Tell people; machines read standard output."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def show(result):
    if "mean" in result:
        for name in ("mean", "mean_from_4"):
            rounded = {key: round(value, 4) for key, value in result[name].items()}
            say(f"{name} {rounded}")
        return
    for name, figures in result["methods"].items():
        text = "  ".join(
            f"{part} " + " ".join(f"{key} {value:.4f}" for key, value in values.items())
            for part, values in figures.items()
        )
        say(f"{name:20} {text}")
    say(f"mixture {result['mixture']}, gradient visits per event {result['gradient_visits_per_event']:.2f}")
    for number, name, ours, rate in result.get("behind", []):
        say(f"tenth {number}: {name} hit rate@10 {rate:.4f}, {OURS} {ours:.4f}")
    say(str(result["speed"]))


def summed_up(options, results):
    """Return one object: `metrics` are means over the seeds, and `standard_error` those of the means."""
    tables = [figures_of(result) for result in results.values()]
    return {
        "set": options.set,
        "protocol": options.protocol,
        "seeds": list(results),
        "limit": options.limit,
        "shuffle_ties": options.shuffle_ties,
        "last_session_only": options.last_session_only,
        "changed": options.change,
        "ablated": options.ablate,
        "rehearsal_events": settings_of(options, 0).learning.rehearsal_targets,
        "gradient_visits_per_event": float(
            np.mean([result["gradient_visits_per_event"] for result in results.values()])
        ),
        "metrics": over_seeds(tables, np.mean),
        "standard_error": over_seeds(tables, standard_error),
        "results": results,
    }


def figures_of(result):
    """Return method → figures of one seed."""
    if "mean" not in result:
        return result["metrics"]
    return {"tidemill": result["mean"], "tidemill, periods from 4": result["mean_from_4"]}


def over_seeds(tables, mean):
    return {
        method: {name: float(mean([table[method][name] for table in tables])) for name in figures}
        for method, figures in tables[0].items()
    }


def standard_error(values):
    return np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0


def main(arguments):
    options = parse(arguments)
    protocol = {"prequential": prequential, "ader": ader}[options.protocol]
    consumer.parts.Learner = WatchedLearner
    if options.last_session_only:
        see_last_session_only()
    results = {}
    for seed in map(int, options.seeds.split(",")):
        results[seed] = protocol(options, seed)
        show(results[seed])
    if options.json is not None:
        text = json.dumps(summed_up(options, results), indent=1)
        sys.stdout.write(f"{text}\n") if options.json == STANDARD_OUTPUT else options.json.write_text(text)
    return 0
