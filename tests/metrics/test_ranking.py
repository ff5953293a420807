import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fmlayers.metrics import Relevance, ranking_metrics, ranking_metrics_by_user

PER_USER = ("precision", "recall", "average_precision", "ndcg", "hit")


def reference(recommended, relevant, k):
    """The metrics of each user with a relevant item, in plain loops."""
    wanted = {}
    for user, item in zip(*relevant, strict=True):
        wanted.setdefault(int(user), set()).add(int(item))
    rows = []
    for user in sorted(wanted):
        hits, precisions, gain = 0, [], 0.0
        for place in range(1, k + 1):
            if int(recommended[user][place - 1]) in wanted[user]:
                hits += 1
                precisions.append(hits / place)
                gain += 1 / math.log2(place + 1)
        possible = min(k, len(wanted[user]))
        ideal = sum(1 / math.log2(place + 1) for place in range(1, possible + 1))
        rows.append(
            {
                "user": user,
                "precision": hits / k,
                "recall": hits / len(wanted[user]),
                "average_precision": sum(precisions) / possible,
                "ndcg": gain / ideal,
                "hit": 1.0 if hits else 0.0,
            }
        )
    return rows


def random_case(rng, num_users=60, num_items=40, places=12):
    """Lists in which good items come early, with empty places and users without any."""
    scores = rng.normal(size=(num_users, num_items))
    liked = rng.random((num_users, num_items)) < rng.choice(
        [0.0, 0.05, 0.2, 0.6], size=(num_users, 1)
    )
    lists = np.argsort(-(scores + 1.5 * liked), axis=1)[:, :places]
    lists[rng.random(lists.shape) < 0.1] = -1
    users, items = np.nonzero(liked)
    order = rng.permutation(len(users))
    return lists, Relevance(users[order], items[order]), num_items


@st.composite
def cases(draw):
    """Small catalogs, so that lists are full of hits, empty places and edges."""
    num_items = draw(st.integers(1, 8))
    num_users = draw(st.integers(1, 5))
    places = draw(st.integers(1, num_items + 2))
    lists = []
    for _ in range(num_users):
        row = draw(st.permutations([*range(num_items), *[-1] * places]))[:places]
        lists.append(row)
    pair = st.tuples(st.integers(0, num_users - 1), st.integers(0, num_items - 1))
    pairs = np.array(draw(st.lists(pair)), dtype=np.int64).reshape(-1, 2)
    k = draw(st.integers(1, places))
    return np.array(lists), Relevance(pairs[:, 0], pairs[:, 1]), num_items, k


def check_against_reference(lists, relevant, num_items, k):
    expected = reference(lists, relevant, k)
    by_user = ranking_metrics_by_user(lists, relevant, num_items, k=k)
    assert list(by_user) == ["user", *PER_USER]
    for name in by_user:
        np.testing.assert_allclose(
            by_user[name], [row[name] for row in expected], rtol=1e-12, err_msg=name
        )
        assert by_user[name].dtype == (np.int64 if name == "user" else np.float64)
    if not expected:
        return
    metrics = ranking_metrics(lists, relevant, num_items, k=k)
    means = {
        {"average_precision": "map", "hit": "hit_rate"}.get(name, name): sum(
            row[name] for row in expected
        )
        / len(expected)
        for name in PER_USER
    }
    listed = {int(item) for row in lists for item in row[:k]} - {-1}
    means["coverage"] = len(listed) / num_items
    means["users"] = len(expected)
    assert list(metrics) == list(means)
    for name, value in metrics.items():
        assert type(value) is (int if name == "users" else float)
        np.testing.assert_allclose(value, means[name], rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("k", [1, 2, 5, 12])
def test_values_against_loops(rng, k):
    lists, relevant, num_items = random_case(rng)
    values = ranking_metrics(lists, relevant, num_items, k=k)
    assert values["recall"] > k / 120  # enough hits to tell formulas apart
    check_against_reference(lists, relevant, num_items, k)


@settings(deadline=None)
@given(case=cases())
def test_values_of_small_cases_against_loops(case):
    check_against_reference(*case)


def test_k_is_25_unless_told(rng):
    lists, relevant, num_items = random_case(rng, places=30)
    default = ranking_metrics(lists, relevant, num_items)
    assert default == ranking_metrics(lists, relevant, num_items, k=25)
    assert default != ranking_metrics(lists, relevant, num_items, k=24)
    by_user = ranking_metrics_by_user(lists, relevant, num_items)
    np.testing.assert_allclose(by_user["precision"].mean(), default["precision"])


@settings(deadline=None)
@given(case=cases())
def test_bounds(case):
    lists, relevant, num_items, k = case
    by_user = ranking_metrics_by_user(lists, relevant, num_items, k=k)
    for name in PER_USER:
        assert (by_user[name] >= 0).all(), name
        assert (by_user[name] <= 1).all(), name  # exactly: no rounding beyond it
        np.testing.assert_array_equal(by_user[name] > 0, by_user["hit"] == 1)


@settings(deadline=None)
@given(num_relevant=st.integers(1, 40), k=st.integers(1, 50), seed=st.integers(0, 999))
def test_a_perfect_list_gets_exactly_1(num_relevant, k, seed):
    items = np.random.default_rng(seed).permutation(60)
    relevant = Relevance(np.zeros(num_relevant, dtype=int), items[:num_relevant])
    metrics = ranking_metrics(items[None], relevant, 60, k=k)
    assert metrics["map"] == metrics["ndcg"] == metrics["hit_rate"] == 1.0
    possible = min(num_relevant, k)
    assert metrics["precision"] == possible / k
    assert metrics["recall"] == possible / num_relevant


@settings(deadline=None)
@given(case=cases(), data=st.data())
def test_users_may_come_in_any_order(case, data):
    lists, relevant, num_items, k = case
    assume(len(relevant.users))
    order = np.array(data.draw(st.permutations(range(len(lists)))))
    new_position = np.argsort(order)
    moved = Relevance(new_position[relevant.users], relevant.items)
    before = ranking_metrics(lists, relevant, num_items, k=k)
    after = ranking_metrics(lists[order], moved, num_items, k=k)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-12, err_msg=name)


@settings(deadline=None)
@given(case=cases())
def test_a_relevant_item_moved_up_is_better(case):
    lists, relevant, num_items, k = case
    wanted = set(zip(*(column.tolist() for column in relevant), strict=True))
    before = ranking_metrics_by_user(lists, relevant, num_items, k=k)
    better = lists.copy()
    moved = np.zeros(len(lists), dtype=bool)
    for user, row in enumerate(lists):
        for place in range(1, k):
            upper, lower = ((user, int(row[place - step])) in wanted for step in (1, 0))
            if lower and not upper:
                better[user, [place - 1, place]] = row[[place, place - 1]]
                moved[user] = True
                break
    after = ranking_metrics_by_user(better, relevant, num_items, k=k)
    moved = moved[before["user"]]
    for name in ("average_precision", "ndcg"):
        assert (after[name][moved] > before[name][moved]).all(), name
        np.testing.assert_array_equal(after[name][~moved], before[name][~moved])
    for name in ("precision", "recall", "hit"):
        np.testing.assert_array_equal(after[name], before[name])


def test_an_empty_place_is_no_item_of_another_user():
    # Position -1 of user 1 falls on the last item of user 0, which is relevant.
    relevant = Relevance(np.array([0, 1]), np.array([4, 0]))
    by_user = ranking_metrics_by_user([[4, 3], [-1, -1]], relevant, 5, k=2)
    np.testing.assert_array_equal(by_user["hit"], [1.0, 0.0])


def test_only_the_first_k_places_are_read():
    relevant = Relevance(np.array([0]), np.array([2]))
    metrics = ranking_metrics([[1, 0, 2, 2, 99]], relevant, 4, k=2)
    assert metrics["hit_rate"] == 0.0
    assert metrics["coverage"] == 0.5


def test_coverage_counts_the_lists_of_all_users():
    relevant = Relevance(np.array([1]), np.array([0]))
    metrics = ranking_metrics([[1, 2], [0, 1], [3, -1]], relevant, 8, k=2)
    assert metrics["coverage"] == 4 / 8
    assert metrics["users"] == 1


def test_groups_of_users(rng):
    lists, relevant, num_items = random_case(rng)
    group = rng.integers(0, 2, size=len(lists))
    by_user = ranking_metrics_by_user(lists, relevant, num_items, k=5)
    for value in (0, 1):
        chosen = np.flatnonzero(group == value)
        inside = np.isin(relevant.users, chosen)
        alone = ranking_metrics(
            lists[chosen],
            Relevance(
                np.searchsorted(chosen, relevant.users[inside]), relevant.items[inside]
            ),
            num_items,
            k=5,
        )
        mean = by_user["ndcg"][group[by_user["user"]] == value].mean()
        np.testing.assert_allclose(mean, alone["ndcg"], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_integers_of_any_type(rng, dtype):
    lists, relevant, num_items = random_case(rng, num_users=2000)
    lists = np.where(lists < 0, 39, lists)
    lists = np.array([row if len({*row}) == 12 else np.arange(12) for row in lists])
    expected = ranking_metrics(lists, relevant, num_items, k=10)
    typed = Relevance(relevant.users.astype(np.uint64), relevant.items.astype(dtype))
    sizes = {"num_items": dtype(num_items), "k": dtype(10)}
    assert ranking_metrics(lists.astype(dtype), typed, **sizes) == expected


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_large_positions_stay_whole(dtype):
    # User 1's item 8 is pair 2**60 + 8, which float64 can't tell from 2**60 + 7.
    relevant = Relevance(np.array([1]), np.array([8]))
    lists = np.array([[0], [7]], dtype=dtype)
    by_user = ranking_metrics_by_user(lists, relevant, 2**60, k=1)
    np.testing.assert_array_equal(by_user["hit"], [0.0])
    by_user = ranking_metrics_by_user(lists + dtype(1), relevant, 2**60, k=1)
    np.testing.assert_array_equal(by_user["hit"], [1.0])


def test_no_user_with_a_relevant_item():
    nothing = Relevance(np.array([], dtype=int), np.array([], dtype=int))
    by_user = ranking_metrics_by_user([[0, 1]], nothing, 2, k=1)
    assert all(len(values) == 0 for values in by_user.values())
    match = r"at least one pair of a user and an item\. Received: none\."
    with pytest.raises(ValueError, match=match):
        ranking_metrics([[0, 1]], nothing, 2, k=1)


@pytest.mark.parametrize("metric", [ranking_metrics, ranking_metrics_by_user])
class TestErrors:
    relevant = Relevance(np.array([0, 1]), np.array([1, 0]))

    @pytest.mark.parametrize("k", [0, -1, 2.0, True, None])
    def test_k(self, metric, k):
        match = f"`k` must be a positive integer. Received: k={k}."
        with pytest.raises(ValueError, match=match):
            metric([[0, 1], [1, 0]], self.relevant, 2, k=k)

    @pytest.mark.parametrize("num_items", [0, 2.5, "2"])
    def test_num_items(self, metric, num_items):
        match = (
            f"`num_items` must be a positive integer. Received: num_items={num_items!r}"
        )
        with pytest.raises(ValueError, match=match):
            metric([[0, 1], [1, 0]], self.relevant, num_items, k=2)

    @pytest.mark.parametrize("lists", [[[0, 1], [1, 0]], [0, 1, 2], [[[0, 1, 2]]]])
    def test_shape(self, metric, lists):
        match = r"with at least k=3 ranks\. Lower `k`.* Received: shape \("
        with pytest.raises(ValueError, match=match):
            metric(lists, self.relevant, 3, k=3)

    def test_dtype(self, metric):
        match = r"`recommended` must be integer positions\. Received: dtype float64\."
        with pytest.raises(ValueError, match=match):
            metric([[0.0, 1.0], [1.0, 0.0]], self.relevant, 2, k=2)

    @pytest.mark.parametrize("item", [-2, 3])
    def test_outside_the_catalog(self, metric, item):
        match = rf"Received: {item} in row 1, with num_items=3\."
        with pytest.raises(ValueError, match=match):
            metric([[0, 1], [2, item]], self.relevant, 3, k=2)

    def test_an_item_twice_in_a_list(self, metric):
        match = r"twice in a row\. Received: item 7 more than once in row 1\."
        with pytest.raises(ValueError, match=match):
            metric([[7, 1, 2], [7, 3, 7]], self.relevant, 8, k=3)
        metric([[7, -1, -1], [7, 3, -1]], self.relevant, 8, k=3)

    def test_relevant(self, metric):
        lists = [[0, 1], [1, 0]]
        match = r"must be rows of `recommended`\. Received: user 2, with 2 rows\."
        with pytest.raises(ValueError, match=match):
            metric(lists, Relevance(np.array([2]), np.array([0])), 2, k=2)
        match = r"positions in the catalog\. Received: item 2, with num_items=2\."
        with pytest.raises(ValueError, match=match):
            metric(lists, Relevance(np.array([0]), np.array([2])), 2, k=2)
        match = r"`relevant\.items` must be positions from 0\. Received: -1 in row 1\."
        with pytest.raises(ValueError, match=match):
            metric(lists, Relevance(np.array([0]), np.array([-1])), 2, k=2)
        match = r"`relevant\.users` and `relevant\.items` must have the same length"
        with pytest.raises(ValueError, match=match):
            metric(lists, Relevance(np.array([0]), np.array([0, 1])), 2, k=2)
