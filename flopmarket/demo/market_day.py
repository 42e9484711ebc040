"""``flop demo --market``: a market day on one machine, and what can be claimed after it.

A coordinator, three real workers and one process of simulated owners, each with its own key and
connection, trade with three buyers for 24 compressed hours. Then everything is derived again from
what buyers and onlookers have in their hands.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from flopmarket.client import Client
from flopmarket.client.heads import StoredHeads
from flopmarket.client.results_prices import TradeInfo
from flopmarket.demo import market_day_claims as evidence
from flopmarket.demo.claims import Claims, print_claims
from flopmarket.demo.market_day_board import check_board
from flopmarket.demo.market_day_jobs import Jobs
from flopmarket.demo.market_day_onlookers import OfferWatch, TapeListener
from flopmarket.demo.market_day_plan import BUYERS, plan
from flopmarket.demo.market_day_trading import Clock, Trading
from flopmarket.demo.processes import Cast, run_flop, wait_for_file
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.cache import default_directory
from flopmarket.errors import InvalidInput, Unavailable
from flopmarket.market.money import DOLLAR, FLOPCOIN, format_amount
from flopmarket.market.snapshot import verify_snapshot
from flopmarket.trust.keys import KeyPair, PublicKey
from flopmarket.trust.receipt import verify_receipt

BUYER_DEPOSIT_NANO = 1_000_000_000
BOND_TARGET = "0.00001"
OWNERS = 40
MINUTES = 2.0
MORE_ORDERS = 28
SEED = 20261122
ARRIVAL_SECONDS = 90.0
CLOSING_SECONDS = 90.0
SNAPSHOT_SECONDS = 5
HEARTBEAT_SECONDS = "1"
STRANGERS = "500"
"""Calls a second: here all owners, buyers and onlookers come from one host."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One real worker: options of ``flop worker up`` beside those that all have."""

    name: str
    options: tuple[str, ...]


HOPPER_TARIFF = "default = 0.12\n\n[[window]]\nfrom = 5\nto = 14\nprice = 0.60\n"
PROVIDERS = (
    Provider("ada", ("--ask", "0.11", "--watts", "65", "--region", "eu-de")),
    Provider("grace", ("--ask", "0.14", "--watts", "65", "--region", "us-ny")),
    Provider(
        "hopper",
        (
            *("--ask", "electricity * 1.3 + 0.02", "--tariff", "{tariff}"),
            *("--watts", "300", "--region", "ca-qc"),
        ),
    ),
)


def tell(arguments: list[str]) -> int:
    """Run a market day; 0 when every claim holds."""
    parser = argparse.ArgumentParser(prog="flop demo --market")
    parser.add_argument("--currency", choices=[DOLLAR, FLOPCOIN], default=DOLLAR)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="what 24 hours take")
    parser.add_argument("--owners", type=int, default=OWNERS, help="simulated ones")
    parser.add_argument("--orders", type=int, default=MORE_ORDERS, help="beside the fixed ones")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--board", action="store_true", help="serve the price board beside it")
    parser.add_argument("--keep", type=Path, help="keep keys, database, logs and receipts here")
    parser.add_argument("--cache-dir", type=Path, help="compiled kernels (default: the user's)")
    parser.add_argument("--calibration", type=Path, help="of an earlier `flop worker bench`")
    options = parser.parse_args(arguments)
    if not (0.2 <= options.minutes <= 24 * 60 and options.owners >= 1 and options.orders >= 0):
        raise InvalidInput(
            "a day takes 0.2 minutes to 24 hours and has owners", code="DEMO_OPTIONS"
        )
    console = Console(highlight=False)
    folder: Path = options.keep or Path(tempfile.mkdtemp(prefix="flop-market-day-"))
    folder.mkdir(parents=True, exist_ok=True)
    claims = Claims()
    began = time.monotonic()
    try:
        with Cast(folder / "logs") as cast, ExitStack() as stack:
            MarketDay(console, folder, cast, claims, options, stack).run()
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print_claims(console, claims, time.monotonic() - began)
    return 0 if claims.all_hold else 1


class MarketDay:
    """State that the acts share."""

    def __init__(
        self,
        console: Console,
        folder: Path,
        cast: Cast,
        claims: Claims,
        options: argparse.Namespace,
        stack: ExitStack,
    ) -> None:
        self._console = console
        self._folder = folder
        self._cast = cast
        self._claims = claims
        self._options = options
        self._stack = stack
        self._keys = {name: KeyPair.generate() for name in (*BUYERS, *(p.name for p in PROVIDERS))}
        self._address = ""
        self._board = ""
        self._deposited_nano = 0
        self._fees_nano = 0
        kernels: Path = options.cache_dir or default_directory()
        kernels.mkdir(parents=True, exist_ok=True)
        self._cache = folder / "cache"
        self._cache.mkdir(exist_ok=True)
        (self._cache / "kernels").symlink_to(kernels.resolve())

    def run(self) -> None:
        """All acts."""
        self._say("[bold]The machine is measured[/], and trains the network that buyers will want")
        calibration = self._measured()
        jobs = Jobs.make()
        self._open_market()
        clients = {name: self._client(self._keys[name]) for name in BUYERS}
        onlooker = self._client(None)
        listener = TapeListener(Client(self._address))
        self._stack.callback(listener.stop)
        clock = self._start_owners(onlooker, calibration)
        trading = Trading(
            clients,
            onlooker,
            jobs,
            clock,
            {name: key.key_id for name, key in self._keys.items()},
            self._say,
        )
        heads = {name: StoredHeads(self._public, self._folder / "heads" / name) for name in BUYERS}
        for name in BUYERS:
            clients[name].verify_ledger(heads[name])
        hours = clock.hour_seconds
        self._say(
            f"\n[bold]The day[/]: an hour takes {hours:.1f} s, prices are for a PFLOP of dot-f32"
        )
        self._say("   hour     offers       ask      bid     last   trades  jobs")
        watch = OfferWatch(Client(self._address))
        self._stack.callback(watch.stop)
        trading.day(plan(self._options.seed, self._options.orders), self._cast.check)
        self._say("\n[bold]The market closes[/]: orders have expired, what runs may end")
        closed = trading.close(CLOSING_SECONDS)
        watch.stop()
        self._check(trading, clients, onlooker, watch, listener, jobs, closed)
        self._check_money(clients, heads)

    # ------------------------------------------------------------ acts

    def _measured(self) -> Path:
        """Folder with the benchmark of this machine's device, which all who compute here use."""
        if self._options.calibration is not None:
            given: Path = self._options.calibration
            return given
        work = self._folder / "measured"
        done = run_flop(
            *("worker", "bench", "--device", self._device, "--work-dir", str(work)),
            *("--cache-dir", str(self._cache)),
        )
        if done.returncode:
            raise Unavailable(f"no benchmark: {done.stderr[-2000:]}", code="DEMO_CHILD_ENDED")
        return work / "calibration"

    def _open_market(self) -> None:
        currency = self._options.currency
        self._say(f"\n[bold]A market opens[/] in {currency}")
        made = run_flop(
            "coordinator", "init", "--data-dir", str(self._market), "--currency", currency
        )
        if made.returncode:
            raise Unavailable(f"no market: {made.stderr[-2000:]}", code="DEMO_CHILD_ENDED")
        address_file = self._folder / "address"
        self._cast.start(
            "coordinator",
            *("coordinator", "serve", "--data-dir", str(self._market)),
            *("--listen", "127.0.0.1:0", "--address-file", str(address_file)),
            "--no-benchmark",  # simulated cards have no device of their own to prove
            *("--audit-rules", str(self._rules())),
            *("--heartbeat", HEARTBEAT_SECONDS, "--bond-target", BOND_TARGET),
            *(
                "--strangers",
                STRANGERS,
                "--decline-pause",
                "2",
                "--snapshots",
                str(SNAPSHOT_SECONDS),
            ),
            *("--cache-dir", str(self._cache / "kernels")),
        )
        self._address = wait_for_file(address_file, self._cast, 60).split()[0]
        self._say(f"  listening on {self._address}")
        operator = KeyPair.load(self._market / "keys" / "operator.pem")
        for name in BUYERS:
            with Client(self._address, self._keys[name]) as client:
                client.register(name)
                if currency == DOLLAR:
                    amount = format_amount(BUYER_DEPOSIT_NANO, currency)
                    client.deposit(operator, amount, reference="demo deposit")
                    self._deposited_nano += BUYER_DEPOSIT_NANO
        if self._options.board:
            self._open_board()

    def _open_board(self) -> None:
        address_file = self._folder / "board-address"
        self._cast.start(
            "board",
            *("coordinator", "board", "--coordinator", self._address),
            *("--listen", "127.0.0.1:0", "--address-file", str(address_file)),
        )
        self._board = wait_for_file(address_file, self._cast, 60).split()[0].rstrip("/")
        self._say(f"  price board at {self._board}/")

    def _start_owners(self, onlooker: Client, calibration: Path) -> Clock:
        """Everybody who computes; the day's clock, which starts when they have arrived."""
        wanted = self._options.owners
        self._say(f"\n[bold]Three workers and {wanted} simulated owners arrive[/]")
        hour_seconds = self._options.minutes * 60 / 24
        # The clock is known before anybody has arrived: the first hour is for arriving.
        clock = Clock(time.time() + self._arrival_seconds, hour_seconds)
        self._cast.start_module(
            "owners",
            "flopmarket_worker.simulated_owners",
            *("--coordinator", self._address, "--work-dir", str(self._owners)),
            *("--cache-dir", str(self._cache), "--calibration", str(calibration)),
            *("--clock", str(clock), "--owners", str(wanted)),
            *("--seed", str(self._options.seed), "--device", self._device),
        )
        for provider in PROVIDERS:
            self._start_worker(provider, calibration, clock)
        names = {key.key_id for key in self._keys.values()}
        deadline = time.monotonic() + ARRIVAL_SECONDS
        while True:
            self._cast.check()
            accounts = {offer.account_id for offer in onlooker.offers()}
            real = len(accounts & names)
            if real == len(PROVIDERS) and len(list(self._owners.glob("*.pem"))) == wanted:
                break
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{real} of {len(PROVIDERS)} workers came on offer", code="DEMO_TIMEOUT"
                )
            time.sleep(0.2)
        time.sleep(max(0.0, -clock.hour * hour_seconds))
        return clock

    @property
    def _arrival_seconds(self) -> float:
        """What arriving takes on two busy cores, so that the day begins with everybody there."""
        return 8.0 + 0.2 * float(self._options.owners)

    def _start_worker(self, provider: Provider, calibration: Path, clock: Clock) -> None:
        name, work = provider.name, self._folder / f"{provider.name}-work"
        shutil.copytree(calibration, work / "calibration")
        tariff = self._folder / "hopper-tariff.toml"
        tariff.write_text(HOPPER_TARIFF)
        self._keys[name].save(self._folder / f"{name}.pem")
        self._cast.start(
            name,
            *("worker", "up", "--coordinator", self._address, "--device", self._device),
            *("--account-key", str(self._folder / f"{name}.pem"), "--label", name),
            *("--key", str(self._folder / f"{name}-device.pem"), "--work-dir", str(work)),
            *("--device-salt", name, "--cache-dir", str(self._cache), "--clock", str(clock)),
            *(option.format(tariff=tariff) for option in provider.options),
        )

    # ------------------------------------------------------------ claims

    def _check(
        self,
        trading: Trading,
        clients: dict[str, Client],
        onlooker: Client,
        watch: OfferWatch,
        listener: TapeListener,
        jobs: Jobs,
        closed: bool,
    ) -> None:
        claims, key = self._claims, self._public
        self._say("\n[bold]Everything is derived again[/] from receipts, tape and list")
        listed = list(onlooker.trades())
        listener.wait_for(len(listed))
        found: list[evidence.Bought] = []
        for purchase in trading.purchases:
            client = clients[purchase.planned.buyer]
            info = client.job(purchase.job_id)
            if info.state.has_ended:
                receipt = verify_receipt(client.receipt(purchase.job_id), key).receipt
                events = list(client.watch(purchase.job_id))
                found.append(evidence.bought(purchase, info, receipt, events))
        self._check_supply(trading, watch, listed)
        evidence.check_jobs(claims, found, jobs, closed)
        evidence.check_orders(claims, found, watch.offers)
        evidence.check_trades(claims, found, listed, watch.offers, jobs)
        classes = sorted({trade.work_class for trade in listed})
        histories = [onlooker.history(name, "1m") for name in classes]
        evidence.check_history(claims, listed, histories)
        evidence.check_stream(claims, listener.trades, listed, listener.gaps, listener.trouble)
        evidence.check_times(claims, trading.looks, watch.as_of_us, listener.as_of_us)
        self._check_snapshot(onlooker, len(listed))
        overall = onlooker.accuracy().overall
        self._say(
            f"  predicted times: median error {overall.error_p50_ppm / 1e4:.0f} % over "
            f"{overall.segments} segments, {overall.uncalibrated_error_p50_ppm / 1e4:.0f} % before "
            "calibration; nothing is claimed of it, since everybody shares this machine"
        )
        if self._board:
            check_board(claims, self._board, onlooker, classes)
        self._fees_nano = sum(item.receipt.fee_nano for item in found)

    def _check_supply(self, trading: Trading, seen: OfferWatch, listed: list[TradeInfo]) -> None:
        """That there was a market at all."""
        changed = sum(len(asks) > 1 for asks in seen.asks.values())
        self._claims.check(
            "owners came, went and repriced by the hour",
            f"{len(seen.offers)} offers seen, {min(seen.counts)} to {max(seen.counts)} at once, "
            f"{changed} changed their ask" + (f"; {seen.trouble}" if seen.trouble else ""),
            not seen.trouble and changed > 0 and min(seen.counts) < max(seen.counts),
        )
        mine = {self._keys[provider.name].key_id for provider in PROVIDERS}
        real = sum(
            seen.offers[t.offer_id].account_id in mine for t in listed if t.offer_id in seen.offers
        )
        sellers = len({trade.offer_id for trade in listed})
        self._claims.check(
            "real workers and simulated owners both sold",
            f"{sellers} sellers; {real} trades of real workers, {len(listed) - real} of others",
            0 < real < len(listed),
        )
        if trading.refused:
            said = ", ".join(f"{code} {count}" for code, count in trading.refused.items())
            self._say(f"  market orders that nobody could fill were refused: {said}")

    def _check_snapshot(self, onlooker: Client, trades: int) -> None:
        deadline = time.monotonic() + 4 * SNAPSHOT_SECONDS
        while True:
            file = onlooker.snapshot()
            verified = verify_snapshot(file, self._public)
            if verified.snapshot.trades == trades or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        (self._folder / "snapshot.json").write_bytes(file)
        evidence.check_snapshot(self._claims, verified, list(onlooker.trades()))

    def _check_money(self, clients: dict[str, Client], heads: dict[str, StoredHeads]) -> None:
        claims, currency = self._claims, self._options.currency
        owners = [KeyPair.load(path) for path in sorted(self._owners.glob("*.pem"))]
        owners += [self._keys[provider.name] for provider in PROVIDERS]
        people = [client.account() for client in clients.values()]
        unexplained = devices_asked = 0
        for key in owners:
            with Client(self._address, key) as client:
                people.append(client.account())
                for device in client.explain_offers():
                    devices_asked += 1
                    unexplained += not device.summary or (
                        device.state != "busy" and not device.reasons
                    )
        claims.check(
            "every idle device has a reason (flop worker why)",
            f"{devices_asked} devices of {len(owners)} owners, {unexplained} without",
            devices_asked > 0 and not unexplained,
        )
        reserved = sum(each.reserved.nano for each in people)
        held = sum(each.held.nano for each in people)
        claims.check(
            "every hold is resolved: nothing is reserved, and pay alone waits its day",
            f"{len(people)} accounts, {format_amount(reserved, currency)} reserved, "
            f"{format_amount(held, currency)} of pay held back",
            reserved == 0,
        )
        total = sum(each.available.nano + each.held.nano + each.bond.nano for each in people)
        rest = total + self._fees_nano - self._deposited_nano
        claims.check(
            "the sum of all accounts is exactly zero"
            if currency == FLOPCOIN
            else "accounts and fees are exactly what was deposited",
            f"accounts {format_amount(total, currency)}, fees "
            f"{format_amount(self._fees_nano, currency)}, deposits "
            f"{format_amount(self._deposited_nano, currency)}",
            rest == 0 and self._fees_nano > 0,
        )
        checked = [clients[name].verify_ledger(heads[name]) for name in BUYERS]
        claims.check(
            "the ledger continues what it signed in the morning (flop account verify)",
            f"{len(checked)} buyers, {sum(len(c.verified.transfers) for c in checked)} transfers "
            f"proven, {checked[-1].verified.head.batch_count} batches",
            all(each.older is not None for each in checked),
        )
        self._check_commands()

    def _rules(self) -> Path:
        """Audit rules of this day: nobody owes for first audits, so that fees and accounts, which
        buyers and owners see themselves, are all the money there is."""
        path = self._folder / "rules.json"
        path.write_text(json.dumps({"own_audit_units": 0}))
        return path

    def _check_commands(self) -> None:
        """The same by the commands that anybody would type."""
        buyer = self._folder / f"{BUYERS[0]}.pem"
        self._keys[BUYERS[0]].save(buyer)
        done = run_flop(
            *("account", "verify", "--address", self._address, "--key", str(buyer)),
            variables={"XDG_DATA_HOME": str(self._folder / "home")},
        )
        self._claims.check(
            "`flop account verify` agrees", f"exit {done.returncode}", done.returncode == 0
        )
        done = run_flop("coordinator", "check", "--data-dir", str(self._market))
        self._claims.check(
            "the books balance (flop coordinator check)",
            done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no answer",
            done.returncode == 0,
        )

    # ------------------------------------------------------------ parts

    @property
    def _device(self) -> str:
        return devices.find(None).index_name

    @property
    def _market(self) -> Path:
        return self._folder / "market"

    @property
    def _owners(self) -> Path:
        return self._folder / "owners"

    @property
    def _public(self) -> PublicKey:
        with Client(self._address) as anyone:
            return anyone.coordinator().public_key

    def _client(self, key: KeyPair | None) -> Client:
        return self._stack.enter_context(Client(self._address, key))

    def _say(self, text: str) -> None:
        self._console.print(text)
