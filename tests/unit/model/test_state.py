import numpy as np
import pytest

from model.state import State, same


def test_parts_are_put_and_taken():
    inner = State({"x": np.arange(3)}, {"n": 1})
    outer = State()
    outer.put("a", inner)
    outer.put("ab", State({"x": np.zeros(1)}, {}))
    taken = outer.take("a")
    assert set(taken.arrays) == {"x"}
    assert taken.arrays["x"].tolist() == [0, 1, 2]
    assert taken.values == {"n": 1}
    with pytest.raises(KeyError):
        outer.take("b")


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.array([1.0, np.nan], np.float32)},
        {"x": np.array([1.0, -0.0])},
        {"x": np.array([[1.0, 0.0]])},
        {"y": np.array([1.0, 0.0])},
        {"x": np.array([1.0, 0.0]), "y": np.zeros(1)},
    ],
)
def test_same_looks_at_names_types_shapes_and_bytes(other):
    mine = {"x": np.array([1.0, 0.0])}
    assert same(mine, {"x": np.array([1.0, 0.0])})
    assert not same(mine, other)


def test_not_a_number_is_the_same_as_itself():
    assert same({"x": np.array([np.nan])}, {"x": np.array([np.nan])})
