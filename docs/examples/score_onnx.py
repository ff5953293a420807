"""Scores rows with an ONNX file, without TensorFlow, Keras or fmlayers.

    fmlayers export RUN --format onnx --out model.onnx
    python score_onnx.py model.onnx '[{"user": "7", "item": "12"}]'

This needs `pip install numpy onnxruntime`.
"""

import json
import sys

import onnxruntime
from encode import Vocabularies, model_inputs, read_card


def main(path: str, rows: str) -> None:
    card = read_card(path)
    session = onnxruntime.InferenceSession(path)
    arrays = Vocabularies(f"{path}.encoder.json").encode(json.loads(rows))
    inputs = model_inputs(card, arrays)
    (scores,) = session.run(["score"], inputs)
    print(json.dumps(scores[:, 0].tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
