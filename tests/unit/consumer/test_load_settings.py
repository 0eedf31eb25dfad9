from __future__ import annotations

import json
from typing import TYPE_CHECKING

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.describe_settings import KNOWN
from consumer.errors import ConfigError
from consumer.kafka_io import connection_options
from consumer.load_settings import identity, load_settings, settings_schema, show
from consumer.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def load(toml: str = "", environ: dict[str, str] | None = None, *flags: str, folder: Path | None = None) -> Settings:
    file = None
    if folder is not None:
        file = folder / "tidemill.toml"
        file.write_text(toml, encoding="utf-8")
    return load_settings(file, environ or {}, flags)


def problems(*arguments: object, **named: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*arguments, **named)
    return str(caught.value)


def test_nothing_given_is_the_defaults() -> None:
    assert load() == Settings()


def test_environment_overrides_the_file_and_flags_override_both(tmp_path: Path) -> None:
    toml = '[kafka]\ngroup = "file"\ninstance = "file"\n[topics]\nevents = "file"\n'
    environ = {"TIDEMILL_KAFKA__INSTANCE": "env", "TIDEMILL_TOPICS__EVENTS": "env", "PATH": "/bin"}
    settings = load(toml, environ, "topics.events=flag", folder=tmp_path)
    assert (settings.kafka.group, settings.kafka.instance, settings.topics.events) == ("file", "env", "flag")


def test_the_last_flag_wins() -> None:
    assert load("", {}, "model.layers=3", "model.layers=4").model.layers == 4


@pytest.mark.parametrize(
    ("flag", "read"),
    [
        ("kafka.group=123", lambda s: s.kafka.group == "123"),
        ('kafka.group="a b"', lambda s: s.kafka.group == "a b"),
        ("kafka.group=2026-01-01", lambda s: s.kafka.group == "2026-01-01"),
        ("kafka.group=a=b", lambda s: s.kafka.group == "a=b"),
        ("metrics.enabled=false", lambda s: s.metrics.enabled is False),
        ("learning.learning_rate=1e-3", lambda s: s.learning.learning_rate == 1e-3),
        ("input.late_after_s=60", lambda s: s.input.late_after_s == 60.0),
        ("snapshot.dir=/var/lib/x", lambda s: s.snapshot.dir == "/var/lib/x"),
        ("kafka.properties.max_poll_records=500", lambda s: s.kafka.properties == {"max_poll_records": 500}),
        ("kafka.properties.client_id=x", lambda s: s.kafka.properties == {"client_id": "x"}),
        ("input.map.item_id=7", lambda s: s.input.map == {"item_id": "7"}),
        ('input.map={item_id="a.b"}', lambda s: s.input.map == {"item_id": "a.b"}),
        ("input.map.features.price=p", lambda s: s.input.map == {"features.price": "p"}),
    ],
)
def test_flags_are_read_by_the_type_of_the_setting(flag: str, read: object) -> None:
    assert read(load("", {}, flag))


def test_a_value_with_a_line_break_sets_nothing_else() -> None:
    assert load("", {}, "kafka.group=1\nother = 2").kafka.group == "1\nother = 2"


def test_tables_are_merged_over_the_sources(tmp_path: Path) -> None:
    toml = '[input.map]\nuser_id = "u"\nitem_id = "i"\n'
    settings = load(toml, {"TIDEMILL_INPUT__MAP__ITEM_ID": "j"}, "input.map.event_type=t", folder=tmp_path)
    assert settings.input.map == {"user_id": "u", "item_id": "j", "event_type": "t"}


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("kafka.gruop=x", "kafka.group"),
        ("model.learning_rate=1", "learning.learning_rate"),
        ("metric.port=1", "metrics.port"),
        ("kafka.group.x=1", "kafka.group"),
    ],
)
def test_an_unknown_name_is_refused_and_the_nearest_is_named(flag: str, meant: str) -> None:
    message = problems("", {}, flag)
    assert f"{flag.partition('=')[0]} (flag): no such setting" in message
    assert f"did you mean {meant}?" in message


def test_an_unknown_name_that_is_near_nothing_shows_what_there_is() -> None:
    assert "the sections are kafka, topics," in problems("", {}, "zzz.qqq=1")
    assert "[log] has level, format" in problems("", {}, "log.zzzzzzzzzzzz=1")


def test_unknown_names_say_where_they_come_from(tmp_path: Path) -> None:
    message = problems("[kafka]\nbrokers = 1\n", {"TIDEMILL_KAFKA__BROKERZ": "1"}, folder=tmp_path)
    assert f"kafka.brokers ({tmp_path / 'tidemill.toml'}): no such setting" in message
    assert "kafka.brokerz (TIDEMILL_KAFKA__BROKERZ): no such setting" in message


def test_a_value_outside_a_section_is_refused(tmp_path: Path) -> None:
    assert "group (" in problems('group = "x"\n', folder=tmp_path)
    assert "kafka (" in problems("kafka = 3\n", folder=tmp_path)


def test_one_underscore_too_few_is_told() -> None:
    message = problems("", {"TIDEMILL_KAFKA_GROUP": "x"})
    assert "write TIDEMILL_KAFKA__GROUP" in message


def test_variables_that_are_no_settings_are_left_alone() -> None:
    environ = {"TIDEMILL_CONFIG": "x", "TIDEMILL_METRICS_PORT": "tcp://10.0.0.1:9464", "TIDEMILLER__X": "1"}
    assert load("", environ) == Settings()


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("metrics.port=70000", "metrics.port = 70000 (flag): must be less than or equal to 65535"),
        ("metrics.port=x", "metrics.port = 'x' (flag): must be a valid integer"),
        ("metrics.port=true", "metrics.port = True (flag): must be a valid integer"),
        ("metrics.enabled=1", "metrics.enabled = 1 (flag): must be a valid boolean"),
        ("prediction.exclude_seen=no", "prediction.exclude_seen = 'no' (flag): must be 'auto', 'on' or 'off'"),
        ("learning.learning_rate=inf", "learning.learning_rate (flag): must be a finite number"),
        ("learning.learning_rate=nan", "learning.learning_rate (flag): must be a finite number"),
        ("kafka.properties.x=[1]", "kafka.properties.x = [1] (flag): must be a valid string, or"),
        ("kafka.group", "kafka.group (flag): has no value"),
        ("model.dim=63", "model.dim = 63: must be a multiple of model.heads = 2"),
        ("history.length=10", "model.context = 48: must be at most history.length = 10"),
        (
            "worker.batch_events=65536",
            "model.popularity_short_half_life_events = 1000.0: must be at least a 64th of worker.batch_events, 1024",
        ),
        ("policy.half_life_events=0.5", "policy.half_life_events"),
        (
            "kafka.request_timeout_ms=30000",
            "watchdog.commit_s = 12: must be more than twice kafka.request_timeout_ms = 30000, 60 s",
        ),
        ("drift.recovery_window_events=100000", "drift.recovery_window_events"),
        ("model.dim=6", "model.dim = 6: must be an even multiple of model.heads = 2"),
        ("policy.cool_down_events=5000", "must be at least policy.champion_events = 8000"),
        ("model.leave_out=transformer,transition", "no component is called that; did you mean transitions?"),
        ("topics.events=drift", "topics.events and topics.drift: must differ, both are 'drift'"),
        ("topics.events=a b", "topics.events = 'a b': must be 1 to 249"),
        ("kafka.bootstrap_servers=a:1,,b:2", "kafka.bootstrap_servers = 'a:1,,b:2': must be host:port"),
        ("kafka.group=", "kafka.group: must not be empty"),
        ("kafka.security_protocol=SASL_SSL", "kafka.sasl_username: must be set, because"),
        ("kafka.sasl_username=me", "kafka.sasl_username: needs kafka.security_protocol"),
        ("kafka.ssl_cafile=ca.pem", "kafka.ssl_cafile: needs kafka.security_protocol"),
        ("input.map.item=i", "no event field is called 'item'; did you mean item_id?"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_what_can(flag: str, said: str) -> None:
    assert said in problems("", {}, flag)


def test_a_key_without_its_certificate_is_told() -> None:
    message = problems("", {}, "kafka.security_protocol=SSL", "kafka.ssl_keyfile=k")
    assert message == "kafka.ssl_keyfile: needs kafka.ssl_certfile"


def test_segments_need_a_feature_that_is_mapped() -> None:
    flags = "drift.segment=country", "input.preset=ga4"
    message = problems("", {}, *flags)
    assert message.startswith("drift.segment = 'country': input.map must say where it is")
    settings = load("", {}, *flags, "input.map.features.country=geo.country")
    assert settings.drift.segment == "country"


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    message = problems(
        "[kafka]\ngruop = 1\n", {"TIDEMILL_METRICS__PORT": "-1"}, "metrics.prot=1", "x", "log.level=3", folder=tmp_path
    )
    assert message.startswith("5 problems in the settings:")
    for name in ("kafka.gruop", "metrics.port = -1 (TIDEMILL_METRICS__PORT)", "metrics.prot", "x (flag)", "log.level"):
        assert name in message


@pytest.mark.parametrize("content", [b"[kafka\n", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_told(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.toml: is not TOML"):
        load_settings(file, {}, ())


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.toml: cannot be read: No such file"):
        load_settings(tmp_path / "x.toml", {}, ())
    with pytest.raises(ConfigError, match="Is a directory"):
        load_settings(tmp_path, {}, ())


LOGIN = ("kafka.security_protocol=SASL_SSL", "kafka.sasl_mechanism=PLAIN", "kafka.sasl_username=me")


def test_a_password_is_text_whatever_it_looks_like() -> None:
    for password in ("123", "true", '"quoted"', "*"):
        settings = load("", {"TIDEMILL_KAFKA__SASL_PASSWORD": password}, *LOGIN)
        assert settings.kafka.sasl_password is not None
        assert settings.kafka.sasl_password.get_secret_value() == password


def test_a_password_file_is_read_without_its_last_line_break(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("pa ss\n", encoding="utf-8")
    settings = load("", {}, *LOGIN, f"kafka.sasl_password_file={tmp_path / 'secret'}")
    assert connection_options(settings.kafka)["sasl_plain_password"] == "pa ss"
    assert "pa ss" not in repr(settings) + show(settings)
    assert load(show(settings), {}, folder=tmp_path) == settings


def test_a_password_file_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    (tmp_path / "binary").write_bytes(b"\xff")
    for name, said in {"none": "No such file", "empty": "the file is empty", "binary": "it is not UTF-8"}.items():
        assert said in problems("", {}, *LOGIN, f"kafka.sasl_password_file={tmp_path / name}")


def test_two_passwords_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x", encoding="utf-8")
    message = problems("", {}, *LOGIN, "kafka.sasl_password=y", f"kafka.sasl_password_file={tmp_path / 'secret'}")
    assert message == "kafka.sasl_password and kafka.sasl_password_file: set one of them"


def test_no_secret_is_ever_shown(tmp_path: Path) -> None:
    secret = "hunter2secret"
    flags = (*LOGIN, f"kafka.sasl_password={secret}", f"kafka.properties.ssl_password={secret}")
    text = show(load("", {}, *flags))
    assert secret not in text
    assert text.count('"***"') == 2
    message = problems("", {}, *LOGIN, f"kafka.properties.ssl_password=['{secret}']", f"kafka.properties={secret}")
    assert secret not in message
    message = problems(f'[kafka]\nsasl_password = ["{secret}"]\n', {}, *LOGIN, folder=tmp_path)
    assert "kafka.sasl_password = ***" in message
    assert secret not in message


def test_what_show_hides_is_not_taken_for_the_secret() -> None:
    message = problems("", {}, *LOGIN, "kafka.sasl_password=***", "kafka.properties.ssl_password=***")
    assert message.count("*** stands for") == 2


TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)


@given(
    group=TEXT.filter(str.strip),
    path=TEXT,
    options=st.dictionaries(
        TEXT, TEXT | st.integers() | st.booleans() | st.floats(allow_nan=False, width=32), max_size=3
    ),
    share=st.floats(0, 1, exclude_max=True),
)
def test_what_show_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, group: str, path: str, options: dict[str, object], share: float
) -> None:
    values = {
        "kafka": {
            "group": group,
            "properties": {name: value for name, value in options.items() if _plain(name, value)},
        },
        "snapshot": {"dir": path},
        "model": {"dropout": share},
    }
    settings = Settings.model_validate(values)
    assert load(show(settings), folder=tmp_path_factory.getbasetemp()) == settings


def _plain(name: str, value: object) -> bool:
    finite = not isinstance(value, float) or abs(value) != float("inf")
    return finite and value != "***" and not any(word in name.lower() for word in ("pass", "secret", "token"))


def test_the_schema_accepts_the_defaults_and_describes_every_setting() -> None:
    schema = settings_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(Settings().model_dump_json()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"kafka": {"gruop": "x"}}, schema)
    bare = [
        f"{name}.{key}"
        for name, section in schema["$defs"].items()
        for key, field in section["properties"].items()
        if not field.get("description") or field.get("change") not in {"identity", "operational"}
    ]
    assert bare == []


def test_identity_is_the_identity_settings_and_nothing_else() -> None:
    one = identity(load("", {}, "model.dim=32", "metrics.port=1"))
    assert one["model.dim"] == 32
    assert "metrics.port" not in one
    assert set(one) < set(KNOWN)
    assert json.loads(json.dumps(one)) == one
    assert identity(load("", {}, "model.dim=32")) == one
    assert identity(load()) != one


@pytest.mark.parametrize("path", ['"user.id"', "user.id", 'a."b.c"', "0", "true"])
def test_a_path_of_the_mapping_is_taken_as_it_stands(path: str) -> None:
    assert load("", {}, f"input.map.user_id={path}").input.map["user_id"] == path
    assert load("", {"TIDEMILL_INPUT__MAP__USER_ID": path}).input.map["user_id"] == path
