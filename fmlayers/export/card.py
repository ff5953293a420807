"""The model card of an export, in Markdown and in JSON."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import keras

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
        details: Dict of further sections, such as metrics.
    """
    return {
        "model": type(model).__name__,
        "format": format,
        "weights": weights,
        "parameters": int(model.count_params()),
        "trained": dict(details),
        "features": [_feature(feature) for feature in features_of(model)],
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
        f"# {card['model']}",
        "",
        f"Exported by fmlayers {card['versions']['fmlayers']} as {card['format']}, "
        f"{card['parameters']:,} parameters in {card['weights']}.",
    ]
    for name, content in card["trained"].items():
        lines += ["", f"## {name.capitalize()}", ""]
        facts = content if isinstance(content, Mapping) else {name: content}
        rows = [[key, _short(value)] for key, value in facts.items()]
        lines += _table(["", ""], rows)
    if card["features"]:
        lines += ["", "## Features", ""]
        keys = ["name", "kind", "vocabulary_size"]
        rows = [[feature.get(key, "") for key in keys] for feature in card["features"]]
        lines += _table(["feature", "kind", "vocabulary"], rows)
    for name, signature in card["signatures"].items():
        lines += ["", f"## `{name}`", "", signature["meaning"], ""]
        for kind in ("inputs", "outputs"):
            rows = [
                [f"`{e['name']}`", e["dtype"], _shape(e, name, kind), e["meaning"]]
                for e in signature[kind]
            ]
            lines += [*_table([kind[:-1], "type", "shape", "meaning"], rows), ""]
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


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    def line(cells: Sequence[Any]) -> str:
        texts = [str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells]
        return f"| {' | '.join(texts)} |"

    return [line(head), line(["---"] * len(head)), *map(line, rows)]


def _block(content: Any) -> list[str]:
    return ["```json", json.dumps(content, ensure_ascii=False), "```"]
