import re
import sys
from html.parser import HTMLParser

import pytest

from consumer.errors import ConfigError
from consumer.report import ReportSeries, render_page, write_report
from consumer.report_charts import MARK_STYLES, Lines, Mark, colour_index, line_chart
from consumer.report_words import SIGNALS, mark_of, mark_words, signal_in_words
from incremental.signals import names

ROW = {"hr@10": 0.2, "ndcg@10": 0.1, "mrr@10": 0.08, "recall@20": 0.3, "mrr@20": 0.09, "log_loss": 6.0}
WORSE = {name: value / 2 if name != "log_loss" else 7.0 for name, value in ROW.items()}


def a_summary(**changed):
    metrics = {"markov": WORSE, "tidemill": ROW, "recent_popularity": WORSE, "own_items": ROW}
    return {
        "schema": 1,
        "events": 12_345,
        "users": 40,
        "items": 90,
        "scored": 12_000,
        "seed": 1,
        "k": [10, 20],
        "protocol": "prequential",
        "metrics": metrics,
        "emitted": {"tidemill": {name: value for name, value in ROW.items() if name != "log_loss"}},
        "first_events": metrics,
        "new_items": metrics,
        "heads": {
            "event_type": {"tidemill": {"accuracy": 0.7, "log_loss": 0.5}, "mode": {"accuracy": 0.6, "log_loss": 0.6}},
            "next_event_s": {"median": {"mae_log": 1.5, "pinball": 0.4}},
        },
        "calibration": {
            "item": {"ece": 0.0123, "bins": [{"events": 9000, "confidence": 0.2, "accuracy": 0.25}]},
            "next_event_s": {"p10": 0.11, "p50": 0.48, "p90": 0.9},
        },
        "windows": [{"events": 1200, **metrics} for _ in range(10)],
        "drift": [
            {
                "event": 6000,
                "signal": "log_loss",
                "action": "observe",
                "detector": "adwin",
                "before": 6.0,
                "after": 7.0,
            }
        ],
        "speed": {"events_per_s": 1000.0, "predict_s": 4.0, "learn_s": 7.0, "total_s": 12.3},
        "peak_rss_bytes": 2**28,
        "rejected": {"not_json": 2},
        "versions": {"python": "3.11.0"},
        "settings": {"kafka": {"sasl_password": "***", "group": "<b>&tidemill"}},
        **changed,
    }


SERIES = ReportSeries(
    speed=[(n * 1000, 900.0 + n) for n in range(12)],
    weights=[(n * 1000, {"transformer": 0.25 + n / 40, "own_items": 0.75 - n / 40}) for n in range(12)],
    hit_rates=[(n * 1000, {"tidemill": 0.2, "recent_popularity@1000": 0.01, "markov": 0.1}) for n in range(12)],
)


class Tags(HTMLParser):
    """Collects tags with their attributes, and the text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def page():
    return render_page(a_summary(), SERIES)


def test_the_page_loads_nothing(page):
    tags = Tags(page).tags
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        for name, value in attributes.items():
            if name in {"src", "href", "xlink:href"}:
                assert value.startswith("#")
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_every_id_of_the_page_is_one_and_what_is_referred_to_is_there(page):
    ids = [attributes["id"] for _, attributes in Tags(page).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(ids)


def test_all_parts_are_shown(page):
    words = " ".join(Tags(page).words)
    titles = (
        "Quality over time",
        "Log-loss over time",
        "Recent quality and drift",
        "All methods",
        "Published predictions",
        "First events of users",
        "New items",
        "Calibration",
        "Calibration of times",
        "Event type",
        "Time to the next event",
        "Mixture weights over time",
        "Speed",
        "Settings",
    )
    for text in (*titles, "12,345", "drift detected", "6,000", "events per second", "log-loss (nats)", "256 MiB"):
        assert text in words
    assert page.count("<svg") == 6


def test_alarms_actions_and_recoveries_are_marked_apart():
    drift = [
        {"event": event, "signal": signal, "action": action, "detector": "adwin", "before": 6.0, "after": 7.0}
        for event, signal, action in (
            (2000, "log_loss/markov", "observe"),
            (3000, "unknown", "observe"),
            (4000, "misses", "short_half_lives+rehearse_recent"),
            (9000, "recovered", "after 5000 events"),
            (9500, "not_recovered", "after 200000 events"),
        )
    ]
    drift.append({**drift[0], "signal": "segment/log_loss", "segment": "a<b"})
    words = " ".join(Tags(render_page(a_summary(drift=drift), SERIES)).words)
    for text in (
        *("drift detected", "drift of one part", "policy acted", "recovered", "not recovered", "after 5000 events"),
        *("log-loss of markov alone (nats)", "log-loss of the mixture in a segment (nats): a<b"),
    ):
        assert text in words


def test_every_kind_of_mark_has_a_line_of_its_own():
    records = {"log_loss": "observe", "log_loss/markov": "observe", "misses": "restart_mixture"}
    records |= {"recovered": "after 5 events", "not_recovered": "after 5 events"}
    kinds = [mark_of(signal, action) for signal, action in records.items()]
    assert kinds == list(MARK_STYLES)
    assert mark_of("segment/log_loss", "observe") == mark_of("log_loss/markov", "observe")
    assert mark_of("log_loss/markov", "restart_mixture") == mark_of("misses", "restart_mixture")
    styles = [str(sorted(style.items(), key=str)) for style in MARK_STYLES.values()]
    assert len(set(styles)) == len(styles)
    assert mark_of("champion/network", "keep") is None


def test_beside_a_mark_stands_what_it_is_about_where_there_is_room():
    points = [(float(x), 0.2) for x in range(0, 1000, 10)]
    marks = [
        *(Mark(100.0, "drift detected", "misses"), Mark(100.0, "policy acted", "lost hits")),
        *(Mark(105.0, "drift detected", "no room"), Mark(300.0, "recovered"), Mark(400.0, "policy acted", "log-loss")),
    ]
    picture = line_chart(Lines("x", "y", {"tidemill": points}, marks, markers=False), {"tidemill": 0}, "lately")
    assert "misses, lost hits" in picture
    assert "log-loss" in picture
    assert "no room" not in picture
    assert mark_words("lost_hits", "restart_mixture") == "lost hits"
    assert mark_words("champion/network", "roll_back_network") == "roll back network"
    assert mark_words("log_loss/markov", "observe") == mark_words("recovered", "after 5 events") == ""


def test_every_signal_has_words_that_stand_alone():
    for signal in {*names(["markov"]), *SIGNALS}:
        assert signal_in_words(signal) != signal
        assert "the same," not in signal_in_words(signal)


def test_the_headline_compares_with_the_best_baseline_not_with_a_component(page):
    assert "first ten in 20.0% of the events; the best baseline, markov, had 10.0%." in page
    assert f"as they had been published, {ROW['hr@10']:.1%} held it." in page


def test_colours_follow_the_theme(page):
    pictures = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--series-0)" in pictures
    assert not re.search(r"#0[12]0[01]0[0-9a-f]", pictures)
    assert "prefers-color-scheme: dark" in page


def test_settings_are_escaped(page):
    assert "&lt;b&gt;&amp;tidemill" in page
    assert "<b>" not in page


def test_the_best_of_a_column_is_marked(page):
    assert '<td class="best">0.2000</td>' in page
    assert '<td class="best">7.0000</td>' not in page


def test_a_replay_without_scored_events_has_a_page_too():
    empty = a_summary(
        metrics={}, emitted={}, first_events={}, new_items={}, heads={}, calibration={}, windows=[], drift=[], scored=0
    )
    page = render_page(empty, ReportSeries())
    assert "No drift was detected." in page
    assert "<svg" not in page


def test_the_report_is_one_file_in_a_folder_that_is_made(tmp_path):
    path = write_report(a_summary(), SERIES, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "report.html"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]


def test_the_same_replay_gives_the_same_page(page):
    assert render_page(a_summary(), SERIES) == page


def test_without_matplotlib_the_message_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="extra `report`"):
        write_report(a_summary(), SERIES, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_config_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(a_summary(), SERIES, tmp_path / "file")


def test_a_long_series_is_thinned_and_keeps_its_end():
    points = [(float(x), 1.0) for x in range(100_000)]
    picture = line_chart(Lines("x", "y", {"speed": points}, markers=False), {"speed": 0}, "speed")
    assert len(picture) < 60_000


def test_the_model_has_the_first_colour():
    assert colour_index(["markov", "tidemill", "popularity"]) == {"tidemill": 0, "markov": 1, "popularity": 2}
