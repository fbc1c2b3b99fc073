"""Whether all is well: metrics as Prometheus reads them, and whether models are still right."""

from smartcity.monitoring.metrics import (
    HITS,
    LATENCY,
    LOADING,
    MISSES,
    PREDICTIONS,
    REFUSED,
    REQUESTS,
    SECONDS,
    SHARED,
    Figure,
    exposition,
    read,
)

__all__ = [
    "HITS",
    "LATENCY",
    "LOADING",
    "MISSES",
    "PREDICTIONS",
    "REFUSED",
    "REQUESTS",
    "SECONDS",
    "SHARED",
    "Figure",
    "exposition",
    "read",
]
