"""A market of separate processes on loopback, any of which may be killed at any moment.

The commands are the ones that anybody would type. Nothing here looks into a process: tests see
what buyers and owners see, the job's story, statements, `flop coordinator check`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from click.testing import CliRunner

from flopmarket.client import Client
from flopmarket.client.results import JobEvent, JobInfo, JobResult
from flopmarket.demo.processes import environment, flop
from flopmarket.engine.runtime import devices
from flopmarket.errors import FlopmarketError
from flopmarket.jobs.prepared import PreparedJob
from flopmarket.market.price import split_fee
from flopmarket.trust.documents import DepositTarget
from flopmarket.trust.keys import KeyPair
from flopmarket_coordinator.cli import coordinator

ASK = "0.10"
FEE_PPM = 30_000
WAIT_SECONDS = 40.0
LEASE_TTL_SECONDS = 4.0
_POLL_SECONDS = 0.05

_Answer = TypeVar("_Answer")


def eventually(look: Callable[[], _Answer], what: str, *, seconds: float = WAIT_SECONDS) -> _Answer:
    """The first true answer of ``look()``; an unreachable coordinator is asked again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if answer := look():
                return answer
        except FlopmarketError as error:
            if not error.retryable:
                raise
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(_POLL_SECONDS)


class Process:
    """``flop ARGUMENTS``, started again as often as one likes, its output in one file."""

    def __init__(self, log_file: Path, *arguments: str) -> None:
        self._log_file = log_file
        self._arguments = arguments
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None, "not started"
        return self._child.pid

    @property
    def runs(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def log(self) -> str:
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    def start(self) -> None:
        assert not self.runs
        with self._log_file.open("ab") as log:
            self._child = subprocess.Popen(
                flop(*self._arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
            )

    def kill(self) -> None:
        """As a power cut: no handler runs, no file is closed."""
        assert self._child is not None
        self._child.kill()
        self._child.wait()

    def stop(self) -> int:
        """In good order; its exit status."""
        if self._child is None:
            return 0
        self._child.terminate()
        try:
            return self._child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def engines(self) -> list[int]:
        """Process ids of its engine processes."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(child) for child in children if _is_engine(int(child))]

    def kill_engine(self) -> None:
        """Kill its one engine process."""
        (engine,) = eventually(self.engines, f"an engine of {self._log_file.stem}")
        os.kill(engine, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_engine(pid: int) -> bool:
    try:
        return b"flopmarket.jobs.process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@dataclass(slots=True)
class Provider:
    """One owner with one worker."""

    name: str
    owner: KeyPair
    device_key_file: Path
    process: Process

    @property
    def device_key_id(self) -> str:
        return KeyPair.load(self.device_key_file).key_id


@dataclass
class Market:
    """A coordinator, a buyer with money, and workers that come and go."""

    folder: Path
    cache: Path
    calibration: Path
    heartbeat_seconds: float = 0.3
    buyer_key: KeyPair = field(default_factory=KeyPair.generate)
    providers: list[Provider] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data = self.folder / "data"
        self._address_file = self.folder / "address"
        self.address = f"127.0.0.1:{_free_port()}"
        self.coordinator = Process(
            self.folder / "coordinator.log",
            *("coordinator", "serve", "--verbose", "--data-dir", str(self.data)),
            *("--listen", self.address, "--address-file", str(self._address_file)),
            *("--heartbeat", str(self.heartbeat_seconds), "--lease-ttl", str(LEASE_TTL_SECONDS)),
            *("--decline-pause", "1", "--bond-target", "0.00001"),
            "--no-benchmark",  # the workers share one processor
            *("--audit-rules", str(self._rules())),
            *("--cache-dir", str(self.cache / "kernels")),
        )

    def _rules(self) -> Path:
        """Nobody owes for first audits: a segment's price is its worker's pay and the fee."""
        path = self.folder / "rules.json"
        path.write_text(json.dumps({"own_audit_units": 0}))
        return path

    # ------------------------------------------------------------ coordinator

    def open(self) -> None:
        """Start on a free port, which stays; give the buyer an account with money."""
        self.start_coordinator()
        with self.client() as buyer:
            buyer.register("buyer")
            buyer.deposit(self.operator_key, "10", reference="test money")

    def start_coordinator(self) -> None:
        """Start; returns when it listens."""
        self._address_file.unlink(missing_ok=True)
        self.coordinator.start()

        def listens() -> bool:
            assert self.coordinator.runs, self.coordinator.log
            return self._address_file.exists()

        eventually(listens, "the coordinator listens")

    def restart_coordinator(self) -> None:
        """kill -9, then again on the same folder and port."""
        self.coordinator.kill()
        self.start_coordinator()

    @property
    def operator_key(self) -> KeyPair:
        return KeyPair.load(self.data / "keys" / "operator.pem")

    def check(self) -> None:
        """Every nano-unit and every state, derived again."""
        done = CliRunner().invoke(coordinator, ["check", "--data-dir", str(self.data)])
        assert (done.exit_code, done.stderr) == (0, "0 findings\n"), done.output

    # ------------------------------------------------------------ workers

    def worker(
        self, name: str, *, ask: str = ASK, fault: str = "", bond: str = "", wait: bool = True
    ) -> Provider:
        """A new owner's worker; on offer when this returns, unless ``wait`` is False."""
        owner, owner_file = KeyPair.generate(), self.folder / f"{name}-owner.pem"
        owner.save(owner_file)
        work = self.folder / f"{name}-work"
        shutil.copytree(self.calibration, work / "calibration")
        device_file = self.folder / f"{name}-device.pem"
        KeyPair.generate().save(device_file)
        process = Process(
            self.folder / f"{name}.log",
            *("worker", "up", "--coordinator", self.address, "--label", name, "--ask", ask),
            *("--account-key", str(owner_file), "--key", str(device_file)),
            *("--device", devices.find(None).index_name, "--work-dir", str(work)),
            *("--cache-dir", str(self.cache), "--device-salt", name),
            *(("--fault", fault) if fault else ()),
        )
        provider = Provider(name, owner, device_file, process)
        self.providers.append(provider)
        if bond:
            with self.client(owner) as client:
                client.register(name)
                client.deposit(self.operator_key, bond, target=DepositTarget.BOND)
        process.start()
        if wait:
            self.wait_for_offers(provider)
        return provider

    def wait_for_offers(self, *providers: Provider) -> None:
        """Until all of them are on offer."""
        wanted = {provider.owner.key_id for provider in providers}

        def listed() -> bool:
            for provider in providers:
                assert provider.process.runs, provider.process.log
            return wanted <= {offer.account_id for offer in anyone.offers()}

        with self.client(None) as anyone:
            eventually(listed, f"offers of {', '.join(p.name for p in providers)}")
        for provider in providers:
            assert "measuring" not in provider.process.log, "its price is not its neighbours'"

    def dismiss_workers(self) -> None:
        """All workers leave in good order."""
        for provider in self.providers:
            if provider.process.runs:
                provider.process.stop()

    def close(self) -> None:
        """End every process."""
        self.dismiss_workers()
        if self.coordinator.runs:
            self.coordinator.stop()

    # ------------------------------------------------------------ the buyer's view

    def client(self, key: KeyPair | str | None = "buyer") -> Client:
        """A connection of the buyer, of an owner, or of nobody (None)."""
        return Client(self.address, self.buyer_key if isinstance(key, str) else key)

    def events(self, job_id: str) -> list[JobEvent]:
        """The story of a job that has ended, without progress."""
        with self.client() as buyer:
            return [event for event in buyer.watch(job_id) if event.kind != "progress"]


def digest(result: JobResult) -> str:
    """State root and outputs root, as in ``tests.one_digest``."""
    return (result.state_root + result.outputs_root).hex()


def story(events: Iterator[JobEvent] | list[JobEvent]) -> str:
    """Lines for an assertion's message."""
    return "\n".join(f"{event.sequence} {event.kind}: {event.text}" for event in events)


def fences(events: list[JobEvent]) -> list[int]:
    """The fences of all leases of a job, in order."""
    return [int(e.text.rpartition(" fence ")[2]) for e in events if e.kind == "leased"]


def wait_for_steps(client: Client, job_id: str, steps: int) -> JobInfo:
    """The job once so many steps are committed."""

    def committed() -> JobInfo | None:
        job = client.job(job_id)
        assert not job.state.has_ended, f"{job.state} {job.reason}"
        return job if job.steps_committed >= steps else None

    found = eventually(committed, f"{steps} steps are committed")
    assert found is not None
    return found


def assert_paid_once(market: Market, job: JobInfo) -> None:
    """Buyer, owners and fee agree about every settled segment of ``job``, and nothing stays."""
    settled = [segment for segment in job.segments if segment.state == "settled"]
    with market.client() as buyer:
        lines = [line for line in buyer.transfers() if line.job_id == job.job_id]
        account = buyer.account()
    posts = [line for line in lines if line.kind == "post"]
    assert len(posts) == len({line.reference for line in posts}) == len(settled)
    assert sorted(-line.change.nano for line in posts) == sorted(s.price.nano for s in settled)
    assert sum(-line.change.nano for line in posts) == job.billed.nano <= job.ceiling.nano
    assert sum(line.change.nano for line in lines) == -job.billed.nano
    assert account.reserved.nano == 0
    earned: dict[str, int] = {}
    for provider in market.providers:
        with market.client(provider.owner) as owner:
            for line in owner.transfers():
                if (
                    line.job_id == job.job_id
                    and line.kind == "direct"
                    and line.purpose != "release"
                ):
                    earned[line.reference] = earned.get(line.reference, 0) + line.change.nano
    assert set(earned) == {line.reference for line in posts}
    for line in posts:
        assert earned[line.reference] == split_fee(-line.change.nano, FEE_PPM).worker_nano


def prices_of(market: Market, job: PreparedJob) -> frozenset[int]:
    """What a run on one offer costs now, in nano-units, for every offer that can run it.

    All ask the same an hour, but what a device delivered before corrects what it is predicted to
    take; a worker that an earlier test stopped is still among them for a while.
    """
    with market.client() as buyer:
        return frozenset(offer.total.nano for offer in buyer.quote(job).offers)
