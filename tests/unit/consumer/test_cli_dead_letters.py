from __future__ import annotations

import pytest

from consumer import cli, dead_letter_replay
from consumer.dead_letter_replay import Wanted
from consumer.errors import BrokerUnavailable


@pytest.fixture
def calls(monkeypatch):
    calls = []

    def replay(settings, wanted, tally):
        calls.append((settings, wanted))
        tally.dry_run = wanted.dry_run
        tally.sent["invalid_json"] += 3
        tally.next_offsets[0] = 7
        if settings.kafka.bootstrap_servers == "away:1":
            raise BrokerUnavailable("no broker")

    monkeypatch.setattr(dead_letter_replay, "replay_dead_letters", replay)
    monkeypatch.setattr("consumer.cli_options.start_logging", lambda _settings, **_: None)
    return calls


def run(capsys, *argv):
    code = cli.main(["dead-letters", "replay", *argv])
    return code, capsys.readouterr()


def test_options_are_passed_on_and_what_was_sent_is_said(calls, capsys):
    argv = "-b b:1 -t clicks --from-offset 4 --limit 9 --reason invalid_json --any-topic"
    code, shown = run(capsys, *argv.split())
    assert code == 0
    assert shown.out == "sent: 3\n  invalid_json: 3\nwhat comes later: --from-offset 0:7\n"
    ((settings, wanted),) = calls
    assert wanted == Wanted(4, 9, "invalid_json", any_topic=True)
    assert (settings.kafka.bootstrap_servers, settings.topics.events) == ("b:1", "clicks")


def test_each_partition_can_go_on_where_it_was(calls, capsys):
    assert run(capsys, "--from-offset", "0:7", "--from-offset", "12:1")[0] == 0
    assert calls[0][1] == Wanted({0: 7, 12: 1})


def test_a_dry_run_says_what_would_be_sent(calls, capsys):
    assert run(capsys, "--dry-run")[1].out == "would be sent: 3\n  invalid_json: 3\n"
    assert calls[0][1] == Wanted(dry_run=True)


def test_what_was_sent_is_said_also_where_an_error_ends_it(calls, capsys):
    code, shown = run(capsys, "-b", "away:1")
    assert (code, shown.err) == (75, "tidemill: no broker\n")
    assert shown.out.startswith("sent: 3\n")
    assert calls


@pytest.mark.parametrize(
    "argv",
    [["--reason", "bad"], ["--limit", "0"], ["--from-offset", "-1"], ["--from-offset", "1", "--from-offset", "0:2"]],
)
def test_a_wrong_command_line_is_64_and_sends_nothing(calls, capsys, argv):
    code, shown = run(capsys, *argv)
    assert code == 64
    assert shown.out == ""
    assert not calls
