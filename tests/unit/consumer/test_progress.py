import io
from types import SimpleNamespace

import pytest
from rich.console import Console

import consumer.progress
from consumer.progress import SHOW_EVERY_STEPS, Progress, headline


def pipeline(rates, components=("transformer",), records=640):
    prequential = SimpleNamespace(
        methods=list(rates), recent=lambda name: {} if rates[name] is None else {"hr@10": rates[name]}
    )
    model = SimpleNamespace(mixture=SimpleNamespace(names=list(components)))
    parts = SimpleNamespace(evaluation=SimpleNamespace(prequential=prequential), model=model)
    return SimpleNamespace(parts=parts, records=records)


@pytest.mark.parametrize(
    ("rates", "text"),
    [
        ({}, "hit rate@10 0.000"),
        ({"tidemill": 0.25}, "hit rate@10 0.250"),
        ({"tidemill": None, "markov": None}, "hit rate@10 0.000 (best baseline 0.000, markov)"),
        (
            {"tidemill": 0.3, "transformer": 0.9, "markov": 0.2, "popularity": 0.1},
            "hit rate@10 0.300 (best baseline 0.200, markov)",
        ),
    ],
)
def test_the_headline_compares_with_the_best_baseline_and_no_component(rates, text):
    assert headline(pipeline(rates)) == text


@pytest.fixture
def terminal(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(
        consumer.progress,
        "Console",
        lambda **_: Console(file=written, force_terminal=True, width=120, color_system=None),
    )
    return written


def show(*, enabled, steps):
    with Progress(enabled=enabled, total=1000) as progress:
        for _ in range(steps):
            progress.show(pipeline({"tidemill": 0.25}))
        progress._bar.refresh()


def test_a_terminal_sees_records_and_the_headline(terminal):
    show(enabled=True, steps=SHOW_EVERY_STEPS)
    assert "640/1000" in terminal.getvalue()
    assert "hit rate@10 0.250" in terminal.getvalue()


def test_it_is_brought_up_to_date_every_few_steps_only(terminal):
    show(enabled=True, steps=SHOW_EVERY_STEPS - 1)
    assert "640/1000" not in terminal.getvalue()
    assert "starting" in terminal.getvalue()


def test_elsewhere_nothing_is_written(terminal):
    show(enabled=False, steps=2 * SHOW_EVERY_STEPS)
    assert terminal.getvalue() == ""
