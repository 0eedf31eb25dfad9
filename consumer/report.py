"""The report of a run or a replay: one HTML page that needs nothing beside itself, for a reader who knows nothing yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import accumulate
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from consumer.errors import ConfigError
from consumer.report_charts import Lines, Mark, colour_index, line_chart, share_chart
from consumer.report_words import (
    BASELINES,
    COMPONENT,
    GUESSES,
    METHODS,
    METRICS,
    UNITS,
    WITH_TIES,
    in_words,
    mark_of,
    mark_words,
    signal_in_words,
)
from consumer.summary import best_method
from incremental.policy import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PAGE = "report.html"
SHOWN = ("tidemill", *(name for name in BASELINES if name not in WITH_TIES), "transformer")
"""Methods in the pictures, in this order; the tables have all."""

FEWEST_EVENTS = 20
"""In a bin of the reliability curve: a share of fewer says little."""

Table = dict[str, dict[str, float]]
Points = dict[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class ReportSeries:
    """What was sampled on the way, each point with the number of stream events up to it."""

    speed: Sequence[tuple[int, float]] = ()
    """(events, events per second since the point before)"""
    weights: Sequence[tuple[int, Mapping[str, float]]] = ()
    """(events, component → weight in the mixture)"""
    hit_rates: Sequence[tuple[int, Mapping[str, float]]] = ()
    """(events, method → hit rate @10 over the latest few thousand scored events)"""


def write_report(summary: Mapping[str, Any], extra: ReportSeries, folder: Path) -> Path:
    """Write `report.html` into the folder, which is made when missing, and return its path.

    Raises ConfigError where matplotlib is not installed or the folder cannot be written.
    """
    page = render_page(summary, extra)
    make_folder(folder)
    target = folder / PAGE
    try:
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the report cannot be written to {folder}: {error.strerror}") from error
    return target


def make_folder(folder: Path) -> None:
    """Make the folder of a report where it is missing. Raises ConfigError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"the report cannot be written to {folder}: {error.strerror}") from error


def render_page(summary: Mapping[str, Any], extra: ReportSeries) -> str:
    """Return the page; parts without data are left out."""
    style = files("consumer").joinpath("report.css").read_text(encoding="utf-8")
    body = "\n".join(_body(summary, extra))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Tidemill report</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _body(summary: Mapping[str, Any], extra: ReportSeries) -> Iterator[str]:
    colours = colour_index([name for name in SHOWN if name in summary["metrics"]])
    yield _header(summary)
    yield from _quality(summary, extra, colours)
    yield _section(
        "All methods",
        "Every scored event, ranked before anything was learned from its micro-batch. The best of each column is marked.",
        _metric_table(summary["metrics"], "next item")
        + _terms({name: METHODS.get(name, COMPONENT) for name in summary["metrics"]})
        + _terms(METRICS),
    )
    yield from _apart(summary)
    yield from _heads(summary["heads"])
    yield from _calibration(summary["calibration"])
    yield from _machine(summary, extra)
    yield _settings(summary)


def _header(summary: Mapping[str, Any]) -> str:
    facts = {name: f"{summary[name]:,}" for name in ("events", "users", "items")}
    facts |= {
        "scored events": f"{summary['scored']:,}",
        "events per second": f"{summary['speed']['events_per_s']:,.0f}",
    }
    if "tidemill" in summary["metrics"]:
        facts = {"hit rate @10": f"{summary['metrics']['tidemill']['hr@10']:.1%}"} | facts
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return (
        "<header><h1>Tidemill report</h1>"
        '<p class="lead">A stream of user events was read in its order. Before the model learned from an '
        "event, it had to predict which item the user would act on; the prediction was compared with what happened, and "
        f"with what simple counting methods would have said. {_headline(summary['metrics'], summary['emitted'])}</p>"
        f'<dl class="facts">{cells}</dl></header>'
    )


def _headline(metrics: Table, emitted: Table) -> str:
    best = best_method({name: row for name, row in metrics.items() if name in BASELINES}, "hr@10")
    if best is None or "tidemill" not in metrics:
        return ""
    ours, theirs = metrics["tidemill"]["hr@10"], metrics[best]["hr@10"]
    return (
        f"The item was among the model's first ten in {ours:.1%} of the events; the best baseline, "
        f"{escape(best)}, had {theirs:.1%}." + _published(emitted)
    )


def _published(emitted: Table) -> str:
    """What had been published is older: it was made after the user's previous event."""
    return "".join(f" Of the lists as they had been published, {row['hr@10']:.1%} held it." for row in emitted.values())


def _quality(summary: Mapping[str, Any], extra: ReportSeries, colours: Mapping[str, int]) -> Iterator[str]:
    windows = summary["windows"]
    if windows:
        chart = Lines("scored events", "hit rate @10 (share)", _over_windows(windows, colours, "hr@10"))
        yield _section(
            "Quality over time",
            "Share of events whose item was among the first ten, in ten equal parts of the stream. Higher is better.",
            line_chart(chart, colours, "quality"),
        )
        chart = Lines("scored events", "log-loss (nats)", _over_windows(windows, colours, "log_loss"), from_zero=False)
        yield _section(
            "Log-loss over time",
            "Mean of -ln(probability given to the item that came), in the same ten parts. Lower is better; one nat less "
            "means a probability 2.7 times as high.",
            line_chart(chart, colours, "loss"),
        )
    yield from _lately(summary["drift"], extra, colours)


def _lately(drift: Sequence[Mapping[str, Any]], extra: ReportSeries, colours: Mapping[str, int]) -> Iterator[str]:
    table = _drift_table(drift) if drift else '<p class="note">No drift was detected.</p>'
    picture = ""
    if extra.hit_rates:
        points = {name: _rates(extra.hit_rates, name) for name in colours}
        marks = [mark for mark in map(_mark, drift) if mark is not None]
        chart = Lines("events", "hit rate @10 (share)", _with_points(points), marks, markers=False)
        picture = line_chart(chart, colours, "lately")
    yield _section(
        "Recent quality and drift",
        "Hit rate over the latest few thousand events at each moment. A dashed vertical line is a place where a detector "
        "saw a watched signal rise: the stream changed, or the model got worse. A thin one: only one component or one "
        "segment did. A thick red one: the policy acted. A dotted one: the log-loss is back where it was. One of dots and "
        "dashes: it is not back, and what it is counts as usual from there on. Beside a mark, where there is "
        "room, stands the signal, or what was done. In the table the size of a loss of hits is the share of all hits that was lost, else the difference.",
        picture + table,
    )


def _apart(summary: Mapping[str, Any]) -> Iterator[str]:
    if summary["emitted"]:
        yield _section(
            "Published predictions",
            "The same events, judged by the prediction that had really been published after the user's previous event: "
            "what a consumer of the output topic would have seen.",
            _metric_table(summary["emitted"], "next item", mark=False),
        )
    if summary["first_events"]:
        yield _section(
            "First events of users",
            "Users about whom nothing was known yet. They are not part of the figures above.",
            _metric_table(summary["first_events"], "next item"),
        )
    if summary["new_items"]:
        yield _section(
            "New items",
            "The first ten appearances of every item, the very first included, at which no method can know it. They are "
            "part of the figures above.",
            _metric_table(summary["new_items"], "next item"),
        )


def _heads(heads: Mapping[str, Table]) -> Iterator[str]:
    words = {
        "event_type": ("Event type", "What kind of event comes next."),
        "next_event_s": (
            "Time to the next event",
            "Errors of log(1 + seconds); 0.69 is a factor of about two. Pinball judges p10, p50 and p90. Lower is better.",
        ),
    }
    for head, table in heads.items():
        title, text = words[head]
        yield _section(title, text, _metric_table(table, title.lower()))


def _calibration(calibration: Mapping[str, Any]) -> Iterator[str]:
    points: Points = {
        GUESSES[head]: [
            (found["confidence"], found["accuracy"])
            for found in calibration[head]["bins"]
            if found["events"] >= FEWEST_EVENTS
        ]
        for head in GUESSES
        if head in calibration
    }
    if points:
        errors = ", ".join(f"{GUESSES[head]} {calibration[head]['ece']:.4f}" for head in GUESSES if head in calibration)
        chart = Lines("probability said", "share that came true", {"as said": [(0, 0), (1, 1)]} | points, shares=True)
        yield _section(
            "Calibration",
            "First guesses by the probability that the model gave them, in fifteen bins, and how often they came "
            f"true; bins of fewer than {FEWEST_EVENTS} events are left out. On "
            f"the line the model is neither too sure nor too modest. Expected calibration error: {errors}.",
            line_chart(chart, colour_index(list(chart.points)), "calibration"),
        )
    if "next_event_s" in calibration:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in calibration["next_event_s"].items())
        yield _section(
            "Calibration of times",
            f"Share of events that came no later than the model's quantiles said; 10, 50 and 90 % are right: {shares}.",
            "",
        )


def _machine(summary: Mapping[str, Any], extra: ReportSeries) -> Iterator[str]:
    if extra.weights:
        yield _section(
            "Mixture weights over time",
            "How much each component counts in the mixture that covers the whole catalogue. The weights sum to one.",
            share_chart(extra.weights, "events", "weight (share)", "weights"),
        )
    speed = summary["speed"]
    chart = ""
    if extra.speed:
        points = {"speed": [(float(events), rate) for events, rate in extra.speed]}
        chart = line_chart(Lines("events", "events per second", points, markers=False), {"speed": 0}, "speed")
    yield _section(
        "Speed",
        f"{speed['events_per_s']:,.0f} events per second over the whole replay: {speed['predict_s']:,.1f} s predicting, "
        f"{speed['learn_s']:,.1f} s learning, {speed['total_s']:,.1f} s in all. Peak memory "
        f"{summary['peak_rss_bytes'] / 2**20:,.0f} MiB.",
        chart,
    )


def _settings(summary: Mapping[str, Any]) -> str:
    rows = {f"{name} version": value for name, value in summary["versions"].items()} | {"seed": summary["seed"]}
    rows |= {f"rejected: {reason}": f"{count:,} records" for reason, count in summary["rejected"].items()}
    parts = [_details("Versions, seed and rejected records", rows)]
    parts += [_details(f"[{name}]", values) for name, values in summary["settings"].items()]
    return _section("Settings", "What this replay ran with.", "".join(parts))


def _over_windows(windows: Sequence[Mapping[str, Any]], names: Mapping[str, int], metric: str) -> Points:
    """Return per method the points (middle of the window in scored events, mean of the metric)."""
    ends = list(accumulate(window["events"] for window in windows))
    middles = [end - window["events"] / 2 for end, window in zip(ends, windows, strict=True)]
    return _with_points(
        {
            name: [(x, window[name][metric]) for x, window in zip(middles, windows, strict=True) if name in window]
            for name in names
        }
    )


def _rates(samples: Sequence[tuple[int, Mapping[str, float]]], name: str) -> list[tuple[float, float]]:
    """Return a method's points; of several half-lives (`name@events`) those of the best."""
    variants = {key for _, rates in samples for key in rates if key == name or key.startswith(f"{name}@")}
    lines = {
        key: [(float(events), rates[key]) for events, rates in samples if key in rates] for key in sorted(variants)
    }
    return max(lines.values(), key=lambda line: sum(rate for _, rate in line), default=[])


def _with_points(points: Mapping[str, Sequence[tuple[float, float]]]) -> Points:
    return {name: line for name, line in points.items() if line}


def _metric_table(methods: Table, caption: str, *, mark: bool = True) -> str:
    metrics = list(dict.fromkeys(metric for row in methods.values() for metric in row))
    best = {metric: best_method(methods, metric) if mark else None for metric in metrics}
    head = "".join(f"<th>{escape(metric)}{UNITS.get(metric, '')}</th>" for metric in metrics)
    rows = "".join(
        f"<tr{' class=model' if method == 'tidemill' else ''}><td>{escape(method)}</td>"
        + "".join(_cell(row.get(metric), best=best[metric] == method) for metric in metrics)
        + "</tr>"
        for method, row in methods.items()
    )
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr><th>method</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(value: float | None, *, best: bool) -> str:
    text = "-" if value is None else f"{value:.4f}"
    return f'<td class="best">{text}</td>' if best else f"<td>{text}</td>"


def _drift_table(drift: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{found['event']:,}</td><td class=text>{escape(_signal(found))}</td>"
        f"<td>{escape(found.get('detector', '-'))}</td>{_cell(found.get('before'), best=False)}"
        f"{_cell(found.get('after'), best=False)}{_cell(_size(found), best=False)}<td class=text>{escape(in_words(found['action']))}</td></tr>"
        for found in drift
    )
    names = ("event", "signal", "detector", "before", "after", "size", "action")
    head = "".join(f"<th{' class=text' if name in {'signal', 'action'} else ''}>{name}</th>" for name in names)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _size(found: Mapping[str, Any]) -> float | None:
    return size(found["signal"], found["before"], found["after"]) if {"before", "after"} <= found.keys() else None


def _mark(found: Mapping[str, Any]) -> Mark | None:
    kind = mark_of(found["signal"], found["action"])
    return None if kind is None else Mark(float(found["event"]), kind, mark_words(found["signal"], found["action"]))


def _signal(found: Mapping[str, Any]) -> str:
    words, segment = signal_in_words(found["signal"]), found.get("segment")
    return f"{words}: {segment}" if segment else words


def _terms(words: Mapping[str, str]) -> str:
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in words.items())
    return f'<dl class="terms">{pairs}</dl>'


def _details(title: str, values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(str(name))}</td><td class=text>{escape('not set' if value is None else str(value))}</td></tr>"
        for name, value in values.items()
    )
    return f"<details><summary>{escape(title)}</summary><table><tbody>{rows}</tbody></table></details>"


def _section(title: str, text: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p class=note>{escape(text)}</p>{content}</section>"
