import numpy as np
from checks import check_error

from fmlayers.retrieval import SeenItems

USERS = np.array([2, 0, 2, 2, 0, 4, 2, 2])
ITEMS = np.array([9, 1, 3, -1, 5, 7, 4, 3])


def test_items_of_each_user():
    seen = SeenItems(USERS, ITEMS, 5)
    found = [seen.of(user).tolist() for user in range(5)]
    assert found == [[1, 5], [], [9, 3, 4, 3], [], [7]]


def test_padded():
    seen = SeenItems(USERS, ITEMS, 5)
    found = seen.padded([0, -1, 2, 1])
    assert found.dtype == np.int32
    expected = [[1, 5, -1, -1], [-1] * 4, [9, 3, 4, 3], [-1] * 4]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(seen.padded([4, 4]), [[7], [7]])
    assert seen.padded([1, 3, -1]).shape == (3, 0)
    assert seen.padded([]).shape == (0, 0)


def test_lengths_are_powers_of_two():
    for count, length in ((1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16)):
        seen = SeenItems(np.zeros(count, int), np.arange(count), 1)
        found = seen.padded([0])
        assert found.shape == (1, length)
        np.testing.assert_array_equal(found[0, :count], np.arange(count))
        np.testing.assert_array_equal(found[0, count:], -1)


def test_nobody_has_seen_anything():
    seen = SeenItems([], [], 3)
    assert seen.padded([0, 2]).shape == (2, 0)


def test_errors():
    check_error(
        "must be one-dimensional, of the same length", lambda: SeenItems([1], [1, 2], 3)
    )
    check_error("from 0 to 2. Received: 0 to 3", lambda: SeenItems([0, 3], [1, 2], 3))
    check_error("Received: -1 to 0", lambda: SeenItems([0, -1], [1, 2], 3))
