"""A worker that is killed and started again, on a real broker: nothing lost, nothing doubled, the same bytes."""

from __future__ import annotations

import re
import signal

import pytest

from consumer import cli
from tests.integration.worker_bench import Bench, end, until

EVENTS = 6000


@pytest.fixture
def bench(broker, tmp_path, unique_name):
    name = re.sub(r"[^\w.-]", "-", unique_name("r"))[-100:]
    return Bench(broker.bootstrap_servers, tmp_path, name, partitions=2)


def killed_at(bench, process, predictions):
    """Kill -9 once so many predictions were committed."""
    try:
        until(lambda: sum(max(offset, 0) for offset in bench.committed().values()) >= predictions, 90, "progress")
        assert process.poll() is None, bench.log
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    finally:
        end(process)


def test_after_kill_9_it_goes_on_and_ends_with_the_bytes_of_its_journal(bench, capsys):
    bench.make_topics()
    bench.produce(bench.events(EVENTS))
    for share in (1000, 3000):
        killed_at(bench, bench.start("--until-end"), share)
    assert bench.run("--until-end") == 0, bench.log
    sources = bench.sources()
    assert len(sources) == len(set(sources)) == EVENTS
    assert bench.log.count('"message": "journal redone"') == 3
    config, topic = str(bench.folder / "tidemill.toml"), f"topic:{bench.settings().topics.events}"
    save = bench.folder / "as-run"
    assert cli.main(["replay", topic, "-c", config, "--as-run", "--save", str(save), "--json", "-"]) == 0
    live = max((bench.folder / "state" / bench.name).glob("snapshot-*"))
    redone = max((save / bench.name).glob("snapshot-*"))
    assert live.name.startswith(redone.name)  # it may have been saved twice: when it was due, and at the end
    assert cli.main(["snapshot", "diff", str(live), str(redone), "-c", config]) == 0, capsys.readouterr().out
