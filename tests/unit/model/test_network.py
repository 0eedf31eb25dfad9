from dataclasses import replace

import numpy as np
import pytest
import torch

from model.gaps import BINS
from model.network import INTERVALS, Network, RotaryPositions, Tokens, dropout, interval_bucket
from model.settings import ModelSettings

DIM, TYPES = 8, 5
SETTINGS = ModelSettings(dim=DIM, layers=2, heads=2, context=8, dropout=0.3, max_types=TYPES)


def network(seed=3):
    torch.manual_seed(seed)
    return Network(SETTINGS)


def tokens(rows=2, length=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shape = (rows, length)
    return Tokens(
        torch.randn(*shape, DIM, generator=draw),
        torch.randint(0, TYPES + 1, shape, generator=draw),
        torch.randint(0, INTERVALS, shape, generator=draw),
        torch.randint(0, 2, shape, generator=draw),
    )


def changed_at(given, column):
    """Everything about the event at a column is another."""
    items, types = given.items.clone(), given.types.clone()
    intervals, opens = given.intervals.clone(), given.opens.clone()
    items[:, column] *= -2.0
    types[:, column] = (types[:, column] + 1) % (TYPES + 1)
    intervals[:, column] = (intervals[:, column] + 9) % INTERVALS
    opens[:, column] = 1 - opens[:, column]
    return Tokens(items, types, intervals, opens)


@torch.no_grad()
@pytest.mark.parametrize("column", range(6))
def test_a_later_event_changes_no_earlier_state(column):
    net, given = network(), tokens()
    before, after = net(given), net(changed_at(given, column))
    assert torch.equal(before[:, : column + 1], after[:, : column + 1])
    assert (before[:, column + 1 :] != after[:, column + 1 :]).any(dim=2).all()


@torch.no_grad()
@pytest.mark.parametrize("field", ["items", "types", "intervals", "opens"])
def test_every_part_of_an_event_is_seen(field):
    net, given = network(), tokens()
    other = replace(given, **{field: getattr(changed_at(given, 2), field)})
    assert not torch.allclose(net(given)[:, 3], net(other)[:, 3])


@torch.no_grad()
def test_padding_on_the_right_has_no_influence():
    net, given = network(), tokens(length=9)
    short = Tokens(given.items[:, :4], given.types[:, :4], given.intervals[:, :4], given.opens[:, :4])
    assert torch.allclose(net(given)[:, :5], net(short), atol=1e-6)


@torch.no_grad()
def test_rows_do_not_see_each_other():
    net, given = network(), tokens(rows=3)
    alone = Tokens(given.items[1:2], given.types[1:2], given.intervals[1:2], given.opens[1:2])
    assert torch.allclose(net(given)[1:2], net(alone), atol=1e-6)


@torch.no_grad()
def test_items_are_scaled_by_the_root_of_the_width():
    net, given = network(), tokens()
    more = replace(given, items=given.items + 1.0)
    added = net.embed(more)[:, 1:] - net.embed(given)[:, 1:]
    assert added.flatten().tolist() == pytest.approx([DIM**0.5] * added.numel(), abs=1e-5)


@torch.no_grad()
def test_the_state_before_the_first_event_is_that_of_begin_alone():
    net = network()
    states = net(tokens(rows=4))
    assert torch.allclose(states[:, 0], states[:1, 0].expand(4, -1), atol=1e-6)


def test_rotary_scores_depend_on_the_distance_alone():
    rotary = RotaryPositions(4, 64)
    q, k = torch.randn(4), torch.randn(4)
    turned_q, turned_k = (rotary(x.expand(1, 1, 64, 4))[0, 0] for x in (q, k))
    scores = turned_q @ turned_k.T
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


def test_dropout_needs_a_generator_and_keeps_the_mean():
    x = torch.ones(20_000)
    assert dropout(x, 0.3, None) is x
    dropped = dropout(x, 0.3, torch.Generator().manual_seed(1))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.03)


@torch.no_grad()
def test_only_a_learning_pass_is_random_and_its_seed_decides():
    net, given = network(), tokens()
    net.train()
    assert torch.equal(net(given), net(given))
    one, again, other = (net(given, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, net(given))
