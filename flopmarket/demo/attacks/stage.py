"""The market that the bots meet: one coordinator, one honest worker, one buyer, as processes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from flopmarket.client import Client
from flopmarket.client.channel import open_channel
from flopmarket.client.client import SYSTEM_PORTS
from flopmarket.client.money import Money
from flopmarket.client.orders import Order
from flopmarket.client.results import JobResult
from flopmarket.client.session import Identity, Session
from flopmarket.demo import digits
from flopmarket.demo.attacks.league import End, League
from flopmarket.demo.processes import Cast, run_flop, wait_for_file
from flopmarket.engine import functional, nn, optim
from flopmarket.errors import Unavailable
from flopmarket.jobs.job import TrainingJob
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.documents import DepositTarget
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.modes import Mode

HONEST = "ada"
BUYER = "buyer"
BOND = "0.05"
DEPOSIT = "5.00"
READY_SECONDS = 120.0
JOB_SECONDS = 600.0
"""A job takes seconds; one whose workers are gone is to fail, and not to be waited for."""
STEPS = 12
SEGMENT_STEPS = 4


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a bot in a job: codes of its job's rejected segments, its segments that were
    paid, and what is left of its bond."""

    rejected: frozenset[str]
    paid: int
    bond: Money

    def lost_all(self, code: str) -> bool:
        """Whether it was convicted with this code alone, was paid nothing and has no bond."""
        return self.rejected == {code} and not self.paid and self.bond.nano == 0

    def __str__(self) -> str:
        codes = ", ".join(sorted(self.rejected)) or "nothing"
        return f"{codes}; bond {self.bond}, paid {self.paid} segments"


class Stage:
    """Processes, keys and the one job that every liar is given."""

    def __init__(
        self,
        console: Console,
        folder: Path,
        cast: Cast,
        cache_dir: Path | None,
        measured: Path | None = None,
    ) -> None:
        """``measured``: calibration folder of a worker of this machine, if there was one before."""
        self._console = console
        self.folder = folder
        self._cast = cast
        self._cache = ["--cache-dir", str(cache_dir)] if cache_dir else []
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keys: dict[str, KeyPair] = {}
        self.measured = measured
        self.address = ""
        data = digits.load()
        self.job = TrainingJob(
            model=nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
            loss=functional.cross_entropy,
            optimizer=optim.Adam(lr=2e-3),
            data=(data.train_x, data.train_y),
            batch=64,
            steps=STEPS,
            segment_steps=SEGMENT_STEPS,
            seed=5,
            title="digits, small network",
        )
        self.right_root = self.job.run_local().state_root

    def open(self, *options: str) -> None:
        """Start the coordinator, with more options for it, and the honest worker."""
        address_file = self.folder / "address"
        self._cast.start(
            self._cast_name("coordinator"), "coordinator", "serve",
            "--data-dir", str(self.market),
            "--listen", "127.0.0.1:0",
            "--address-file", str(address_file),
            "--heartbeat", "0.5",
            "--no-benchmark",
            "--bond-target", BOND,
            *self._cache,
            *options,
        )  # fmt: skip
        self.address = wait_for_file(address_file, self._cast, 60).split()[0]
        with self.client(BUYER) as buyer:
            buyer.register(BUYER)
            buyer.deposit(self.operator, DEPOSIT, reference="attacks demo")
        self.hire(HONEST, ask="0.12")
        self.wait_for(HONEST)

    def hire(self, name: str, *, ask: str, fault: str = "", modes: str = "") -> None:
        """Register an owner with a bond and start its worker; ``modes`` as in ``flop worker up``.

        All share one device, so each has what the last one that came on offer measured of it.
        """
        with self.client(name) as owner:
            owner.register(name)
            owner.deposit(self.operator, BOND, reference="bond credit", target=DepositTarget.BOND)
        key_file = self.folder / f"{name}.pem"
        self._keys[name].save(key_file)
        work = self._work(name)
        if self.measured is not None:
            shutil.copytree(self.measured, work / "calibration")
        self._cast.start(
            self._cast_name(name), "worker", "up",
            "--coordinator", self.address,
            "--account-key", str(key_file),
            "--key", str(self.folder / f"{name}-device.pem"),
            "--label", name,
            "--ask", ask,
            "--watts", "65",
            "--work-dir", str(work),
            "--device-salt", name,
            "--nice", "0",
            *self._cache,
            *(["--fault", fault] if fault else []),
            *(["--modes", modes] if modes else []),
        )  # fmt: skip

    def wait_for(self, name: str) -> None:
        """Until the worker of ``name`` is on offer."""
        deadline = time.monotonic() + READY_SECONDS
        with self.client(None) as anyone:
            while not any(offer.account_id == self.account(name) for offer in anyone.offers()):
                self._cast.check()
                if time.monotonic() > deadline:
                    raise Unavailable(f"{name} did not come on offer", code="DEMO_TIMEOUT")
                time.sleep(0.1)
        self.measured = self._work(name) / "calibration"

    def fund_audits(self, amount: str) -> None:
        """Give the platform money for audits by outsiders, which fees bring in only later."""
        with self.client(BUYER) as buyer:
            target = DepositTarget.AUDITS
            buyer.deposit(self.operator, amount, reference="young market", target=target)

    def dismiss(self, name: str) -> None:
        """End a worker."""
        self._cast.end(self._cast_name(name))

    def buy(self, *owners: str, verify: Level = Level.DETER, mode: Mode = Mode.EXACT) -> JobResult:
        """The job, to be done by these owners' workers alone, whoever is cheaper first."""
        order = Order(wait=True, owners=tuple(self.account(name) for name in owners))
        with self.client(BUYER) as buyer:
            quote = buyer.quote(self.job, order, verification=verify, mode=mode)
            return buyer.run(
                self.job,
                max_price=quote.ceiling,
                order=order,
                verification=verify,
                mode=mode,
                deadline_seconds=JOB_SECONDS,
            )

    def fate(self, name: str, result: JobResult) -> Fate:
        """What became of ``name`` in a job that it alone lied in."""
        key = self.device(name)
        with self.client(name) as owner:
            bond = owner.account().bond
        return Fate(
            frozenset(item.reason for item in result.job.segments if item.state == "rejected"),
            sum(item.device_key_id == key for item in result.receipt.receipt.segments),
            bond,
        )

    def close(self) -> None:
        """End the honest worker and the coordinator."""
        self.dismiss(HONEST)
        self.dismiss("coordinator")

    def check(self, league: League, what: str) -> None:
        """After everybody tried: every nano-unit is where it belongs."""
        done = run_flop("coordinator", "check", "--data-dir", str(self.market))
        told = done.stderr.strip().splitlines()
        league.add(
            "the house", (), what, End.NO_EFFECT,
            told[-1] if told else "no answer", done.returncode == 0,
        )  # fmt: skip

    def account(self, name: str) -> str:
        """The account id of ``name``."""
        return self.key(name).key_id

    def device(self, name: str) -> str:
        """The device key id of the worker of ``name``."""
        return KeyPair.load(self.folder / f"{name}-device.pem").key_id

    def client(self, name: str | None) -> Client:
        """A client with the key of ``name``, or without one."""
        return Client(self.address, self.key(name) if name else None)

    @contextmanager
    def session(self, name: str | None) -> Iterator[Session]:
        """Bare calls, for messages that no client would send."""
        identity = Identity(self.key(name), self.account(name), KeyRole.OWNER) if name else None
        channel = open_channel(self.address, None)
        try:
            yield Session(channel, self.address, SYSTEM_PORTS, identity)
        finally:
            channel.close()

    @property
    def operator(self) -> KeyPair:
        """The operator's key, which states deposits."""
        return KeyPair.load(self.market / "keys" / "operator.pem")

    @property
    def market(self) -> Path:
        """The coordinator's data."""
        return self.folder / "market"

    def _work(self, name: str) -> Path:
        return self.folder / f"{name}-work"

    def _cast_name(self, name: str) -> str:
        return f"{self.folder.name}-{name}"

    def say(self, text: str) -> None:
        """Tell the people who watch."""
        self._console.print(text)

    def key(self, name: str) -> KeyPair:
        """The owner key of ``name``, made when it is first asked for."""
        if name not in self._keys:
            self._keys[name] = KeyPair.generate()
        return self._keys[name]
