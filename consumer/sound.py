"""Whether what predicts is still made of numbers: memory that was damaged must not speak, and must not be saved.

Learning itself cannot bring NaN into the model (a step with a loss or gradient that is not finite changes nothing), so
where one is found, memory has been damaged from outside. The state on disk is as of before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from consumer.errors import DamagedMemory

if TYPE_CHECKING:
    from model.predictor import Predictions, Scores
    from model.state import State

MODEL = "learner.model."
"""What the names of the model's arrays begin with; elsewhere NaN stands for what is not known."""


def require_sound_predictions(scores: Scores, predictions: Predictions) -> None:
    """Raise DamagedMemory where a probability or a time of a micro-batch is no number."""
    said = (scores.p_BM, predictions.p_BK, predictions.type_p_BY, predictions.seconds_B3)
    if any(bool(np.isnan(part).any()) for part in said if part is not None):
        raise DamagedMemory("a prediction is no number: memory is damaged; nothing of this micro-batch was committed")


def require_sound_state(worker: State) -> None:
    """Raise DamagedMemory where the worker's state, on its way into a snapshot, holds NaN in its model."""
    for name, array in worker.arrays.items():
        if name.startswith(MODEL) and array.dtype.kind == "f" and bool(np.isnan(array).any()):
            raise DamagedMemory(f"{name} holds what is no number: memory is damaged; no snapshot is made of it")
