"""The command `tidemill`. It reads options, loads the settings and calls what does the work.

Exit codes follow sysexits.h: 0 done, 64 usage, 65 data or state, 70 a defect, 75 the broker, 77 access,
78 configuration; 130 when interrupted.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consumer import cli_options as options
from consumer.cli_dead_letters import dead_letters_app
from consumer.cli_replay import replay_command
from consumer.cli_snapshot import snapshot_app
from consumer.errors import TidemillError, UsageError
from consumer.loading import loading

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFECT = 70
INTERRUPTED = 130

app = typer.Typer(
    help="Predict what each user does next from a Kafka topic, and learn from the same stream.",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
config_app = typer.Typer(help="Show the settings, or what settings there are.")
app.add_typer(config_app, name="config")
app.add_typer(snapshot_app, name="snapshot")
app.add_typer(dead_letters_app, name="dead-letters")
app.command("replay")(replay_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Expected errors are one line on standard error, no traceback."""
    try:
        code = typer.main.get_command(app).main(argv, prog_name="tidemill", standalone_mode=False)
    except TidemillError as error:
        return _complain(str(error), error.exit_code)
    except typer.TyperException as error:
        return _complain(f"{error.format_message()} ({_help_hint(error)})", UsageError.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception:  # noqa: BLE001 - the last line of defence: whatever it is, it is a defect and becomes its exit code
        traceback.print_exc()
        return DEFECT
    return code if isinstance(code, int) else 0


def _complain(message: str, code: int) -> int:
    print(f"tidemill: {message}", file=sys.stderr)
    return code


def _help_hint(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"see {context.command_path if context else 'tidemill'} --help"


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"tidemill {version('tidemill')}")
        raise typer.Exit


@app.callback()
def _tidemill(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    *,
    config: options.Config = None,
    brokers: options.Brokers = None,
    topic: options.Topic = None,
    group: options.Group = None,
    properties: options.Properties = None,
    sets: options.Sets = None,
    maps: options.Maps = None,
    from_beginning: options.FromBeginning = False,
    init: options.Init = None,
    max_events: Annotated[int | None, typer.Option(min=1, help="Stop after so many input records.")] = None,
    until_end: Annotated[bool, typer.Option("--until-end", help="Stop at the end of the topic.")] = False,
    json: options.Json = None,
    report: options.Report = None,
) -> None:
    """Run the worker until it is told to stop."""
    file = options.json_target(json)
    more = ("kafka.auto_offset_reset=earliest",) if from_beginning else ()
    settings = options.Shared(config, brokers, topic, group, properties, sets, maps, more).settings()
    options.start_logging(settings)
    with loading():
        from consumer.cli_summary import write_json
        from consumer.run import RunOptions, run_worker

    summary = run_worker(settings, RunOptions(init, max_events, until_end, report))
    if summary is not None and json is not None:
        write_json(summary, file)


@app.command()
def check(
    *,
    config: options.Config = None,
    brokers: options.Brokers = None,
    topic: options.Topic = None,
    group: options.Group = None,
    properties: options.Properties = None,
    sets: options.Sets = None,
    maps: options.Maps = None,
    sample: Annotated[int, typer.Option(min=0, max=1000, help="Records to decode and show.")] = 5,
    create: Annotated[bool, typer.Option("--create", help="Create the topics that are missing.")] = False,
) -> int:
    """Check settings, broker, topics and rights, and decode a sample of the input."""
    settings = options.Shared(config, brokers, topic, group, properties, sets, maps).settings()
    options.start_logging(settings)
    from consumer.check import check as run_check

    report = run_check(settings, sample=sample, create=create)
    print(report.render())
    return report.exit_code


@config_app.command("show")
def config_show(
    *,
    config: options.Config = None,
    brokers: options.Brokers = None,
    topic: options.Topic = None,
    group: options.Group = None,
    properties: options.Properties = None,
    sets: options.Sets = None,
    maps: options.Maps = None,
) -> None:
    """Print the settings that a run with these options would have, as TOML; secrets as ***."""
    from consumer.load_settings import show

    print(show(options.Shared(config, brokers, topic, group, properties, sets, maps).settings()), end="")


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of the settings file."""
    import json

    from consumer.load_settings import settings_schema

    print(json.dumps(settings_schema(), indent=2))


@app.command()
def demo(
    *,
    config: options.Config = None,
    sets: options.Sets = None,
    maps: options.Maps = None,
    file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="An event log to use instead of the packaged one.")
    ] = None,
    events: Annotated[int | None, typer.Option(min=1, help="Events to use at most.")] = None,
    report: Annotated[Path, typer.Option(metavar="DIR", help="Where the report goes.")] = Path("tidemill-demo"),
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the summary here.")] = None,
) -> None:
    """Start a local broker, send it real events, run the worker on them, and report."""
    settings = options.Shared(config, sets=sets, maps=maps).settings()
    options.start_logging(settings, level="warning")  # the demo says itself what goes on
    from deploy.demo import EVENTS, DemoOptions, run_demo

    run_demo(DemoOptions(file, settings, events or EVENTS, report, json))


if __name__ == "__main__":
    sys.exit(main())
