"""Serves an ONNX file with FastAPI and ONNX Runtime.

    fmlayers export RUN --format onnx --out model.onnx
    MODEL=model.onnx uvicorn server:app --port 8000
    curl localhost:8000/score -H 'content-type: application/json' \
        -d '[{"user": "7", "item": "12"}, {"user": "7", "item": "30"}]'

This needs `pip install fastapi numpy onnxruntime uvicorn`.
"""

import os
from typing import Any

import onnxruntime
from encode import Vocabularies
from fastapi import FastAPI

path = os.environ["MODEL"]
session = onnxruntime.InferenceSession(path)
vocabularies = Vocabularies(f"{path}.encoder.json")
app = FastAPI()


@app.post("/score")
def score(rows: list[dict[str, Any]]) -> list[float]:
    """Returns a score for each row of raw values."""
    (scores,) = session.run(["score"], vocabularies.encode(rows))
    return scores[:, 0].tolist()
