import numpy as np
import pandas as pd
import pytest
from checks import check_error
from keras import ops

from fmlayers.data import DataError, sources, synthetic, write_csv
from fmlayers.data.kinds import UNKNOWN
from fmlayers.runs import TrainingConfig, train
from fmlayers.runs.positions import positions_of
from fmlayers.runs.recommendation_file import write_recommendations
from fmlayers.runs.recommender import Recommender


@pytest.fixture(scope="module")
def films():
    return synthetic(num_users=30, num_items=25, num_ratings=300)


@pytest.fixture(scope="module")
def make_run(films, tmp_path_factory):
    """Train a small run of `films`, or of a CSV of their ratings."""

    def make(data="synthetic", **changes):
        if data == "csv":
            data = str(tmp_path_factory.mktemp("data") / "shop.csv")
            write_csv(films.ratings, data)
        small = {"dim": 3, "max_epochs": 2, "batch_size": 32}
        if changes.get("model") != "neumf":
            small["linear_l2"] = 0.0
        config = TrainingConfig(data=data, validation_fraction=0.0, **small | changes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "synthetic", lambda: films)
            out = tmp_path_factory.mktemp("runs") / "run"
            return train(config, out)

    return make


@pytest.fixture(scope="module")
def film_run(make_run):
    """Train a run with columns of users, of items and of the rating."""
    features = ["user", "item", "age", "sex", "genres", "year", "day"]
    return make_run(features=features)


@pytest.fixture(scope="module")
def recommender(film_run, films):
    return Recommender(film_run, films)


def seen_by(run, films, user):
    train = films.ratings.iloc[run.split(films).train]
    return set(train.loc[train["user"] == int(user), "item"].astype(str))


def best(run, films, user, k, leave_out=(), **columns):
    """Return the best items of a user, scoring each pair by itself."""
    items = run.encoder.vocabulary("item")
    table = pd.DataFrame({"user": user, "item": items})
    for column in set(run.encoder.columns) - set(films.table().columns[:2]):
        if column == "day":
            table[column] = None
    table = run.with_side_columns(table.assign(**columns))
    inputs = run.encoder.transform(table)
    scores = ops.convert_to_numpy(run.model.score(inputs))[:, 0]
    left = [i for i in range(len(items)) if items[i] not in leave_out]
    order = sorted(left, key=lambda i: (-scores[i], i))[:k]
    return scores[order], [items[i] for i in order]


def check(found, keys, expected):
    scores, positions = found
    taken = positions >= 0
    assert keys[positions[taken]].tolist() == expected[1]
    np.testing.assert_allclose(scores[taken], expected[0], rtol=1e-4, atol=1e-5)


def test_top_n_has_the_best_of_all_pairs(recommender, film_run, films):
    users = ["3", "17", "nobody", "30"]
    found = recommender.top_n(users, 8)
    for row, user in enumerate(users):
        seen = set() if user == "nobody" else seen_by(film_run, films, user)
        assert seen or user == "nobody"
        expected = best(film_run, films, user, 8, seen)
        check([x[row] for x in found], recommender.catalog.keys, expected)


def test_seen_items_may_be_included(recommender, film_run, films):
    found = recommender.top_n(["3"], 25, include_seen=True)
    expected = best(film_run, films, "3", 25)
    check([x[0] for x in found], recommender.catalog.keys, expected)
    assert set(expected[1]) & seen_by(film_run, films, "3")
    unaware = Recommender(film_run).top_n(["3"], 25)
    np.testing.assert_array_equal(unaware[1], found[1])


def test_filters(recommender, film_run, films):
    genre = next(cell[0] for cell in films.items["genres"] if cell)
    allowed = recommender.catalog.allowed([genre])
    others = {
        str(row.item) for row in films.items.itertuples() if genre not in row.genres
    }
    found = recommender.top_n(["3"], 25, allowed=allowed)
    expected = best(film_run, films, "3", 25, others | seen_by(film_run, films, "3"))
    assert 0 < len(expected[1]) < 20
    check([x[0] for x in found], recommender.catalog.keys, expected)


def test_context_columns_are_missing_unless_known(recommender, film_run, films):
    assert recommender.queries.context_columns == ["day"]
    day = film_run.encoder.vocabulary("day")[0]
    known = {"day": day, "age": 70}
    found = recommender.top_n(["3"], 25, include_seen=True, known=known)
    expected = best(film_run, films, "3", 25, day=day, age=70)
    check([x[0] for x in found], recommender.catalog.keys, expected)
    bare = recommender.top_n(["3"], 25, include_seen=True)
    assert np.abs(found[0] - bare[0]).max() > 1e-4


def test_batches_of_users(recommender, monkeypatch):
    users = [str(user) for user in range(1, 31)]
    together = recommender.top_n(users, 4)
    monkeypatch.setattr("fmlayers.runs.recommender.BATCH_SIZE", 7)
    apart = recommender.top_n(users, 4)
    assert [len(x) for x, _ in recommender.batches(users)] == [7, 7, 7, 7, 2]
    np.testing.assert_array_equal(apart[1], together[1])
    np.testing.assert_allclose(apart[0], together[0], rtol=1e-5, atol=1e-6)
    scores, positions = recommender.top_n([], 4)
    assert scores.shape == positions.shape == (0, 4)


def test_a_new_user_of_features(recommender, film_run, films):
    known = {"age": "33", "sex": "F"}
    found = recommender.new_user((), 25, known=known)
    expected = best(film_run, films, "nobody", 25, age=33, sex="F")
    check([x[0] for x in found], recommender.catalog.keys, expected)
    older = recommender.new_user((), 25, known={"age": "71", "sex": "F"})
    assert np.abs(older[0] - found[0]).max() > 1e-4


def test_a_new_user_who_likes_films(recommender):
    liked = [4, 9, 0]
    scores, positions = recommender.new_user(liked, 25)
    assert set(positions[0]) == {*range(25), -1} - set(liked)
    assert (positions[0, -3:] == -1).all()
    low = recommender.new_user(liked, 25, ratings=[1, 1, 1])
    assert low[0][0, 0] < scores[0, 0]
    known = recommender.new_user(liked, 25, known={"age": 60, "sex": "M"})
    assert np.abs(known[0][0, :22] - scores[0, :22]).max() > 1e-5
    allowed = np.arange(25) < 6
    few = recommender.new_user(liked, 9, allowed=allowed)[1][0]
    assert sorted(few[few >= 0]) == [1, 2, 3, 5]


def test_a_new_user_is_near_a_known_one_of_the_same_ratings(films, make_run):
    run = make_run(features=["user", "item"], max_epochs=15, linear_l2=0.01)
    recommender = Recommender(run, films)
    train = films.ratings.iloc[run.split(films).train]
    user = train["user"].value_counts().index[0]
    own = train[train["user"] == user]
    positions = positions_of(own["item"], recommender.catalog.keys)
    found = recommender.new_user(positions, 25, ratings=own["rating"])
    known = recommender.top_n([str(user)], 25)
    ranks = (
        np.argsort(found[1][0][: 25 - len(own)]),
        np.argsort(known[1][0][: 25 - len(own)]),
    )
    assert np.corrcoef(*ranks)[0, 1] > 0.6


def test_what_is_known_is_checked(recommender):
    for known, message in (
        ({"shoe": 1}, "no column 'shoe' of users. It has \\['age', 'sex', 'day'\\]"),
        ({"user": "3"}, "no column 'user' of users"),
        ({"genres": "War"}, "no column 'genres' of users"),
        ({"sex": "X"}, "have no sex 'X'. They have [FM], [FM]."),
        ({"age": "old"}, "Column 'age', row 0: must be a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            recommender.queries.encode(["3"], known)


def test_unknown_users(recommender, film_run):
    recommender.queries.check_user("3")
    with pytest.raises(
        ValueError, match="no user '31' among the 30 users of the run's data, such as "
    ):
        recommender.queries.check_user("31")
    unaware = Recommender(film_run)
    unaware.queries.check_user("3")
    with pytest.raises(ValueError, match="no user '31' among the 30"):
        unaware.queries.check_user("31")
    assert recommender.queries.users_in(
        pd.DataFrame({"user": [3, 4.0, "3", None]})
    ) == [*("3", "4")]
    with pytest.raises(ValueError, match="no user '31'"):
        recommender.queries.users_in(pd.DataFrame({"user": [3, 31]}))
    with pytest.raises(DataError, match="lack the column 'user'"):
        recommender.queries.users_in(pd.DataFrame({"who": [3]}))
    assert recommender.queries.encode(["31"])["user"] == [UNKNOWN]


def test_history(recommender, film_run, films):
    history = recommender.history("3")
    assert set(history["item"]) == seen_by(film_run, films, "3")
    train = films.ratings.iloc[film_run.split(films).train]
    own = train[train["user"] == 3].set_index("item")
    keys = [int(key) for key in history["item"]]
    assert history["rating"].tolist() == own["rating"][keys].tolist()
    order = list(zip(own["rating"][keys], own["timestamp"][keys], strict=True))
    assert order == sorted(order, reverse=True)
    titles = films.items.set_index("item")["title"]
    assert history["title"].tolist() == titles[keys].tolist()
    assert not len(recommender.history("nobody"))
    with pytest.raises(ValueError, match="`dataset` must not be"):
        Recommender(film_run).history("3")


def test_table(recommender, films):
    scores, positions = recommender.top_n(["3"], 25)
    table = recommender.table(scores[0], positions[0])
    assert table["rank"].tolist() == list(range(1, len(table) + 1))
    np.testing.assert_allclose(table["rating"], np.clip(table["score"], 1, 5))
    titles = films.items.set_index(films.items["item"].astype(str))["title"]
    assert table["title"].tolist() == titles[table["item"]].tolist()
    assert len(table) == (positions[0] >= 0).sum() < 25


def test_similar(recommender, film_run):
    cosines, positions = recommender.similar(4, 6)
    model = film_run.model
    inputs = film_run.inputs(
        pd.DataFrame({"user": None, "day": None, "item": recommender.catalog.keys})
    )
    _, s = model.decompose(inputs, ["item", "genres", "year"])
    s = ops.convert_to_numpy(s)
    s = s / np.linalg.norm(s, axis=1, keepdims=True)
    expected = s @ s[4]
    order = [i for i in np.argsort(-expected) if i != 4][:6]
    assert positions[0].tolist() == order
    np.testing.assert_allclose(cosines[0], expected[order], rtol=1e-4)


def test_all_users_of_the_data(recommender, film_run, films):
    users, items = recommender.users, recommender.catalog.keys
    _, positions = recommender.top_n(list(users), 5)
    assert users.tolist() == [str(u) for u in films.ratings["user"].unique()]
    assert items.tolist() == film_run.encoder.vocabulary("item")
    for row in (0, 11, 29):
        seen = seen_by(film_run, films, users[row])
        expected = best(film_run, films, users[row], 5, seen)[1]
        assert items[positions[row]].tolist() == expected
    rows = np.flatnonzero(films.ratings["user"] == 7)[:2]
    recommender = Recommender(film_run, films, train_rows=rows)
    _, found = recommender.top_n(["7", "8"], 25)
    seven = set(films.ratings["item"].iloc[rows].astype(str))
    assert set(items[found[0, :23]]) == set(items) - seven
    assert (found[0, 23:] == -1).all()
    assert (found[1] >= 0).all()


def test_positions_of():
    keys = pd.Index(["a", "7", "b"], dtype=object)
    values = pd.Series([7, "b", 7.0, None, "c", "a"], dtype=object)
    assert positions_of(values, keys).tolist() == [1, 2, 1, -1, -1, 0]
    assert positions_of(pd.Series([], dtype=object), keys).tolist() == []


@pytest.mark.slow
def test_ids_of_a_csv_stay_as_they_are(films, make_run):
    run = make_run("csv", model="mf", min_count=12)
    dataset = run.dataset()
    recommender = Recommender(run, dataset)
    vocabulary = run.encoder.vocabulary("item")
    assert recommender.catalog.keys.tolist() == vocabulary
    assert 0 < len(vocabulary) < 25  # rare items are no vectors of their own
    rare = next(u for u in recommender.users if u not in run.encoder.vocabulary("user"))
    found = recommender.top_n([rare, "3"], 25)
    for row, user in enumerate((rare, "3")):
        expected = best(run, films, user, 25, seen_by(run, films, user))
        check([x[row] for x in found], recommender.catalog.keys, expected)
    assert "title" not in recommender.table(found[0][0], found[1][0])


@pytest.mark.parametrize("model", ["deepfm", "neumf"])
def test_models_of_more_than_pairs(model, films, make_run):
    run = make_run(model=model, features=["user", "item"])
    recommender = Recommender(run, films)
    assert not recommender.is_exact
    found = recommender.top_n(["3"], 8)
    expected = best(run, films, "3", 8, seen_by(run, films, "3"))
    check([x[0] for x in found], recommender.catalog.keys, expected)
    with pytest.raises(ValueError, match="product of query and item embeddings"):
        recommender.new_user([1, 2])
    assert recommender.new_user((), 4)[1].shape == (1, 4)
    if model == "neumf":
        with pytest.raises(ValueError, match="must have item embeddings"):
            recommender.similar(1)
        return
    assert recommender.similar(1, 3)[1].shape == (1, 3)
    for candidates in (8, 25):
        few = Recommender(run, films, candidates=candidates).top_n(["3"], 8)
        by_pairs = few[1][0][np.argsort(-few[0][0], kind="stable")]
        np.testing.assert_array_equal(few[1][0], by_pairs)
    np.testing.assert_array_equal(few[1], found[1])


@pytest.mark.slow
def test_histories_and_ensembles(films, make_run):
    run = make_run(features=["user", "item"], histories=True, members=2, max_epochs=1)
    recommender = Recommender(run, films)
    assert recommender.is_exact
    assert recommender.index.query_features == ["user", "user_history"]
    found = recommender.top_n(["3", "17"], 25)
    for row, user in enumerate(("3", "17")):
        expected = best(run, films, user, 25, seen_by(run, films, user))
        check([x[row] for x in found], recommender.catalog.keys, expected)
    assert recommender.new_user([1, 2], 4)[1].shape == (1, 4)


def test_items_without_ids(films, make_run):
    """Items that are known by their genres alone: all of the table's."""
    run = make_run(features=["user", "genres"], max_epochs=1)
    recommender = Recommender(run, films)
    assert recommender.catalog.keys.tolist() == [str(i) for i in films.items["item"]]
    found = recommender.top_n(["3"], 25)[1][0]
    left = set(recommender.catalog.keys) - seen_by(run, films, "3")
    assert set(recommender.catalog.keys[found[found >= 0]]) == left


def test_a_model_without_item_columns_error(films, make_run):
    run = make_run(features=["user", "age"], max_epochs=1)
    with pytest.raises(
        ValueError, match="must have columns of users and columns of items"
    ):
        Recommender(run, films)


def test_implicit_feedback_has_no_highest_rating(films, make_run):
    run = make_run(features=["user", "item"], loss="bpr", max_epochs=1)
    recommender = Recommender(run, films)
    table = recommender.table(*(x[0] for x in recommender.top_n(["3"], 3)))
    assert "score" in table
    assert "rating" not in table
    with pytest.raises(ValueError, match="trained on ratings"):
        recommender.new_user([1, 2])


def test_write_recommendations(recommender, film_run, tmp_path):
    users = ["3", "nobody", "17"]
    counts = []
    path = tmp_path / "lists.csv"
    write_recommendations(recommender, users, path, 25, on_batch=counts.append)
    assert counts == [3]
    table = pd.read_csv(path, dtype=str)
    assert table.columns.tolist() == ["user_id", "item_ids"]
    assert table["user_id"].tolist() == users
    keys = recommender.catalog.keys
    _, positions = recommender.top_n(users, 25)
    expected = [" ".join(keys[row[row >= 0]]) for row in positions]
    assert table["item_ids"].tolist() == expected
    assert len(expected[0].split()) < len(expected[1].split()) == 25
    write_recommendations(
        recommender, users[:1], path, 2, include_seen=True, allowed=None
    )
    _, positions = recommender.top_n(["3"], 2, include_seen=True)
    assert path.read_text() == f"user_id,item_ids\n3,{' '.join(keys[positions[0]])}\n"


def test_write_recommendations_in_the_long_layout(recommender, tmp_path):
    users = ["3", "nobody"]
    path = tmp_path / "top.csv"
    write_recommendations(recommender, users, path, 4, layout="long")
    table = pd.read_csv(path, dtype={"user": str, "item": str})
    assert table.columns.tolist() == ["user", "item", "rank", "score"]
    assert table["user"].tolist() == ["3"] * 4 + ["nobody"] * 4
    assert table["rank"].tolist() == [1, 2, 3, 4] * 2
    scores, positions = recommender.top_n(users, 4)
    np.testing.assert_allclose(table["score"], np.ravel(scores), rtol=1e-5)
    keys = recommender.catalog.keys
    assert table["item"].tolist() == list(keys[np.ravel(positions)])
    keys = keys[:-1].append(pd.Index(["a b"]))
    recommender.catalog.keys, before = keys, recommender.catalog.keys
    write_recommendations(recommender, users, path, 2, layout="long")
    recommender.catalog.keys = before
    check_error(
        "`layout` must be",
        lambda: write_recommendations(recommender, users, path, layout="tall"),
    )


def test_write_recommendations_writes_all_or_nothing(
    recommender, film_run, tmp_path, monkeypatch
):
    with pytest.raises(DataError, match="there is no folder"):
        write_recommendations(recommender, ["3"], tmp_path / "no" / "lists.csv")
    path = tmp_path / "lists.csv"
    path.write_text("before")

    def interrupted(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_recommendations(recommender, ["3"], path, on_batch=interrupted)
    assert [file.name for file in tmp_path.iterdir()] == ["lists.csv"]
    assert path.read_text() == "before"
    other = Recommender(film_run)
    other.catalog.keys = other.catalog.keys[:-1].append(pd.Index(["a b"]))
    with pytest.raises(DataError, match="must not contain spaces.*Received: 'a b'"):
        write_recommendations(other, ["3"], path)
