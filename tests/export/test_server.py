"""docs/examples/server.py as a process: hostile requests, load and SIGTERM."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

from fmlayers.data import Encoder
from fmlayers.export import export
from fmlayers.models import FactorizationMachine

pytestmark = pytest.mark.usefixtures("on_tensorflow")

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
ROWS = [
    {"user": "3", "item": "5", "age": 31, "genres": "Drama|War"},
    {"user": 7, "item": 12.0, "age": None, "genres": ["Comedy", "no such", None]},
    {"item": "no such item", "genres": "", "age": -0.5},
    {"user": True, "item": None, "genres": [], "age": 0},
    {},
]
MEGABYTE = 2**20


class Server:
    def __init__(self, process, port, log):
        self.process = process
        self.port = port
        self.log = log
        self.url = f"http://127.0.0.1:{port}"

    def client(self):
        return httpx.Client(base_url=self.url, trust_env=False, timeout=60)

    def memory(self, name="VmRSS"):
        """Return the resident memory (or its peak) of the process, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", status).group(1))


@contextmanager
def serving(model, log, **limits):
    """Run the server as its docstring says; yields it when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as written:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "server:app", "--host", "127.0.0.1"),
                *("--port", str(port), "--log-level", "warning"),
                *("--limit-concurrency", "100"),
            ],
            cwd=EXAMPLES,
            env={**os.environ, **limits, "MODEL": str(model)}
            | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdout=written,
            stderr=written,
        )
    server = Server(process, port, log)
    try:
        end = time.monotonic() + 120
        with server.client() as http:
            while True:
                try:
                    assert http.get("/health").json() == {"status": "ok"}
                    break
                except httpx.ConnectError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < end, "the server does not answer"
                    time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def model(machine, tmp_path_factory):
    return export(machine, tmp_path_factory.mktemp("server") / "model.onnx", "onnx")


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    with serving(model, tmp_path_factory.mktemp("log") / "server.log") as server:
        yield server


@pytest.fixture
def http(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def expected(machine, encoder):
    table = {
        name: pd.Series([row.get(name) for row in ROWS], dtype=object)
        for name in encoder.columns
    }
    return machine.score(encoder.transform(pd.DataFrame(table))).numpy()[:, 0]


def score(http, body):
    headers = {"content-type": "application/json"}
    return http.post("/score", content=body, headers=headers)


def test_rows_are_scored(http, expected):
    answer = http.post("/score", json=ROWS)
    assert answer.status_code == 200
    np.testing.assert_allclose(answer.json(), expected, atol=1e-5)
    assert len({f"{x:.5f}" for x in expected}) == len(ROWS)
    assert http.post("/score", json=[]).json() == []
    assert len(http.post("/score", json=[{}] * 1000).json()) == 1000


WRONG = {
    "age": [
        *('"abc"', '""', "{}", "[1]", "true", '"31"', "1e400", "1e308", "1e38"),
        *("1" + "0" * 400, "NaN", "Infinity", "-Infinity"),
    ],
    "genres": [
        *("5", "true", "{}", "[[]]", "[{}]", "[NaN]", '["Drama", 1e400]'),
        json.dumps(["x"] * 101),
        json.dumps("|".join(["x"] * 101)),
        json.dumps(["x" * 1001]),
        "[1" + "0" * 400 + "]",
    ],
    "user": [
        "[]",
        "{}",
        '["3"]',
        "NaN",
        "1e400",
        "1" + "0" * 400,
        '"' + "x" * 1001 + '"',
    ],
    "no such field": ["1", "null"],
}


@pytest.mark.parametrize(
    ("field", "value"), [(f, v) for f, values in WRONG.items() for v in values]
)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(field, value, http):
    body = f'[{{"item": "5"}}, {{"item": "5", {json.dumps(field)}: {value}}}]'
    answer = score(http, body)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["detail"]
    assert error["loc"] == ["body", 1, field]
    assert len(answer.content) < 500  # what was sent is not repeated


BROKEN = {
    "no rows": (b"null", b"5", b'{"user": "3"}', b"[5]", b"[null]", b"[[]]"),
    "no JSON": (b"", b"[{}", b"[{}] x", b"\xff\xfe", b'[{"user": "\\ud800"}]'),
    "nested": (b"[" * 100_000, b'[{"user":' * 10_000),
    "digits": (b'[{"age": ' + b"1" * 5000 + b"}]",),
    "rows": (b"[" + b",".join([b"{}"] * 1001) + b"]",),
    "fields": (json.dumps([{f"field {i}": 0 for i in range(50_000)}]).encode(),),
    "errors": (json.dumps([{"age": "x"}] * 1000).encode(),),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_body_is_refused(kind, http):
    for body in BROKEN[kind]:
        answer = score(http, body)
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"][0]["loc"][0] == "body"
        assert len(answer.content) < 500


def test_a_large_body_is_refused_while_it_arrives(server, http):
    large = b"[{}]" + b" " * (MEGABYTE - 3)
    assert score(http, large[:-1]).status_code == 200
    assert score(http, large).status_code == 413
    assert score(http, iter([large])).status_code == 413  # of unknown length
    # The answer comes before the rest of the body does.
    with connection(server, b"Content-Length: " + b"9" * 5000) as rest:
        assert b" 4" in rest.recv(100).splitlines()[0]
    for length in (b"Content-Length: 1099511627776", b"Transfer-Encoding: chunked"):
        with connection(server, length) as rest:
            if length.startswith(b"T"):
                rest.sendall(b"%x\r\n" % len(large) + large + b"\r\n")
            assert b"413" in rest.recv(100).splitlines()[0]


def test_a_client_that_ends_within_its_body_is_no_error(server, http):
    before = metrics(http)
    with connection(server, b"Content-Length: 100") as rest:
        rest.sendall(b'[{"user"')
    key = 'http_requests_total{path="/score",status="400"}'
    wait_for(lambda: metrics(http).get(key, 0) > before.get(key, 0))
    assert score(http, b"[{}]").status_code == 200


def test_metrics_count_requests_and_rows(http):
    before = metrics(http)
    assert score(http, b"[{}, {}]").status_code == 200
    assert score(http, b"[{}, 5]").status_code == 422
    assert http.get("/no/such/path").status_code == 404
    after = metrics(http)
    grown = {
        'http_requests_total{path="/score",status="200"}': 1,
        'http_requests_total{path="/score",status="422"}': 1,
        'http_requests_total{path="other",status="404"}': 1,
        "scored_rows_total": 2,
        "http_request_duration_seconds_count": 4,  # with the one for `before`
        'http_request_duration_seconds_bucket{le="+Inf"}': 4,
    }
    for name, count in grown.items():
        assert after[name] - before.get(name, 0) == count, name
    assert after["http_requests_in_flight"] == 1
    types = re.findall(r"# TYPE (\w+) ", http.get("/metrics").text)
    assert {re.match(r"\w+?(?=_bucket|_sum|_count|\{|$)", n)[0] for n in after} == {
        *types
    }
    assert http.get("/metrics").headers["content-type"].startswith("text/plain")


def test_the_columns_are_documented(http):
    assert http.get("/docs").status_code == 200
    (body,) = (
        http.get("/openapi.json")
        .json()["paths"]["/score"]["post"]["requestBody"]["content"]
        .values()
    )
    row = body["schema"]["items"]
    assert list(row["properties"]) == ["user", "age", "item", "genres"]
    assert row["additionalProperties"] is False


def metrics(http):
    lines = http.get("/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def connection(server, length):
    """Return a socket on which the head of a request to `/score` was sent."""
    opened = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    opened.sendall(
        b"POST /score HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n\r\n"
    )
    return opened


@pytest.mark.slow
def test_limits_are_set_in_the_environment(model, tmp_path):
    limits = {
        "MAX_ROWS": "2",
        "MAX_LIST_LENGTH": "1",
        "MAX_TEXT_LENGTH": "3",
        "MAX_BODY_BYTES": "60",
        "MAX_BODY_SECONDS": "0.5",
        "MAX_DEVIATIONS": "100",
    }
    with serving(model, tmp_path / "log", **limits) as server, server.client() as http:
        for body in ("[{},{}]", '[{"genres":["x"],"user":"123","age":30}]'):
            assert score(http, body).status_code == 200
        for body in (
            *("[{},{},{}]", '[{"genres":["x","y"]}]', '[{"genres":"x|y"}]'),
            *('[{"user":"1234"}]', '[{"genres":["1234"]}]', '[{"age":99999}]'),
        ):
            assert score(http, body).status_code == 422
        assert score(http, "[{}]" + " " * 57).status_code == 413
        with connection(server, b"Content-Length: 4") as slow:
            slow.sendall(b"[{}")
            assert b"408" in slow.recv(100).splitlines()[0]


@pytest.mark.slow
def test_a_row_without_a_finite_score_is_refused(encoder, tmp_path):
    # In ONNX, this model has no score for an unknown user.
    strict = FactorizationMachine(
        encoder.features, 3, encoder=encoder, out_of_range="error"
    )
    path = export(strict, tmp_path / "model.onnx", "onnx")
    limits = {"MAX_DEVIATIONS": "1e40"}  # allows numbers beyond float32
    with serving(path, tmp_path / "log", **limits) as server, server.client() as http:
        assert score(http, '[{"user": "3"}]').status_code == 200
        for row, location, message in (
            ('{"user": "unknown"}', [1], "the model has no finite score for this row"),
            ('{"age": 8e40}', [], "Column 'age', row 1: must be a number in float32's"),
            ('{"age": 1e42}', [1, "age"], "must be a number from"),
        ):
            answer = score(http, f"[{{}}, {row}]")
            assert answer.status_code == 422, answer.text
            (error,) = answer.json()["detail"]
            assert error["loc"] == ["body", *location]
            assert error["msg"].startswith(message)


@pytest.mark.slow
def test_vectors_are_scored(shaken, tmp_path):
    table = pd.DataFrame({"user": ["ann", "bob"], "text": [[3.0, 4.0], [0.0, 5.0]]})
    encoder = Encoder({"user": "categorical", "text": "vector"}).fit(table)
    model = shaken(FactorizationMachine(encoder.features, 3, encoder=encoder))
    path = export(model, tmp_path / "model.onnx", "onnx")
    columns = json.loads(Path(f"{path}.json").read_text("utf-8"))["encoder"]["columns"]
    facts = {"name": "text", "kind": "vector", "size": 2, "scale": 5.0}
    assert facts in columns
    rows = pd.DataFrame({"user": ["bob"] * 2, "text": [[1, -2.5], None]})
    expected = model.score(encoder.transform(rows)).numpy()[:, 0]
    with serving(path, tmp_path / "log") as server, server.client() as http:
        answer = score(http, json.dumps(rows.to_dict("records")))
        np.testing.assert_allclose(answer.json(), expected, rtol=1e-4, atol=1e-5)
        for cell in ("[1]", "[1, 2, 3]", "[1, null]", '["1", 2]', "[1, 1e400]", "3"):
            answer = score(http, f'[{{"text": {cell}}}]')
            assert answer.status_code == 422, cell
            (error,) = answer.json()["detail"]
            assert error["loc"] == ["body", 0, "text"]
            assert error["msg"] == "must be a list of 2 finite numbers or null"
        answer = score(http, '[{"text": [1, 1e39]}]')
        assert answer.status_code == 422
        assert "Column 'text', row 0: must be a vector of 2" in answer.text


@pytest.mark.slow
def test_sigterm_answers_the_request_in_flight(model, tmp_path, expected):
    body = json.dumps(ROWS).encode()
    with serving(model, tmp_path / "log") as server:
        with connection(server, b"Content-Length: %d" % len(body)) as slow:
            slow.sendall(body[:20])
            with server.client() as http:
                wait_for(lambda: metrics(http)["http_requests_in_flight"] == 2)
            server.process.send_signal(signal.SIGTERM)

            def is_closed():
                try:
                    socket.create_connection(("127.0.0.1", server.port)).close()
                except ConnectionRefusedError:
                    return True
                return False

            wait_for(is_closed)
            assert server.process.poll() is None
            slow.sendall(body[20:])
            answer = b"".join(iter(lambda: slow.recv(65536), b""))
        head, _, content = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        np.testing.assert_allclose(json.loads(content), expected, atol=1e-5)
        # 143 in a shell: uvicorn ends by the signal, after everything is closed.
        assert server.process.wait(timeout=60) == -signal.SIGTERM


@pytest.mark.slow
def test_load(model, tmp_path, expected, capsys):
    """2,000 good and 500 bad requests, 16 at once: no 500, and memory stays flat."""
    good = itertools.cycle([(json.dumps(ROWS).encode(), 200)])
    wrong = [
        f'[{{"{field}": {value}}}]'.encode()
        for field, values in WRONG.items()
        for value in values
    ]
    broken = [body for bodies in BROKEN.values() for body in bodies]
    # Lists as long as a body allows, which would be padded to gigabytes.
    padded = json.dumps([{"genres": ["x"] * 40_000}, *[{}] * 100_000]).encode()
    bad = [(body, 422) for body in [*wrong, *broken, padded]]
    bad = itertools.cycle([*bad, (b" " * (2 * MEGABYTE), 413)])
    requests = [next(bad) if i % 5 == 0 else next(good) for i in range(2500)]
    assert sum(status == 200 for _, status in requests) == 2000

    with serving(model, tmp_path / "log") as server, server.client() as http:

        def send(request):
            body, status = request
            start = time.perf_counter()
            answer = score(http, body)
            seconds = time.perf_counter() - start
            assert answer.status_code == status, (body[:100], answer.text)
            if status == 200:
                np.testing.assert_allclose(answer.json(), expected, atol=1e-5)
            return seconds

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(send, requests[:500]))
            before = server.memory()
            seconds = list(threads.map(send, requests))
            after, peak = server.memory(), server.memory("VmHWM")
    good_seconds = [
        x for x, (_, status) in zip(seconds, requests, strict=True) if status == 200
    ]
    with capsys.disabled():
        p50, p99 = 1000 * np.quantile(good_seconds, [0.5, 0.99])
        print(
            f"\n2,500 requests, 16 at once: p50 {p50:.1f} ms, p99 {p99:.1f} ms; memory "
            f"{before / MEGABYTE:.0f} MB, then {after / MEGABYTE:.0f} MB, "
            f"peak {peak / MEGABYTE:.0f} MB"
        )
    assert after < before + 64 * MEGABYTE
    assert peak < before + 512 * MEGABYTE
