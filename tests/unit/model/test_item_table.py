import numpy as np
import pytest
import torch
from support import same_state
from torch.utils._python_dispatch import TorchDispatchMode

from model.item_table import CONTEXT_SHARE, INIT_SCALE, KEPT_PER_STEP, ItemTable
from model.state import same

DIM = 6


def generator(seed=7):
    return torch.Generator().manual_seed(seed)


def start(table, row, context, noise):
    table.start(np.array([row], np.int32), np.array([context], np.int32).reshape(1, -1), noise)


def table_with(rows, dim=DIM):
    table = ItemTable(dim, generator())
    noise = generator(1)
    for row in range(1, rows + 1):
        start(table, row, [], noise)
    return table


def steps(table, count, rows=(1, 3), seed=5):
    draw = generator(seed)
    rows = np.array(rows, np.int32)
    for _ in range(count):
        table.step(rows, torch.randn(len(rows), DIM, generator=draw), torch.randn(len(rows), generator=draw), 0.01)


def test_a_new_item_starts_near_the_mean_of_its_context():
    table = table_with(3)
    start(table, 4, [0, 1, 3, 4], generator(9))
    noise = torch.randn(DIM, generator=generator(9)) * INIT_SCALE
    mean = (table.weight[1] + table.weight[3]) / 2
    assert torch.allclose(table.weight[4], CONTEXT_SHARE * mean + 0.5 * noise)
    assert table.bias[4] == 0.0


def test_a_new_item_without_a_known_context_starts_with_noise():
    table = table_with(2)
    start(table, 3, [0, 3], generator(9))
    assert torch.equal(table.weight[3], torch.randn(DIM, generator=generator(9)) * INIT_SCALE)


def test_context_that_has_not_started_itself_does_not_count():
    """An item of the user's history may be admitted later in the very micro-batch: its row exists, its start not."""
    table = table_with(1023)
    start(table, 1, [2, 1024, 1025], generator(9))
    noise = torch.randn(DIM, generator=generator(9)) * INIT_SCALE
    assert torch.allclose(table.weight[1], CONTEXT_SHARE * table.weight[2] + 0.5 * noise)


def test_items_that_come_together_start_one_after_another():
    """An item may be the context of one that comes after it, not before."""
    table = table_with(3)
    table.start(np.array([5, 4, 6], np.int32), np.array([[4, 1], [5, 2], [4, 5]], np.int32), generator(9))
    noise = torch.randn(3, DIM, generator=generator(9)) * INIT_SCALE / 2
    first = CONTEXT_SHARE * table.weight[1] + noise[0]
    second = CONTEXT_SHARE * (first + table.weight[2]) / 2 + noise[1]
    third = CONTEXT_SHARE * (second + first) / 2 + noise[2]
    assert torch.allclose(table.weight[4:7], torch.stack([second, first, third]))


def test_a_guest_is_the_mean_of_its_context_and_not_live():
    table = table_with(3)
    table.receive(np.array([7, 8], np.int32), np.array([[0, 1, 3], [0, 0, 7]], np.int32))
    assert torch.allclose(table.weight[7], CONTEXT_SHARE * (table.weight[1] + table.weight[3]) / 2)
    assert not table.weight[8].any()
    assert torch.isinf(table.bias[7:9]).all()


def test_rows_that_are_not_in_use_are_never_found():
    table = table_with(3)
    assert table.bias[0] == -torch.inf
    assert torch.isinf(table.bias[4:]).all()
    table.evict([2])
    assert table.bias[2] == -torch.inf
    assert table.bias[[1, 3]].tolist() == [0.0, 0.0]


def test_an_evicted_row_starts_clean_in_weights_and_optimizer():
    table, fresh = table_with(4), table_with(4)
    steps(table, 5)
    table.evict([3])
    fresh.evict([3])
    for one in (table, fresh):
        start(one, 3, [], generator(2))
    row = slice(3, 4)
    for name, array in table.state(5).arrays.items():
        assert array[row].tobytes() == fresh.state(5).arrays[name][row].tobytes(), name


def test_a_step_touches_only_its_rows_and_never_the_bias_of_unknown():
    table = table_with(4)
    before = table.state(5).arrays
    steps(table, 3, rows=(0, 1, 3))
    after = table.state(5).arrays
    for name in before:
        assert before[name][[2, 4]].tobytes() == after[name][[2, 4]].tobytes()
    assert (before["weight"][[0, 1, 3]] != after["weight"][[0, 1, 3]]).all()
    assert (before["bias"][[1, 3]] != after["bias"][[1, 3]]).all()
    assert after["bias"][0] == -np.inf


def test_the_step_is_rmsprop_with_one_mean_square_per_row_over_all_steps():
    """Row 1 has a gradient in every third step only; its mean square falls in the others too."""
    table = table_with(3)
    weight, square, bias, bias_square = table.weight[1].double().numpy().copy(), 0.0, 0.0, 0.0
    draw = np.random.default_rng(0)
    for step in range(1, 14):
        square, bias_square = KEPT_PER_STEP * square, KEPT_PER_STEP * bias_square
        g, bg = draw.normal(size=(2, DIM)), draw.normal(size=2)
        rows = [1, 2] if step % 3 == 0 else [2, 3]
        if step % 3 == 0:
            square += (1 - KEPT_PER_STEP) * (g[0] ** 2).mean()
            bias_square += (1 - KEPT_PER_STEP) * bg[0] ** 2
            mean_of = 1 - KEPT_PER_STEP**step
            weight -= 0.01 * g[0] / np.sqrt(square / mean_of)
            bias -= 0.01 * bg[0] / np.sqrt(bias_square / mean_of)
        table.step(np.array(rows, np.int32), torch.tensor(g).float(), torch.tensor(bg).float(), 0.01)
    assert table.weight[1].numpy() == pytest.approx(weight, rel=1e-4, abs=1e-6)
    assert float(table.bias[1]) == pytest.approx(bias, rel=1e-4)


def test_an_item_that_is_seldom_touched_takes_larger_steps():
    table = table_with(3)
    ones, one = torch.ones(1, DIM), torch.ones(1)
    for step in range(400):
        table.step(np.array([1], np.int32), ones, one, 0.01)
        if step % 50 == 0:
            table.step(np.array([2], np.int32), ones, one, 0.01)
    before = table.weight[[1, 2]].clone()
    for row in (1, 2):
        table.step(np.array([row], np.int32), ones, one, 0.01)
    often, seldom = (before - table.weight[[1, 2]])[:, 0].tolist()
    assert seldom > 4 * often > 0


def test_an_earlier_copy_returns_to_a_table_that_began_again():
    """Rows taken over were touched at steps that the table has not come to since: their means must not grow."""
    table = table_with(3)
    steps(table, 200)
    copy = ItemTable(DIM, generator())
    copy.load(table.state(4))
    table.restart(generator(2))
    steps(table, 1)
    table.take_over(copy)
    steps(copy, 1), steps(table, 1)
    assert same_state(copy.state(4), table.state(4))


class LargestResult(TorchDispatchMode):
    """The size of the largest tensor that an operation made; what it wrote in place is no new tensor."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not func._schema.name.endswith("_"):
            self.elements = max(self.elements, result.numel())
        return result


def test_the_cost_of_a_step_does_not_depend_on_the_capacity():
    table = table_with(4)
    start(table, 100_000, [], generator())
    with LargestResult() as largest:
        steps(table, 1, rows=(1, 3, 4))
    assert 0 < largest.elements <= 3 * (DIM + 1)


def test_growing_keeps_what_was_there():
    table = table_with(4)
    steps(table, 3)
    before = table.state(5).arrays
    start(table, 5000, [], generator())
    assert same(before, table.state(5).arrays)
    assert len(table.state(5001).arrays["weight"]) == 5001


def test_the_state_goes_on_bit_for_bit():
    one, other = table_with(4), ItemTable(DIM, generator(99))
    steps(one, 4)
    other.load(one.state(5))
    for table in (one, other):
        table.evict([2])
        start(table, 2, [1, 3], generator(11))
        start(table, 5, [2], generator(12))
        steps(table, 4, rows=(0, 2, 5), seed=6)
    assert same_state(one.state(6), other.state(6))


@pytest.mark.parametrize(("rows", "known"), [(900, 400), (3000, 2500), (1500, 1400)])
def test_the_rows_of_an_earlier_copy_are_taken_over_whatever_room_both_have(rows, known):
    generator = torch.Generator().manual_seed(3)
    table = ItemTable(4, generator)
    for row in range(1, known):
        start(table, row, (), generator)
    copy = ItemTable(4, torch.Generator())
    copy.load(table.state(known))
    for row in range(known, rows):
        start(table, row, (), generator)
    copy.reserve(rows)  # has other room than the table from here on
    before = table.weight[:rows].clone()
    table.weight[1:rows] += 1.0
    table.take_over(copy)
    assert torch.equal(table.weight[:known], before[:known])
    assert torch.equal(table.weight[known:rows], before[known:] + 1.0)
    assert torch.isfinite(table.bias[1:rows]).all()
