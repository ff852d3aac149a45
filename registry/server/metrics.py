"""The metrics for Prometheus."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The metrics of one server, by route and by dataset.

    A label's values must be bounded, since each one is a time series: only names of existing
    datasets and patterns of routes are used, never text from a request.
    """

    def __init__(self) -> None:
        # Not the global registry of prometheus_client: a second server in the process would raise
        # for duplicate names.
        self._registry = CollectorRegistry()
        counter = partial(Counter, registry=self._registry)
        gauge = partial(Gauge, registry=self._registry)
        seconds = partial(Histogram, registry=self._registry, buckets=_SECONDS)
        self.requests: Counter = counter(
            "registry_http_requests", "Requests answered.", ["method", "route", "status"]
        )
        self.request_seconds: Histogram = seconds(
            "registry_http_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
        )
        self.requests_in_progress: Gauge = gauge("registry_http_busy", "Requests being answered.")
        self.body_memory: Gauge = gauge(
            "registry_http_body_memory_bytes",
            "Memory for the bodies of requests and what is read from them, as it is estimated.",
        )
        self.connections: Gauge = gauge("registry_http_connections", "Open connections.")
        self.connections_closed: Counter = counter(
            "registry_http_connections_closed",
            "Connections that the server closed for its limits.",
            ["reason"],
        )
        self.samples: Counter = counter(
            "registry_samples", "Samples committed.", ["dataset", "outcome"]
        )
        self.commit_requests: Histogram = Histogram(
            "registry_commit_requests",
            "Requests committed together.",
            ["dataset"],
            buckets=_REQUESTS,
            registry=self._registry,
        )
        self.commit_seconds: Histogram = seconds(
            "registry_commit_seconds", "Duration of a commit.", ["dataset"]
        )
        self.queued_requests: Gauge = gauge(
            "registry_commit_waiting", "Requests waiting.", ["dataset"]
        )
        self.events: Counter = counter(
            "registry_webhook_events", "Webhook deliveries.", ["dataset", "tool", "outcome"]
        )

    def add(self, collector: Collector) -> None:
        """Add what brings its own metrics."""
        self._registry.register(collector)

    def text(self) -> bytes:
        return generate_latest(self._registry)
