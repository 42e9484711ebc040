"""Progress of a job on stderr: one live line on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

import click

from flopmarket.cli.output import console, duration, printable

if TYPE_CHECKING:
    from rich.live import Live

    from flopmarket.client.results import JobEvent, JobInfo

PLAIN_PROGRESS_SECONDS = 5.0  # between two progress lines when nobody watches a terminal
MAX_SHOWN_SCALARS = 3


class ProgressDisplay:
    """Shows events as they come: story lines stay, the line with step, loss, cost and ETA moves."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._live: Live | None = None
        self._job: JobInfo | None = None
        self._step = 0
        self._scalars: Mapping[str, float] = {}
        self._first: tuple[float, int] | None = None  # time and step of the first progress
        self._printed_at = float("-inf")

    def __enter__(self) -> ProgressDisplay:
        if sys.stderr.isatty():
            from rich.live import Live

            self._live = Live(console=console(stderr=True), transient=True, refresh_per_second=8)
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
            self._live = None

    def __call__(self, event: JobEvent) -> None:
        """Take one event of a watch."""
        self._job = event.job or self._job
        if event.kind == "progress":
            self._advance(event)
        else:
            text = f"{event.kind}: {event.text}" if event.text else event.kind
            self._print(printable(text))
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(self.status_line()))

    def status_line(self) -> str:
        """Step, the first few scalars, cost so far, and time left where it can be told."""
        total = self._job.steps if self._job else 0
        parts = [f"step {self._step}" + (f"/{total}" if total else "")]
        for name, value in list(self._scalars.items())[:MAX_SHOWN_SCALARS]:
            parts.append(f"{printable(name)} {value:.4g}")
        if self._job is not None:
            parts.append(f"{self._job.billed} of at most {self._job.ceiling}")
        left = self._seconds_left(total)
        if left is not None:
            parts.append(f"{duration(left)} left")
        return "  ".join(parts)

    def _advance(self, event: JobEvent) -> None:
        now = self._clock()
        if self._first is None or event.step < self._step:  # a rollback starts the clock again
            self._first = (now, event.step)
        self._step = event.step
        self._scalars = event.scalars or self._scalars
        if self._live is None and now - self._printed_at >= PLAIN_PROGRESS_SECONDS:
            self._printed_at = now
            self._print(self.status_line())

    def _seconds_left(self, total: int) -> float | None:
        if self._first is None or self._step <= self._first[1] or total < self._step:
            return None
        seconds, steps = self._clock() - self._first[0], self._step - self._first[1]
        return seconds / steps * (total - self._step)

    def _print(self, text: str) -> None:
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text(text))
        else:
            click.echo(text, err=True)
