"""Adaptation: which actions of the policy are under way, and what they make of the next micro-batch.

1. `react` takes what was detected in a micro-batch and notes which actions are due (`incremental.policy` knows which).
2. `measures` says what that makes of the next micro-batch. It goes into the plan, and so into the journal.
3. `carried_out`, when a plan is learned, notes what it began. It looks at the plan alone, so a redo comes to the same
   whatever the settings are by then.

Time is counted in accepted events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from incremental.plan import LearnPlan, Measures
from incremental.policy import GUARDED, OBSERVE, RETURNS, allowed, respond, size
from model.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incremental.champion import Verdict
    from incremental.drift import Detection
    from incremental.policy import Action
    from incremental.settings import PolicySettings

LEAST_FACTOR = 1.01
"""A learning rate raised by less than this is not raised any more."""


Users = Callable[[str], float]


def many(_signal: str) -> float:
    """Return what is sure of any signal."""
    return inf


class Adaptation:
    """The policy's memory: what is due, and since when what is under way."""

    def __init__(self, settings: PolicySettings) -> None:
        self._settings = settings
        self.events = 0
        self._due: list[Action] = []
        self._begun: dict[str, int] = {}  # action: the event at which it last began
        self._under_way: dict[str, int] = {}  # the same, without what a return to earlier weights has ended
        self._champion_since: int | None = None  # the event of the latest action that the copy that is kept is to judge
        self._compared = 0  # events on which the copy has been scored since then
        self._windows = 0  # rehearsal windows begun when `rehearse_recent` last began

    @property
    def guarded(self) -> bool:
        """Whether a copy of the weights is kept, and will be."""
        return self._champion_since is not None and "dismiss_champion" not in self._due

    @property
    def is_time_to_judge(self) -> bool:
        """Whether the copy has been compared for long enough, and is not dismissed yet."""
        since = self._champion_since
        if since is None or not self.guarded or not allowed("keep_champion", self._settings):
            return False
        return self._compared > 0 and self.events - since >= self._settings.champion_events

    def react(self, detections: Sequence[Detection], users: Users = many) -> list[Detection]:
        """Note what is to be done about alarms; return all records, alarms with their actions.

        `users` tells of how many users the latest events are that a signal looks at.
        """
        return [self._answer(found, users) if found.is_alarm else found for found in detections]

    def order(self, action: Action) -> None:
        """Note that an action is due whatever the signals say."""
        if action not in self._due:
            self._due.append(action)

    def judge(self, verdicts: Sequence[Verdict]) -> None:
        """Note what follows from the comparison with the copy: what was worse than its past returns to it."""
        for verdict in verdicts:
            if verdict.undone:
                self.order(RETURNS[verdict.part])
        self.order("dismiss_champion")

    def _answer(self, detection: Detection, users: Users) -> Detection:
        rise = size(detection.signal, detection.before, detection.after)
        wanted = respond(detection.signal, rise, self._settings, users(detection.signal))
        begun = [action for action in wanted if action not in self._due and self._is_rested(action)]
        if GUARDED.intersection(begun) and allowed("keep_champion", self._settings) and not self.guarded:
            self.order("keep_champion")
        for action in begun:
            self.order(action)
        return replace(detection, action="+".join(begun) or OBSERVE)

    def _is_rested(self, action: Action) -> bool:
        begun = self._begun.get(action)
        return begun is None or self.events - begun >= self._settings.cool_down_events

    def measures(self, windows: int) -> Measures:
        """Return what is to be done with the next micro-batch. `windows` of rehearsal were begun so far."""
        settings = self._settings
        since = windows if "rehearse_recent" in self._due else self._windows
        paused = self._is_on("pause_quarantine", settings.pause_quarantine_for_events)
        watches = settings.enabled and settings.quarantine
        return Measures(
            learning_rate_factor=self._factor(self._age("boost_learning_rate")),
            half_life_events=settings.half_life_events
            if self._is_on("short_half_lives", settings.half_life_for_events)
            else 0.0,
            rehearse_since=since if self._is_on("rehearse_recent", settings.rehearse_recent_for_events) else 0,
            quarantine_above=settings.quarantine_above if watches and not paused else 0.0,
            quarantine_paused=watches and paused,
            score_champion=self._is_champion_next(),
            actions=self._ordered(),
        )

    def _ordered(self) -> tuple[Action, ...]:
        """Return what is due, as far as the settings still allow it; a copy that may not be kept any more goes."""
        due = [action for action in self._due if allowed(action, self._settings)]
        if self.guarded and not allowed("keep_champion", self._settings):
            due.append("dismiss_champion")
        return tuple(due)

    def _is_champion_next(self) -> bool:
        """Whether the copy has been scored on less than its share of the events; it is on the first micro-batch."""
        if self._champion_since is None or not self.guarded or not allowed("keep_champion", self._settings):
            return False
        return self._compared <= self._settings.champion_share * (self.events - self._champion_since)

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
        """Return the events since an action began, 0 where it is due, None where it is not under way."""
        if action in self._due:
            return 0
        begun = None if "roll_back_network" in self._due else self._under_way.get(action)
        return None if begun is None else self.events - begun

    def carried_out(self, plan: LearnPlan, events: int) -> None:
        """Note what a plan began, in its order, and the events of its micro-batch.

        What was due and is not in the plan was not allowed, and is let go of.
        """
        self._due = []
        if plan.score_champion:
            self._compared += events
        for action in plan.actions:
            self._begun[action] = self._under_way[action] = self.events
            if action == "roll_back_network":
                self._under_way.clear()
            elif action == "rehearse_recent":
                self._windows = plan.rehearse_since
            elif action == "dismiss_champion":
                self._champion_since = None
            if action == "keep_champion" or (action in GUARDED and self._champion_since is not None):
                self._champion_since, self._compared = self.events, 0
        self.events += events

    def state(self) -> State:
        """Return what is due and under way."""
        values = {"events": self.events, "due": list(self._due), "windows": self._windows, "compared": self._compared}
        begun = {"begun": dict(sorted(self._begun.items())), "under_way": dict(sorted(self._under_way.items()))}
        return State(values=values | begun | {"guarded": self._champion_since})

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        values = state.values
        self.events, self._windows = int(values["events"]), int(values["windows"])
        self._due, self._compared = list(values["due"]), int(values["compared"])
        self._begun = {name: int(begun) for name, begun in values["begun"].items()}
        self._under_way = {name: int(begun) for name, begun in values["under_way"].items()}
        self._champion_since = values["guarded"]
