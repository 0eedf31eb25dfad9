"""Which micro-batch was being redone when the process ended: two deaths in one, and it is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import structlog

from consumer.errors import StateError, TidemillError, TransientError
from consumer.stop_signal import Stopped

if TYPE_CHECKING:
    from consumer.ports import StateStore

log = structlog.get_logger()

DEATHS_UNTIL_SKIPPED = 2


class RedoMarker:
    """Remembers, over deaths of the process, which micro-batch was being redone.

    The first recovery only notes that it is under way. One that finds such a note goes carefully, and notes each
    micro-batch before it is redone; where the note says that one has ended the process twice, it is skipped. An error
    that is expected (the broker is away, a signal to stop) is no death of the micro-batch in hand.
    """

    def __init__(self, store: StateStore, lineage: str) -> None:
        self._store, self._name = store, f"{lineage}/redo.json"
        self._deaths: dict[str, int] = {}
        self._careful = False

    def __enter__(self) -> frozenset[int]:
        """Begin a recovery; returns the micro-batches to skip."""
        note = self._read()
        if note is not None:
            self._careful, self._deaths = True, note["deaths"]
            if note["batch"] is not None:
                self._deaths[str(note["batch"])] = self._deaths.get(str(note["batch"]), 0) + 1
        self._write(None)
        return frozenset(int(batch) for batch, deaths in self._deaths.items() if deaths >= DEATHS_UNTIL_SKIPPED)

    def before(self, batch: int) -> None:
        """Note what is about to be redone, where that is necessary."""
        if self._careful:
            self._write(batch)

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """End a recovery: forget everything, or (an expected error) only what was in hand."""
        if error is not None and not isinstance(error, TidemillError | Stopped):
            return
        if error is not None and self._careful:
            self._write(None)
            return
        try:
            self._store.delete(self._name)
        except StateError as refused:
            log.warning("the note of a recovery under way was not removed", reason=str(refused))
        self._careful, self._deaths = False, {}

    def condemn(self, batch: int) -> None:
        """Make the next recovery skip a micro-batch, as if its redo had ended the process often enough.

        Raises StateError where the note cannot be written.
        """
        note = self._read() or {"batch": None, "deaths": {}}
        self._deaths = {**note["deaths"], str(batch): DEATHS_UNTIL_SKIPPED}
        self._store.write(self._name, self._note(note["batch"]))

    def _read(self) -> dict[str, Any] | None:
        try:
            if self._name not in self._store.names(self._name):
                return None
            note = orjson.loads(self._store.read(self._name))
            return {"batch": note["batch"], "deaths": dict(note["deaths"])}
        except (StateError, TransientError, orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            log.warning("the note of deaths during recovery cannot be read, counting anew", reason=str(error))
            return {"batch": None, "deaths": {}}

    def _write(self, batch: int | None) -> None:
        try:
            self._store.write(self._name, self._note(batch))
        except StateError as error:
            log.warning("deaths during recovery are not counted", reason=str(error))

    def _note(self, batch: int | None) -> bytes:
        return orjson.dumps({"batch": batch, "deaths": self._deaths})


def skip_in_next_recovery(store: StateStore, lineage: str, batch: int) -> None:
    """The operator's way to leave out a micro-batch at once; forgotten when a recovery has come to its end."""
    RedoMarker(store, lineage).condemn(batch)
