import numpy as np
import pandas as pd
import pytest

import fmlayers
from fmlayers.export import export
from fmlayers.models import (
    DeepFM,
    Ensemble,
    FactorizationMachine,
    LibFM,
    NeuralMatrixFactorization,
)
from fmlayers.retrieval import retrieve

pytestmark = pytest.mark.usefixtures("on_tensorflow")

USERS = ["3", "7", "", "nobody"]
AGES = np.array([30.0, np.nan, 50.0, 20.0], "float32")


@pytest.fixture(scope="module")
def items(films, encoder):
    known = films.items[
        films.items["item"].astype(str).isin(encoder.vocabulary("item"))
    ]
    return known[["item", "genres", "year"]].reset_index(drop=True)


def with_history(encoder):
    users, films = (len(encoder.vocabulary(name)) + 1 for name in ("user", "item"))
    history = fmlayers.History(
        "rated", films, of="user", num_keys=users, values="item", num_pairs=3
    )
    model = FactorizationMachine([*encoder.features, history], 3, encoder=encoder)
    model.factors.set_history("rated", [1, 1, 2], [2, 3, 1])
    return model


MODELS = {
    "fm": lambda e: FactorizationMachine(
        e.features, 3, fmlayers.RatingScaler(1, 5), encoder=e
    ),
    "history": with_history,
    "ensemble": lambda e: Ensemble(
        [FactorizationMachine(e.features, 3) for _ in range(2)], encoder=e
    ),
    "deepfm": lambda e: DeepFM(
        *(e.features, 3), fmlayers.RatingScaler(1, 5), hidden_units=[4], encoder=e
    ),
    "libfm": lambda e: LibFM(e.features, 3, positive=True, encoder=e),
    "neumf": lambda e: NeuralMatrixFactorization(
        *(f for f in e.features if f.name in ("user", "item")),
        *(3, fmlayers.RatingScaler(1, 5)),
        hidden_units=[4],
        encoder=e,
    ),
}


@pytest.fixture(scope="module")
def exported(encoder, items, shaken, tmp_path_factory):
    """Export each model once, its catalog gone through in blocks of 7."""
    import tensorflow as tf

    from fmlayers.export import raw_recommender

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_recommender, "BLOCK_SIZE", 7)
        for name, make in MODELS.items():
            model = shaken(make(encoder))
            path = export(model, tmp_path_factory.mktemp("export") / name, items=items)
            found[name] = model, tf.saved_model.load(str(path)).signatures
    return found


def call(run, users=USERS, ages=AGES, exclude=None, k=5):
    import tensorflow as tf

    exclude = np.array(exclude or [[""]] * len(users), object)
    width = exclude.shape[1] if len(users) else 1
    found = run(
        user=tf.constant(users, tf.string, shape=(len(users),)),
        age=tf.constant(ages),
        exclude=tf.constant(exclude, tf.string, shape=(len(users), width)),
        k=tf.constant(k, tf.int32),
    )
    return {name: x.numpy() for name, x in found.items()}


def expected_of(model, encoder, items, k, exclude=None):
    queries = {
        "user": encoder.encode("user", pd.Series([u or None for u in USERS])),
        "age": encoder.encode("age", pd.Series(AGES)),
    }
    catalog = {name: encoder.encode(name, items[name]) for name in ("item", "genres")}
    return retrieve(model, queries, catalog, k, exclude=exclude), catalog


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_lists_are_those_of_retrieve(name, exported, encoder, items):
    model, signatures = exported[name]
    seen = np.array([[1, 4], [0, -1], [9, 2], [-1, -1]])
    texts = items["item"].astype(str)
    exclude = [[texts[i] if i >= 0 else "" for i in row] for row in seen]
    exclude[3] = ["no such item", ""]
    (scores, positions), catalog = expected_of(model, encoder, items, 5, seen)
    assert (positions >= 0).all()
    found = call(signatures["recommend"], exclude=exclude)
    np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
    keys = np.vectorize(bytes.decode)(found["keys"])
    np.testing.assert_array_equal(keys, texts.to_numpy()[positions])
    np.testing.assert_array_equal(found["ids"], catalog["item"][positions])
    if model.scaler is None:
        assert "ratings" not in found
    else:
        np.testing.assert_allclose(found["ratings"], model.scaler(scores), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fm", "deepfm"])
def test_empty_places_are_told(name, exported, items):
    run = exported[name][1]["recommend"]
    texts = items["item"].astype(str).tolist()
    left, out = texts[4], [text for text in texts if text != texts[4]]
    exclude = [out, [""] * len(out), [""] * len(out), texts[:-1]]
    found = call(run, exclude=exclude, k=len(texts) + 3)
    assert found["keys"].shape == (4, len(texts) + 3)
    assert found["keys"][0].tolist() == [left.encode(), *[b""] * (len(texts) + 2)]
    assert (found["ids"][0, 1:] == -1).all()
    assert (found["ids"][1, :-3] > 0).all()
    assert (found["scores"][0, 1:] == -np.inf).all()
    assert np.isnan(found["ratings"][0, 1:]).all()
    assert np.isfinite(found["ratings"][0, 0])


@pytest.mark.parametrize("name", ["fm", "deepfm"])
def test_no_query_and_no_length(name, exported):
    run = exported[name][1]["recommend"]
    none = call(run, users=[], ages=AGES[:0])
    assert none["keys"].shape == (0, 5)
    assert call(run, k=0)["scores"].shape == (4, 0)
    assert call(run, k=-2)["ids"].shape == (4, 0)


def test_vectors_rank_as_the_lists_do(exported, encoder, items):
    import tensorflow as tf

    from fmlayers.export import item_vectors
    from fmlayers.retrieval import TopN

    model, signatures = exported["fm"]
    (scores, positions), catalog = expected_of(model, encoder, items, len(items))
    top = TopN(model, ["item", "genres"], len(items)).index(catalog)
    run = signatures["query_vectors"]
    found = run(user=tf.constant(USERS), age=tf.constant(AGES))
    products = found["vectors"].numpy() @ item_vectors(top).T
    whole = products + found["constants"].numpy()
    rows = np.arange(4)[:, None]
    np.testing.assert_allclose(whole[rows, positions], scores, atol=1e-5)


def test_items_without_ids_are_told_by_their_rows(films, shaken, tmp_path):
    import tensorflow as tf

    from fmlayers.data import Encoder

    columns = {"user": "categorical", "age": "numeric", "genres": "multi_categorical"}
    encoder = Encoder(columns).fit(films.table())
    model = shaken(FactorizationMachine(encoder.features, 3, encoder=encoder))
    items = pd.DataFrame({"name": ["a", "b", "c"], "genres": ["Drama", "War", "nil"]})
    path = export(model, tmp_path / "model", items=items, item_key="name")
    run = tf.saved_model.load(str(path)).signatures["recommend"]
    found = call(run, k=3)
    assert {*found["keys"][0]} == {b"a", b"b", b"c"}
    names = np.array([b"a", b"b", b"c"])
    np.testing.assert_array_equal(names[found["ids"]], found["keys"])


def test_names_that_are_taken(films, shaken, tmp_path):
    import tensorflow as tf

    from fmlayers.data import Encoder

    table = pd.DataFrame({"k": ["a", "b"], "exclude": ["x", "y"], "item": [1, 2]})
    encoder = Encoder(dict.fromkeys(table, "categorical")).fit(table)
    model = shaken(FactorizationMachine(encoder.features, 3, encoder=encoder))
    path = export(model, tmp_path / "model", items=table[["item"]])
    run = tf.saved_model.load(str(path)).signatures["recommend"]
    assert set(run.structured_input_signature[1]) == {
        *("k", "k_2", "exclude", "exclude_2"),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t[["year"]].drop_duplicates(),
            "`items` must contain some of the encoder's columns",
        ),
        (lambda t: t.assign(user=1, age=2), "not all: the others are query features"),
        (lambda t: t.head(0), "`items` must have rows and the column 'item'"),
        (lambda t: pd.concat([t, t]), "must not have duplicates in the column 'item'"),
    ],
)
def test_items_that_make_no_catalog(change, message, machine, items, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(machine, tmp_path / "model", items=change(items))
    assert list(tmp_path.iterdir()) == []
