"""The live view of the demo: what the worker says of itself on /metrics, on a terminal or as a line now and then."""

from __future__ import annotations

import re
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from consumer.ports import Clock

LOOK_EVERY_S = 0.5
LINE_EVERY_S = 5.0
TIMEOUT_S = 5.0
_SAMPLE = re.compile(r"^tidemill_(\w+?)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

Samples = dict[str, list[tuple[dict[str, str], float]]]


def parse(text: str) -> Samples:
    """Return our samples of an exposition by name without prefix: labels and value."""
    samples: Samples = {}
    for name, labels, value in _SAMPLE.findall(text):
        samples.setdefault(name, []).append((dict(_LABEL.findall(labels)), float(value)))
    return samples


def total(samples: Samples, name: str, **wanted: str) -> float:
    """Return the sum over a metric's series that have these labels; 0 where there is none."""
    return sum(value for labels, value in samples.get(name, ()) if wanted.items() <= labels.items())


class Watch:
    """Looks at a worker's metrics twice a second until it is closed."""

    def __init__(self, console: Console, port: int, clock: Clock) -> None:
        self._console, self._port, self._clock = console, port, clock
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._last_line = clock.monotonic()
        self._before: tuple[float, float] | None = None
        self._rate = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def look(self) -> None:
        """Wait a moment, then show what the worker says; nothing while it does not answer yet, or any more."""
        self._clock.sleep(LOOK_EVERY_S)
        samples = self._scrape()
        if samples is None:
            return
        self._measure(total(samples, "predictions_total"))
        if self._live is not None:
            self._live.update(self._table(samples), refresh=True)
        elif self._clock.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = self._clock.monotonic()
            self._console.print(self._line(samples))

    def _scrape(self) -> Samples | None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", "/metrics")
            return parse(connection.getresponse().read().decode())
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()

    def _measure(self, predictions: float) -> None:
        now = self._clock.monotonic()
        if self._before is not None and now > self._before[0]:
            rate = (predictions - self._before[1]) / (now - self._before[0])
            self._rate = rate if self._rate == 0.0 else 0.8 * self._rate + 0.2 * rate
        self._before = now, predictions

    def _line(self, samples: Samples) -> str:
        return ", ".join(f"{name} {value}" for name, value in self._figures(samples).items())

    def _table(self, samples: Samples) -> Table:
        table = Table(show_header=False, title="tidemill at work", title_justify="left")
        for name, value in self._figures(samples).items():
            table.add_row(name, value)
        return table

    def _figures(self, samples: Samples) -> dict[str, str]:
        hits = {labels["method"]: value for labels, value in samples.get("prequential_hit_rate", ())}
        weights = {labels["component"]: value for labels, value in samples.get("mixture_weight", ())}
        baselines = {name: value for name, value in hits.items() if name != "tidemill" and name not in weights}
        best = max(baselines, key=lambda name: baselines[name], default=None)
        figures = {
            "predictions": f"{total(samples, 'predictions_total'):,.0f}",
            "per second": f"{self._rate:,.0f}",
            "lag": f"{total(samples, 'consumer_lag_records'):,.0f}",
            "hit rate@10": f"{hits.get('tidemill', 0.0):.3f}",
        }
        if best is not None:
            figures["best baseline"] = f"{baselines[best]:.3f} ({best})"
        figures["learning steps"] = f"{total(samples, 'learn_steps_total', result='learned'):,.0f}"
        figures["items"] = f"{total(samples, 'items'):,.0f}"
        figures["drift detected"] = f"{total(samples, 'drift_detected_total'):,.0f}"
        figures["mixture"] = " ".join(f"{name} {value:.2f}" for name, value in weights.items())
        return figures
