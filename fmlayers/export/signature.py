"""Signatures of exports: named inputs and outputs, inferred from a model."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from fmlayers._types import Tensor
from fmlayers.features import Feature
from fmlayers.layers import FeatureEmbedding, RatingScaler
from fmlayers.retrieval.top_n import TopN
from fmlayers.scoring_model import ScoringModel

BINARY = (keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy)

Function = Callable[[dict[str, Tensor]], dict[str, Tensor]]

MEANINGS = {
    "rating": "the rating, on the scale of the data",
    "score": "the raw score, which ranking uses",
    "probability": "the probability of a positive example",
    "std": "the standard deviation of the rating, or of the probability",
}


@dataclass(frozen=True)
class Entry:
    """An input or an output of a signature.

    Attributes:
        name: Name in the export.
        dtype: Name of the dtype, same as in Keras.
        shape: Shape with the batch axis first and `None` for dynamic axes.
        meaning: Description for the model card.
        feature: Name of the corresponding entry of the model's input dict.
        example: Optional example of two rows, as nested lists. Defaults to zeros or
            empty texts.
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
    """A signature of an export.

    Attributes:
        name: Name in the export.
        meaning: Description for the model card.
        inputs: Tuple of inputs.
        outputs: Dict from the name of each output to its description. The dtypes and
            shapes result from tracing.
        function: Function from a dict of inputs to a dict of outputs.
    """

    name: str
    meaning: str
    inputs: tuple[Entry, ...]
    outputs: Mapping[str, str]
    function: Function


def signature_of(
    model: keras.Model, input_signature: Any = None, probability: bool | None = None
) -> Signature:
    """Returns the signature of a model that takes ids and numbers.

    The inputs are inferred from those of a functional model, or from the
    `FeatureEmbedding` layers of a subclassed model.

    Args:
        model: The model.
        input_signature: Optional dict from entries that the model reads to objects
            with a `shape` and a `dtype`, such as `keras.InputSpec`, which override the
            inferred inputs; or a list of one such dict. Required entries that are not
            in the dict are inferred.
        probability: Optional Boolean, whether to add a probability to the outputs.
            Defaults to the choice that the compiled loss implies.

    Returns:
        A `Signature`.

    Raises:
        ValueError: If the inputs cannot be inferred, the model reads other inputs, or
            `probability` is `True` and the model has no output for it.
    """
    if isinstance(model, TopN) and input_signature is None:
        if probability:
            raise ValueError(
                "`probability` must be False or None for a `TopN`. "
                "Received: probability=True."
            )
        return _of_top_n(model)
    structure = _structure(model)
    if structure is not None:
        inferred = _of_inputs(model, structure)
    elif input_signature is None or features_of(model):
        inferred = _of_features(model)
    else:
        inferred = []
    choices = [inferred]
    if input_signature is not None:
        requested = _of_specs(input_signature)
        choices = _choices(inferred, requested, structure is not None)
    entries, function, outputs = _first_call(model, structure, choices)
    likely = _probability(model, list(outputs), probability)
    names = [*outputs, *(["probability"] if likely else [])]

    def with_probability(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = function(inputs)
        return {**outputs, "probability": likely(outputs)} if likely else outputs

    return Signature(
        "serving_default",
        "The outputs of the model for ids and numbers.",
        tuple(entries),
        {name: MEANINGS.get(name, "") for name in names},
        with_probability,
    )


def with_stddev(signature: Signature, stddev: Any) -> Signature:
    """Returns a signature that adds standard deviations to the outputs.

    Args:
        signature: Signature of a model.
        stddev: Function from the input dict of the model to standard deviations.
    """

    def function(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        values = {entry.feature: inputs[entry.name] for entry in signature.inputs}
        return {**signature.function(inputs), "std": stddev(values)}

    return replace(
        signature,
        name="predict_with_std",
        meaning="The outputs of the model and their standard deviations.",
        outputs={**signature.outputs, "std": MEANINGS["std"]},
        function=function,
    )


def outer_names(names: Iterable[str], reserved: Iterable[str] = ()) -> dict[str, str]:
    """Maps names to unique names that are valid in all export formats.

    TensorFlow allows letters, digits and underscores, is not case-sensitive, and
    replaces other characters silently. Most names are valid, and map to themselves.

    Args:
        names: Names in the model.
        reserved: Names that must not be used. Defaults to `()`.
    """
    unique_names: dict[str, str] = {}
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
        unique_names[name] = unique
    return unique_names


def features_of(model: keras.Model) -> list[Feature]:
    """Returns the distinct features of a model's `FeatureEmbedding` layers."""
    features: dict[str, Feature] = {}
    for layer in model._flatten_layers():
        if isinstance(layer, FeatureEmbedding):
            for feature in layer.features:
                features.setdefault(feature.name, feature)
    return list(features.values())


def _structure(model: keras.Model) -> Any:
    """Returns the input structure of a functional model, `None` for other models."""
    try:
        return model.input
    except (AttributeError, ValueError):
        return None


def _of_specs(input_signature: Any) -> list[Entry]:
    specs = input_signature
    if isinstance(specs, (list, tuple)) and len(specs) == 1:
        specs = specs[0]
    if not isinstance(specs, Mapping) or not all(
        getattr(spec, "shape", None) is not None and getattr(spec, "dtype", None)
        for spec in specs.values()
    ):
        raise ValueError(
            "`input_signature` must be a dict from the entries that the model reads to "
            "objects with a `shape` and a `dtype`, such as `keras.InputSpec`. "
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
                f"The inputs must not be ragged. Received: the ragged input {name!r}. "
                "Use a padded input."
            )
    names = outer_names(tensors)
    meanings = {entry.feature: entry.meaning for entry in _entries(features_of(model))}
    return [
        Entry(names[name], x.dtype, tuple(x.shape), meanings.get(name, ""), name)
        for name, x in tensors.items()
    ]


def _choices(
    inferred: list[Entry], requested: list[Entry], functional: bool
) -> list[list[Entry]]:
    """Returns the requested inputs alone, and these with all inferred ones."""
    known = {entry.feature: entry for entry in inferred}
    wanted = {entry.feature: entry for entry in requested}
    unknown = sorted(set(wanted) - set(known))
    if functional and unknown:
        raise ValueError(
            f"`input_signature` must contain only inputs of the model, {list(known)}. "
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
    """Returns the first choice of inputs that the model accepts.

    Calling the model also builds it.

    Returns:
        A tuple of the inputs, the function of the signature and its outputs.
    """
    entries, *others = choices
    function = _function(model, structure, entries)
    try:
        with warnings.catch_warnings():
            if others:  # Keras warns about a first call that fails
                warnings.simplefilter("ignore")
            outputs = function({entry.name: entry.array() for entry in entries})
    except (KeyError, ValueError) as error:
        if others:
            return _first_call(model, structure, others)
        if not isinstance(error, KeyError):
            raise
        names = sorted(entry.feature for entry in entries)
        raise ValueError(
            "`input_signature` must contain every entry that the model reads, other "
            f"than those of its features. Received: entries {names}. {error.args[0]}"
        ) from error
    return entries, function, outputs


def _of_features(model: keras.Model) -> list[Entry]:
    features = features_of(model)
    if not features:
        raise ValueError(
            "Cannot infer the model's inputs, since it is not a functional model and "
            "has no `FeatureEmbedding`: pass `input_signature`. "
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


def _of_top_n(top: TopN) -> Signature:
    """Returns the signature of a `TopN`, from ids of the query to positions."""
    features = [f for f in top.model.features if f.name in top.query_features]
    queries = _entries(features, with_example=False)
    meaning = "positions of the items to exclude, padded with -1"
    exclude = Entry("exclude", "int32", (None, None), meaning, example=[[0], [-1]])

    def call(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        entries = {entry.feature: inputs[entry.name] for entry in queries}
        scores, positions = top(entries, exclude=inputs["exclude"])
        return {"scores": scores, "positions": positions}

    return Signature(
        "serving_default",
        f"The top {top.k} items of each query.",
        (*queries, exclude),
        {
            "scores": "the raw scores, the best first; -inf if no item is left",
            "positions": "positions of the items in the catalog; -1 if none is left",
        },
        call,
    )


def _entries(features: Iterable[Feature], with_example: bool = True) -> list[Entry]:
    """Returns the inputs of features.

    Args:
        features: The features.
        with_example: Whether to include the inputs by which a `History` leaves out the
            value of the example that is scored. Defaults to `True`.
    """
    entries: dict[str, Entry] = {}
    # Histories last, since they can share entries with other features.
    for feature in sorted(features, key=lambda f: f.name not in f.inputs):
        for entry in feature.entries:
            if with_example or entry.required:
                dtype = "float32" if "float" in entry.dtype else "int64"
                entries.setdefault(
                    entry.name,
                    Entry("", dtype, entry.shape, entry.meaning, example=entry.example),
                )
    names = outer_names(entries, () if with_example else ("exclude",))
    return [
        replace(entry, name=names[name], feature=name)
        for name, entry in entries.items()
    ]


def _function(model: Any, structure: Any, entries: list[Entry]) -> Function:
    def call(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        values: Any = {entry.feature: inputs[entry.name] for entry in entries}
        if _rates_scores(model):
            score = model.score(values)
            if model.scaler is None:
                return {"score": score}
            return {"rating": model.rating(score), "score": score}
        if structure is not None and not isinstance(structure, Mapping):
            values = keras.tree.pack_sequence_as(structure, list(values.values()))
        return _named(model, model(values, training=False))

    return call


def _rates_scores(model: Any) -> bool:
    return isinstance(model, ScoringModel) and model.call_is_rating


def _probability(
    model: Any, names: list[str], wanted: bool | None
) -> Callable[[dict[str, Tensor]], Tensor] | None:
    """Returns a function from the outputs to the probability, or `None`."""
    losses = keras.tree.flatten(getattr(model, "loss", None))
    binary = len(losses) == 1 and isinstance(losses[0], BINARY)
    of_logits = binary and losses[0].from_logits
    scaler = model.scaler if _rates_scores(model) else None
    if scaler is not None:
        possible = (
            isinstance(scaler, RatingScaler)
            and scaler.method == "sigmoid"
            and (scaler.min_rating, scaler.max_rating) == (0.0, 1.0)
            and scaler.transform == "none"
        )
        likely = possible and binary and not of_logits
    else:
        possible = len(names) == 1 and names[0] != "probability"
        likely = possible and of_logits
    if wanted and not possible:
        raise ValueError(
            "`probability` must be False or None unless the model has a single output "
            'of logits, or a `RatingScaler(0, 1)` with "sigmoid". Received: '
            f"probability=True, with the outputs {names}."
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
    output_names: Any = getattr(model, "output_names", None)
    if not output_names:
        output_names = [f"output_{i}" for i in range(len(flat))]
        output_names = output_names if len(output_names) > 1 else ["output"]
    return dict(zip(outer_names(output_names).values(), flat, strict=True))
