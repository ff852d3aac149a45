"""The metrics for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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
        self._registry = collectors = CollectorRegistry()
        self.requests = Counter(
            "registry_http_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=collectors,
        )
        self.request_seconds = Histogram(
            "registry_http_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=collectors,
        )
        self.requests_in_progress = Gauge(
            "registry_http_busy", "Requests being answered.", registry=collectors
        )
        self.body_memory = Gauge(
            "registry_http_body_memory_bytes",
            "Memory for the bodies of requests and what is read from them, as it is estimated.",
            registry=collectors,
        )
        self.connections = Gauge(
            "registry_http_connections", "Open connections.", registry=collectors
        )
        self.connections_closed = Counter(
            "registry_http_connections_closed",
            "Connections that the server closed for its limits.",
            ["reason"],
            registry=collectors,
        )
        self.samples = Counter(
            "registry_samples", "Samples committed.", ["dataset", "outcome"], registry=collectors
        )
        self.commit_requests = Histogram(
            "registry_commit_requests",
            "Requests committed together.",
            ["dataset"],
            buckets=_REQUESTS,
            registry=collectors,
        )
        self.commit_seconds = Histogram(
            "registry_commit_seconds",
            "Duration of a commit.",
            ["dataset"],
            buckets=_SECONDS,
            registry=collectors,
        )
        self.queued_requests = Gauge(
            "registry_commit_waiting", "Requests waiting.", ["dataset"], registry=collectors
        )
        self.events = Counter(
            "registry_webhook_events",
            "Webhook deliveries.",
            ["dataset", "tool", "outcome"],
            registry=collectors,
        )

    def text(self) -> bytes:
        return generate_latest(self._registry)
