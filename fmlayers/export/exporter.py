import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import keras
import numpy as np

from fmlayers._backend import portable_graph
from fmlayers._checks import choice
from fmlayers._files import whole_files, whole_folder
from fmlayers.export.card import Card, answer_of, card_of
from fmlayers.export.files import (
    beside,
    weights_digest,
    write_beside,
    write_into_folder,
)
from fmlayers.export.signature import Signature, signature_of, with_stddev
from fmlayers.scoring_model import ScoringModel

if TYPE_CHECKING:
    import pandas as pd

    from fmlayers.data import Encoder

Format = Literal["saved_model", "litert", "onnx"]
Weights = Literal["float32", "float16", "int8"]

ALIASES = {"tf_saved_model": "saved_model"}  # the name in Keras
FORMATS = (*get_args(Format), *ALIASES)
SUFFIXES = {"litert": ".tflite", "onnx": ".onnx"}
LOOKUPS = (
    keras.layers.Hashing,
    keras.layers.HashedCrossing,
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
)
MAX_FILE_BYTES = 2**31  # of a protocol buffer or a flatbuffer


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    format: str = "saved_model",
    *,
    overwrite: bool = False,
    input_signature: Any = None,
    probability: bool | None = None,
    encoder: "Encoder | None" = None,
    items: "pd.DataFrame | None" = None,
    item_key: str | None = None,
    weights: Weights = "float32",
    stddev: Any = None,
    details: Mapping[str, Any] | None = None,
) -> Path:
    """Exports a model to a SavedModel, a LiteRT or an ONNX file.

    The inputs are named and typed after the features: ids are int64 and numbers are
    float32. The batch size and the length of multi-valued features are dynamic. The
    outputs of a `ScoringModel` are `rating`, if it has a scaler, and `score`, both of
    shape `(batch, 1)`. The outputs of any other model have the names of its output
    dict, its `output_names`, or `output`. Models that are trained on binary labels
    have an additional output `probability`.

    A SavedModel has up to seven signatures:

    - `serving_default`: takes ids and numbers. `serve` is the same signature under
      Keras' name.
    - `serve_raw` (with an encoder): takes raw values. Each column is a text of shape
      `(batch,)`, in which the values of a multi-valued feature are separated by the
      encoder's separator. Numbers are float32, not standardized.
    - `serve_raw_values` (with an encoder): takes raw values, too. Columns of integers
      are int64, and multi-valued features have the shape `(batch, length)`, padded with
      `""`.
    - `recommend` (with `items`): takes the raw values of a query, `exclude` and `k`;
      returns `keys`, `ids`, `scores` and `ratings` of the top k items.
    - `query_vectors` (with `items`, if the model has an exact decomposition): returns
      the vectors to query an index of `item_vectors`.
    - `predict_with_std` and `predict_with_std_raw` (with `stddev`): take the inputs of
      `serving_default` and of `serve_raw`, and return their outputs and `std`.

    A LiteRT or ONNX file has the first signature only. A model card, in Markdown and
    JSON, and the vocabularies of the encoder are written next to the model: as
    `README.md`, `card.json` and `encoder.json` in the folder of a SavedModel, and with
    `.md`, `.json` and `.encoder.json` appended to the name of a file. The card in JSON
    contains the digests of the other files; see `read_card`.

    Letters outside ASCII, spaces and punctuation in the name of a feature become
    underscores in the name of its input. The model card lists both names.

    Args:
        model: A `ScoringModel`; a functional model; or a subclassed model that takes a
            dict and has a `FeatureEmbedding`, from whose features the inputs are
            inferred.
        path: Path of the folder or, ending in `.tflite` or `.onnx`, of the file. It is
            written atomically.
        format: `"saved_model"` (or Keras' `"tf_saved_model"`), `"litert"` or `"onnx"`.
            Defaults to `"saved_model"`.
        overwrite: Whether to replace an existing export. Defaults to `False`.
        input_signature: Optional dict from entries that the model reads to objects
            with a `shape` and a `dtype`, such as `keras.InputSpec`, which override the
            inferred inputs. Required entries that are not in the dict are inferred.
        probability: Optional Boolean, whether to add a `probability` to the outputs. It
            is the sigmoid of the score or of the only output, or the rating of a
            `RatingScaler(0, 1)` with `"sigmoid"`. By default it is added if the model
            is compiled with a binary crossentropy, which must be from logits unless
            there is such a scaler.
        encoder: Optional fitted `Encoder`. Defaults to the encoder of the model.
        items: Optional `DataFrame` with the raw values of the items, one row per item
            of the catalog. Columns of the encoder that it contains are item features;
            the others are query features.
        item_key: Name of the column of `items` that identifies an item. Defaults to
            the first column.
        weights: Dtype of the weights: `"float32"`, or, for LiteRT and ONNX, also
            `"float16"` (half the size, with computations in float32) or `"int8"`
            (dynamically quantized). Defaults to `"float32"`.
        stddev: Optional `tf.Module` with a `__call__` from the input dict of the model
            to the standard deviations of its outputs, of shape `(batch, 1)`. For
            SavedModels only.
        details: Optional dict of further sections of the model card.

    Returns:
        The path.

    Raises:
        ValueError: If an argument violates its constraint, or the backend is not
            TensorFlow.
        FileExistsError: If `path` exists and must not be replaced.

    Example:

    >>> import tempfile
    >>> features = [fmlayers.Categorical("user", 943), fmlayers.Numeric("age")]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = fmlayers.export.export(model, folder + "/fm/1")
    ...     sorted(file.name for file in path.glob("*.*"))
    ['README.md', 'card.json', 'fingerprint.pb', 'saved_model.pb']
    """
    path = Path(path)
    format = ALIASES.get(format, format)
    _check(path, format, weights, items, overwrite)
    if stddev is not None and format != "saved_model":
        raise ValueError(
            f"`stddev` must be None for the format {format!r}. Use the format "
            '"saved_model", which has a signature `predict_with_std`.'
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`export` needs the TensorFlow backend. Received: the backend "
            f"{keras.backend.backend()!r}. Save the model with "
            "`model.save('model.keras')`, and export that file in a process with "
            "KERAS_BACKEND=tensorflow."
        )
    signature = signature_of(model, input_signature, probability)
    if format in SUFFIXES:
        _check_portable(model, format, signature)
    encoder = _encoder_of(model, signature, encoder)
    if encoder is None and items is not None:
        raise ValueError(
            "`items` need an encoder of all inputs of the model: pass `encoder`, or "
            "build the model with one."
        )

    def card(signatures: Any, examples: Mapping[str, Any]) -> Card:
        card = card_of(
            model,
            signatures,
            examples,
            format=format,
            weights=weights,
            encoder=encoder,
            details=details or {},
        )
        return {**card, "weights_digest": weights_digest(model)}

    size = sum(
        variable.value.dtype.size * np.prod(variable.shape)
        for variable in model.variables
    )
    if format in SUFFIXES and size >= MAX_FILE_BYTES:
        raise ValueError(
            f"The weights must be smaller than 2 GB for the format {format!r}. "
            f'Received: {size / 2**30:.1f} GB. Use the format "saved_model".'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "saved_model":
        signatures = [signature]
        if stddev is not None:
            signatures.append(with_stddev(signature, stddev))
        resources = [] if stddev is None else [stddev]
        _write_saved_model(
            path, model, signatures, resources, encoder, items, item_key, card
        )
    else:
        _write_file(path, format, model, signature, encoder, weights, card)
    return path


def _encoder_of(
    model: keras.Model, signature: Signature, encoder: "Encoder | None"
) -> "Encoder | None":
    """Returns `encoder` or that of the model, if it encodes all inputs."""
    is_default = encoder is None
    if encoder is None and isinstance(model, ScoringModel):
        encoder = model.encoder
    columns = [] if encoder is None else encoder.inputs
    absent = [e.feature for e in signature.inputs if e.feature not in columns]
    if not absent:
        return encoder
    if is_default:
        return None
    raise ValueError(
        f"`encoder` must have the columns of all inputs, and lacks {absent}. "
        f"Received: an encoder of {list(columns)}."
    )


def _check(path: Path, format: str, weights: str, items: Any, overwrite: bool) -> None:
    choice("format", format, get_args(Format))
    choice("weights", weights, get_args(Weights))
    suffix = SUFFIXES.get(format)
    if suffix is None and weights != "float32":
        raise ValueError(
            '`weights` must be "float32" in a SavedModel. Use the format "litert" or '
            f'"onnx" for others. Received: weights={weights!r}.'
        )
    if suffix is not None and path.suffix != suffix:
        raise ValueError(
            f"`path` must end in {suffix!r} for the format {format!r}. "
            f"Received: path={str(path)!r}."
        )
    if suffix is not None and items is not None:
        raise ValueError(
            f"`items` must be None for the format {format!r}. Use the format "
            '"saved_model", which has a signature `recommend`.'
        )
    if not path.exists() or (
        suffix is None and path.is_dir() and not any(path.iterdir())
    ):
        return
    is_export = path.is_file() if suffix else (path / "saved_model.pb").is_file()
    if not is_export:
        raise FileExistsError(
            f"{path} exists and is not an export of the format {format!r}: choose "
            "another path."
        )
    if not overwrite:
        raise FileExistsError(
            f"{path} exists: choose another path, or replace it with `overwrite=True` "
            "(`--overwrite`)."
        )


def _check_portable(model: keras.Model, format: str, signature: Signature) -> None:
    """Raises `ValueError` for text inputs and lookup layers, which need TensorFlow."""
    texts = [entry.name for entry in signature.inputs if entry.dtype == "string"]
    layers = [x.name for x in model._flatten_layers() if isinstance(x, LOOKUPS)]
    if texts or layers:
        raise ValueError(
            f"The format {format!r} does not support text inputs and lookup layers: "
            'use the format "saved_model", or export the part of the model that takes '
            f"ids. Received: text inputs {texts}, lookup layers {layers}."
        )


def _write_saved_model(
    path: Path,
    model: keras.Model,
    of_ids: Sequence[Signature],
    resources: list[Any],
    encoder: "Encoder | None",
    items: "pd.DataFrame | None",
    item_key: str | None,
    card: Callable[..., Card],
) -> None:
    from fmlayers.export import saved_model

    signature, *with_stddev = of_ids
    signatures = [*of_ids]
    if encoder is not None:
        from fmlayers.export.raw_encoder import RawEncoder, raw_signature

        raw = RawEncoder(encoder)
        resources += raw.resources
        signatures += [raw_signature(signature, raw, typed=t) for t in (False, True)]
        signatures += [
            replace(
                raw_signature(each, raw, typed=False),
                name=f"{each.name}_raw",
                meaning=f"{each.meaning} Takes raw values, as `serve_raw`.",
            )
            for each in with_stddev
        ]
        if items is not None:
            from fmlayers.export.raw_recommender import RawRecommender

            key = items.columns[0] if item_key is None else item_key
            recommend = RawRecommender(model, encoder, raw, items, key)
            resources += recommend.resources
            signatures += recommend.signatures()
    traced = {s.name: saved_model.trace(s) for s in signatures}
    with saved_model.plain_names(model), whole_folder(path) as folder:
        saved_model.write(folder, model, traced, resources)
        answers = saved_model.answers(folder, signatures)
        outputs = {
            s.name: (s, saved_model.outputs_of(s, traced[s.name])) for s in signatures
        }
        written = card(outputs, {name: answer_of(x) for name, x in answers.items()})
        write_into_folder(folder, written, encoder)


def _write_file(
    path: Path,
    format: str,
    model: keras.Model,
    signature: Signature,
    encoder: "Encoder | None",
    weights: str,
    card: Callable[..., Card],
) -> None:
    from fmlayers.export import saved_model

    with portable_graph(), saved_model.plain_names(model), whole_files(path) as written:
        traced = saved_model.trace(signature)
        if format == "litert":
            from fmlayers.export import litert

            litert.write(written, model, traced, weights)
            answer = litert.answer(written, signature)
        else:
            from fmlayers.export import onnx

            onnx.write(written, signature, weights)
            answer = onnx.answer(written, signature)
        outputs = saved_model.outputs_of(signature, traced)
        name = signature.name
        content = card({name: (signature, outputs)}, {name: answer_of(answer)})
        write_beside(written, content, encoder)
    if encoder is None:  # of a previous export
        beside(path, ".encoder.json").unlink(missing_ok=True)
