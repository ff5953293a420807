"""The model card of an export, in Markdown and in JSON."""

import html
import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from fmlayers.data.encoder import Encoder
from fmlayers.export.signature import Entry, Signature, features_of

Card = dict[str, Any]

PACKAGES = ("fmlayers", "keras", "tensorflow", "numpy")


def card_of(
    model: keras.Model,
    signatures: Mapping[str, tuple[Signature, Sequence[Entry]]],
    examples: Mapping[str, Any],
    *,
    format: str,
    weights: str,
    encoder: Encoder | None,
    details: Mapping[str, Any],
) -> Card:
    """Returns the model card as a dict that can be written to JSON.

    Args:
        model: The exported model.
        signatures: Dict from name to a tuple of the signature and its outputs.
        examples: Dict from the name of a signature to the response of the export to
            its example.
        format: `"saved_model"`, `"litert"` or `"onnx"`.
        weights: Dtype of the weights in the export.
        encoder: Optional encoder of the model's inputs.
        details: Dict of further sections, such as metrics.
    """
    return {
        "model": type(model).__name__,
        "format": format,
        "weights": weights,
        "parameters": int(model.count_params()),
        "trained": dict(details),
        "features": [_feature(feature) for feature in features_of(model)],
        **({} if encoder is None else {"encoder": _encoder(encoder, signatures)}),
        "signatures": {
            name: {
                "meaning": signature.meaning,
                "inputs": [_entry(entry) for entry in signature.inputs],
                "outputs": [_entry(entry) for entry in outputs],
                "request": request_of(signature),
                "answer": examples[name],
            }
            for name, (signature, outputs) in signatures.items()
        },
        "versions": _versions(format),
    }


def request_of(signature: Signature) -> dict[str, Any]:
    """Returns a request of a signature's example to TensorFlow Serving's REST API."""
    inputs = {entry.name: entry.array().tolist() for entry in signature.inputs}
    return {"signature_name": signature.name, "inputs": inputs}


def answer_of(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the response of TensorFlow Serving's REST API for some outputs."""
    values = {name: _plain(array.tolist()) for name, array in outputs.items()}
    # The name of a single output is omitted.
    return {"outputs": values if len(values) > 1 else next(iter(values.values()))}


def text_of(card: Card) -> str:
    """Returns the card in Markdown."""
    lines = [
        f"# {_escaped(card['model'])}",
        "",
        f"Exported by fmlayers {card['versions']['fmlayers']} as {card['format']}, "
        f"{card['parameters']:,} parameters in {card['weights']}.",
    ]
    for name, content in card["trained"].items():
        lines += ["", f"## {_escaped(name.capitalize())}", ""]
        facts = content if isinstance(content, Mapping) else {name: content}
        lines += _table(["", ""], list(facts.items()))
    if card["features"]:
        lines += ["", "## Features", ""]
        keys = ["name", "kind", "vocabulary_size"]
        rows = [[feature.get(key, "") for key in keys] for feature in card["features"]]
        lines += _table(["feature", "kind", "vocabulary"], rows)
    if "encoder" in card:
        lines += ["", "## Columns of raw values", ""]
        keys = ["name", "kind", "values", "mean", "deviation"]
        columns = card["encoder"]["columns"]
        rows = [[column.get(key, "") for key in keys] for column in columns]
        lines += _table(["column", *keys[1:]], rows)
    for name, signature in card["signatures"].items():
        lines += ["", f"## `{name}`", "", signature["meaning"], ""]
        for kind in ("inputs", "outputs"):
            rows = [
                [e["name"], e["dtype"], _shape(e, name, kind), e["meaning"]]
                for e in signature[kind]
            ]
            head = [kind[:-1], "type", "shape", "meaning"]
            lines += [*_table(head, rows, code=True), ""]
        if card["format"] == "saved_model":
            lines += [
                "A request to TensorFlow Serving, `POST /v1/models/NAME:predict`:"
            ]
        else:
            lines += ["An example:"]
        lines += ["", *_block(signature["request"]), "", "The response:", ""]
        lines += _block(signature["answer"])
    lines += ["", "## Versions", ""]
    lines += _table(["", ""], list(card["versions"].items()))
    return "\n".join(lines) + "\n"


def _feature(feature: Any) -> dict[str, Any]:
    return {"kind": type(feature).__name__, **feature.get_config()}


def _encoder(encoder: Encoder, signatures: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the columns of raw values that the model reads."""
    signature, _ = signatures["serving_default"]
    columns = []
    for name in (entry.feature for entry in signature.inputs):
        if name not in encoder.columns:  # the weights of a column
            continue
        columns.append(
            {
                "name": name,
                "kind": encoder.columns[name],
                **encoder.column(name).facts(),
            }
        )
    return {"separator": encoder.separator, "columns": columns}


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "dtype": entry.dtype,
        "shape": list(entry.shape),
        "meaning": entry.meaning,
        **({"feature": entry.feature} if entry.feature else {}),
    }


def _versions(format: str) -> dict[str, str]:
    packages = (*PACKAGES, *(("onnx", "tf2onnx") if format == "onnx" else ()))
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {"python": platform.python_version(), **versions}


def _plain(value: Any) -> Any:
    """Converts bytes to text and rounds floats to float32's precision, recursively."""
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, bytes):
        return value.decode()
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _shape(entry: Mapping[str, Any], signature: str, kind: str) -> str:
    top_k = signature == "recommend" and kind == "outputs"
    names = ["batch", "k" if top_k else "length", "length", "length"]
    sizes = [
        name if size is None else str(size)
        for name, size in zip(names, entry["shape"], strict=False)
    ]
    return f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"


def _table(
    head: Sequence[str], rows: Sequence[Sequence[Any]], *, code: bool = False
) -> list[str]:
    """Returns a table whose first column is code if `code` is true."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def texts(cells: Sequence[Any]) -> list[str]:
        first, *others = cells
        return [_code(first) if code else _escaped(first), *map(_escaped, others)]

    return [line(head), line(["---"] * len(head)), *map(line, map(texts, rows))]


def _escaped(value: Any) -> str:
    """Returns a value as text that Markdown shows unchanged, on one line."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = re.sub(r"([\\`*\[\]|~!$#])", r"\\\1", _one_line(text))
    text = re.sub(r"(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])", r"\\_", text)
    return html.escape(text, quote=False)


def _code(value: Any) -> str:
    """Returns a value as a code span of a table, whatever the value contains."""
    text = _one_line(str(value)).replace("|", "\\|")
    if "`" not in text and "<" not in text and text.strip():
        return f"`{text}`"
    return f"<code>{_escaped(value)}</code>"


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _block(content: Any) -> list[str]:
    # As "\u003c", a tag in a value is no HTML, and the JSON is the same.
    text = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
    return ["```json", text, "```"]
