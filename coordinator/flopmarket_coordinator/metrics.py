"""Figures of a coordinator for Prometheus, on an address of the operator's choice.

Names follow the Prometheus conventions (base units, ``_total``). Labels are bounded: methods of the
API, status names, states; never ids. The market's own figures (prices, depth) are the board's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http.server import HTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from flopmarket.errors import Unavailable
from flopmarket_coordinator.application.administration import Status
from flopmarket_coordinator.backend import Backend

_log = logging.getLogger(__name__)

FIGURES_SECONDS = 15.0
_CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """One registry of a coordinator's figures."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.calls = Counter(
            "flopmarket_calls", "gRPC calls by method and status.", ["method", "code"],
            registry=registry,
        )  # fmt: skip
        self.call_seconds = Histogram(
            "flopmarket_call_seconds", "Duration of unary gRPC calls.", ["method"],
            buckets=_CALL_SECONDS, registry=registry,
        )  # fmt: skip
        self.workers = self._gauge("workers_connected", "Workers with a recent sign of life.")
        self.offers = self._gauge("offers_listed", "Offers that are not withdrawn.")
        self.jobs = Gauge("flopmarket_jobs", "Jobs by state.", ["state"], registry=registry)
        self.leases = self._gauge("leases_live", "Leases that run or are offered.")
        self.audits = self._gauge("audits_waiting", "Segments that wait to be recomputed.")
        self.artifacts = self._gauge("artifacts", "Stored artifacts.")
        self.artifact_bytes = self._gauge("artifact_bytes", "Bytes of stored artifacts.")
        self.draining = self._gauge("draining", "1 while no new leases are granted.")
        self.balances = Gauge(
            "flopmarket_platform_balance_units",
            "Balances of the platform's own accounts, in units of the currency.",
            ["account"],
            registry=registry,
        )
        self.as_of = self._gauge("figures_timestamp_seconds", "When the gauges were read.")

    def call(self, method: str, code: str, seconds: float, *, unary: bool) -> None:
        """One call has ended."""
        self.calls.labels(method, code).inc()
        if unary:
            self.call_seconds.labels(method).observe(seconds)

    def show(self, status: Status) -> None:
        """Set every gauge to the figures of one moment."""
        self.workers.set(status.workers_connected)
        self.offers.set(status.offers_listed)
        for state, count in status.jobs_by_state.items():
            self.jobs.labels(state).set(count)
        self.leases.set(status.leases_live)
        self.audits.set(status.audits_waiting)
        self.artifacts.set(status.artifacts)
        self.artifact_bytes.set(status.artifact_bytes)
        self.draining.set(status.draining)
        for account, balance in status.platform_balances_nano.items():
            self.balances.labels(account).set(balance / 1e9)
        self.as_of.set(status.as_of_us / 1e6)

    def serve(self, host: str, port: int) -> tuple[int, Callable[[], None]]:
        """Answer ``GET /metrics``; the port that was bound, and how to stop."""
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            raise Unavailable(
                f"cannot serve metrics on {host}:{port}: {error.strerror}", code="ADDRESS_IN_USE"
            ) from error
        assert isinstance(server, HTTPServer)

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return int(server.server_address[1]), stop

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"flopmarket_{name}", text, registry=self.registry)


async def keep_figures(backend: Backend, metrics: Metrics) -> None:
    """Read the gauges again and again, until cancelled."""
    while True:
        try:
            metrics.show(await backend.query(backend.application.figures))
        except Exception:  # the boundary of a daemon
            _log.exception("figures could not be read")
        await asyncio.sleep(FIGURES_SECONDS)
