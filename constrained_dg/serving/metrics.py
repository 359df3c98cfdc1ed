"""What Prometheus reads at /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_PREFIX = "constrained_dg_"


class Metrics:
    """Counts of one server. Paths that do not exist count together, since a client chooses their names."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(f"{_PREFIX}requests", "requests", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(f"{_PREFIX}seconds", "seconds of a request", ["path"], registry=self.registry)
        self.open = 0  # requests that are being served
        gauge = Gauge(f"{_PREFIX}open_requests", "requests that are being served", registry=self.registry)
        gauge.set_function(lambda: self.open)
        self.waiting = Gauge(f"{_PREFIX}waiting_rows", "rows that wait for a batch", registry=self.registry)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128)
        self.rows = Histogram(f"{_PREFIX}batch_rows", "rows of a batch", buckets=sizes, registry=self.registry)
        self.passes = Counter(f"{_PREFIX}passes", "passes of all rows", registry=self.registry)
        self.tokens = Counter(f"{_PREFIX}tokens", "tokens of all answers", registry=self.registry)
        self.given_up = Counter(f"{_PREFIX}given_up_rows", "rows whose client went", registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)
