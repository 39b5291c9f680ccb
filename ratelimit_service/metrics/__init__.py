"""What a server counts, and how Prometheus reads it.

Each worker counts in plain integers and writes the sums once a second to files that all workers of a server share (the
multiprocess mode of `prometheus_client`, switched on by PROMETHEUS_MULTIPROC_DIR before that library is imported). The
operations process adds the files up when it is scraped, so a scrape never reaches, or waits for, a worker.
"""

from ratelimit_service.metrics.alerts import AlertMetrics
from ratelimit_service.metrics.counts import CallCounts, Counts, RoundTripCounts
from ratelimit_service.metrics.ended import forget_worker
from ratelimit_service.metrics.files import use_allocated_files
from ratelimit_service.metrics.flush import FlushMetrics
from ratelimit_service.metrics.scrape import DIRECTORY_VARIABLE, Scraper
from ratelimit_service.metrics.worker import Watched, WorkerMetrics

__all__ = [
    "DIRECTORY_VARIABLE",
    "AlertMetrics",
    "CallCounts",
    "Counts",
    "FlushMetrics",
    "RoundTripCounts",
    "Scraper",
    "Watched",
    "WorkerMetrics",
    "forget_worker",
]

use_allocated_files()
