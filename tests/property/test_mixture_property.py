from __future__ import annotations

from math import log

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.mixture import BUCKETS, Mixture


@st.composite
def streams(draw):
    """Probabilities of K components for T events, from hopeless to certain, some that change roles on the way."""
    components = draw(st.integers(1, 4))
    events = draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    p_BK = 10.0 ** -rng.uniform(0.0, draw(st.sampled_from([0.5, 3.0, 9.0])), size=(events, components))
    best = rng.integers(components, size=1 + events // draw(st.integers(5, 200)))
    for index, part in enumerate(np.array_split(np.arange(events), len(best))):
        p_BK[part, best[index]] = rng.uniform(0.3, 1.0, size=len(part))
    return p_BK, rng.integers(0, draw(st.sampled_from([1, len(BUCKETS) + 1])), size=events)


@settings(max_examples=80, deadline=None)
@given(streams())
def test_it_is_never_much_worse_than_the_best_component(stream):
    """Bayes with fixed share at 1 / (t + 1), event by event: at most ln(K + 1) + ln T nats in all."""
    p_BK, buckets = stream
    events, components = p_BK.shape
    mixture, loss = Mixture([str(k) for k in range(components)]), 0.0
    for t in range(events):
        weights = mixture.weights(buckets[t : t + 1])[0]
        loss -= log(float(weights @ p_BK[t]))
        mixture.learn(p_BK[t : t + 1], buckets[t : t + 1])
    assert loss <= -np.log(p_BK).sum(axis=0).min() + log(components + 1) + log(events) + 1e-6


@settings(max_examples=80, deadline=None)
@given(streams(), st.integers(1, 40))
def test_weights_are_a_distribution_for_every_bucket(stream, batch):
    p_BK, buckets = stream
    mixture = Mixture([str(k) for k in range(p_BK.shape[1])])
    for start in range(0, len(p_BK), batch):
        mixture.learn(p_BK[start : start + batch], buckets[start : start + batch])
        weights = mixture.weights(np.arange(len(BUCKETS) + 1))
        assert (weights > 0.0).all()
        assert np.abs(weights.sum(axis=1) - 1.0).max() < 1e-9
