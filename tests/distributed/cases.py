"""Data and models that one process and several of them train alike."""

import keras
import numpy as np
import pandas as pd

import fmlayers

ROWS, BATCH, EPOCHS = 240, 120, 2
USERS, ITEMS, GENRES = 20_000, 301, 9  # with rows of unknown ids, an odd number
SEEN = 2_500  # items of a history


def data():
    rng = np.random.default_rng(0)
    inputs = {
        "user": rng.zipf(1.3, ROWS) % USERS,
        "item": rng.integers(0, ITEMS, ROWS),
        "genres": rng.integers(0, GENRES, (ROWS, 3)),
        "age": rng.normal(size=ROWS).astype("float32"),
    }
    inputs = {
        k: v.astype("int32") if v.dtype.kind == "i" else v for k, v in inputs.items()
    }
    return inputs, rng.normal(size=ROWS).astype("float32")


def of_process(x, process, processes, batch=BATCH):
    """Return the rows of a process, of which `fit` makes the batches of one process."""
    size = batch // processes
    rows = np.arange(ROWS).reshape(-1, processes, size)[:, process].ravel()
    return keras.tree.map_structure(lambda x: x[rows], x)


def write_shards(folder):
    """Write a table with lists of up to three genres, and its encoder."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame(
        {
            "user": rng.integers(0, 2_000, ROWS),
            "genres": [tuple("abc"[: rng.integers(4)]) for _ in range(ROWS)],
            "rating": rng.normal(size=ROWS),
        }
    )
    encoder = fmlayers.data.Encoder(
        {"user": "categorical", "genres": "multi_categorical"}
    ).fit(table)
    fmlayers.data.write_shards(table, folder, encoder, group_size=20)
    encoder.save(folder / "encoder.json")


def sharded_model(folder):
    """Return a compiled model of the features of `write_shards`."""
    features = fmlayers.data.Encoder.load(folder / "encoder.json").features
    keras.utils.set_random_seed(0)
    return _compiled(fmlayers.models.FactorizationMachine(features, 3), "adagrad")


def batches_of(folder, worker, workers):
    return fmlayers.data.ShardedBatches(
        folder, 20, seed=0, worker=worker, workers=workers, list_length=3
    )


def model(name):
    features = [
        fmlayers.Categorical("user", USERS),
        fmlayers.Categorical("item", ITEMS),
        fmlayers.MultiCategorical("genres", GENRES),
        fmlayers.Numeric("age"),
    ]
    if name == "mf":
        return fmlayers.models.MatrixFactorization(*features[:2], 3)
    if name == "fm":
        return fmlayers.models.FactorizationMachine(features, 3)
    return fmlayers.models.DeepFM(features, 3, hidden_units=(4,))


def optimizer(name):
    return {
        # On TensorFlow, Adam of Keras squares duplicate ids one by one.
        "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        "adagrad": lambda: fmlayers.optimizers.Adagrad(0.1, row_wise=True),
        "lazy_adam": lambda: fmlayers.optimizers.LazyAdam(
            0.01, clipnorm=0.02, weight_decay=0.01
        ),
    }[name]()


def weights(model):
    """Return the named weights of all embeddings, and the other weights."""
    layers = [
        x for x in model._flatten_layers() if isinstance(x, fmlayers.FeatureEmbedding)
    ]
    named = {
        f"{layer.name}/{role}/{name}": weight
        for layer in layers
        for (role, name), weight in layer.named_weights().items()
    }
    inside = {id(v) for layer in layers for v in layer.weights}
    others = [v for v in model.trainable_variables if id(v) not in inside]
    return {**named, **{f"other/{i}": v for i, v in enumerate(others)}}


def set_weights(model):
    rng = np.random.default_rng(1)
    for weight in weights(model).values():
        weight.assign(rng.normal(size=weight.shape).astype("float32") / 10)


def exact(name):
    """Return a model whose scores of `exact_inputs` have no rounding errors."""
    rng, built = np.random.default_rng(2), model(name)
    for weight in weights(built).values():
        weight.assign(rng.integers(-4, 5, weight.shape).astype("float32") / 8)
    return built


def exact_inputs():
    """Return inputs with up to two genres, because the mean of three is not exact."""
    inputs, _ = data()
    age, genres = np.round(4 * inputs["age"]), inputs["genres"][:, :2]
    return {**inputs, "age": age, "genres": genres}


def compiled(name, optimizer_name):
    """Return a compiled model whose weights do not depend on how it was built."""
    keras.utils.set_random_seed(0)
    return _compiled(model(name), optimizer_name)


def _compiled(built, optimizer_name):
    set_weights(built)
    built.compile(optimizer(optimizer_name), loss="mse")
    return built


def history_model(name="fm", optimizer_name="adagrad", table=None):
    """Return a compiled model of users, items and the items of each user.

    The table of the items, and that of the histories if it is another, has an odd
    number of rows.
    """
    keras.utils.set_random_seed(0)
    x, _ = data()
    pairs = sorted({*zip(x["user"] % 50, np.maximum(x["item"], 1), strict=True)})
    features = [
        fmlayers.Categorical("user", USERS),
        fmlayers.Categorical("item", SEEN, table=table),
        fmlayers.History(
            "seen",
            SEEN,
            table=table,
            of="user",
            num_keys=50,
            values="item",
            num_pairs=len(pairs),
        ),
    ]
    if name == "fm":
        built = fmlayers.models.FactorizationMachine(features, 3)
    else:
        built = fmlayers.models.DeepFM(features, 3, hidden_units=(4,))
    built.set_history("seen", *np.transpose(pairs))
    return _compiled(built, optimizer_name)


def batches_with_histories(model):
    """Return batches of the rows that `fit` does not shuffle."""
    return fmlayers.data.ShuffledBatches(
        *data(), BATCH, seed=0, histories=model.history_indexes()
    )


def partly_frozen():
    """Return a compiled model with dense gradients, and momentum for frozen rows."""
    keras.utils.set_random_seed(0)
    built = model("fm")
    built.factors.tables["user"].trainable = False
    built = _compiled(built, "adagrad")
    optimizer = fmlayers.optimizers.LazyAdam(0.01, gradient_accumulation_steps=2)
    optimizer.weight_decay = 0.5
    built.compile(optimizer, loss="mse")
    return built


def results(model, x, y, batch, batches=None):
    """Train a model, and return its losses and weights as arrays.

    Train on the arrays, unless there are batches.
    """
    arguments = {"x": x, "y": y, "batch_size": batch} if batches is None else {}
    history = model.fit(
        **arguments or {"x": batches}, epochs=EPOCHS, shuffle=False, verbose=0
    ).history["loss"]
    loss = model.evaluate(x, y, batch_size=batch, verbose=0)
    arrays = {k: np.asarray(v) for k, v in weights(model).items()}
    return {"losses": np.array([*history, loss]), **arrays}


# On several devices: how a model is made, and the rows from which a table is spread.
# With 1,000,000, all weights are on every device.
ON_DEVICES = {
    "mf": (lambda: compiled("mf", "lazy_adam"), 1_000),
    "fm": (lambda: compiled("fm", "sgd"), 1_000),
    "deepfm": (lambda: compiled("deepfm", "adagrad"), 1_000),
    "deepfm, dense": (lambda: compiled("deepfm", "sgd"), 1_000),
    "mf, everywhere": (lambda: compiled("mf", "adagrad"), 1_000_000),
    "fm, everywhere": (lambda: compiled("fm", "lazy_adam"), 1_000_000),
    "history": (history_model, 1_000),
    "frozen": (partly_frozen, 1_000),
}
