"""Every metric that the dashboard or an alert reads is one that the worker writes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from consumer.metrics import COUNTERS, GAUGES, HISTOGRAMS, PREFIX

DEPLOY = Path(__file__).parents[3] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RULES = DEPLOY / "prometheus" / "rules.yml"
BUILT_IN = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds"}

SAMPLES: dict[str, set[str]] = (
    {f"{PREFIX}{name}_total": set(labels) for name, (_, labels) in COUNTERS.items()}
    | {f"{PREFIX}{name}": set(labels) for name, (_, labels) in GAUGES.items()}
    | {
        f"{PREFIX}{name}_{part}": set(labels)
        for name, (_, labels, _) in HISTOGRAMS.items()
        for part in ("sum", "count")
    }
    | {f"{PREFIX}{name}_bucket": {"le", *labels} for name, (_, labels, _) in HISTOGRAMS.items()}
    | {f"{PREFIX}build_info": set()}
    | {name: set() for name in BUILT_IN}
)
SCRAPED = {"instance", "job"}
WORDS = {
    *("sum_over_time", "sum", "avg", "max", "min", "by", "and", "rate", "increase", "deriv", "changes"),
    *("histogram_quantile", "label_values"),
}


def metrics_of(expression: str) -> set[str]:
    """All names that are neither functions nor labels."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"|by \([^)]*\)", " ", expression)
    return set(re.findall(r"[a-zA-Z_][a-zA-Z0-9_]*", bare)) - WORDS - SCRAPED - {"k"}


def labels_of(expression: str) -> set[str]:
    matchers = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)
    grouped = [name for group in re.findall(r"by \(([^)]*)\)", expression) for name in group.split(",")]
    return {name.strip() for name in (*matchers, *grouped)}


def dashboard_expressions() -> list[str]:
    found = []
    for path in DASHBOARDS:
        board = json.loads(path.read_text(encoding="utf-8"))
        found += [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
        found += [annotation["expr"] for annotation in board["annotations"]["list"]]
        found += [variable["query"]["query"] for variable in board["templating"]["list"]]
    return found


def rule_expressions() -> list[str]:
    return [rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("expression", [*dashboard_expressions(), *rule_expressions()])
def test_every_metric_and_label_exists(expression) -> None:
    names = metrics_of(expression)
    assert names
    assert names <= set(SAMPLES)
    assert labels_of(expression) <= SCRAPED.union(*(SAMPLES[name] for name in names))


def test_the_check_sees_a_metric_that_is_not_there() -> None:
    assert metrics_of('sum by (k) (rate(tidemill_nothing_total{k="1"}[5m]))') == {"tidemill_nothing_total"}
    assert labels_of('sum by (a, b) (x{c="1", d=~"2"})') == {"a", "b", "c", "d"}


def test_every_metric_of_the_worker_is_on_the_dashboard() -> None:
    shown = set().union(*(metrics_of(expression) for expression in dashboard_expressions()))
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    missing = {
        name for name in SAMPLES if name.startswith(PREFIX) and re.sub(r"_(bucket|sum|count)$", "", name) not in bases
    }
    assert missing == set()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_panels_have_ids_of_their_own_and_do_not_overlap(path) -> None:
    panels = json.loads(path.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_provisioned_source_is_the_one_the_dashboard_asks() -> None:
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    asked = {
        panel["datasource"]["uid"]
        for path in DASHBOARDS
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]
        if "datasource" in panel
    }
    assert asked == {source["datasources"][0]["uid"]}


def test_every_alert_has_a_test_and_a_word_of_help() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    tests = yaml.safe_load((DEPLOY / "prometheus" / "rules.test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in rules}
    assert all({"summary", "description"} == set(rule["annotations"]) for rule in rules)


@pytest.mark.parametrize("arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "rules.test.yml")])
def test_promtool_accepts(arguments) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        [promtool, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
