from __future__ import annotations

from io import StringIO

from rich.console import Console

from consumer.clock import ManualClock
from consumer.metrics import Metrics
from deploy.demo_view import LINE_EVERY_S, Watch, parse, total

EXPOSITION = """\
# HELP tidemill_predictions_total Predictions.
# TYPE tidemill_predictions_total counter
tidemill_predictions_total 4096.0
tidemill_consumer_lag_records{partition="0",topic="events"} 10.0
tidemill_consumer_lag_records{partition="1",topic="events"} 5.0
tidemill_prequential_hit_rate{k="10",method="tidemill"} 0.25
tidemill_prequential_hit_rate{k="10",method="markov"} 0.125
tidemill_prequential_hit_rate{k="10",method="popularity"} 0.0625
tidemill_prequential_hit_rate{k="10",method="transformer"} 0.2
tidemill_mixture_weight{component="transformer"} 0.75
tidemill_mixture_weight{component="own_items"} 0.25
tidemill_learn_steps_total{result="learned"} 16.0
tidemill_learn_steps_total{result="skipped"} 2.0
tidemill_drift_detected_total{signal="log_loss"} 3.0
tidemill_items 77.0
process_cpu_seconds_total 1.5
"""


def watch_of(texts: list[str | None]) -> tuple[Watch, StringIO, ManualClock]:
    """A watch on a pipe, to which the worker answers one text after the other; None is no answer."""
    out, clock = StringIO(), ManualClock()
    watch = Watch(Console(file=out, width=1000), 1, clock)
    answers = iter(texts)
    watch._scrape = lambda: None if (text := next(answers)) is None else parse(text)
    return watch, out, clock


def test_samples_are_ours_only_with_their_labels() -> None:
    samples = parse(EXPOSITION)
    assert samples["predictions_total"] == [({}, 4096.0)]
    assert ({"topic": "events", "partition": "1"}, 5.0) in samples["consumer_lag_records"]
    assert not any("cpu" in name for name in samples)


def test_totals_are_over_the_series_that_match() -> None:
    samples = parse(EXPOSITION)
    assert total(samples, "consumer_lag_records") == 15.0
    assert total(samples, "learn_steps_total", result="learned") == 16.0
    assert total(samples, "no_such_metric") == 0.0


def test_the_figures_name_the_best_baseline_and_no_component() -> None:
    watch, _, _ = watch_of([])
    figures = watch._figures(parse(EXPOSITION))
    assert figures["hit rate@10"] == "0.250"
    assert figures["best baseline"] == "0.125 (markov)"
    assert figures["lag"] == "15"
    assert figures["learning steps"] == "16"
    assert figures["drift detected"] == "3"
    assert figures["mixture"] == "transformer 0.75 own_items 0.25"


def test_without_evaluation_there_is_no_baseline() -> None:
    watch, _, _ = watch_of([])
    assert "best baseline" not in watch._figures(parse("tidemill_predictions_total 1.0\n"))


def test_on_a_pipe_there_is_a_line_now_and_then() -> None:
    looks = 25
    watch, out, clock = watch_of([f"tidemill_predictions_total {100.0 * look}\n" for look in range(looks)])
    with watch:
        for _ in range(looks):
            watch.look()
    lines = out.getvalue().splitlines()
    assert len(lines) == int(clock.monotonic() // LINE_EVERY_S) > 1
    assert "per second 200," in lines[-1]


def test_a_worker_that_does_not_answer_is_waited_for() -> None:
    watch, out, _ = watch_of([None] * 40)
    with watch:
        for _ in range(40):
            watch.look()
    assert not out.getvalue()


def test_it_reads_what_the_metrics_write() -> None:
    metrics = Metrics(ManualClock())
    metrics.committed(12)
    samples = parse(metrics.render().decode())
    assert total(samples, "predictions_total") == 12.0
