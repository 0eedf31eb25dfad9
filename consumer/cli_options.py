"""The options that several commands share, and how they become settings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from consumer.cli_values import pairs
from consumer.errors import UsageError

if TYPE_CHECKING:
    from consumer.settings import Settings

Config = Annotated[
    Path | None,
    typer.Option("-c", "--config", metavar="FILE", envvar="TIDEMILL_CONFIG", help="A TOML file with settings."),
]
Brokers = Annotated[
    str | None,
    typer.Option("-b", "--bootstrap-server", metavar="HOST:PORT,…", help="Sets kafka.bootstrap_servers."),
]
Topic = Annotated[str | None, typer.Option("-t", "--topic", metavar="NAME", help="Sets topics.events.")]
Group = Annotated[str | None, typer.Option("-g", "--group", metavar="NAME", help="Sets kafka.group.")]
Properties = Annotated[
    list[str] | None,
    typer.Option("-X", metavar="NAME=VALUE", help="One option of the Kafka client (kafka.properties); repeatable."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; repeatable."),
]
Maps = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="FIELD=PATH,…", help="Where event fields are in a record (input.map); repeatable."),
]
Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the summary as JSON; - is standard output."),
]
Report = Annotated[Path | None, typer.Option("--report", metavar="DIR", help="Write an HTML report at the end.")]
FromBeginning = Annotated[
    bool, typer.Option("--from-beginning", help="Begin at the earliest record where nothing else says where.")
]
Init = Annotated[
    str | None,
    typer.Option("--init", metavar="DIR", help="Begin a new lineage from this state (see replay --save); also a URL."),
]


@dataclass(frozen=True, slots=True)
class Shared:
    """The shared options of one call, as they were given."""

    config: Path | None = None
    brokers: str | None = None
    topic: str | None = None
    group: str | None = None
    properties: list[str] | None = None
    sets: list[str] | None = None
    maps: list[str] | None = None
    more: tuple[str, ...] = field(default=())

    def settings(self) -> Settings:
        """Load the settings: file, environment, --set, then the options of their own. Raises ConfigError."""
        from consumer.load_settings import load_settings

        return load_settings(self.config, os.environ, self.overrides())

    def overrides(self) -> list[str]:
        """All options as `section.key=value`, the later ones winning."""
        named = {"kafka.bootstrap_servers": self.brokers, "topics.events": self.topic, "kafka.group": self.group}
        return [
            *(self.sets or ()),
            *(f"{name}={value}" for name, value in named.items() if value is not None),
            *(f"kafka.properties.{_pair(text)}" for text in self.properties or ()),
            *(f"input.map.{pair}" for text in self.maps or () for pair in pairs(text, "--map")),
            *self.more,
        ]


def _pair(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not (name.strip() and equals):
        raise UsageError(f"-X {name!r}: has no value; write -X name=value")
    return text


def json_target(target: str | None) -> Path | None:
    """Return the file of --json, None for standard output or none. Raises UsageError where it cannot be written."""
    if target is None or target == "-":
        return None
    file, is_new = Path(target), not os.path.lexists(target)
    try:
        with file.open("ab"):
            pass
        if is_new:
            file.unlink()
    except OSError as error:
        raise UsageError(f"--json {target!r}: cannot be written ({error.strerror}); name a file that can") from error
    return file


def start_logging(settings: Settings, level: Literal["warning"] | None = None) -> None:
    """Set up logging as the settings say, or at another level."""
    from consumer.clock import SystemClock
    from consumer.log import configure_logging

    log = settings.log if level is None else settings.log.model_copy(update={"level": level})
    configure_logging(log, SystemClock())
