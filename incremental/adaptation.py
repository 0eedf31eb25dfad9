"""Adaptation: which actions of the policy are under way, and what they make of the next micro-batch.

1. `react` takes what was detected in a micro-batch and notes which actions are due (`incremental.policy` knows which).
2. `measures` says what that makes of the next micro-batch. It goes into the plan, and so into the journal.
3. `carried_out`, when a plan is learned, notes what it began. It looks at the plan alone, so a redo comes to the same
   whatever the settings are by then.

Time is counted in accepted events.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from incremental.plan import LearnPlan, Measures
from incremental.policy import GUARDED, OBSERVE, allowed, respond, size
from model.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incremental.champion import Verdict
    from incremental.drift import Detection
    from incremental.policy import Action
    from incremental.settings import PolicySettings

LEAST_FACTOR = 1.01
"""A learning rate raised by less than this is not raised any more."""


class Adaptation:
    """The policy's memory: what is due, and since when what is under way."""

    def __init__(self, settings: PolicySettings) -> None:
        self._settings = settings
        self.events = 0
        self._due: list[Action] = []
        self._begun: dict[str, int] = {}  # action: the event at which it last began
        self._stopped = -1  # the event of the last return to earlier weights: what began before it has ended
        self._champion_since: int | None = None  # the event at which the copy that is kept was made
        self._windows = 0  # rehearsal windows begun when `rehearse_recent` last began

    @property
    def guarded(self) -> bool:
        """Whether a copy of the weights is kept."""
        return self._champion_since is not None

    @property
    def is_time_to_judge(self) -> bool:
        """Whether the copy has been compared for long enough, and is not dismissed yet."""
        since = self._champion_since
        over = since is not None and self.events - since >= self._settings.champion_events
        return over and "dismiss_champion" not in self._due

    def react(self, detections: Sequence[Detection]) -> list[Detection]:
        """Note what is to be done about alarms; return all records, alarms with their actions."""
        return [self._answer(found) if found.is_alarm else found for found in detections]

    def order(self, action: Action) -> None:
        """Note that an action is due whatever the signals say."""
        if action not in self._due:
            self._due.append(action)

    def judge(self, verdicts: Sequence[Verdict]) -> None:
        """Note what follows from the comparison with the copy: what was worse than its past returns to it."""
        for verdict in verdicts:
            if verdict.undone:
                self.order("roll_back_network" if verdict.part == "network" else "roll_back_ranker")
        self.order("dismiss_champion")

    def _answer(self, detection: Detection) -> Detection:
        wanted = respond(detection.signal, size(detection.signal, detection.before, detection.after), self._settings)
        begun = [action for action in wanted if action not in self._due and self._is_rested(action)]
        if GUARDED.intersection(begun) and allowed("keep_champion", self._settings) and not self.guarded:
            self.order("keep_champion")
        for action in begun:
            self.order(action)
        return replace(detection, action="+".join(begun) or OBSERVE)

    def _is_rested(self, action: Action) -> bool:
        begun = self._begun.get(action)
        return begun is None or self.events - begun >= self._settings.cool_down_events

    def measures(self, windows: int, draw: int) -> Measures:
        """Return what is to be done with the next micro-batch.

        `windows` of rehearsal were begun so far; `draw` is a random number, whether the copy is scored.
        """
        settings = self._settings
        since = windows if "rehearse_recent" in self._due else self._windows
        return Measures(
            learning_rate_factor=self._factor(self._age("boost_learning_rate")),
            half_life_events=settings.half_life_events
            if self._is_on("short_half_lives", settings.half_life_for_events)
            else 0.0,
            rehearse_since=since if self._is_on("rehearse_recent", settings.rehearse_recent_for_events) else 0,
            quarantine_above=self._quarantine_above(),
            score_champion=self.guarded and draw % settings.champion_every_batches == 0,
            actions=tuple(self._due),
        )

    def _quarantine_above(self) -> float:
        settings = self._settings
        paused = self._is_on("pause_quarantine", settings.pause_quarantine_for_events)
        return settings.quarantine_above if settings.enabled and settings.quarantine and not paused else 0.0

    def _factor(self, age: int | None) -> float:
        settings = self._settings
        if age is None or not allowed("boost_learning_rate", settings):
            return 1.0
        excess = (settings.learning_rate_factor - 1.0) * 0.5 ** (age / settings.learning_rate_half_life_events)
        return 1.0 + excess if 1.0 + excess >= LEAST_FACTOR else 1.0

    def _is_on(self, action: Action, lasts: int) -> bool:
        age = self._age(action)
        return age is not None and age < lasts and allowed(action, self._settings)

    def _age(self, action: Action) -> int | None:
        """Return the events since an action began, 0 where it is due, None where it never did."""
        if action in self._due:
            return 0
        begun = self._begun.get(action, self._stopped)
        return None if begun <= self._stopped else self.events - begun

    def carried_out(self, plan: LearnPlan, events: int) -> None:
        """Note what a plan began, and the events of its micro-batch."""
        for action in plan.actions:
            self._begun[action] = self.events
        if "rehearse_recent" in plan.actions:
            self._windows = plan.rehearse_since
        if "roll_back_network" in plan.actions:
            self._stopped = self.events
        if "keep_champion" in plan.actions:
            self._champion_since = self.events
        if "dismiss_champion" in plan.actions:
            self._champion_since = None
        self._due = [action for action in self._due if action not in plan.actions]
        self.events += events

    def state(self) -> State:
        """Return what is due and under way."""
        values = {"events": self.events, "due": list(self._due), "begun": dict(sorted(self._begun.items()))}
        return State(
            values=values | {"windows": self._windows, "stopped": self._stopped, "guarded": self._champion_since}
        )

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        values = state.values
        self.events, self._windows = int(values["events"]), int(values["windows"])
        self._due, self._stopped = list(values["due"]), int(values["stopped"])
        self._begun = {name: int(begun) for name, begun in values["begun"].items()}
        self._champion_since = values["guarded"]
