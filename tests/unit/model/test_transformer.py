from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import Worker, event, random_events, same_state, small_settings
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

import model.transformer_view as module
from model.gaps import bin_of
from model.sequences import Sequences
from model.settings import ModelSettings
from model.transformer import TIME_LOSS, TYPE_LOSS, LearningStep, Transformer
from model.transformer_view import top_n
from model.vocabulary import UNKNOWN, Vocabulary

STEP = LearningStep(learning_rate=0.01, weight_decay=0.0, gradient_clip=1.0, negatives=10_000, dropout=0.0, seed=5)
SETTINGS = ModelSettings(dim=8, layers=1, heads=2, context=8, max_items=4000, max_types=4)


def built(items=20, types=3, settings=SETTINGS, seed=1):
    """A transformer with items 1..items and types 1..types admitted."""
    item_rows, type_rows = Vocabulary(settings.max_items), Vocabulary(settings.max_types, evict=False)
    item_rows.observe(np.arange(1, items + 1), list(range(1, items + 1)), 0)
    type_rows.observe(np.arange(1, types + 1), [f"t{n}" for n in range(1, types + 1)], 0)
    transformer = Transformer(settings, item_rows, type_rows, seed)
    generator = torch.Generator().manual_seed(seed)
    transformer.admit(np.arange(1, items + 1, dtype=np.int32), np.zeros((items, 0), np.int32), generator)
    return transformer


def sequences(*rows, first=None, types=None, gap=None):
    """Rows of item rows as a padded batch; `first` is where the targets of each row begin."""
    width = max(len(row) for row in rows)
    items = np.array([[*row, *[0] * (width - len(row))] for row in rows], np.int32)
    shape = items.shape
    types_RL = np.where(items > 0, 1, 0) if types is None else np.array(types)
    gaps_RL = np.full(shape, np.nan) if gap is None else np.full(shape, gap)
    return Sequences(
        items,
        types_RL.astype(np.int32),
        gaps_RL.astype(np.float32),
        np.zeros(shape, np.bool_),
        np.array([len(row) for row in rows], np.int32),
        np.zeros(len(rows), np.int32) if first is None else np.array(first, np.int32),
        np.zeros(len(rows), np.int32),
    )


def everything(transformer):
    return transformer.state()


# --- the best of a catalogue


@pytest.mark.parametrize("width", [1, 5, 63, 64, 65, 1000, 5119, 5120, 5121, 5184, 8200, 20_001])
@pytest.mark.parametrize("n", [1, 20])
def test_top_n_is_exact(width, n):
    logits = torch.randn(7, width, generator=torch.Generator().manual_seed(width))
    where, values = top_n(logits.numpy(), n)
    expected = logits.topk(min(n, width), dim=1)
    assert values[:, :width].tolist() == expected.values.tolist()
    assert where[:, :width].tolist() == expected.indices.tolist()
    assert not where[:, width:].any()


def test_top_n_finds_neighbours_and_the_last_items():
    logits = torch.full((1, 6401), -5.0)
    places = [*range(640, 650), 6400, 6399]
    logits[0, places] = torch.arange(12.0)
    assert set(top_n(logits.numpy(), 12)[0][0].tolist()) == set(places)


def test_top_n_passes_over_free_rows():
    logits = torch.full((2, 6400), -torch.inf)
    logits[:, [7, 3000, 6399]] = torch.tensor([1.0, 3.0, 2.0])
    assert top_n(logits.numpy(), 3)[0].tolist() == [[3000, 6399, 7]] * 2


# --- looking at a micro-batch


def worker_with(n=60, **model):
    worker = Worker(small_settings(model=model))
    worker.run(random_events(n, items=25))
    return worker


def test_probabilities_are_a_softmax_over_all_admitted_items():
    worker = worker_with()
    contexts = worker.histories.stage(random_events(10, seed=1)).contexts
    transformer, smoothing = worker.model.transformer, worker.model.smoothing(contexts)
    view = transformer.view(contexts, smoothing)
    rows = worker.model.items.rows
    asked = np.tile(np.arange(rows, dtype=np.int32), (contexts.states, 1))
    p = view.score(np.arange(contexts.states), asked)
    logits = view.h_QD @ transformer.table.weight[1:rows].T + transformer.table.bias[1:rows]
    q = torch.softmax(logits, dim=1).numpy()
    assert p[:, 1:] == pytest.approx(smoothing(q, asked[:, 1:]), abs=1e-6)
    assert p.sum(axis=1) == pytest.approx(np.ones(contexts.states), abs=1e-5)


def test_evicted_rows_have_no_share():
    worker = worker_with()
    worker.model.items._free.append(3)
    worker.model.transformer.evict([3])
    contexts = worker.histories.stage(random_events(5, seed=1)).contexts
    view = worker.model.transformer.view(contexts, worker.model.smoothing(contexts))
    admitted = np.append(worker.model.items.admitted_rows(), np.int32(UNKNOWN))
    p = view.score(np.arange(contexts.states), np.tile(admitted, (contexts.states, 1)))
    assert p.sum(axis=1) == pytest.approx(np.ones(contexts.states), abs=1e-5)
    assert 3 not in view.propose(20)[0]


def test_proposals_are_the_most_probable_items():
    worker = worker_with()
    contexts = worker.histories.stage(random_events(10, seed=1)).contexts
    view = worker.model.transformer.view(contexts, worker.model.smoothing(contexts))
    rows, p = view.propose(20)
    states = np.arange(contexts.states)
    every = np.tile(worker.model.items.admitted_rows(), (contexts.states, 1))
    scores = view.score(states, every)
    assert rows.tolist() == np.take_along_axis(every, np.argsort(-scores, axis=1)[:, :20], axis=1).tolist()
    assert p == pytest.approx(view.score(states, rows), abs=1e-6)


def test_tiles_make_no_difference(monkeypatch):
    worker = worker_with()
    contexts = worker.histories.stage(random_events(10, seed=1)).contexts
    asked = np.tile(np.arange(worker.model.items.rows, dtype=np.int32), (contexts.states, 1))
    answers = []
    for tile in (1 << 24, 3 * worker.model.items.rows, 1):
        monkeypatch.setattr(module, "TILE", tile)
        view = worker.model.transformer.view(contexts, worker.model.smoothing(contexts))
        answers.append((view.propose(20), view.score(np.arange(contexts.states), asked)))
    for (rows, p), scores in answers[1:]:
        assert rows.tolist() == answers[0][0][0].tolist()
        assert p == pytest.approx(answers[0][0][1], abs=1e-6)
        assert scores == pytest.approx(answers[0][1], abs=1e-6)


def test_type_probabilities_sum_to_one_and_are_never_zero():
    worker = worker_with()
    contexts = worker.histories.stage(random_events(10, seed=1)).contexts
    p = worker.model.transformer.view(contexts, worker.model.smoothing(contexts)).type_probabilities()
    assert p.shape == (contexts.states, 3)
    assert p.sum(axis=1) == pytest.approx(np.ones(contexts.states), abs=1e-5)
    assert (p > 0.0).all()


def test_a_state_is_the_same_alone_and_among_many():
    """Groups of like length pad differently; that must not be seen."""
    worker = worker_with()
    events = random_events(40, seed=1)
    contexts = worker.histories.stage(events).contexts
    together = worker.model.transformer.states(contexts)
    first = [e for e in events if e.user_key == events[0].user_key]
    alone_contexts = worker.histories.stage(first).contexts
    alone = worker.model.transformer.states(alone_contexts)
    mine = np.flatnonzero(contexts.event_user_B == events[0].user_key)
    a, b = together[contexts.after_B[mine]], alone[alone_contexts.after_B]
    assert torch.allclose(a, b, atol=1e-5)


# --- learning


def states_of(transformer, batch):
    """The states of a batch, token by token, window after window in the order in which they are laid."""
    laid = batch.laid()
    return transformer.network(laid.tokens, transformer.table.weight[torch.from_numpy(laid.items_N).long()])


@torch.no_grad()
def naive_losses(transformer, batches, candidates, log_q):
    """One target at a time, each row alone and without padding, in the order row by row."""
    item, kind, time = [], [], []
    for batch in batches:
        for row in range(len(batch.length_R)):
            h_LD = states_of(transformer, batch.only(np.array([row])))
            for column in range(batch.first_target_R[row], batch.length_R[row]):
                h, target = h_LD[column], int(batch.items_RL[row, column])
                if target != UNKNOWN:
                    logits = transformer.table.weight[candidates] @ h + transformer.table.bias[candidates] - log_q
                    item.append(F.cross_entropy(logits[None], torch.tensor([candidates.index(target)])))
                of_type = int(batch.types_RL[row, column])
                if of_type != UNKNOWN:
                    logits = transformer.network.type_logits(h[None])[:, : transformer.types.rows]
                    kind.append(F.cross_entropy(logits, torch.tensor([of_type])))
                gap = float(batch.gaps_RL[row, column])
                if not np.isnan(gap):
                    goal = torch.from_numpy(bin_of(np.log1p(np.array([gap]))))
                    time.append(
                        F.cross_entropy(transformer.network.time_logits(h[None], transformer.gap_share()), goal)
                    )
    return [float(torch.stack(losses).mean()) for losses in (item, kind, time)]


def random_batch(seed, rows=40, items=20):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 30, size=rows)
    batch = sequences(
        *[draw.integers(0, items + 1, size=length).tolist() for length in lengths],
        first=[int(draw.integers(0, length)) for length in lengths],
    )
    inside = np.arange(batch.items_RL.shape[1]) < batch.length_R[:, None]
    gaps = np.where(draw.random(inside.shape) < 0.8, draw.exponential(500.0, inside.shape), np.nan)
    types = np.where(inside, draw.integers(0, 4, inside.shape), 0)
    return replace(batch, types_RL=types.astype(np.int32), gaps_RL=gaps.astype(np.float32))


def test_losses_are_those_of_a_loop_over_single_targets():
    """Several groups of widths and several batches: each state must meet its own target."""
    transformer = built()
    batches = [random_batch(1), random_batch(2, rows=7)]
    expected = naive_losses(transformer, batches, list(range(1, 21)), torch.zeros(20))
    loss = transformer.learn(batches, STEP)
    assert (loss.item, loss.type, loss.time) == pytest.approx(tuple(expected), abs=1e-4)
    assert loss.targets == sum(int((b.length_R - b.first_target_R).sum()) for b in batches)


def test_the_step_follows_the_gradient_of_the_weighted_sum():
    """The first AdamW step of the body moves every weight against the sign of its gradient, by the learning rate."""
    transformer = built()
    batch = random_batch(3)
    parameters = dict(transformer.network.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    transformer.learn([batch], STEP)
    gradient = {name: p.grad.clone() for name, p in parameters.items()}
    reference = built()
    losses = naive_losses_with_grad(reference, batch)
    (losses[0] + TYPE_LOSS * losses[1] + TIME_LOSS * losses[2]).backward()
    for name, p in reference.network.named_parameters():
        direction = F.cosine_similarity(p.grad.flatten(), gradient[name].flatten(), dim=0)
        assert float(direction) > 0.999 or float(p.grad.norm()) < 1e-5, name
        moved = (parameters[name].detach() - before[name])[gradient[name].abs() > 1e-4]
        assert torch.allclose(moved.abs(), torch.full_like(moved, STEP.learning_rate), rtol=1e-2), name


def naive_losses_with_grad(transformer, batch):
    column = np.arange(batch.items_RL.shape[1])
    mask = (column >= batch.first_target_R[:, None]) & (column < batch.length_R[:, None])
    alone = [states_of(transformer, batch.only(np.array([row]))) for row in range(len(batch.length_R))]
    h = torch.cat([states[torch.from_numpy(np.flatnonzero(mask[row]))] for row, states in enumerate(alone)])
    item, kind = torch.from_numpy(batch.items_RL[mask]).long(), torch.from_numpy(batch.types_RL[mask]).long()
    gap = torch.from_numpy(batch.gaps_RL[mask])
    logits = h @ transformer.table.weight[1:21].T + transformer.table.bias[1:21]
    known, typed, timed = item > 0, kind > 0, ~gap.isnan()
    return (
        F.cross_entropy(logits[known], item[known] - 1),
        F.cross_entropy(transformer.network.type_logits(h)[typed][:, : transformer.types.rows], kind[typed]),
        F.cross_entropy(
            transformer.network.time_logits(h[timed], transformer.gap_share()),
            torch.from_numpy(bin_of(np.log1p(gap[timed].double().numpy()))),
        ),
    )


def test_it_learns_a_sequence():
    transformer = built(items=6)
    batch = sequences([1, 2, 3, 4, 5, 6, 1, 2], [4, 5, 6, 1, 2, 3, 4, 5], first=[1, 1])
    losses = [transformer.learn([batch], replace(STEP, seed=step)).item for step in range(60)]
    assert losses[0] > 1.5
    assert losses[-1] < 0.2


def test_with_few_negatives_it_learns_the_distribution_of_the_full_softmax():
    """Item n comes about as often as its weight says; without the log-Q correction the tail would be far too likely."""
    weights = np.array([2.0**-n for n in range(8)] + [2.0**-8] * 56)
    weights /= weights.sum()
    draw = np.random.default_rng(0)
    learned = {}
    for negatives in (10_000, 16):
        transformer = built(items=64)
        for step in range(300):
            targets = draw.choice(64, size=64, p=weights) + 1
            batch = sequences(*[[int(target)] for target in targets])
            rate = (
                STEP.learning_rate * (1 + step / 20) ** -0.5
            )  # the last weights are as noisy as the last steps are long
            transformer.learn([batch], replace(STEP, negatives=negatives, seed=step, learning_rate=rate))
        rows = torch.arange(1, 65)
        state = states_of(transformer, batch.only(np.array([0])))[0]
        logits = transformer.table.weight[rows] @ state + transformer.table.bias[rows]
        learned[negatives] = torch.softmax(logits, dim=0).detach().numpy()
    for p in learned.values():
        assert p[:5] == pytest.approx(weights[:5], rel=0.35)
        assert p[8:].sum() == pytest.approx(weights[8:].sum(), rel=0.35)


def test_sampled_candidates_hold_every_target_once():
    transformer = built(items=500)
    targets = np.array([3, 3, 499, 0], np.int32)
    rows, log_q = transformer._candidates(targets, 50, np.random.default_rng(0))
    assert len(set(rows.tolist())) == len(rows) == len(log_q)
    assert {3, 499} <= set(rows.tolist())
    assert UNKNOWN not in rows
    assert len(rows) <= 52
    expected = np.log(1.0 - (1.0 - 1.0 / 500) ** 50)
    assert log_q.tolist() == pytest.approx([0.0, 0.0] + [expected] * (len(rows) - 2), abs=1e-5)


def test_the_same_seed_learns_the_same_another_one_does_not():
    one, again, other = built(), built(), built()
    for transformer, seed in ((one, 1), (again, 1), (other, 2)):
        transformer.learn([random_batch(1)], replace(STEP, dropout=0.3, seed=seed))
    assert same_state(everything(one), everything(again))
    assert not same_state(everything(one), everything(other))


@pytest.mark.parametrize("where", ["loss", "body", "item", "bias"])
def test_a_step_that_is_not_finite_changes_nothing_and_says_so(where, monkeypatch):
    transformer = built()
    transformer.learn([random_batch(1)], STEP)
    if where == "loss":
        transformer.table.weight[3] = torch.nan
    before, table = everything(transformer), transformer.table.state(21)

    def spoil(grad):
        return torch.full_like(grad, torch.inf)

    if where == "body":
        handle = transformer.network.begin.register_hook(spoil)
    if where in {"item", "bias"}:
        original = Transformer._losses

        def losses(self, h, targets, leaf, rows, bias, candidates, log_q):
            (leaf if where == "item" else bias).register_hook(spoil)
            return original(self, h, targets, leaf, rows, bias, candidates, log_q)

        monkeypatch.setattr(Transformer, "_losses", losses)
    loss = transformer.learn([random_batch(2)], STEP)
    assert loss.applied is False
    assert same_state(before, everything(transformer))
    assert same_state(table, transformer.table.state(21))
    if where == "loss":
        assert loss.item != loss.item
        return
    if where == "body":
        handle.remove()
    monkeypatch.undo()
    assert transformer.learn([random_batch(2)], STEP).applied is True
    assert not same_state(before, everything(transformer))


def test_where_there_is_nothing_to_learn_nothing_happens():
    """Unknown items, one type, no times: events that the network has no head for."""
    transformer = built(types=1)
    before = everything(transformer)
    assert transformer.learn([sequences([0, 0], [0], types=[[1, 1], [1, 0]])], STEP) is None
    assert transformer.learn([sequences([1, 2], first=[2])], STEP) is None
    assert transformer.learn([], STEP) is None
    assert same_state(before, everything(transformer))


def test_an_unknown_target_is_context_but_no_target():
    transformer = built()
    loss = transformer.learn([sequences([1, 0, 2], gap=1.0)], STEP)
    expected = naive_losses(built(), [sequences([1, 0, 2], gap=1.0)], list(range(1, 21)), torch.zeros(20))[0]
    assert loss.item == pytest.approx(expected, abs=1e-5)


def test_negatives_and_context_move_but_no_other_rows():
    transformer = built(items=300)
    before = transformer.table.state(301).arrays["weight"]
    transformer.learn([sequences([7, 8])], replace(STEP, negatives=5))
    moved = np.flatnonzero((before != transformer.table.state(301).arrays["weight"]).any(axis=1))
    assert {7, 8} <= set(moved.tolist())
    assert len(moved) <= 8


def test_the_state_goes_on_bit_for_bit():
    one, other = built(), built(seed=77)
    for seed in range(3):
        one.learn([random_batch(seed)], replace(STEP, dropout=0.2, seed=seed))
    other.load(one.state())
    assert same_state(everything(one), everything(other))
    for seed in range(3, 6):
        losses = [t.learn([random_batch(seed)], replace(STEP, dropout=0.2, seed=seed)) for t in (one, other)]
        assert losses[0] == losses[1]
    assert same_state(everything(one), everything(other))


def test_an_untrained_state_can_be_kept_too():
    one, other = built(), built(seed=5)
    other.load(one.state())
    assert same_state(everything(one), everything(other))


def test_building_one_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    built()
    assert torch.equal(torch.rand(3), expected)


def test_events_of_one_user_see_the_window_and_not_more():
    """What lies further back than `context` before the first new event changes nothing."""
    worker = Worker(small_settings(history={"length": 40}, model={"context": 4}))
    other = Worker(small_settings(history={"length": 40}, model={"context": 4}))
    old, new = [event("u", n, 10.0 * n) for n in range(12)], [event("u", 3, 200.0)]
    for one, events in ((worker, old), (other, [event("u", 11 - n, 10.0 * n) for n in range(8)] + old[8:])):
        one.model.items.observe(np.array([e.item_key for e in old]), [e.item_id for e in old], 0)
        rows = np.arange(1, 13, dtype=np.int32)
        one.model.transformer.admit(rows, np.zeros((12, 0), np.int32), torch.Generator().manual_seed(1))
        one.step(events, learn=False)
    a, b = (one.model.transformer.states(one.histories.stage(new).contexts) for one in (worker, other))
    assert torch.equal(a, b)
