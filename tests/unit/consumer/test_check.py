from __future__ import annotations

import pytest

from consumer import check as module
from consumer.check_state import StateLook
from consumer.clock import ManualClock
from consumer.errors import AccessError, BrokerUnavailable
from consumer.journal import Entry, encode
from consumer.kafka_io import Progress
from consumer.ports import Record, TopicInfo, TopicPartition
from consumer.settings import KafkaSettings, Settings
from incremental.plan import LearnPlan

ALL = ("events", "predictions", "dead-letters", "drift", "journal")
GOOD = b'{"user_id":"u1","item_id":"i1","event_type":"view","event_time":1700000000}'


class Cluster:
    """Answers in the broker's place."""

    def __init__(self):
        self.topics = dict.fromkeys(ALL, 3)
        self.rights = {name: frozenset({"READ", "WRITE", "DESCRIBE"}) for name in ALL}
        self.values = [GOOD, GOOD]
        self.config = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
        self.made_with = {}
        self.entry = None
        self.probed = 0
        self.groups = []
        self.progress = [Progress(None, 0, 10), Progress(7, 0, 10), Progress(3, 3, 3)]
        self.waits = []

    def topic_info(self, settings, names, **_):
        self.waits.append(settings.kafka.broker_wait_s)
        return {name: TopicInfo(name, self.topics[name], self.config) for name in names if name in self.topics}

    def topic_rights(self, _settings, names, **_):
        return {name: self.rights[name] for name in names}

    def create_topics(self, _settings, topics, config=None, **_):
        self.made_with |= dict.fromkeys(topics, config)
        made = [name for name in topics if name not in self.topics]
        self.topics |= {name: topics[name] for name in made}
        return made

    def add_partitions(self, _settings, topic, total, **_):
        self.topics[topic] = total

    def last_record(self, settings, _clock):
        topics = settings.topics
        where = topics.journal, topics.journal_partition
        return None if self.entry is None else Record(*where, 6, 1_699_999_900_000, b"w", self.entry)

    def check_transactions(self, _settings, **_):
        self.probed += 1

    def group_progress(self, _settings, **_):
        return {TopicPartition("events", n): at for n, at in enumerate(self.progress)}

    def check_group(self, settings, **_):
        self.groups.append(settings.kafka.group)

    def read_last(self, _settings, topic, count, **_):
        return [Record(topic, 0, i, 1_700_000_000_000, b"k", v) for i, v in enumerate(self.values)][-count:]


@pytest.fixture
def cluster(monkeypatch):
    cluster = Cluster()
    names = ("topic_info", "topic_rights", "create_topics", "add_partitions")
    names += ("check_group", "check_transactions", "group_progress", "read_last", "last_record")
    for name in names:
        monkeypatch.setattr(module, name, getattr(cluster, name))
    return cluster


def run(sample=5, *, create=False, **kafka):
    return module.check(Settings(kafka=KafkaSettings(**kafka)), sample, create=create, clock=ManualClock())


def test_all_is_well(cluster):
    report = run()
    assert report.ok
    shown = report.render()
    assert "topic 'events': 3 partitions" in shown
    assert "the last 2 records decode" in shown
    assert "events-0@1: user_id='u1' item_id='i1' event_type='view' event_time=1700000000.000" in shown
    assert shown.endswith("\nready to run")
    assert cluster.probed == 1


def test_a_person_does_not_wait_five_minutes_for_a_broker(cluster):
    run()
    assert set(cluster.waits) == {15.0}


def test_at_least_once_needs_no_transactions(cluster):
    assert run(delivery="at_least_once").ok
    assert cluster.probed == 0


def test_missing_topics_are_named_with_the_command(cluster):
    del cluster.topics["drift"]
    report = run(bootstrap_servers="b:1")
    assert not report.ok
    assert (
        "topic 'drift' does not exist: `tidemill check --create`,"
        " or kafka-topics.sh --bootstrap-server b:1 --create --topic drift"
    ) in report.render()
    assert report.render().endswith("\nnot ready to run")


def test_create_makes_them_with_the_partitions_of_the_input(cluster):
    del cluster.topics["drift"]
    del cluster.topics["predictions"]
    report = run(create=True)
    assert report.ok
    assert cluster.topics["drift"] == cluster.topics["predictions"] == 3
    assert "topic 'drift': created" in report.render()


@pytest.mark.parametrize("enabled", [True, False])
def test_drift_records_need_a_right_only_where_there_are_any(cluster, enabled):
    cluster.rights["drift"] = frozenset({"DESCRIBE"})
    report = module.check(Settings.model_validate({"drift": {"enabled": enabled}}), 0, clock=ManualClock())
    assert report.exit_code == (77 if enabled else 0)


def test_a_missing_right_fails(cluster):
    cluster.rights["predictions"] = frozenset({"READ"})
    cluster.rights["events"] = frozenset({"WRITE"})
    report = run()
    assert not report.ok
    assert report.exit_code == 77
    assert "topic 'predictions': this user has no right to write" in report.render()
    assert "topic 'events': this user has no right to read" in report.render()


def test_rights_that_the_broker_does_not_tell_are_only_noted(cluster):
    cluster.rights["drift"] = frozenset()
    report = run()
    assert report.ok
    assert "topic 'drift': the broker does not tell the rights" in report.render()


def test_some_bad_records_are_noted_and_only_bad_ones_fail(cluster):
    cluster.values = [GOOD, b"no json"]
    report = run()
    assert report.ok
    assert "1 of the last 2 records cannot be decoded" in report.render()
    assert "events-0@1: rejected, " in report.render()
    cluster.values = [b"no json"]
    assert run().exit_code == 78
    cluster.values = [GOOD]
    assert run().exit_code == 0


@pytest.mark.parametrize(
    ("at", "settings", "said"),
    [
        (Progress(11, 0, 10), {}, "events-0 is 11, but the topic ends at 10"),
        (Progress(2, 3, 10), {}, "events-0 is 2, but the topic begins at 3 now"),
        (Progress(2, 3, 10), {"recovery": {"on_truncation": "earliest", "on_rewind": "emit_only"}}, None),
        (Progress(4, 0, 10), {}, "events-0 is 4, but events up to 5 were learned"),
        (Progress(4, 0, 10), {"recovery": {"on_rewind": "emit_only"}}, None),
        (Progress(4, 0, 10), {"kafka": {"delivery": "at_least_once"}}, None),
        (Progress(5, 0, 10), {}, None),
    ],
)
def test_offsets_from_which_a_worker_would_not_go_on_are_told(cluster, monkeypatch, at, settings, said):
    cluster.progress = [at]
    look = StateLook("state: as it should be", {TopicPartition("events", 0): 5})
    monkeypatch.setattr(module, "look_at_state", lambda _settings: look)
    report = module.check(Settings(**settings), 0, create=False, clock=ManualClock())
    assert report.exit_code == (65 if said else 0)
    assert said is None or said in report.render()


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (b'{"country":"at"}', "did you mean country?"),
        (b'{"shop":"s"}', "known are shop"),
        (b"{}", "the latest have no features"),
        (b'{"contry":[1]}', "its values are empty, or neither text, whole numbers nor booleans"),
        (b'{"contry":"at"}', None),
        (b'{"contry":1.0}', None),
    ],
)
def test_a_feature_for_segments_that_no_event_has_is_noted(cluster, features, said):
    cluster.values = [GOOD, GOOD[:-1] + b',"features":' + features + b"}"]
    report = module.check(Settings.model_validate({"drift": {"segment": "contry"}}), 5, clock=ManualClock())
    assert report.ok
    line = [line for line in report.render().splitlines() if "drift.segment" in line]
    assert line == ([f"note    drift.segment: none of these events has one by 'contry'; {said}"] if said else [])


def test_an_empty_topic_or_no_sample_is_fine(cluster):
    cluster.values = []
    assert "is empty: nothing to decode" in run().render()
    assert "decode" not in run(sample=0).render()


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("topic_info", BrokerUnavailable("no broker")),
        ("check_group", AccessError("no right")),
        ("check_transactions", AccessError("no right")),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_an_expected_error_is_a_finding(monkeypatch, step, error):
    def fail(*_args, **_named):
        raise error

    monkeypatch.setattr(module, step, fail)
    report = run()
    assert not report.ok
    assert report.exit_code == error.exit_code
    assert str(error) in report.render()


@pytest.mark.usefixtures("cluster")
def test_a_defect_is_not_hidden(monkeypatch):
    monkeypatch.setattr(module, "read_last", lambda *_args, **_named: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run()


def test_the_journal_needs_its_partition_and_must_keep_its_records(cluster):
    cluster.topics["journal"] = 1
    cluster.config = {"cleanup.policy": "compact", "retention.ms": "604800000"}
    settings = Settings.model_validate({"topics": {"journal_partition": 1}})
    report = module.check(settings, 0, clock=ManualClock())
    assert not report.ok
    shown = report.render()
    assert "has 1 partitions, but topics.journal_partition is 1" in shown
    assert "--topic journal --add-config cleanup.policy=delete" in shown
    assert "--topic journal --add-config retention.ms=-1" in shown
    assert "--alter --topic journal --partitions 2" in shown


def test_create_adds_the_partition_that_a_worker_of_another_name_needs(cluster):
    cluster.topics["journal"] = 1
    settings = Settings.model_validate({"topics": {"journal_partition": 4}})
    report = module.check(settings, 0, create=True, clock=ManualClock())
    assert report.ok
    assert cluster.topics["journal"] == 5
    assert "topic 'journal': 5 partitions now" in report.render()


def test_a_journal_that_is_cut_by_its_size_fails(cluster):
    cluster.config["retention.bytes"] = "1000000"
    report = run()
    assert not report.ok
    assert "has retention.bytes=1000000, a journal needs -1" in report.render()


def test_a_configuration_that_the_broker_does_not_tell_is_only_noted(cluster):
    cluster.config = {}
    report = run()
    assert report.ok
    assert "topic 'journal': the broker does not tell its configuration" in report.render()


def test_a_missing_journal_is_made_with_a_partition_for_this_worker(cluster):
    del cluster.topics["journal"]
    settings = Settings.model_validate({"topics": {"journal_partition": 2}})
    assert module.check(settings, 0, create=True, clock=ManualClock()).ok
    assert cluster.topics["journal"] == 3
    kept = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
    assert cluster.made_with == {**dict.fromkeys(ALL), "journal": kept}


@pytest.mark.parametrize(("own", "input_partitions", "made"), [(0, 3, 3), (7, 3, 8)])
def test_a_journal_has_a_partition_for_each_worker_that_could_have_work(cluster, own, input_partitions, made):
    del cluster.topics["journal"]
    cluster.topics["events"] = input_partitions
    settings = Settings.model_validate({"topics": {"journal_partition": own}})
    assert module.check(settings, 0, create=True, clock=ManualClock()).ok
    assert cluster.topics["journal"] == made


def entry(lineage, batch):
    return encode(Entry(lineage, LearnPlan(batch, True, 0.1, 1, 2, 0.0, 1, 2, False), ()))


def test_an_empty_journal_is_noted(cluster):
    report = run()
    assert report.ok
    assert "note    journal journal-0: empty; a worker that has no snapshot begins a new lineage" in report.render()
    del cluster.topics["journal"]
    assert "empty" not in run().render()


def test_a_journal_of_this_worker_tells_where_it_is(cluster):
    cluster.entry = entry("tidemill-0", 41)
    report = run()
    assert report.ok
    assert "journal journal-0: of 'tidemill-0', micro-batch 41 was written 100 seconds ago" in report.render()


@pytest.mark.parametrize(
    ("value", "told"),
    [(entry("other", 3), "holds the journal of 'other', not of 'tidemill-0'"), (b"x", "cannot be read")],
)
def test_a_journal_of_somebody_else_fails(cluster, value, told):
    cluster.entry = value
    report = run()
    assert not report.ok
    assert told in report.render()


def test_the_journal_is_read_and_written_and_better_trimmed_too(cluster):
    cluster.rights["journal"] = frozenset({"WRITE"})
    report = run()
    assert not report.ok
    assert "topic 'journal': this user has no right to read" in report.render()
    assert "topic 'journal': this user may not delete records, so the journal will only grow" in report.render()
    cluster.rights["journal"] = frozenset({"READ", "WRITE", "DELETE"})
    report = run()
    assert report.ok
    assert "only grow" not in report.render()


@pytest.mark.usefixtures("cluster")
def test_the_state_store_is_looked_at(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    settings = Settings.model_validate({"snapshot": {"dir": tmp_path / "file"}})
    report = module.check(settings, 5, clock=ManualClock())
    assert not report.ok
    assert "FAILED  state: the state folder" in report.render()
    assert report.render().index("FAILED  state") < report.render().index("u1")  # the sample is shown all the same
    monkeypatch.setattr(module, "look_at_state", lambda _settings: StateLook("state: as it should be"))
    assert "ok      state: as it should be" in run().render()
