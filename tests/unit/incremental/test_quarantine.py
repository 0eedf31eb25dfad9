import numpy as np

from incremental.quarantine import LEAST, LEAST_USERS, WINDOW, Quarantine, among


def after(users, losses):
    quarantine = Quarantine()
    quarantine.learn(np.array(users), np.array(losses, float))
    return quarantine


def test_who_acts_much_and_is_hard_to_predict_is_left_out():
    users = [1] * 200 + [2] * 200 + list(range(10, 108)) * 8
    losses = [9.0] * 200 + [6.0] * 200 + [6.0] * 784
    assert after(users, losses).users(1.0).tolist() == [1]
    assert after(users, losses).users(4.0).tolist() == []
    assert after(users, losses).users(0.0).tolist() == []


def test_nobody_is_left_out_where_everybody_is_hard_to_predict():
    users = [1] * 200 + [2] * 200 + list(range(10, 108)) * 8
    assert after(users, [9.0] * len(users)).users(1.0).tolist() == []


def test_nor_who_acts_little():
    users = [1] * (LEAST - 1) + list(range(10, 108)) * 8
    assert after(users, [9.0] * (LEAST - 1) + [6.0] * 784).users(1.0).tolist() == []


def test_nor_anybody_where_there_are_too_few_for_a_norm():
    users = [1] * 200 + list(range(10, 10 + LEAST_USERS - 2)) * 8
    losses = [9.0] * 200 + [6.0] * (len(users) - 200)
    assert after(users, losses).users(1.0).tolist() == []
    users, losses = [*users, *[999] * 8], [*losses, *[6.0] * 8]
    assert after(users, losses).users(1.0).tolist() == [1]


def test_nor_who_is_no_busier_than_the_others():
    """25 users act alike; one of them does what is hard to predict, and is to be learned from."""
    users = list(range(25)) * 80
    losses = [9.0 if user == 3 else 6.0 + 0.01 * user for user in users]
    assert after(users, losses).users(0.75).tolist() == []
    more = [3] * 100
    assert after([*users, *more], [*losses, *[9.0] * 100]).users(0.75).tolist() == [3]


def test_a_forgotten_user_is_not_in_the_window():
    quarantine = after([1, 2, 1], [1.0, 2.0, 3.0])
    quarantine.forget(1)
    assert {name: array.tolist() for name, array in quarantine.state().arrays.items()} == {"user": [2], "loss": [2.0]}


def test_nor_who_stands_out_no_more_than_users_differ():
    """Users of all sorts: the hardest to predict is one nat above the median, and nobody is a stranger."""
    draw = np.random.default_rng(3)
    users = np.concatenate([np.repeat(np.arange(30), 50), np.full(100, 29)])
    losses = np.linspace(5.0, 7.0, 30)[users] + 0.1 * draw.standard_normal(len(users))
    assert after(users, losses).users(0.75).tolist() == []
    users[users == 29] = 7
    losses[users == 7] += 4.0
    assert after(users, losses).users(0.75).tolist() == [7]


def test_only_a_window_counts_and_it_goes_through_a_snapshot():
    quarantine = after([1] * 200, [9.0] * 200)
    quarantine.learn(np.arange(WINDOW), np.full(WINDOW, 6.0))
    assert quarantine.users(1.0).tolist() == []
    other = Quarantine()
    other.load(quarantine.state())
    assert other.state().arrays["user"].tolist() == quarantine.state().arrays["user"].tolist()


def test_events_of_users_that_are_left_out_are_found():
    assert among(np.array([1, 2, 1]), np.array([1])).tolist() == [True, False, True]
    assert among(np.array([1, 2]), np.zeros(0, np.int64)).tolist() == [False, False]
