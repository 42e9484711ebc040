"""The acts of the demonstration, in order, and the checks behind each claim.

A coordinator, two honest workers and one that returns slightly wrong weights, as separate processes
over real gRPC on loopback; a buyer that quotes, trains and predicts; then everything is verified
again by somebody who believes nobody: digests against a local run, receipts offline, the ledger row
by row.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from flopmarket.client import Client
from flopmarket.client.results import JobEvent, JobResult, Quote
from flopmarket.client.results_prices import Offer, Spot
from flopmarket.demo import digits
from flopmarket.demo.claims import Claims, print_claims
from flopmarket.demo.processes import Cast, run_flop, wait_for_file
from flopmarket.engine import functional, optim
from flopmarket.errors import Unavailable
from flopmarket.jobs.job import InferenceJob, TrainingJob
from flopmarket.market.money import format_nano
from flopmarket.trust.documents import DepositTarget
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.receipt import verify_receipt

REQUIRED_ACCURACY = 0.97
KNOWN_STATE_ROOT = "e8b3b1d9eafd8cfad55c05d569c51b379c2ba84e7005b118d2d9d4319b6a48ba"
"""Root of the trained state, as an x86 CPU (PoCL 3.0) and an NVIDIA H200 came to it."""
BUYER_DEPOSIT = "1.00"
BOND = "0.05"
WORKERS_READY_SECONDS = 150.0
CHEAT = "mallory"


@dataclass(frozen=True, slots=True)
class Provider:
    """One owner with one worker. Amounts are decimal strings in currency."""

    name: str
    ask: str
    watts: str
    fault: str = ""


PROVIDERS = (
    Provider("ada", ask="0.12", watts="65"),
    Provider("grace", ask="0.10", watts="65"),
    # So cheap that noise in the benchmarks cannot keep it from being chosen first.
    Provider(CHEAT, ask="0.02", watts="65", fault="wrong-weights"),
)


def tell(arguments: list[str]) -> int:
    """Run the demonstration; 0 when every claim holds."""
    parser = argparse.ArgumentParser(prog="flop demo")
    parser.add_argument("--keep", type=Path, help="keep keys, database, logs and receipts here")
    parser.add_argument("--cache-dir", type=Path, help="compiled kernels (default: the user's)")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    folder: Path = options.keep or Path(tempfile.mkdtemp(prefix="flop-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    claims = Claims()
    began = time.monotonic()
    try:
        with Cast(folder / "logs") as cast:
            Demo(console, folder, cast, claims, options.cache_dir).run()
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print_claims(console, claims, time.monotonic() - began)
    return 0 if claims.all_hold else 1


class Demo:
    """State that the acts share."""

    def __init__(
        self, console: Console, folder: Path, cast: Cast, claims: Claims, cache_dir: Path | None
    ) -> None:
        self._console = console
        self._folder = folder
        self._cast = cast
        self._claims = claims
        self._cache = ["--cache-dir", str(cache_dir)] if cache_dir else []
        self._keys = {name: KeyPair.generate() for name in ("buyer", *(p.name for p in PROVIDERS))}
        self._address = ""

    def run(self) -> None:
        """All acts."""
        self._open_market()
        self._start_workers()
        with self._client("buyer") as buyer:
            self._show_prices(buyer.spot(), list(buyer.offers(order_by="price")))
            data = digits.load()
            training, trained = self._train(buyer, data)
            self._predict(buyer, data, training, trained)
            self._check_cheat(buyer)
            self._check_ledger(buyer)

    # ------------------------------------------------------------ acts

    def _open_market(self) -> None:
        self._say(
            "[bold]A market opens[/] (coordinator, ledger, auditor: one process and its engine)"
        )
        address_file = self._folder / "address"
        self._cast.start(
            "coordinator",
            "coordinator",
            "serve",
            "--data-dir",
            str(self._market),
            "--listen",
            "127.0.0.1:0",
            "--address-file",
            str(address_file),
            "--no-benchmark",  # the workers share one processor
            "--heartbeat",
            "0.5",
            "--bond-target",
            BOND,
            *self._cache,
        )
        self._address = wait_for_file(address_file, self._cast, 60).split()[0]
        operator = KeyPair.load(self._market / "keys" / "operator.pem")
        for name in self._keys:
            with self._client(name) as client:
                client.register(name)
                if name == "buyer":
                    client.deposit(operator, BUYER_DEPOSIT, reference="demo deposit")
                else:
                    client.deposit(
                        operator, BOND, reference="bond credit", target=DepositTarget.BOND
                    )
        self._say(f"  listening on {self._address}; the buyer has ${BUYER_DEPOSIT}, each worker's")
        self._say(f"  owner a bond of ${BOND} to lose")

    def _start_workers(self) -> None:
        self._say("\n[bold]Three workers arrive[/]: admitted to exact mode, benchmarked, on offer")
        for provider in PROVIDERS:
            key_file = self._folder / f"{provider.name}.pem"
            self._keys[provider.name].save(key_file)
            fault = ["--fault", provider.fault] if provider.fault else []
            self._cast.start(
                provider.name,
                "worker",
                "up",
                "--coordinator",
                self._address,
                "--account-key",
                str(key_file),
                "--key",
                str(self._folder / f"{provider.name}-device.pem"),
                "--label",
                provider.name,
                "--ask",
                provider.ask,
                "--watts",
                provider.watts,
                "--work-dir",
                str(self._folder / f"{provider.name}-work"),
                "--device-salt",
                provider.name,
                "--nice",
                "0",
                *self._cache,
                *fault,
            )
        with self._client(None) as anyone:
            deadline = time.monotonic() + WORKERS_READY_SECONDS
            while len(list(anyone.offers())) < len(PROVIDERS):
                self._cast.check()
                if time.monotonic() > deadline:
                    raise Unavailable("the workers did not come on offer", code="DEMO_TIMEOUT")
                time.sleep(0.2)

    def _show_prices(self, spot: Spot, offers: list[Offer]) -> None:
        table = Table("offer", "ask/h", "dot-f32", "GB/s", "FLOPS/$", "FLOPS/W", "watts", box=None)
        names = {self._keys[p.name].key_id: p.name for p in PROVIDERS}
        for offer in offers:
            table.add_row(
                names.get(offer.account_id, offer.account_id[:8]),
                str(offer.ask_per_hour),
                f"{offer.flops_per_second.get('dot-f32', 0) / 1e9:.1f} GFLOP/s",
                f"{offer.bandwidth_bytes_per_second / 1e9:.1f}",
                f"{offer.flops_per_dollar:.3g}",
                f"{offer.flops_per_watt:.3g}",
                f"{offer.milliwatts / 1000:.0f} ({offer.watts_source})",
            )
        self._console.print(table)
        table = Table("spot", "$/PFLOP", "FLOP/$", "FLOPS/W", "offers", box=None)
        for price in spot.prices:
            table.add_row(
                price.work_class,
                str(price.per_pflop),
                f"{price.flop_per_dollar:.3g}",
                f"{price.flops_per_watt:.3g} ({price.watts_source})",
                str(price.offers),
            )
        self._console.print(table)
        dot = [price for price in spot.prices if price.work_class == "dot-f32"]
        self._claims.check(
            "spot prices quote FLOPS/$ and FLOPS/W, their source named",
            f"{dot[0].flop_per_dollar:.3g} FLOP/$, {dot[0].flops_per_watt:.3g} FLOPS/W "
            f"{dot[0].watts_source}"
            if dot
            else "no dot-f32 price",
            bool(dot) and dot[0].flop_per_dollar > 0 and dot[0].watts_source == "declared",
        )

    def _train(self, buyer: Client, data: digits.Digits) -> tuple[TrainingJob, JobResult]:
        job = TrainingJob(
            model=digits.convolutional_classifier(),
            loss=functional.cross_entropy,
            optimizer=optim.Adam(lr=2e-3),
            data=(data.train_x, data.train_y),
            batch=64,
            epochs=15,
            seed=3,
            title="digits, convolutional network",
        )
        self._say("\n[bold]A buyer wants a digit classifier[/]: 1,437 real images, 15 epochs")
        quote = buyer.quote(job)
        self._show_quote(quote)
        result = self._buy(buyer, job, quote)
        local = job.run_local()
        self._claims.check(
            "final weights have the digest of run_local()",
            f"{result.state_root.hex()[:16]} = {local.state_root.hex()[:16]}",
            result.state_root == local.state_root,
        )
        self._claims.check(
            "it is the digest that an NVIDIA H200 came to",
            f"{KNOWN_STATE_ROOT[:16]} (noted in the source)",
            result.state_root.hex() == KNOWN_STATE_ROOT,
        )
        self._claims.check(
            "every loss of every step is the local one, bit for bit",
            f"{len(local.outputs['loss'])} steps, {result.outputs_root.hex()[:16]}",
            result.outputs_root == local.outputs_root
            and result.outputs["loss"].tobytes() == local.outputs["loss"].tobytes(),
        )
        return job, result

    def _predict(
        self, buyer: Client, data: digits.Digits, training: TrainingJob, trained: JobResult
    ) -> None:
        self._say("\n[bold]The trained network reads the 360 test images[/], as a second job")
        job = InferenceJob(
            model=training.model,
            inputs=data.test_x,
            batch=60,
            weights=training.weights(trained),
            segment_steps=2,
            title="digits, test set",
        )
        quote = buyer.quote(job)
        result = self._buy(buyer, job, quote)
        right = int((result.rows("y").argmax(axis=1) == data.test_y).sum())
        accuracy = right / len(data.test_y)
        self._claims.check(
            f"test accuracy is at least {REQUIRED_ACCURACY:.0%}",
            f"{accuracy:.2%} ({right} of {len(data.test_y)})",
            accuracy >= REQUIRED_ACCURACY,
        )
        local = job.run_local()
        self._claims.check(
            "predictions have the digest of run_local()",
            f"{result.outputs_root.hex()[:16]} = {local.outputs_root.hex()[:16]}",
            result.outputs_root == local.outputs_root,
        )

    def _check_cheat(self, buyer: Client) -> None:
        with self._client(CHEAT) as cheat:
            account = cheat.account()
        offers = {offer.account_id for offer in buyer.offers()}
        self._claims.check(
            "the cheat lost its bond and its place in the market",
            f"bond {account.bond}, held {account.held}, offers "
            f"{int(self._keys[CHEAT].key_id in offers)}",
            account.bond.nano == 0
            and account.held.nano == 0
            and self._keys[CHEAT].key_id not in offers,
        )

    def _check_ledger(self, buyer: Client) -> None:
        done = run_flop("coordinator", "check", "--data-dir", str(self._market))
        self._claims.check(
            "every nano-unit is accounted for (flop coordinator check)",
            done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no answer",
            done.returncode == 0,
        )
        account = buyer.account()
        lines = [line for line in buyer.transfers() if line.balance == "available"]
        total = sum(line.change.nano for line in lines)
        self._claims.check(
            "the buyer's statement adds up to the balance, nothing stays reserved",
            f"{format_nano(total)} = {account.available}, reserved {account.reserved}",
            total == account.available.nano and account.reserved.nano == 0,
        )

    # ------------------------------------------------------------ parts

    def _buy(self, buyer: Client, job: TrainingJob | InferenceJob, quote: Quote) -> JobResult:
        names = {f"[{self._device_key(p.name)[:8]}]": p.name for p in PROVIDERS}
        watcher = Watcher(self._console, names)
        result = buyer.run(job, max_price=quote.ceiling, progress=watcher)
        title = job.title
        self._claims.check(
            f"{title}: invoice at or below the quote",
            f"{result.billed} of at most {quote.ceiling}",
            0 < result.billed.nano <= quote.ceiling.nano,
        )
        receipt_file = self._folder / f"receipt-{result.job_id[:8]}.json"
        receipt_file.write_bytes(result.receipt_file)
        public = buyer.coordinator().public_key
        key_file = self._folder / "coordinator.pem"
        key_file.write_bytes(public.to_pem())
        verified = verify_receipt(result.receipt_file, public)
        command = run_flop("receipt", "verify", str(receipt_file), "--key", str(key_file))
        self._claims.check(
            f"{title}: the receipt verifies offline",
            f"{len(verified.receipt.segments)} segments, trusted key, exit {command.returncode}",
            verified.trusted and command.returncode == 0,
        )
        if isinstance(job, TrainingJob):
            names = {self._device_key(p.name): p.name for p in PROVIDERS}
            workers = {names.get(s.device_key_id, "?") for s in verified.receipt.segments}
            rejected = [s for s in result.job.segments if s.state == "rejected"]
            caught = {names.get(s.worker_key_id, "?") for s in rejected}
            self._claims.check(
                "a worker with slightly wrong weights is caught",
                f"{len(rejected)} rejected segment(s) of {', '.join(sorted(caught)) or 'nobody'}",
                caught == {CHEAT},
            )
            self._claims.check(
                "its segments are redone elsewhere",
                f"receipt names {', '.join(sorted(workers))}",
                bool(workers) and workers <= {"ada", "grace"},
            )
            self._claims.check(
                "progress was live",
                f"{watcher.reports} reports while it ran, last loss {watcher.last_loss:.4f}",
                watcher.reports > 0 and np.isfinite(watcher.last_loss),
            )
        return result

    def _show_quote(self, quote: Quote) -> None:
        work = ", ".join(
            f"{part.work_class} {part.flops_per_step * quote.steps / 1e9:.2f} GFLOP"
            for part in quote.work
            if part.flops_per_step
        )
        self._say(f"  work      {work}")
        self._say(
            f"  memory    {quote.peak_memory_bytes / 1e6:.1f} MB; moved per step "
            f"{quote.bytes_moved_per_step / 1e6:.1f} MB; {quote.steps} steps"
        )
        self._say(f"  price     expected {quote.expected}, never more than {quote.ceiling}")
        self._say(
            f"  finish    {quote.finish_seconds_p50:.0f} s (p50), "
            f"{quote.finish_seconds_p95:.0f} s (p95); {quote.eligible} eligible offers"
        )
        self._say(
            f"  checked   {quote.verification}: one wrong segment is found with at least "
            f"{quote.detection_probability:.0%}, a newcomer's always; "
            f"{quote.joules:.0f} J ({quote.joules_source})"
        )

    def _device_key(self, name: str) -> str:
        return KeyPair.load(self._folder / f"{name}-device.pem").key_id

    @property
    def _market(self) -> Path:
        return self._folder / "market"

    def _client(self, name: str | None) -> Client:
        return Client(self._address, self._keys[name] if name else None)

    def _say(self, text: str) -> None:
        self._console.print(text)


class Watcher:
    """Prints a job's events as they come, and counts what it saw."""

    def __init__(self, console: Console, names: dict[str, str]) -> None:
        self._console = console
        self._names = names
        self._began = time.monotonic()
        self._last = 0.0
        self.reports = 0
        self.last_loss = float("nan")

    def __call__(self, event: JobEvent) -> None:
        seconds = time.monotonic() - self._began
        if event.kind == "progress":
            self.reports += 1
            self.last_loss = event.scalars.get("loss", self.last_loss)
            if seconds - self._last < 2.0:
                return
            self._last = seconds
            job = event.job
            cost = f", billed {job.billed}" if job else ""
            loss = f", loss {self.last_loss:.4f}" if np.isfinite(self.last_loss) else ""
            self._console.print(f"  {seconds:5.1f} s  step {event.step}{loss}{cost}", style="dim")
        else:
            style = "bold red" if event.kind in ("rejected", "slashed", "rolled-back") else ""
            text = event.text
            for key, name in self._names.items():
                text = text.replace(key, f"({name})")
            self._console.print(f"  {seconds:5.1f} s  {event.kind}: {text}", style=style)
