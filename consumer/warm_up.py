"""Compile, or load from disk, what the model compiles at its first use: before the group is joined, not within a step.

`python -m consumer.warm_up` does it once for an installation, so that no worker has to.
"""

from __future__ import annotations

from itertools import count

from consumer.events import Event, event_of
from consumer.histories import Histories
from consumer.ports import Record, TopicPartition
from consumer.settings import Settings
from incremental.learner import Learner
from model.model import Model
from model.predictor import Predictor

_BATCHES, _EVENTS, _USERS, _ITEMS = 6, 24, 4, 61
_SMALL = {
    "model": {"dim": 8, "layers": 1, "heads": 2, "max_items": 40, "proposals": 20},
    "learning": {"negatives": 16, "rehearsal_windows": 4, "rehearsal_capacity": 16},
}
"""Fewer rows than items, so that rows are evicted too."""


def warm_up() -> None:
    """Run a few invented micro-batches through a learner that is thrown away."""
    settings = Settings.model_validate(_SMALL)
    model = Model(settings.model, seed=0)
    predictor, learner = (
        Predictor(model),
        Learner(model, settings.learning, settings.prediction, settings.policy, seed=0),
    )
    histories = Histories(settings.history, settings.input)
    histories.begin(TopicPartition("warm-up", 0))
    numbers = count()
    for _ in range(_BATCHES):
        staged = histories.stage([_event(next(numbers)) for _ in range(_EVENTS)])
        plan = learner.plan(staged.contexts)
        contexts = learner.show(staged.contexts, plan)
        scores, predictions = predictor.predict(contexts, exclude_seen=True)
        histories.apply(staged, predictions.keys_BK)
        learner.learn(contexts, scores, plan, learner.left_out(plan))


def _event(number: int) -> Event:
    user, item, kind = number % _USERS, number * 7 % _ITEMS, "ab"[number % 2]
    record = Record("warm-up", 0, number, number * 1000, None, None)
    return event_of(record, user, item, kind, float(number))


if __name__ == "__main__":
    warm_up()
