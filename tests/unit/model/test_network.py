from dataclasses import replace

import numpy as np
import pytest
import torch

from model.gaps import BINS
from model.network import INTERVALS, Dropout, Network, Stretch, Tokens, interval_bucket, rotation
from model.settings import ModelSettings

DIM, TYPES = 8, 5
SETTINGS = ModelSettings(dim=DIM, layers=2, heads=2, context=8, max_types=TYPES)


def network(seed=3):
    torch.manual_seed(seed)
    return Network(SETTINGS)


def tokens(rows=2, length=6, seed=0):
    """Sequences of one length and the embeddings of their items, as they are handed to the network."""
    draw = torch.Generator().manual_seed(seed)
    shape = (rows, length + 1)  # with `begin`
    given = Tokens(
        torch.randint(0, TYPES + 1, shape, generator=draw).flatten(),
        torch.randint(0, INTERVALS, shape, generator=draw).flatten(),
        torch.randint(0, 2, shape, generator=draw).flatten(),
        torch.arange(length + 1).repeat(rows),
        (Stretch(0, rows * (length + 1), rows, length + 1, None),),
    )
    return given, torch.randn(*shape, DIM, generator=draw).view(-1, DIM)


def states(net, given, items, rows=2, **more):
    return net(given, items, **more).view(rows, -1, DIM)


def changed_at(given, items, position):
    """Everything about the event at a position, 1 being the first, is another."""
    here = given.positions == position
    types = torch.where(here, (given.types + 1) % (TYPES + 1), given.types)
    intervals = torch.where(here, (given.intervals + 9) % INTERVALS, given.intervals)
    opens = torch.where(here, 1 - given.opens, given.opens)
    items = torch.where(here[:, None], items * -2.0, items)
    return replace(given, types=types, intervals=intervals, opens=opens), items


def taken(given, items, keep):
    """Some of the tokens, as sequences of one length."""
    arrays = {name: getattr(given, name)[keep] for name in ("types", "intervals", "opens", "positions")}
    width = int(arrays["positions"].max()) + 1
    stretch = Stretch(0, int(keep.sum()), int(keep.sum()) // width, width, None)
    return Tokens(**arrays, stretches=(stretch,)), items[keep]


@torch.no_grad()
@pytest.mark.parametrize("position", range(1, 7))
def test_a_later_event_changes_no_earlier_state(position):
    net, given = network(), tokens()
    before, after = states(net, *given), states(net, *changed_at(*given, position))
    assert torch.equal(before[:, :position], after[:, :position])
    assert (before[:, position:] != after[:, position:]).any(dim=2).all()


@torch.no_grad()
@pytest.mark.parametrize("field", ["items", "types", "intervals", "opens"])
def test_every_part_of_an_event_is_seen(field):
    net, (given, items) = network(), tokens()
    changed, other = changed_at(given, items, 3)
    if field != "items":
        changed, other = replace(given, **{field: getattr(changed, field)}), items
    else:
        changed = given
    assert not torch.allclose(states(net, given, items)[:, 3], states(net, changed, other)[:, 3])


@torch.no_grad()
def test_of_begin_nothing_matters_but_that_it_is_there():
    net, given = network(), tokens()
    assert torch.equal(states(net, *given), states(net, *changed_at(*given, 0)))


@torch.no_grad()
def test_what_comes_after_has_no_influence():
    net, (given, items) = network(), tokens(length=9)
    short = taken(given, items, given.positions < 5)
    assert torch.allclose(states(net, given, items)[:, :5], states(net, *short), atol=1e-6)


@torch.no_grad()
def test_sequences_do_not_see_each_other():
    net, (given, items) = network(), tokens(rows=3)
    alone = taken(given, items, torch.arange(len(items)) // 7 == 1)
    assert torch.allclose(states(net, given, items, 3)[1:2], states(net, *alone, 1), atol=1e-6)


@torch.no_grad()
def test_only_what_is_asked_for_is_returned_in_that_order():
    net, (given, items) = network(), tokens(rows=3)
    asked = torch.tensor([20, 3, 3, 7])
    assert torch.allclose(net(given, items, asked), net(given, items)[asked], atol=1e-6)


@torch.no_grad()
def test_items_are_scaled_by_the_root_of_the_width():
    net, (given, items) = network(), tokens()
    added = (net.embed(given, items + 1.0) - net.embed(given, items))[given.positions > 0]
    assert added.flatten().tolist() == pytest.approx([DIM**0.5] * added.numel(), abs=1e-5)


@torch.no_grad()
def test_the_state_before_the_first_event_is_that_of_begin_alone():
    first = states(network(), *tokens(rows=4), 4)[:, 0]
    assert torch.allclose(first, first[:1].expand(4, -1), atol=1e-6)


@pytest.mark.parametrize("lengths", [[3, 1, 2], [2, 2], [1], [0, 4]])
def test_a_stretch_pads_its_sequences_and_takes_the_padding_away(lengths):
    sizes = np.array(lengths) + 1
    row = np.repeat(np.arange(len(sizes)), sizes)
    position = np.concatenate([np.arange(size) for size in sizes])
    width, total = int(sizes.max()), int(sizes.sum())
    place = None if len(set(lengths)) == 1 else torch.from_numpy(row * width + position)
    stretch = Stretch(2, 2 + total, len(sizes), width, place)
    x = torch.randn(total + 3, DIM, requires_grad=True)
    rows = stretch.padded(x)
    for r, p, token in zip(row, position, range(2, 2 + total), strict=True):
        assert torch.equal(rows[r, p], x[token])
    assert int((rows != 0).any(dim=2).sum()) == total
    assert torch.equal(stretch.laid(rows), x[2 : 2 + total])
    stretch.laid(rows * 3.0).sum().backward()
    assert x.grad[:, 0].tolist() == [0.0, 0.0, *[3.0] * total, 0.0]


def test_rotary_scores_depend_on_the_distance_alone():
    turn = rotation(torch.arange(64), 4)[:, :, 0]  # [L, 3, pairs]
    assert torch.equal(turn[:, 0], turn[:, 1])
    assert torch.equal(turn[:, 2], torch.ones_like(turn[:, 2]))
    q, k = (torch.view_as_real(torch.view_as_complex(torch.randn(2, 2)) * turn[:, 0]).flatten(1) for _ in range(2))
    scores = q @ k.T
    for distance in (0, 1, 7, 30):
        diagonal = scores.diagonal(-distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4)
    assert abs(float(scores[40, 40] - scores[40, 10])) > 1e-3


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(np.nan, 0), (-5.0, 1), (0.0, 1), (0.41, 1), (0.42, 2), (1.0, 3), (3.0, 5), (7.0, 7), (1e30, 63), (np.inf, 63)],
)
def test_intervals_are_half_octaves_of_one_plus_seconds(seconds, bucket):
    assert interval_bucket(torch.tensor([seconds])).tolist() == [bucket]


def test_buckets_tell_fifty_years_apart_from_twenty_five():
    years = interval_bucket(torch.tensor([25.0, 50.0]) * 365.25 * 86400)
    assert years[0] < years[1] <= INTERVALS - 1


@torch.no_grad()
def test_the_time_head_begins_from_the_shares_of_the_stream():
    share = torch.softmax(torch.randn(BINS, generator=torch.Generator().manual_seed(1)), dim=0)
    p = torch.softmax(network().time_logits(torch.randn(20, DIM), share), dim=1)
    assert torch.allclose(p, share.expand(20, BINS), atol=1e-6)


def dropping(share, seed=1):
    return Dropout(share, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("share", [0.3, 0.999])
def test_dropout_keeps_the_mean(share):
    x = torch.ones(200_001)
    met = min(255, round(256 * share)) / 256
    dropped = dropping(share)(x)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / (1 - met)])
    assert float((dropped == 0).float().mean()) == pytest.approx(met, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.15)


def test_dropout_draws_every_number_anew():
    x = torch.ones(64, 1000)
    dropped = (dropping(0.5)(x) == 0).float()
    assert dropped.mean(dim=0).std() < 0.08  # columns share nothing, and rows neither
    assert dropped.mean(dim=1).std() < 0.03


@torch.no_grad()
def test_only_a_learning_pass_is_random_and_its_seed_decides():
    net, given = network(), tokens()
    net.train()
    assert torch.equal(net(*given), net(*given))
    one, again, other = (net(*given, dropout=dropping(0.3, seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, net(*given))
    assert torch.equal(net(*given, dropout=dropping(0.0)), net(*given))
