import keras
import numpy as np
import pytest
from checks import check_error
from keras import ops

from fmlayers import Categorical, FeatureEmbedding, History
from fmlayers._histories.by_host import histories_by_host
from fmlayers._histories.index import BatchHistories, HistoryIndex
from fmlayers.data import ShuffledBatches
from fmlayers.models import FactorizationMachine
from fmlayers.optimizers import Adagrad, LazyAdam

# Films 2, 5 of user 1; 1, 2, 3 of user 2; 4 of user 3; none of users 0 and 4.
KEYS = [2, 1, 3, 2, 1, 2]
FILMS = [3, 5, 4, 1, 2, 2]
BATCH = {
    "user": np.array([1, 2, 2, 3, 3, 0, 4, -1, 99, 2], "int32"),
    "item": np.array([5, 4, 2, 4, 1, 2, 2, 2, 2, 0], "int32"),
}


def history(combiner="sqrtn", **changes):
    sizes = {"vocabulary_size": 6, "num_keys": 5, "num_pairs": 6}
    return History(
        "rated", of="user", values="item", combiner=combiner, **sizes | changes
    )


def make_layer(combiner="sqrtn", dim=3, table="item", **kwargs):
    features = [Categorical("item", 6), history(combiner, table=table)]
    layer = FeatureEmbedding(features, dim, l2={"rated": 0.3}, **kwargs)
    layer.set_history("rated", KEYS, FILMS)
    return layer


def rated_by(user, item=None):
    pairs = zip(KEYS, FILMS, strict=True)
    return [film for key, film in pairs if key == user and film != item]


def reference(weights, inputs, combiner="sqrtn"):
    tables = [w for w in weights if w.ndim == 2]
    out = np.zeros((len(inputs["user"]), 2, tables[0].shape[1]))
    for b, (user, item) in enumerate(zip(inputs["user"], inputs["item"], strict=True)):
        out[b, 0] = tables[0][item]
        films = rated_by(user, item)
        for film in films:
            out[b, 1] += tables[-1][film]
        if combiner == "mean":
            out[b, 1] /= max(len(films), 1)
        elif combiner == "sqrtn":
            out[b, 1] /= max(len(films), 1) ** 0.5
    return out


def penalty(weights, inputs, combiner="sqrtn"):
    tables = [w for w in weights if w.ndim == 2]
    power = {"sum": 0.0, "sqrtn": 0.5, "mean": 1.0}[combiner]
    total = 0.0
    for user, item in zip(inputs["user"], inputs["item"], strict=True):
        films = rated_by(user, item)
        for film in films:
            total += tables[-1][film] @ tables[-1][film] / len(films) ** power
    return 0.3 * total / max(len(inputs["user"]), 1)


def randomize(layer, rng):
    layer.set_weights(
        [
            rng.normal(size=w.shape) if "float" in w.dtype else ops.convert_to_numpy(w)
            for w in layer.weights
        ]
    )
    return layer


@pytest.mark.parametrize("table", ["item", None])
@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
def test_values(combiner, table, rng):
    layer = randomize(make_layer(combiner, table=table), rng)
    weights = [np.array(w, "float64") for w in layer.get_weights()]
    for rows in (slice(None), slice(0, 1), slice(5, 9), slice(0, 0), [9, 1, 1, 0]):
        part = {name: ids[rows] for name, ids in BATCH.items()}
        np.testing.assert_allclose(
            ops.convert_to_numpy(layer(part)),
            reference(weights, part, combiner),
            rtol=1e-5,
            atol=1e-6,
        )
        found = sum(float(ops.convert_to_numpy(loss)) for loss in layer.losses)
        expected = penalty(weights, part, combiner)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prepared", [False, True])
def test_gradients(rng, compiled, prepared):
    layer = randomize(make_layer(), rng)
    target = rng.normal(size=(10, 2, 3)).astype("float32")

    class Probe(keras.Model):
        def __init__(self):
            super().__init__()
            self.layer = layer
            self.built = True

        def call(self, inputs):
            return self.layer(inputs)

        def compute_loss(self, x, y, y_pred, *args, **kwargs):
            return ops.sum(y_pred * ops.convert_to_tensor(y)) + sum(self.losses)

    def loss(weights):
        total = np.sum(reference(weights, BATCH) * target)
        return total + penalty(weights, BATCH)

    before = [np.array(w, "float64") for w in layer.get_weights()]
    probe = Probe()
    # A looked-up table: nothing reads it after its step, compiled or not.
    probe.compile(
        keras.optimizers.SGD(1.0), run_eagerly=not compiled, jit_compile=False
    )
    if prepared:
        lists = {"rated": layer.histories["rated"].index()}
        batches = ShuffledBatches(BATCH, target, 10, seed=0, histories=lists)
        probe.fit(batches, shuffle=False, verbose=0)
    else:
        probe.train_on_batch(BATCH, target)
    after = layer.get_weights()
    (table,) = (i for i, w in enumerate(before) if w.ndim == 2)
    for index in np.ndindex(before[table].shape):
        at = []
        for step in (1e-5, -1e-5):
            moved = [w.copy() for w in before]
            moved[table][index] += step
            at.append(loss(moved))
        expected = (at[0] - at[1]) / 2e-5
        found = before[table][index] - after[table][index]
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


@pytest.fixture(params=[False, True], ids=["eager", "compiled"])
def compiled(request):
    return request.param


def test_a_row_in_no_history_may_be_nan():
    features = [history(vocabulary_size=7)]
    layer = FeatureEmbedding(features, 3, l2=0.3, embeddings_initializer="ones")
    layer.set_history("rated", KEYS, FILMS)
    before = layer.get_weights()
    table = next(i for i, w in enumerate(before) if w.ndim == 2)
    film_4 = before[table][4].copy()
    before[table][[0, 4, 6]] = np.nan  # film 4 is in the list of user 3
    layer.set_weights(before)
    batch = {"user": np.array([1, 2, 3, 0], "int32")}
    output = ops.convert_to_numpy(layer(batch))
    finite = np.isfinite(output).all(axis=(1, 2))
    assert finite.tolist() == [True, True, False, True]
    before[table][4] = film_4
    layer.set_weights(before)
    user = keras.Input((), dtype="int32", name="user")
    model = keras.Model({"user": user}, ops.sum(layer({"user": user}), axis=(1, 2)))
    model.compile(keras.optimizers.SGD(0.1, global_clipnorm=1.0), "mse")
    batch = {"user": np.array([1, 2, 0], "int32")}
    assert np.isfinite(model.train_on_batch(batch, np.zeros(3, "float32")))
    found = layer.get_weights()[table]
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(before[table]))


def test_own_value_is_excluded_from_its_history(rng):
    layer = randomize(make_layer(table=None), rng)
    whole = layer.fields({"user": BATCH["user"]}, ["rated"])
    without = ops.convert_to_numpy(layer.fields(BATCH, ["rated"]))
    differ = np.abs(ops.convert_to_numpy(whole) - without).max(axis=(1, 2)) > 1e-3
    pairs = list(zip(KEYS, FILMS, strict=True))
    expected = [
        pair in pairs for pair in zip(BATCH["user"], BATCH["item"], strict=True)
    ]
    np.testing.assert_array_equal(differ, expected)
    assert not without[3].any()  # the only film of its user


def test_own_value_is_excluded_from_a_long_history(rng):
    users, films = np.nonzero(rng.random((40, 300)) < 0.3)
    feature = History(
        "rated",
        300,
        of="user",
        num_keys=40,
        values="item",
        num_pairs=int((films > 0).sum()),
    )
    layer = FeatureEmbedding([feature], 1, embeddings_initializer="ones")
    layer.set_history("rated", users[films > 0], films[films > 0])
    lists = layer.histories["rated"]
    key, own = (x.ravel() for x in np.meshgrid(np.arange(40), np.arange(300)))
    given = set(zip(users.tolist(), films.tolist(), strict=True))
    has = [pair in given for pair in zip(key.tolist(), own.tolist(), strict=True)]
    found = ops.convert_to_numpy(lists(key.astype("int32"), own.astype("int32")).own)
    np.testing.assert_array_equal(found, np.where(has, own, 0))


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("groups", [None, [0, 1, 1, 0, 1, 0]])
def test_a_batch_may_bring_its_histories_along(combiner, groups, rng):
    layer = randomize(make_layer(combiner), rng)
    index = layer.histories["rated"].index()
    groups = None if groups is None else np.array(groups)
    for rows in (slice(None), slice(0, 1), slice(5, 9), [9, 1, 1, 0]):
        part = {name: ids[rows] for name, ids in BATCH.items()}
        own = index.own_values(part["user"], part["item"])
        prepared = index.of_batch(part["user"], own, groups)
        expected = ops.convert_to_numpy(layer(part))
        losses = [float(ops.convert_to_numpy(loss)) for loss in layer.losses]
        output = ops.convert_to_numpy(layer({**part, "rated": prepared}))
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            [float(ops.convert_to_numpy(loss)) for loss in layer.losses], losses
        )


def make_index(rng, num_keys=200, pads=False):
    keys, values = np.nonzero(rng.random((num_keys, 30)) < 0.1)
    keys, values = keys[values > 0], values[values > 0]
    offsets = np.searchsorted(keys, np.arange(num_keys + 2))
    return HistoryIndex("user", "item", 30, offsets, values, pads=pads)


def test_batches_of_few_keys_are_formed_together(rng):
    index = make_index(rng)
    keys = rng.integers(-1, 202, (3, 20))
    keys[1] = 7  # a batch of a single key
    keys[2] = 200  # a batch of no known key
    own = index.own_values(keys.ravel(), rng.integers(0, 30, 60)).reshape(3, 20)
    stack = index.of_batch(keys, own)
    for row, each in enumerate(keys):
        lists = BatchHistories(*(x[row] for x in stack))
        np.testing.assert_array_equal(lists.own, own[row])
        alone = index.of_batch(each, own[row])
        assert len(alone.rows) <= len(lists.rows)
        for batch in (lists, alone):
            for i, key in enumerate(each):
                is_known = 0 <= key < index.num_keys - 1
                history = index.values[index.keys == key] if is_known else []
                at = batch.owners == batch.index[i]
                assert batch.lengths[batch.index[i]] == len(history)
                if is_known:
                    values = batch.rows[batch.values[at]]
                    np.testing.assert_array_equal(np.sort(values), history)
            used = np.isin(index.keys, each)
            np.testing.assert_array_equal(
                np.unique(batch.rows), np.unique(index.values[used]) if any(used) else 0
            )
            pairs = np.stack([batch.values, batch.owners])
            assert (np.diff(batch.owners) >= 0).all()
            assert (np.diff(batch.sorted_values) >= 0).all()
            by_value = np.stack([batch.sorted_values, batch.sorted_owners])
            np.testing.assert_array_equal(
                np.sort(pairs[0] * 1000 + pairs[1]),
                np.sort(by_value[0] * 1000 + by_value[1]),
            )


@pytest.mark.parametrize(
    ("length", "most"),
    [(2, 1000), (20, 819), (100, 250)],  # of 16,384 pairs, and of a quarter of the keys
)
def test_few_rows_compared_to_the_keys_form_batches_together(length, most):
    values = np.ones(1000 * length, "int32")
    offsets = np.arange(1001) * length
    index = HistoryIndex("user", "item", 10, offsets, values, pads=False)
    assert index.has_many_keys(most)
    assert not index.has_many_keys(most + 1)


@pytest.mark.parametrize("hosts", [1, 2, 3, 7])
@pytest.mark.parametrize("num_keys", [10, 200])  # the lists of all keys, or of a batch
def test_each_host_has_the_ids_of_its_rows(hosts, num_keys, rng):
    index = make_index(rng, num_keys, pads=True)
    keys = rng.integers(-1, num_keys + 2, 20)
    whole = index.of_batch(keys, None)
    batch = histories_by_host(whole, hosts)
    assert {len(x) % hosts for x in batch[2:]} == {0}
    parts = (np.split(x, hosts) for x in (batch.rows, batch.values, batch.owners))
    for host, (rows, values, owners) in enumerate(zip(*parts, strict=True)):
        places = values[batch.lengths[owners] > 0] - host * len(rows)
        assert ((places >= 0) & (places < len(rows))).all()
        assert (rows[places] % hosts == host).all()
        assert (np.diff(owners) >= 0).all()
    # No other row is updated.
    assert set(batch.rows) == set(whole.rows)
    for i, key in enumerate(keys):
        history = index.values[index.keys == key] if 0 <= key < num_keys else []
        assert batch.lengths[batch.index[i]] == len(history)
        if len(history):
            at = batch.owners == batch.index[i]
            ids = np.sort(batch.rows[batch.values[at]])
            np.testing.assert_array_equal(ids, history)


def test_a_column_of_the_name_of_a_history_is_ignored(rng):
    layer = randomize(make_layer(), rng)
    column = {"rated": np.zeros(len(BATCH["user"]), "int32")}
    np.testing.assert_array_equal(
        ops.convert_to_numpy(layer({**BATCH, **column})),
        ops.convert_to_numpy(layer(BATCH)),
    )


def make_model(rng, optimizer="sgd", **options):
    users, films = np.nonzero(rng.random((40, 60)) < 0.3)
    users, films = users[films > 0], films[films > 0]
    sizes = {"num_keys": 40, "num_pairs": len(films)}
    features = [
        Categorical("user", 40),
        Categorical("item", 60),
        History("rated", 60, of="user", values="item", **sizes),
    ]
    keras.utils.set_random_seed(0)
    model = FactorizationMachine(features, 4, l2=0.1, linear_l2=0.2)
    model.set_history("rated", users, films)
    model.compile(optimizer, "mse", **options)
    inputs = {"user": users.astype("int32"), "item": films.astype("int32")}
    return model, inputs, rng.normal(size=len(users)).astype("float32")


def fit_grouped(model, inputs, targets, histories, batch_size=64):
    batches = ShuffledBatches(
        inputs,
        targets,
        batch_size,
        seed=0,
        group_by=("user", "item"),
        groups=2,
        histories=histories,
    )
    data = batches.stream() if keras.backend.backend() == "tensorflow" else batches
    model.fit(data, steps_per_epoch=len(batches), epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize("optimizer", [Adagrad, LazyAdam])
@pytest.mark.parametrize("batch_size", [5, 64])  # few keys, and most keys
def test_training_is_the_same_with_prepared_histories(optimizer, batch_size, backend):
    if backend == "jax" and optimizer is LazyAdam and batch_size == 5:
        pytest.skip("without preparation, a history has a dense gradient")
    fitted = []
    for prepared in (False, True):
        model, *data = make_model(np.random.default_rng(0), optimizer(0.05))
        histories = model.history_indexes() if prepared else None
        fitted.append(fit_grouped(model, *data, histories, batch_size))
    for a, b in zip(*fitted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="splits no step")
@pytest.mark.parametrize(
    "optimizer", [Adagrad, pytest.param(LazyAdam, marks=pytest.mark.slow)]
)
def test_steps_compile_all_but_the_sums(optimizer):
    fitted, steps = [], []
    for jit_compile in (False, True):
        rng = np.random.default_rng(0)
        model, *data = make_model(rng, optimizer(0.05), jit_compile=jit_compile)
        split = model._split_step

        def record(*args, split=split, jit_compile=jit_compile):
            steps.append(jit_compile)
            return split(*args)

        model._split_step = record
        fitted.append(fit_grouped(model, *data, model.history_indexes()))
    assert set(steps) == {True}
    for a, b in zip(*fitted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_ids_outside_the_range_have_no_history_and_no_own_value():
    layer = make_layer()
    big = {"user": np.array([2**40, 1]), "item": np.array([2, 2**32 + 2])}
    if keras.backend.backend() != "jax":  # which cuts 64-bit ids first
        vectors = ops.convert_to_numpy(layer.fields(big, ["rated"]))
        assert not vectors[0].any()
        table = layer.get_weights()[0]
        np.testing.assert_allclose(vectors[1, 0], (table[2] + table[5]) / 2**0.5)


def test_saves_and_loads_histories(tmp_path, rng):
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in BATCH}
    layer = randomize(make_layer(), rng)
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        ops.convert_to_numpy(loaded(BATCH)), ops.convert_to_numpy(model(BATCH))
    )


def test_errors():
    layer = make_layer()
    check_error(
        "`name` must be the name of a `History`", lambda: layer.set_history("x", [], [])
    )
    for keys, films, message in (
        (KEYS[1:], FILMS[1:], "`num_pairs` = 6"),
        ([4, *KEYS], [1, *FILMS], "`num_pairs` = 6"),
        (KEYS[1:], FILMS, "`num_pairs` = 6"),
        ([5, *KEYS[1:]], FILMS, "`keys` of 'rated' must lie within 0 ... 4"),
        (KEYS, [0, *FILMS[1:]], "`values` of 'rated' must lie within 1 ... 5"),
        (KEYS, [1, *FILMS[1:]], "a pair twice"),
    ):
        check_error(message, lambda k=keys, v=films: layer.set_history("rated", k, v))
    too_many = [4, *KEYS], [1, *FILMS]
    check_error(
        "must have at most `num_pairs` = 6",
        lambda: layer.set_history("rated", *too_many, leaves_room=True),
    )
    check_error("entry 'user'", lambda: layer({"item": BATCH["item"]}))
    check_error("`num_keys` and `num_pairs`", lambda: history(num_pairs=0))
    check_error("`combiner` must be", lambda: history("max"))


@pytest.mark.parametrize("prepared", [False, True])
def test_empty_histories(prepared):
    layer = make_layer()
    layer.set_history("rated", [], [], leaves_room=True)
    inputs = dict(BATCH)
    if prepared:
        index = layer.histories["rated"].index()
        own = index.own_values(BATCH["user"], BATCH["item"])
        inputs["rated"] = index.of_batch(BATCH["user"], own)
    vectors = ops.convert_to_numpy(layer(inputs))
    assert (vectors[:, 1] == 0.0).all()
    assert (vectors[:3, 0] != 0.0).all()


@pytest.mark.parametrize("prepared", [False, True])
def test_room_for_longer_histories(prepared, rng, backend):
    """Histories with fewer pairs than `num_pairs` are those without the room."""
    found = []
    for num_pairs in (6, 64):
        features = [
            Categorical("user", 5),
            Categorical("item", 6),
            history(num_pairs=num_pairs, table="item"),
        ]
        keras.utils.set_random_seed(1)
        model = FactorizationMachine(features, 3, l2=0.1)
        model.set_history("rated", KEYS, FILMS, leaves_room=True)
        model.compile(LazyAdam(0.1), "mse")
        indexes = model.history_indexes() if prepared else {}
        targets = np.arange(10, dtype="float32")
        data = ShuffledBatches(BATCH, targets, 5, seed=0, histories=indexes)
        losses = model.fit(data, epochs=3, shuffle=False, verbose=0).history["loss"]
        ratings = model.predict(BATCH, verbose=0)
        model.set_history("rated", KEYS[:2], FILMS[:2], leaves_room=True)
        found.append((losses, ratings, model.predict(BATCH, verbose=0)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert np.abs(found[0][1] - found[0][2]).max() > 1e-3
