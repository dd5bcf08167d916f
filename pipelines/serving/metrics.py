"""Numbers about the service, in Prometheus' format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 60, 120)


class Metrics:
    """Counters of one front process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sar3d_requests", "Requests that were answered", ["endpoint", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "sar3d_request_seconds",
            "From a request's first byte to the last of its answer",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.inside = Gauge(
            "sar3d_requests_inside", "Requests in the service, waiting ones included", registry=self.registry
        )
        self.first = Histogram(
            "sar3d_first_preview_seconds",
            "From a request to its first preview picture",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "sar3d_batch_samples",
            "Samples that were decoded together",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )
        self.samples = Counter("sar3d_samples", "Samples that were made", registry=self.registry)

    def text(self) -> bytes:
        """All of it, for a scraper."""
        return generate_latest(self.registry)
