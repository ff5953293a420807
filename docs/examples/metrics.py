"""Counts the requests of an ASGI app, for Prometheus."""

import time
from collections import Counter
from typing import Any

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Counts requests by path and status, and measures how long they take.

    The event loop is the only thread that writes, so no lock is needed. Each worker
    process of a server counts for itself.

    Args:
        paths: Paths with counts. All other paths share the label `other`.
    """

    def __init__(self, *paths: str) -> None:
        self.paths = paths
        self.rows = 0
        self.in_flight = 0
        self.requests: Counter[tuple[str, int]] = Counter()
        self.durations: Counter[float] = Counter()
        self.seconds = 0.0

    def text(self) -> str:
        """Returns the metrics in the text format of Prometheus."""
        lines = ["# TYPE http_requests_total counter"]
        for (path, status), count in sorted(self.requests.items()):
            labels = f'path="{path}",status="{status}"'
            lines.append(f"http_requests_total{{{labels}}} {count}")
        lines += ["# TYPE http_request_duration_seconds histogram"]
        count = 0
        for bound in SECONDS:
            count += self.durations[bound]
            lines.append(
                f'http_request_duration_seconds_bucket{{le="{bound}"}} {count}'
            )
        total = sum(self.durations.values())
        lines += [
            f'http_request_duration_seconds_bucket{{le="+Inf"}} {total}',
            f"http_request_duration_seconds_sum {self.seconds:.6f}",
            f"http_request_duration_seconds_count {total}",
            "# TYPE http_requests_in_flight gauge",
            f"http_requests_in_flight {self.in_flight}",
            "# TYPE scored_rows_total counter",
            f"scored_rows_total {self.rows}",
        ]
        return "\n".join(lines) + "\n"


class CountRequests:
    """ASGI middleware that writes `metrics`."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        metrics, status, start = self.metrics, 500, time.perf_counter()

        async def send_and_note(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)  # of the message that starts it
            await send(message)

        metrics.in_flight += 1
        try:
            await self.app(scope, receive, send_and_note)
        finally:
            seconds = time.perf_counter() - start
            path = scope["path"] if scope["path"] in metrics.paths else "other"
            metrics.in_flight -= 1
            metrics.requests[path, status] += 1
            bound = next((bound for bound in SECONDS if seconds <= bound), float("inf"))
            metrics.durations[bound] += 1
            metrics.seconds += seconds
