"""The command `tidemill dead-letters`: what was rejected, sent back after the cause is corrected."""

from __future__ import annotations

from typing import Annotated

import typer

from consumer import cli_options as options
from consumer.cli_values import offsets

dead_letters_app = typer.Typer(help="Send rejected records back to their topic.")


@dead_letters_app.callback()
def _dead_letters() -> None:
    pass


@dead_letters_app.command("replay")
def replay(
    *,
    config: options.Config = None,
    brokers: options.Brokers = None,
    topic: options.Topic = None,
    properties: options.Properties = None,
    sets: options.Sets = None,
    from_offset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[P:]OFFSET", help="First offset of the dead-letters topic, or of partition P; repeatable."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Send at most so many.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only those rejected for this reason.")] = None,
    any_topic: Annotated[
        bool, typer.Option("--any-topic", help="Also to topics other than topics.events, as the letters name them.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be sent, and stop.")] = False,
) -> None:
    """Send dead letters back to where they came from, as they were. What is sent twice is predicted for twice."""
    settings = options.Shared(config, brokers, topic, None, properties, sets).settings()
    options.start_logging(settings)
    from consumer.dead_letter_replay import Tally, Wanted, check_reason, replay_dead_letters

    check_reason(reason)
    wanted = Wanted(offsets(from_offset, "--from-offset"), limit, reason, any_topic, dry_run)
    tally = Tally(dry_run=dry_run)
    try:
        replay_dead_letters(settings, wanted, tally)
    finally:
        print(tally.render())
