"""What is wrong with a worker's surroundings all the time: its clock jumps, its gradients are no numbers.

Each replaces something from outside before the command starts. One that changes what is learned depends on nothing but
the plan, so that the redo of a micro-batch, and the replay of its journal, meet it again.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import consumer.kafka_io.source as source_module
from consumer.clock import SystemClock
from consumer.kafka_io.options import group_consumer_options
from model.transformer import Transformer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

JUMP_S = 5000.0
CALLS_BETWEEN_JUMPS = 3


def _replace(owner: Any, name: str, new: Any) -> Callable[[], None]:
    old = getattr(owner, name)
    setattr(owner, name, new)
    return lambda: setattr(owner, name, old)


def _nan_gradients() -> Callable[[], None]:
    """In a quarter of all steps some gradients of the network are no numbers."""
    apply = Transformer._apply

    def spoilt(transformer: Any, total: Any, rows: Any, leaf: Any, candidates: Any, bias: Any, step: Any) -> bool:
        if step.seed % 4 == 0:
            leaf.register_hook(lambda gradient: gradient * float("nan"))
        return apply(transformer, total, rows, leaf, candidates, bias, step)

    return _replace(Transformer, "_apply", spoilt)


def _clock_jumps() -> Callable[[], None]:
    """The wall clock jumps an hour and more ahead and back, again and again."""
    now, draw, calls, ahead = SystemClock.now, random.Random(1), [0], [0.0]

    def jumping(clock: Any) -> float:
        calls[0] += 1
        if calls[0] % CALLS_BETWEEN_JUMPS == 0:
            ahead[0] = draw.uniform(-JUMP_S, JUMP_S)
        return now(clock) + ahead[0]

    return _replace(SystemClock, "now", jumping)


def _dynamic_member() -> Callable[[], None]:
    """The worker is no static member of its group: one that dies is missed only when its session has timed out."""

    def options(kafka: Any) -> Any:
        return {name: value for name, value in group_consumer_options(kafka).items() if name != "group_instance_id"}

    return _replace(source_module, "group_consumer_options", options)


DISTURBANCES: dict[str, Callable[[], Callable[[], None]]] = {
    "nan_gradients": _nan_gradients,
    "clock_jumps": _clock_jumps,
    "dynamic_member": _dynamic_member,
}
"""Name → puts it in place, and returns what takes it away again."""


@contextmanager
def disturbed(name: str) -> Iterator[None]:
    """Disturb this process for a while; an empty name disturbs nothing."""
    undo = DISTURBANCES[name]() if name else lambda: None
    try:
        yield
    finally:
        undo()
