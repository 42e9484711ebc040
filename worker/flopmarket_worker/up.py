"""From the options of ``flop worker up`` to a running agent: keys, devices, folders, signals.

The composition root of the worker: everything below gets clock, randomness and folders from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from flopmarket.client.channel import is_loopback
from flopmarket.engine.exact import PROFILE
from flopmarket.errors import (
    Conflict,
    FlopmarketError,
    Forbidden,
    InvalidInput,
    Unauthenticated,
    Unavailable,
)
from flopmarket.jobs.host import Engine, EngineProcess
from flopmarket.limits import MAX_FORMER_KEYS, MAX_WORKER_DEVICES
from flopmarket.market.coin import suggested_ask_nano_per_hour
from flopmarket.market.money import FLOPCOIN
from flopmarket.market.offer import offer_id
from flopmarket.market.reasons import Reason
from flopmarket.trust.key_identity import (
    KeyIdentity,
    kept_key_files,
    read_identity,
    write_identity,
)
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket_worker import discovery, faults
from flopmarket_worker.agent import Agent
from flopmarket_worker.agent_device import AgentDevice
from flopmarket_worker.calibration import Measured, calibrate
from flopmarket_worker.executor import JobExecutor
from flopmarket_worker.journal import Journal
from flopmarket_worker.link import CoordinatorLink, Credentials
from flopmarket_worker.link_speed import LinkSpeed
from flopmarket_worker.local_state import LOCK_FILE, AgentState, Notes, saver
from flopmarket_worker.offers import NotAdmitted, OwnerTerms, card_of, modes_of
from flopmarket_worker.signing import local_hour, random_nonce, wall_clock_us
from flopmarket_worker.transfers import Transfers
from flopmarket_worker.week import Hour

logger = logging.getLogger("flopmarket.worker")

_DEVICE_KEY_FILE = "device.pem"
_ACCOUNT_FILE = "account"


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the owner typed. Empty texts and None mean "not said"."""

    address: str
    ca_file: Path | None
    devices: tuple[str, ...]
    owner: OwnerTerms
    work_folder: Path
    cache_folder: Path
    account_key_file: Path | None
    account_id: str
    key_file: Path | None
    label: str
    device_salt: str
    fault: str
    nice: int
    coordinator_key: str = ""
    hour_of: Callable[[int], Hour] = local_hour


def version() -> str:
    """The installed version."""
    return metadata.version("flopmarket")


async def run_worker(options: UpOptions) -> None:
    """Offer the devices and work until SIGTERM or SIGINT."""
    is_loopback(options.address)  # refuses what is no address before anything is measured
    faults.check(options.fault)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with only_worker_in(options.work_folder):
        while not stop.is_set():
            credentials = load_credentials(options)
            try:
                if not await _run_as(credentials, options, stop):
                    return
            except (Forbidden, Unauthenticated) as error:
                if not credentials.finishing:
                    raise
                logger.warning("the former device key is not known any more: %s", error)
                forget_former_key(_device_key_file(options))
            logger.info("going on under the new device key")


async def _run_as(credentials: Credentials, options: UpOptions, stop: asyncio.Event) -> bool:
    """Work under one device key; True when another took its place and all of its work is done."""
    ca_pem = options.ca_file.read_bytes() if options.ca_file is not None else None
    notes = Notes(
        AgentState(
            address=options.address,
            ca_file=str(options.ca_file.resolve()) if options.ca_file else "",
            account_id=credentials.account(),
            device_key_file=str(_device_key_file(options).resolve()),
        ),
        saver(options.work_folder),
    )
    link = CoordinatorLink(
        options.address,
        credentials,
        now_us=wall_clock_us,
        nonce=random_nonce,
        ca_pem=ca_pem,
        tls_folder=options.work_folder,
        coordinator_key=options.coordinator_key,
    )
    enlisting = asyncio.create_task(enlist(options, notes, link))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({enlisting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not enlisting.done():
        enlisting.cancel()
        await asyncio.gather(enlisting, return_exceptions=True)
        await link.close()
        return False
    try:
        devices = enlisting.result()
    except FlopmarketError:
        await link.close()
        raise
    agent = Agent(
        link,
        devices,
        Journal(options.work_folder / "leases"),
        Transfers(
            link,
            _made(options.cache_folder / "artifacts"),
            speed=LinkSpeed(options.work_folder / "link.json"),
        ),
        now_us=wall_clock_us,
        jitter=random.random,
        version=version(),
        hour_of=options.hour_of,
        notes=notes,
        reports=options.work_folder / "benchmarks",
    )
    await agent.run(stop)
    return agent.retired


async def enlist(options: UpOptions, notes: Notes, link: CoordinatorLink) -> list[AgentDevice]:
    """Start, admit and measure the devices; those that fail are left out with a warning.

    NotAdmitted, InvalidInput (DEVICE_NONE) or the last failure when none is left.
    """
    if not options.owner.asks and (await link.coordinator()).currency != FLOPCOIN:
        raise _no_ask()  # before anything is measured
    specs = options.devices or await every_device()
    if len(specs) > MAX_WORKER_DEVICES:
        raise InvalidInput(f"{len(specs)} devices, at most {MAX_WORKER_DEVICES}")
    found: list[AgentDevice] = []
    failure: FlopmarketError | None = None
    for spec in specs:
        notes.device(spec, reason=Reason.CALIBRATING.value)
        executor = JobExecutor(_Starter(spec, options))
        try:
            folder = options.work_folder / "calibration"
            measured = await calibrate(executor, folder, version(), modes=options.owner.modes)
            modes = modes_of(options.owner.modes, measured.calibration)
            owner = _with_an_ask(options.owner, measured)
            device = device_of(measured, replace(options, owner=owner), executor)
        except (FlopmarketError, asyncio.CancelledError) as error:
            await executor.stop()
            if isinstance(error, asyncio.CancelledError):
                await asyncio.gather(*(device.executor.stop() for device in found))
                raise
            logger.warning("device %s is not offered: %s", spec, error)
            notes.device(spec, reason=_reason_of(error).value, detail=str(error))
            failure = error
            continue
        found.append(device)
        notes.device(
            spec,
            device_id=device.card.device_id,
            name=device.card.name,
            offer_id=offer_id(link.lineage, device.card.device_id),
            formula=device.owner.formula.text if device.owner.formula else "",
            modes=modes,
            not_exact=measured.refusal,
        )
        if measured.refusal:
            logger.warning(
                "device %s does not compute %s (%s): offered for %s",
                spec, PROFILE, measured.refusal, ", ".join(modes),
            )  # fmt: skip
    if not found:
        raise failure or NotAdmitted("this machine has no device to offer", code="DEVICE_NONE")
    return found


def device_of(measured: Measured, options: UpOptions, executor: JobExecutor) -> AgentDevice:
    """The offered device of a measured one."""
    salt = salt_of(measured.info, options.device_salt)
    card = card_of(measured.info, salt, discovery.machine_name())
    logger.info("device %s offered as %s", measured.info.get("index_name", ""), card.device_id[:16])
    return AgentDevice(card, measured.calibration, options.owner, executor)


def _reason_of(error: BaseException) -> Reason:
    return Reason.FAST_ONLY if isinstance(error, NotAdmitted) else Reason.NOT_MEASURED


def _with_an_ask(owner: OwnerTerms, measured: Measured) -> OwnerTerms:
    """The owner's terms; in flopcoin, an ask that nobody named is pegged to the device's rate."""
    if owner.asks:
        return owner
    suggested = suggested_ask_nano_per_hour(measured.calibration.flops_per_second)
    if suggested is None:
        raise _no_ask()
    return replace(owner, ask_nano_per_hour=suggested)


def _no_ask() -> InvalidInput:
    return InvalidInput(
        "nobody says what an hour costs",
        code="ASK_MISSING",
        hint="say --ask AMOUNT, or a formula with --tariff",
    )


def salt_of(info: Mapping[str, Any], chosen: str) -> str:
    """The chosen salt; else this installation's for boards that carry no identity of their own."""
    if chosen or info.get("uuid") or info.get("pci_address"):
        return chosen
    with contextlib.suppress(OSError):
        return "machine " + Path("/etc/machine-id").read_text().strip()
    return ""


async def every_device() -> tuple[str, ...]:
    """Index names of all devices."""
    cards = await discovery.discover()
    if not cards:
        raise Unavailable(
            "this machine has no OpenCL device",
            code="DEVICE_NONE",
            hint="install a driver, or the CPU one from PyPI: pip install 'pyopencl[pocl]'",
        )
    return tuple(str(card["index_name"]) for card in cards)


@dataclass(frozen=True, slots=True)
class _Starter:
    """Starts the engine process of one device."""

    spec: str
    options: UpOptions

    async def __call__(self) -> Engine:
        kernels = _made(self.options.cache_folder / "kernels")
        engine = await EngineProcess.start(self.spec, cache_dir=kernels, nice=self.options.nice)
        return faults.wrap(engine, self.options.fault)


def load_credentials(options: UpOptions) -> Credentials:
    """The device key (made on the first start), the owner key if given, the remembered account.

    A key that was rotated while it had leases comes first, until they are finished.
    """
    path = _device_key_file(options)
    if not path.exists():
        KeyPair.generate().save(path)
        logger.info("a new device key was written to %s", path)
    known = read_identity(path)
    device, finishing = KeyPair.load(path), False
    if known is not None and known.previous and Journal(options.work_folder / "leases").folders():
        before = path.with_name(known.previous)
        if before.exists():
            device, finishing = KeyPair.load(before), True
    owner = KeyPair.load(options.account_key_file) if options.account_key_file else None
    owned = read_identity(options.account_key_file) if options.account_key_file else None
    remembered = options.work_folder / _ACCOUNT_FILE
    account = options.account_id or (owned.account_id if owned is not None else "")
    if not account and owner is None:
        if known is not None:
            account = known.account_id
        elif remembered.exists():
            account = remembered.read_text().strip()
    lineage = known.lineage if known is not None else ""
    former = () if finishing else former_keys(path)
    credentials = Credentials(device, owner, account, options.label, lineage, finishing, former)
    remembered.write_text(credentials.account() + "\n")
    if known is None:
        write_identity(path, KeyIdentity(credentials.account(), KeyRole.DEVICE))
    return credentials


def former_keys(path: Path) -> tuple[KeyPair, ...]:
    """The keys whose place the one in ``path`` took, as their rotations kept them, newest first.

    They begin nothing; they answer for what they committed to.
    """
    found = sorted(kept_key_files(path), key=lambda each: each.stat().st_ctime_ns, reverse=True)
    return tuple(KeyPair.load(each) for each in found[:MAX_FORMER_KEYS])


def forget_former_key(path: Path) -> None:
    """The key before the one in ``path`` has nothing left to finish."""
    known = read_identity(path)
    if known is not None:
        write_identity(path, replace(known, previous=""))


def _device_key_file(options: UpOptions) -> Path:
    return options.key_file or options.work_folder / _DEVICE_KEY_FILE


@contextlib.contextmanager
def only_worker_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; Conflict (WORK_FOLDER_BUSY) when another worker has it."""
    _made(folder)
    with (folder / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(
                f"another worker runs in {folder}",
                code="WORK_FOLDER_BUSY",
                hint="give each worker a folder of its own with --work-dir",
            ) from None
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


async def measure_devices(
    specs: Sequence[str], options: UpOptions
) -> list[tuple[str, Measured | FlopmarketError]]:
    """Measure anew; each device's result or why there is none."""
    results: list[tuple[str, Measured | FlopmarketError]] = []
    for spec in specs or await every_device():
        executor = JobExecutor(_Starter(spec, options))
        try:
            folder = options.work_folder / "calibration"
            modes = options.owner.modes
            found = await calibrate(executor, folder, version(), modes=modes, again=True)
            results.append((spec, found))
        except FlopmarketError as error:
            results.append((spec, error))
        finally:
            await executor.stop()
    return results


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
