"""One call from a model to a SavedModel, a LiteRT or an ONNX file."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import keras
import numpy as np

from fmlayers._backend import portable_graph
from fmlayers.export.card import Card, answer_of, card_of, text_of
from fmlayers.export.signature import Signature, signature_of
from fmlayers.scoring_model import ScoringModel

if TYPE_CHECKING:
    import pandas as pd

    from fmlayers.data import Encoder

Format = Literal["saved_model", "litert", "onnx"]
Weights = Literal["float32", "float16", "int8"]

ALIASES = {"tf_saved_model": "saved_model"}  # Keras' own name
FORMATS = (*get_args(Format), *ALIASES)
SUFFIXES = {"litert": ".tflite", "onnx": ".onnx"}
LOOKUPS = (
    keras.layers.Hashing,
    keras.layers.HashedCrossing,
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
)
LARGEST = 2**31  # bytes of a file of theirs, a protocol buffer or a flatbuffer


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
    details: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a model for use outside of Python, with inputs that are right.

    The inputs are named after the features: ids are int64, numbers float32, the batch
    and the length of a list vary. The outputs of a model of the package are `rating`,
    where it has a scaler, and `score`; of any other those of its dict, or its
    `output_names`, or `output`. They are of shape `(batch, 1)`, as in Keras. A model of
    clicks or other labels has a `probability`, too.

    A SavedModel has up to five signatures:

    - `serving_default`: of ids and numbers. `serve` is the same, as Keras calls it.
    - `serve_raw`, with an encoder: of raw values, each column a text `(batch,)`, a list
      with the encoder's separator between its values; numbers in their own unit.
    - `serve_raw_values`, with an encoder: the same, columns of integers being int64 and
      lists `(batch, length)`, padded with `""`.
    - `recommend`, with `items`: the query's raw values, `exclude` and `k` in; `keys`,
      `ids`, `scores` and `ratings` of the best items out.
    - `query_vectors`, with `items`, where the score is a product of two sides: what a
      vector index over `item_vectors` is asked by.

    A LiteRT or ONNX file has the first. Beside each stand a model card, in Markdown and
    in JSON, and the encoder's vocabularies: `README.md`, `card.json` and `encoder.json`
    in a SavedModel's folder; beside a file its name with `.md`, `.json` and
    `.encoder.json` added.

    Letters outside ASCII, spaces and signs in a feature's name become underscores in
    the input's name; the card has both.

    Args:
        model: A model of the package; any functional model; or a subclassed one that
            takes a dict and has a `FeatureEmbedding`, whose features tell its inputs.
        path: The folder or, ending in `.tflite` or `.onnx`, the file to write. It
            appears whole or not at all.
        format: `"saved_model"` (or Keras' `"tf_saved_model"`), `"litert"` or `"onnx"`.
            Defaults to `"saved_model"`.
        overwrite: Whether to replace an export that is there. Defaults to `False`.
        input_signature: Optional dict from entries that the model reads to what has a
            `shape` and a `dtype`, such as `keras.InputSpec`, in place of what the
            features tell. Entries that are left out, and that the model cannot do
            without, are as the features tell.
        probability: Optional Boolean, whether a `probability` is among the outputs:
            the sigmoid of the score, or of the only output, or the rating of a
            `RatingScaler(0, 1)` by sigmoid. Defaults to whether the model is compiled
            with a binary crossentropy, from logits where there is no such scaler.
        encoder: Optional fitted `Encoder`. Defaults to the model's own.
        items: Optional table, a row an item of the catalogue with its raw values. The
            encoder's columns that it has are the items', the others the query's.
        item_key: The column of `items` that names an item. Defaults to the first.
        weights: `"float32"`; `"float16"`, half the size, computed with in float32; or
            `"int8"`, dynamically quantized. The latter two are of LiteRT and ONNX.
        details: Optional dict of what else is to stand in the card.

    Returns:
        The path.

    Raises:
        ValueError: If an argument breaks its constraint, or the backend is not
            TensorFlow.
        FileExistsError: If `path` is there, and may not be replaced.

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
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Exports are made by TensorFlow, and the backend is "
            f"{keras.backend.backend()!r}: save the model with "
            "`model.save('model.keras')`, and export that file in a process with "
            "KERAS_BACKEND=tensorflow, where it loads with equal outputs."
        )
    signature = signature_of(model, input_signature, probability)
    if format in SUFFIXES:
        _check_portable(model, format, signature)
    given = encoder
    if encoder is None and isinstance(model, ScoringModel):
        encoder = model.encoder
    columns = [] if encoder is None else encoder.columns
    absent = [e.feature for e in signature.inputs if e.feature not in columns]
    if absent and given is not None:
        raise ValueError(
            f"`encoder` must have the columns of all inputs, and lacks {absent}. "
            f"It has {list(columns)}."
        )
    if absent:
        encoder = None
    if encoder is None and items is not None:
        raise ValueError(
            "`items` are raw values, which need an encoder of all the model's inputs: "
            "give `encoder`, or build the model with one."
        )

    def card(signatures: Any, examples: Mapping[str, Any]) -> Card:
        return card_of(
            model,
            signatures,
            examples,
            format=format,
            weights=weights,
            details=details or {},
        )

    size = sum(
        variable.value.dtype.size * np.prod(variable.shape)
        for variable in model.variables
    )
    if format in SUFFIXES and size >= LARGEST:
        raise ValueError(
            f"A file of the format {format!r} holds 2 GB at most, and the weights have "
            f'{size / 2**30:.1f} GB: take the format "saved_model".'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "saved_model":
        _write_saved_model(path, model, signature, encoder, items, item_key, card)
    else:
        _write_file(path, format, model, signature, encoder, weights, card)
    return path


def _check(path: Path, format: str, weights: str, items: Any, overwrite: bool) -> None:
    if format not in FORMATS:
        raise ValueError(
            '`format` must be "saved_model", "litert" or "onnx". '
            f"Received: format={format!r}."
        )
    if weights not in get_args(Weights):
        raise ValueError(
            '`weights` must be "float32", "float16" or "int8". '
            f"Received: weights={weights!r}."
        )
    suffix = SUFFIXES.get(format)
    if suffix is None and weights != "float32":
        raise ValueError(
            '`weights` must be "float32" in a SavedModel; the formats "litert" and '
            f'"onnx" have others. Received: weights={weights!r}.'
        )
    if suffix is not None and path.suffix != suffix:
        raise ValueError(
            f"`path` must end in {suffix!r} for the format {format!r}. "
            f"Received: path={str(path)!r}."
        )
    if suffix is not None and items is not None:
        raise ValueError(
            "`items` are for the signature `recommend`, which is a SavedModel's: "
            "LiteRT and ONNX have ids alone."
        )
    if not path.exists() or (
        suffix is None and path.is_dir() and not any(path.iterdir())
    ):
        return
    is_export = path.is_file() if suffix else (path / "saved_model.pb").is_file()
    if not is_export:
        raise FileExistsError(
            f"{path} exists and is no export of the format {format!r}: choose another "
            "path."
        )
    if not overwrite:
        raise FileExistsError(
            f"{path} exists: choose another path, or replace it with `overwrite=True` "
            "(`--overwrite`)."
        )


def _check_portable(model: keras.Model, format: str, signature: Signature) -> None:
    """Raises for what only TensorFlow can run: texts, and the layers that read them."""
    texts = [entry.name for entry in signature.inputs if entry.dtype == "string"]
    layers = [x.name for x in model._flatten_layers() if isinstance(x, LOOKUPS)]
    if texts or layers:
        raise ValueError(
            f"The format {format!r} has no texts and no lookups: take the format "
            '"saved_model", or export the part of the model that takes ids. '
            f"Received: inputs of texts {texts}, lookup layers {layers}."
        )


def _write_saved_model(
    path: Path,
    model: keras.Model,
    signature: Signature,
    encoder: "Encoder | None",
    items: "pd.DataFrame | None",
    item_key: str | None,
    card: Callable[..., Card],
) -> None:
    from fmlayers._files import whole_folder
    from fmlayers.export import saved_model

    signatures, resources = [signature], []
    if encoder is not None:
        from fmlayers.export.raw_encoder import RawEncoder, raw_signature

        raw = RawEncoder(encoder)
        resources += raw.resources
        signatures += [raw_signature(signature, raw, typed=t) for t in (False, True)]
        if items is not None:
            from fmlayers.export.recommender import Recommender

            key = items.columns[0] if item_key is None else item_key
            recommend = Recommender(model, encoder, raw, items, key)
            resources += recommend.resources
            signatures += recommend.signatures()
    traced = {s.name: saved_model.trace(s) for s in signatures}
    with saved_model.plain_names(model), whole_folder(path) as folder:
        saved_model.write(folder, model, traced, resources)
        answers = saved_model.answers(folder, signatures)
        outputs = {
            s.name: (s, saved_model.outputs_of(s, traced[s.name])) for s in signatures
        }
        written = card(outputs, {n: answer_of(found) for n, found in answers.items()})
        _write_card(written, folder / "README.md", folder / "card.json")
        if encoder is not None:
            encoder.save(folder / "encoder.json")


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

    with portable_graph(), saved_model.plain_names(model), _beside(path) as written:
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
        _write_card(content, _added(written, ".md"), _added(written, ".json"))
        if encoder is not None:
            encoder.save(_added(written, ".encoder.json"))


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yields a path to write to; it, and what stands beside it, then is at `path`."""
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as name:
        yield Path(name) / path.name
        _added(path, ".encoder.json").unlink(missing_ok=True)  # of a former export
        # The file itself last.
        for file in sorted(Path(name).iterdir(), reverse=True):
            file.replace(path.parent / file.name)


def _added(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _write_card(card: Card, text: Path, content: Path) -> None:
    text.write_text(text_of(card), "utf-8")
    content.write_text(json.dumps(card, ensure_ascii=False, indent=1) + "\n", "utf-8")
