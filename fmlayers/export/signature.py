"""What a model reads and gives, each by its name: the signatures of an export."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from fmlayers._types import Tensor
from fmlayers.features import Feature, History, MultiCategorical, Numeric
from fmlayers.layers import FeatureEmbedding, RatingScaler
from fmlayers.retrieval.top_n import TopN
from fmlayers.scoring_model import ScoringModel

BINARY = (keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy)

Function = Callable[[dict[str, Tensor]], dict[str, Tensor]]

MEANINGS = {
    "rating": "the rating, on the scale of the data",
    "score": "the raw score, which ranking uses",
    "probability": "the probability of a positive example",
}


@dataclass(frozen=True)
class Entry:
    """An input or an output.

    Attributes:
        name: Its name outside.
        dtype: As Keras names it.
        shape: None where it varies; the first is the batch.
        meaning: What stands in it, for the card.
        feature: The entry of the model's input dict that it is.
        example: Two rows of it as lists, for the card; zeros, or empty texts, by
            default.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    meaning: str = ""
    feature: str = ""
    example: Any = None

    def array(self) -> npt.NDArray[Any]:
        """Returns the example as an array."""
        dtype = object if self.dtype == "string" else self.dtype
        if self.example is not None:
            return np.array(self.example, dtype)
        rest = [size or 1 for size in self.shape[1:]]
        blank = "" if self.dtype == "string" else 0
        return np.full([(self.shape or (1,))[0] or 2, *rest], blank, dtype)


@dataclass(frozen=True)
class Signature:
    """One way to call an export.

    Attributes:
        name: Its name outside.
        meaning: What it computes, for the card.
        inputs: What it reads.
        outputs: The meaning of each output; their shapes are found by tracing.
        function: From a dict with the inputs to one with the outputs.
    """

    name: str
    meaning: str
    inputs: tuple[Entry, ...]
    outputs: Mapping[str, str]
    function: Function


def signature_of(
    model: keras.Model, input_signature: Any = None, probability: bool | None = None
) -> Signature:
    """Returns the signature of a model itself, ids and numbers in.

    Args:
        model: A functional model, whose inputs tell; or a subclassed one, whose
            `FeatureEmbedding` layers do.
        input_signature: Optional dict from entries that the model reads to what has a
            `shape` and a `dtype`, such as `keras.InputSpec`; or a list of it. Other
            entries that the model cannot do without are those that its features tell.
        probability: Optional Boolean, whether a probability is among the outputs.
            Defaults to what the compiled loss says.

    Raises:
        ValueError: If the inputs cannot be told, the model reads others, or a
            probability is asked for and cannot be had.
    """
    if isinstance(model, TopN) and input_signature is None:
        if probability:
            raise ValueError(
                "`probability` must be False or None for lists of the best items. "
                "Received: probability=True."
            )
        return _of_lists(model)
    structure = _structure(model)
    if structure is not None:
        told = _of_inputs(model, structure)
    elif input_signature is None or features_of(model):
        told = _of_features(model)
    else:
        told = []
    choices = [told]
    if input_signature is not None:
        choices = _choices(told, _given(input_signature), structure is not None)
    entries, function, outputs = _first_call(model, structure, choices)
    likely = _probability(model, list(outputs), probability)
    names = [*outputs, *(["probability"] if likely else [])]

    def with_probability(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        found = function(inputs)
        return {**found, "probability": likely(found)} if likely else found

    return Signature(
        "serving_default",
        "What the model computes, of ids and numbers.",
        tuple(entries),
        {name: MEANINGS.get(name, "") for name in names},
        with_probability,
    )


def outer_names(names: Iterable[str], reserved: Iterable[str] = ()) -> dict[str, str]:
    """Returns a name for each that all formats can have, most often itself.

    TensorFlow takes letters, digits and underscores, does not tell capitals apart,
    and changes others without a word.

    Args:
        names: The names inside.
        reserved: Names that are taken.
    """
    found: dict[str, str] = {}
    taken = {"self", *reserved}
    for name in names:
        plain = re.sub(r"[^0-9A-Za-z_]", "_", name)
        if not re.match(r"[A-Za-z]", plain):
            plain = f"input_{plain.lstrip('_')}"
        unique, number = plain, 1
        while unique.lower() in taken:
            number += 1
            unique = f"{plain}_{number}"
        taken.add(unique.lower())
        found[name] = unique
    return found


def meaning_of(feature: Feature) -> str:
    """Returns in words what stands in a feature's entry."""
    if isinstance(feature, Numeric):
        return "a number, as the encoder scales it; NaN: missing"
    last = feature.num_rows - 1
    if isinstance(feature, MultiCategorical):
        return f"ids 1 ... {last}, padded with 0"
    if getattr(feature, "mask_zero", False):
        return f"an id 1 ... {last}; 0: missing"
    return f"an id 0 ... {last}"


def features_of(model: keras.Model) -> list[Feature]:
    """Returns the features of a model's embeddings, each name once."""
    found: dict[str, Feature] = {}
    for layer in model._flatten_layers():
        if isinstance(layer, FeatureEmbedding):
            for feature in layer.features:
                found.setdefault(feature.name, feature)
    return list(found.values())


def _structure(model: keras.Model) -> Any:
    """Returns the structure of a functional model's inputs, None for others."""
    try:
        return model.input
    except (AttributeError, ValueError):
        return None


def _given(input_signature: Any) -> list[Entry]:
    specs = input_signature
    if isinstance(specs, (list, tuple)) and len(specs) == 1:
        specs = specs[0]
    if not isinstance(specs, Mapping) or not all(
        getattr(spec, "shape", None) is not None and getattr(spec, "dtype", None)
        for spec in specs.values()
    ):
        raise ValueError(
            "`input_signature` must be a dict from the entries that the model reads to "
            "what has a `shape` and a `dtype`, such as `keras.InputSpec`. "
            f"Received: input_signature={input_signature!r}."
        )
    names = outer_names(specs)
    return [
        Entry(
            names[name],
            keras.backend.standardize_dtype(spec.dtype),
            tuple(spec.shape),
            feature=name,
        )
        for name, spec in specs.items()
    ]


def _of_inputs(model: keras.Model, structure: Any) -> list[Entry]:
    if isinstance(structure, Mapping) and not any(
        map(keras.tree.is_nested, structure.values())
    ):
        tensors = dict(structure)
    else:
        tensors = {tensor.name: tensor for tensor in keras.tree.flatten(structure)}
    for name, tensor in tensors.items():
        if getattr(tensor, "ragged", False):
            raise ValueError(
                f"The input {name!r} is ragged, which no export has: make it a padded "
                "one."
            )
    names = outer_names(tensors)
    meanings = {f.name: meaning_of(f) for f in features_of(model)}
    return [
        Entry(names[name], x.dtype, tuple(x.shape), meanings.get(name, ""), name)
        for name, x in tensors.items()
    ]


def _choices(
    told: list[Entry], given: list[Entry], functional: bool
) -> list[list[Entry]]:
    """Returns the inputs that were given, and those with all that the model tells."""
    known = {entry.feature: entry for entry in told}
    wanted = {entry.feature: entry for entry in given}
    unknown = sorted(set(wanted) - set(known))
    if functional and unknown:
        raise ValueError(
            f"`input_signature` must name inputs of the model, {list(known)}. "
            f"Received: {unknown}."
        )
    names = outer_names({**known, **wanted})
    every = [
        replace(
            wanted[name] if name in wanted else known[name],
            name=names[name],
            meaning=known[name].meaning if name in known else "",
        )
        for name in names
    ]
    if functional:
        return [every]
    return [[entry for entry in every if entry.feature in wanted], every]


def _first_call(
    model: keras.Model, structure: Any, choices: list[list[Entry]]
) -> tuple[list[Entry], Function, dict[str, Tensor]]:
    """Returns the first inputs that a model can do with, its function and outputs.

    The call makes the weights, too.
    """
    entries, *others = choices
    function = _function(model, structure, entries)
    try:
        with warnings.catch_warnings():
            if others:  # Keras warns of a first call that fails
                warnings.simplefilter("ignore")
            outputs = function({entry.name: entry.array() for entry in entries})
    except (KeyError, ValueError) as error:
        if others:
            return _first_call(model, structure, others)
        if not isinstance(error, KeyError):
            raise
        names = sorted(entry.feature for entry in entries)
        raise ValueError(
            "The model reads an entry that none of its features has: name it in "
            f"`input_signature`. Received: entries {names}. {error.args[0]}"
        ) from error
    return entries, function, outputs


def _of_features(model: keras.Model) -> list[Entry]:
    features = features_of(model)
    if not features:
        raise ValueError(
            "The model's inputs cannot be told: it is no functional model and has no "
            "`FeatureEmbedding`. Name them in `input_signature`. "
            f"Received: {type(model).__name__}."
        )
    layers = [x for x in model._flatten_layers() if isinstance(x, FeatureEmbedding)]
    in_float64 = any(layer.compute_dtype == "float64" for layer in layers)
    return [
        replace(entry, dtype="float64")
        if in_float64 and "float" in entry.dtype
        else entry
        for entry in _entries(features)
    ]


def _of_lists(top: TopN) -> Signature:
    """Returns the signature of a `TopN`: ids of the query in, positions out."""
    features = [f for f in top.model.features if f.name in top.query_features]
    queries = _entries(features, own=False)
    meaning = "positions of items not to be listed, padded with -1"
    exclude = Entry("exclude", "int32", (None, None), meaning, example=[[0], [-1]])

    def call(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        given = {entry.feature: inputs[entry.name] for entry in queries}
        scores, positions = top(given, exclude=inputs["exclude"])
        return {"scores": scores, "positions": positions}

    return Signature(
        "serving_default",
        f"The {top.k} best items of each query.",
        (*queries, exclude),
        {
            "scores": "the raw scores, the best first; -inf where no item is left",
            "positions": "the items' rows in the catalogue; -1 where none is left",
        },
        call,
    )


def _entries(features: Iterable[Feature], own: bool = True) -> list[Entry]:
    found: dict[str, Entry] = {}
    for feature in features:
        if not isinstance(feature, History):
            found[feature.name] = _of_feature(feature)
    for feature in features:  # of which an entry may be some other feature's, too
        if isinstance(feature, History):
            key = f"an id 0 ... {feature.num_keys - 1}, the key of {feature.name}"
            found.setdefault(feature.of, Entry("", "int64", (None,), key))
            if own:
                value = f"the example's own value, left out of {feature.name}; 0: none"
                found.setdefault(feature.values, Entry("", "int64", (None,), value))
    names = outer_names(found, () if own else ("exclude",))
    return [
        replace(entry, name=names[name], feature=name) for name, entry in found.items()
    ]


def _of_feature(feature: Feature) -> Entry:
    meaning = meaning_of(feature)
    if isinstance(feature, Numeric):
        return Entry("", "float32", (None,), meaning, example=[0.0, 1.0])
    first, second = (min(i, feature.num_rows - 1) for i in (1, 2))
    if isinstance(feature, MultiCategorical):
        example = [[first, second], [second, 0]]
        return Entry("", "int64", (None, None), meaning, example=example)
    return Entry("", "int64", (None,), meaning, example=[first, second])


def _function(model: Any, structure: Any, entries: list[Entry]) -> Function:
    def call(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        given: Any = {entry.feature: inputs[entry.name] for entry in entries}
        if _rates_scores(model):
            score = model.score(given)
            if model.scaler is None:
                return {"score": score}
            return {"rating": model.rating(score), "score": score}
        if structure is not None and not isinstance(structure, Mapping):
            given = keras.tree.pack_sequence_as(structure, list(given.values()))
        return _named(model, model(given, training=False))

    return call


def _rates_scores(model: Any) -> bool:
    return isinstance(model, ScoringModel) and model.call_is_rating


def _probability(
    model: Any, names: list[str], wanted: bool | None
) -> Callable[[dict[str, Tensor]], Tensor] | None:
    """Returns what makes a probability of the outputs; None where there is none."""
    losses = keras.tree.flatten(getattr(model, "loss", None))
    binary = len(losses) == 1 and isinstance(losses[0], BINARY)
    of_logits = binary and losses[0].from_logits
    scaler = model.scaler if _rates_scores(model) else None
    if scaler is not None:
        possible = (
            isinstance(scaler, RatingScaler)
            and scaler.method == "sigmoid"
            and (scaler.min_rating, scaler.max_rating) == (0.0, 1.0)
        )
        likely = possible and binary and not of_logits
    else:
        possible = len(names) == 1 and names[0] != "probability"
        likely = possible and of_logits
    if wanted and not possible:
        raise ValueError(
            "`probability` must be False or None unless the model has one output, of "
            "logits, or a `RatingScaler(0, 1)` by sigmoid. Received: probability=True, "
            f"with the outputs {names}."
        )
    if not (likely if wanted is None else wanted):
        return None
    if scaler is not None:
        return lambda outputs: outputs["rating"]
    return lambda outputs: keras.ops.sigmoid(outputs[names[0]])


def _named(model: keras.Model, outputs: Any) -> dict[str, Tensor]:
    if isinstance(outputs, Mapping):
        names = outer_names(outputs)
        return {names[name]: x for name, x in outputs.items()}
    flat = keras.tree.flatten(outputs)
    given: Any = getattr(model, "output_names", None)
    if not given:
        given = [f"output_{i}" for i in range(len(flat))]
        given = given if len(given) > 1 else ["output"]
    return dict(zip(outer_names(given).values(), flat, strict=True))
