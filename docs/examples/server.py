"""Serves an ONNX file with FastAPI and ONNX Runtime.

    fmlayers export RUN --format onnx --out model.onnx
    MODEL=model.onnx uvicorn server:app --port 8000 --limit-concurrency 100
    curl localhost:8000/score -H 'content-type: application/json' \
        -d '[{"user": "7", "item": "12"}, {"user": "7", "item": "30"}]'

This needs `pip install fastapi numpy onnxruntime uvicorn`. `/docs` describes a row,
`/health` answers as soon as the model is loaded, and `/metrics` is for Prometheus. On
SIGTERM, uvicorn answers the requests in flight and ends. Set the limits below with
environment variables of the same names.
"""

import asyncio
import os
from typing import Annotated, Any

import numpy as np
import onnxruntime
from encode import Vocabularies, model_inputs, read_card
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from metrics import CountRequests, Metrics
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    TypeAdapter,
    ValidationError,
    WrapValidator,
    create_model,
)
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect

MAX_ROWS = int(os.environ.get("MAX_ROWS", 1000))
MAX_LIST_LENGTH = int(os.environ.get("MAX_LIST_LENGTH", 100))
MAX_TEXT_LENGTH = int(os.environ.get("MAX_TEXT_LENGTH", 1000))
MAX_BODY_BYTES = int(os.environ.get("MAX_BODY_BYTES", 2**20))
MAX_BODY_SECONDS = float(os.environ.get("MAX_BODY_SECONDS", 10))
# The largest distance of a number from the mean of the training rows, in standard
# deviations. A number beyond float32 would have no finite score.
MAX_DEVIATIONS = float(os.environ.get("MAX_DEVIATIONS", 1e6))


def row_model(encoder: dict[str, Any]) -> type[BaseModel]:
    """Returns the model of a row, from the entry `"encoder"` of a model card.

    A column that is null or absent is missing. Unknown fields are errors.
    """
    fields: dict[str, Any] = {}
    for i, column in enumerate(encoder["columns"]):
        # As an alias, the name of a column may be any text.
        field = Field(default=None, alias=column["name"])
        fields[f"column_{i}"] = (_type(column, encoder["separator"]), field)
    return create_model("Row", __config__=ConfigDict(extra="forbid"), **fields)


def _type(column: dict[str, Any], separator: str) -> Any:
    if column["kind"] == "numeric":
        reach = MAX_DEVIATIONS * column["deviation"]
        low, high = column["mean"] - reach, column["mean"] + reach
        number = Annotated[
            float, Field(strict=True, allow_inf_nan=False, ge=low, le=high)
        ]
        return _or_null(number, f"a number from {low:g} to {high:g}")
    number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
    if column["kind"] == "vector":
        size = column["size"]
        vector = Annotated[list[number], Field(min_length=size, max_length=size)]
        return _or_null(vector, f"a list of {size} finite numbers")
    text = Annotated[str, Field(strict=True, max_length=MAX_TEXT_LENGTH)]
    integer = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**64)]
    value = Annotated[bool, Field(strict=True)] | integer | number | text
    allowed = (
        f"text of at most {MAX_TEXT_LENGTH} characters, a 64-bit integer, "
        "another finite number, true, false"
    )
    if column["kind"] == "categorical":
        return _or_null(value, allowed)

    def split(cell: Any) -> Any:
        if isinstance(cell, str):
            return [part for part in cell.split(separator) if part]
        return cell

    values = Annotated[list[value | None], Field(max_length=MAX_LIST_LENGTH)]
    return _or_null(
        Annotated[values, BeforeValidator(split, json_schema_input_type=str | values)],
        f"a list of at most {MAX_LIST_LENGTH} values, or text with {separator!r} "
        f"between them, where each value is {allowed}",
    )


def _or_null(kind: Any, allowed: str) -> Any:
    """Returns an optional type with one error, which says what the type accepts."""

    def validate(cell: Any, validate_kind: Any) -> Any:
        try:
            return validate_kind(cell)
        except ValidationError:
            raise PydanticCustomError(
                "wrong_value", "must be {allowed} or null", {"allowed": allowed}
            ) from None

    return Annotated[kind | None, WrapValidator(validate)]


path = os.environ["MODEL"]
card = read_card(path)
if "encoder" not in card:
    raise RuntimeError(
        f"{path}.json must describe the columns of raw values. Export a model with an "
        "encoder, with the current version of fmlayers."
    )
session = onnxruntime.InferenceSession(path)
vocabularies = Vocabularies(f"{path}.encoder.json")
Row = row_model(card["encoder"])


def few_fields(row: Any) -> Any:
    """Refuses a row of very many fields, which would make as many error messages."""
    if isinstance(row, dict) and len(row) > 2 * len(Row.model_fields) + 10:
        raise PydanticCustomError("too_many_fields", "must have the known fields only")
    return row


Rows = Annotated[list[Annotated[Row, BeforeValidator(few_fields)]], FailFast()]
rows_of = TypeAdapter(Annotated[Rows, Field(max_length=MAX_ROWS)]).validate_json


def run(rows: list[dict[str, Any]]) -> np.ndarray:
    """Returns the score of each row of raw values."""
    inputs = model_inputs(card, vocabularies.encode(rows))
    return session.run(["score"], inputs)[0][:, 0]


def scores_of(body: bytes) -> list[float]:
    """Returns the score of each row of a request."""
    rows = rows_of(body)
    try:
        scores = run([row.model_dump(by_alias=True) for row in rows])
    except ValueError as error:  # of the encoder, which names the column
        raise RequestValidationError([{"loc": (), "msg": str(error)}]) from None
    for row in np.flatnonzero(~np.isfinite(scores)):
        message = "the model has no finite score for this row"
        raise RequestValidationError([{"loc": (int(row),), "msg": message}])
    return scores.tolist()


async def body_of(request: Request) -> bytes:
    """Returns the body of a request, and stops reading when it exceeds the limit."""
    too_large = HTTPException(
        413,
        f"The body must have at most {MAX_BODY_BYTES} bytes.",
        {"connection": "close"},
    )
    if int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(MAX_BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise HTTPException(
            408,
            f"The body must arrive within {MAX_BODY_SECONDS:g} seconds.",
            {"connection": "close"},
        ) from None
    except ClientDisconnect:
        raise HTTPException(400, "The client closed the connection.") from None
    return bytes(body)


metrics = Metrics("/score", "/health", "/metrics")
app = FastAPI(title=f"Scores of a {card['model']}")
app.add_middleware(CountRequests, metrics=metrics)
run([{}])  # fails here rather than in the first request if the files do not match
schema = {"type": "array", "maxItems": MAX_ROWS, "items": Row.model_json_schema()}


@app.exception_handler(ValidationError)
@app.exception_handler(RequestValidationError)
def refuse(request: Request, error: Any) -> JSONResponse:
    """Names the row and the field, without repeating what was sent."""
    detail = [
        {"loc": ["body", *entry["loc"]], "msg": entry["msg"]}
        for entry in error.errors()
    ]
    return JSONResponse({"detail": detail}, 422)


@app.post(
    "/score",
    openapi_extra={
        "requestBody": {"content": {"application/json": {"schema": schema}}}
    },
)
async def score(request: Request) -> list[float]:
    """Returns a score for each row of raw values."""
    scores = await run_in_threadpool(scores_of, await body_of(request))
    metrics.rows += len(scores)
    return scores


@app.get("/health")
async def health() -> dict[str, str]:
    """Answers when the model is loaded."""
    return {"status": "ok"}


@app.get("/metrics", response_class=PlainTextResponse)
async def metrics_text() -> str:
    """Returns the metrics of this process for Prometheus."""
    return metrics.text()
