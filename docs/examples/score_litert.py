"""Scores rows with a LiteRT file, without TensorFlow, Keras or fmlayers.

    fmlayers export RUN --format litert --out model.tflite
    python score_litert.py model.tflite '[{"user": "7", "item": "12"}]'

This needs `pip install numpy ai-edge-litert`.
"""

import json
import sys
from pathlib import Path

from ai_edge_litert.interpreter import Interpreter
from encode import Vocabularies, model_inputs


def main(path: str, rows: str) -> None:
    run = Interpreter(model_path=path).get_signature_runner("serving_default")
    arrays = Vocabularies(f"{path}.encoder.json").encode(json.loads(rows))
    inputs = model_inputs(json.loads(Path(f"{path}.json").read_text("utf-8")), arrays)
    print(json.dumps(run(**inputs)["score"][:, 0].tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
