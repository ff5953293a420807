"""Scores rows with an ONNX file, without TensorFlow, Keras or fmlayers.

    fmlayers export RUN --format onnx --out model.onnx
    python score_onnx.py model.onnx '[{"user": "7", "item": "12"}]'

This needs `pip install numpy onnxruntime`.
"""

import json
import sys
from pathlib import Path

import onnxruntime
from encode import Vocabularies, model_inputs


def main(path: str, rows: str) -> None:
    session = onnxruntime.InferenceSession(path)
    arrays = Vocabularies(f"{path}.encoder.json").encode(json.loads(rows))
    inputs = model_inputs(json.loads(Path(f"{path}.json").read_text("utf-8")), arrays)
    (scores,) = session.run(["score"], inputs)
    print(json.dumps(scores[:, 0].tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
