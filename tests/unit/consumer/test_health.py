from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from consumer.clock import ManualClock
from consumer.errors import ConfigError
from consumer.health import MAX_CONNECTIONS, HealthServer, HealthState
from consumer.metrics import Metrics
from consumer.ports import TopicPartition
from consumer.settings import MetricsSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

# --- a strict reader of the Prometheus text format, independent of the library that writes it

HELP = re.compile(r"# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)")
TYPE = re.compile(r"# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge|histogram)")
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")


def parse(page: str) -> dict[str, dict[str, float]]:
    """Families by name, samples by name and sorted labels. Fails on anything that the format does not allow."""
    assert page.endswith("\n")
    families: dict[str, dict[str, float]] = {}
    kinds: dict[str, str] = {}
    helped = family = ""
    for line in page.splitlines():
        if found := HELP.fullmatch(line):
            helped = found[1]
            continue
        if found := TYPE.fullmatch(line):
            family = found[1]
            assert family == helped, "HELP comes right before TYPE"
            assert family not in families, "one group for a family"
            families[family], kinds[family] = {}, found[2]
            continue
        found = SAMPLE.fullmatch(line)
        assert found, line
        _check_name(found[1], family, kinds[family])
        labels = ",".join(sorted(re.findall(LABEL, found[2] or "")))
        series = f"{found[1]}{{{labels}}}"
        assert series not in families[family], "each series once"
        families[family][series] = float(found[3])
    for name, kind in kinds.items():
        if kind == "histogram":
            _check_histogram(families[name])
    return families


def _check_name(sample: str, family: str, kind: str) -> None:
    suffixes = {"counter": {""}, "gauge": {""}, "histogram": {"_bucket", "_sum", "_count"}}[kind]
    assert sample.startswith(family)
    assert sample.removeprefix(family) in suffixes
    assert kind != "counter" or sample.endswith("_total")


def _check_histogram(samples: dict[str, float]) -> None:
    groups: dict[str, list[tuple[float, float]]] = {}
    counts = {}
    for series, value in samples.items():
        bound = re.search(r'le="([^"]+)"', series)
        rest = re.sub(r'(_bucket|_count)|,?le="[^"]+",?', "", series)
        if bound:
            groups.setdefault(rest, []).append((float(bound[1]), value))
        elif "_count" in series:
            counts[rest] = value
    assert set(groups) == set(counts)
    for rest, buckets in groups.items():
        bounds, values = zip(*buckets, strict=True)
        assert list(bounds) == sorted(set(bounds)), "bounds grow"
        assert list(values) == sorted(values), "counts are cumulative"
        assert buckets[-1] == (float("inf"), counts[rest])


@pytest.mark.parametrize(
    "page",
    [
        "# TYPE a gauge\na 1\n",
        "# HELP a x\n# TYPE a gauge\na 1",
        "# HELP a x\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a x\n# TYPE a counter\na 1\n",
        '# HELP a x\n# TYPE a gauge\na{b="c} 1\n',
        '# HELP a x\n# TYPE a histogram\na_bucket{le="1"} 2\na_bucket{le="+Inf"} 1\na_sum 1\na_count 1\n',
        '# HELP a x\n# TYPE a histogram\na_bucket{le="1"} 1\na_sum 1\na_count 1\n',
    ],
)
def test_the_reader_is_strict(page: str) -> None:
    with pytest.raises(AssertionError):
        parse(page)


# --- the server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def health(clock: ManualClock) -> HealthState:
    return HealthState(clock, live_after_s=60)


@pytest.fixture
def metrics(clock: ManualClock) -> Metrics:
    filled = Metrics(clock)
    filled.assigned({TopicPartition("events", 3)})
    filled.lag({TopicPartition("events", 3): 4})
    filled.observe_step("poll", 0.01)
    filled.observe_step("learn", 0.02)
    filled.latency(np.array([0.01, 7.0]), np.array([0.02]))
    filled.dead_letter('a "strange"\\\nreason')
    filled.prequential("tidemill", {10: 0.2}, {10: 0.1}, 6.0)
    filled.build_info({"tidemill": "0.1.0"})
    return filled


@pytest.fixture
def server(health: HealthState, metrics: Metrics) -> Iterator[HealthServer]:
    with closing(HealthServer(MetricsSettings(port=0), health, metrics)) as serving:
        yield serving


def request(server: HealthServer, path: str, method: str = "GET") -> tuple[int, http.client.HTTPMessage, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def test_the_metrics_page_is_what_the_format_demands(server: HealthServer) -> None:
    status, headers, body = request(server, "/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = parse(body.decode())
    assert families["tidemill_consumer_lag_records"] == {
        'tidemill_consumer_lag_records{partition="3",topic="events"}': 4.0
    }
    assert (
        'tidemill_dead_letters_total{reason="a \\"strange\\"\\\\\\nreason"}' in families["tidemill_dead_letters_total"]
    )
    assert families["tidemill_event_to_prediction_seconds"]["tidemill_event_to_prediction_seconds_sum{}"] == 7.01


def test_both_readers_find_the_same(server: HealthServer) -> None:
    page = request(server, "/metrics")[2].decode()
    theirs = {family.name: len(family.samples) for family in text_string_to_metric_families(page)}
    ours = {name.removesuffix("_total"): len(samples) for name, samples in parse(page).items()}
    assert ours == {name.removesuffix("_total"): n for name, n in theirs.items()}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_no_complaint(server: HealthServer) -> None:
    page = request(server, "/metrics")[2]
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")


def test_live_while_the_loop_moves(server: HealthServer, health: HealthState, clock: ManualClock) -> None:
    clock.advance(59)
    assert request(server, "/livez")[0] == 200
    clock.advance(2)
    status, headers, body = request(server, "/livez")
    assert status == 503
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {
        "ok": False,
        "reason": "the loop has not moved for 61 s",
        "checks": {"loop": False},
    }
    health.beat()
    assert request(server, "/livez")[0] == 200


def test_a_worker_that_connects_again_is_alive_as_long_as_one_that_starts(clock: ManualClock) -> None:
    health = HealthState(clock, 10.0, start_s=300.0)
    for tell in (health.beat, health.broker_seen, health.assigned, health.restored):
        tell()
    assert health.ready().ok
    health.connecting()
    assert health.ready().reason == "no broker has answered yet"
    clock.advance(305.0)
    assert health.live().ok
    clock.advance(10.0)
    assert not health.live().ok
    health.beat()
    clock.advance(11.0)
    assert not health.live().ok


def test_ready_when_everything_is_there(server: HealthServer, health: HealthState) -> None:
    status, _, body = request(server, "/readyz")
    assert status == 503
    assert json.loads(body)["checks"] == {"loop": True, "broker": False, "assigned": False, "restored": False}
    health.broker_seen()
    health.assigned()
    assert json.loads(request(server, "/readyz")[2])["reason"] == "the state is not restored"
    health.restored()
    status, _, body = request(server, "/readyz")
    assert status == 200
    assert json.loads(body)["reason"] == "ready"


@pytest.mark.parametrize("lost", ["assigned", "restored", "loop"])
def test_not_ready_once_something_is_lost(health: HealthState, clock: ManualClock, lost: str) -> None:
    health.broker_seen()
    health.assigned()
    health.restored()
    assert health.ready().ok
    if lost == "assigned":
        health.assigned(is_assigned=False)
    elif lost == "restored":
        health.restored(is_restored=False)
    else:
        clock.advance(61)
    assert not health.ready().ok
    assert not health.ready().checks[lost]


def test_head_answers_without_a_body(server: HealthServer) -> None:
    status, headers, body = request(server, "/livez", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0


def test_other_paths_and_methods_are_refused(server: HealthServer) -> None:
    assert request(server, "/")[0] == 404
    assert request(server, "/metrics/x")[0] == 404
    assert request(server, "/metrics?name=x")[0] == 200
    for method in ("POST", "PUT", "DELETE"):
        assert request(server, "/metrics", method)[0] == 501


def test_only_the_configured_address_is_bound(server: HealthServer) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=5)


def test_a_port_in_use_names_the_setting(server: HealthServer, health: HealthState, metrics: Metrics) -> None:
    with pytest.raises(
        ConfigError, match=rf"metrics\.port = {server.port}: cannot listen there: Address already in use"
    ):
        HealthServer(MetricsSettings(port=server.port), health, metrics)


def test_an_address_of_another_host_names_the_setting(health: HealthState, metrics: Metrics) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.host = '192\.0\.2\.1'"):
        HealthServer(MetricsSettings(host="192.0.2.1", port=0), health, metrics)


def test_silent_clients_do_not_hold_up_a_probe(server: HealthServer) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(MAX_CONNECTIONS - 1)]
    try:
        assert request(server, "/livez")[0] == 200
    finally:
        for connection in silent:
            connection.close()


def test_too_many_clients_are_hung_up_on(server: HealthServer) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(MAX_CONNECTIONS)]
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=3) as one_more:
            assert one_more.recv(1) == b""
    finally:
        for connection in silent:
            connection.close()


def test_closing_frees_the_port(health: HealthState, metrics: Metrics) -> None:
    server = HealthServer(MetricsSettings(port=0), health, metrics)
    server.close()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)
