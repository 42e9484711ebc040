"""Why a device of this machine is idle: what the worker knows, and what the coordinator knows.

The worker's own state comes first: a device that is not offered cannot be matched, whatever the
book holds. For the others the coordinator is asked with the device key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flopmarket.client.explaining import offer_explanations_from_proto
from flopmarket.client.results_orders import OfferExplanation, Why
from flopmarket.errors import FlopmarketError, InvalidInput, NotFound
from flopmarket.market.reasons import REASONS, Reason
from flopmarket.trust.keys import KeyPair
from flopmarket_worker.link import CoordinatorLink, Credentials
from flopmarket_worker.local_state import AgentState, DeviceState, is_running, read_state
from flopmarket_worker.signing import random_nonce, wall_clock_us


@dataclass(frozen=True, slots=True)
class DeviceWhy:
    """One device: what it does and why it does nothing else.

    ``state``: idle, busy, offline, not offered, banned, withdrawn or unknown.
    """

    device: str
    name: str
    offer_id: str
    state: str
    summary: str
    ask_nano_per_hour: int
    formula: str
    reasons: tuple[Why, ...]
    proof: str = ""
    modes: tuple[str, ...] = ()
    not_exact: str = ""
    """Why it takes no jobs in exact mode, where it cannot compute exactly."""
    contradictions: tuple[str, ...] = ()
    """Draws of the coordinator that did not follow from what it had published before."""


def why(folder: Path, asked: str = "") -> tuple[DeviceWhy, ...]:
    """Every device of the worker in ``folder``, or those that ``asked`` names in part.

    NotFound ``AGENT_UNKNOWN`` when no worker ever ran there, ``DEVICE_UNKNOWN`` for a name that
    fits none.
    """
    state = read_state(folder)
    if state is None:
        raise NotFound(
            f"no worker has run in {folder}",
            code="AGENT_UNKNOWN",
            hint="start one with `flop worker up`, or name its folder with --work-dir",
        )
    running = is_running(folder)
    chosen = [item for item in state.devices if _is_asked(item, asked)]
    if asked and not chosen:
        raise NotFound(f"this worker has no device {asked[:80]!r}", code="DEVICE_UNKNOWN")
    offered = [item for item in chosen if running and not item.reason]
    known: dict[str, OfferExplanation] = {}
    trouble = ""
    if offered and state.phase != "draining":
        try:
            known = {item.offer_id: item for item in asyncio.run(_ask(state))}
        except (FlopmarketError, OSError) as error:
            trouble = f"the coordinator does not answer: {error}"
    return tuple(
        explain(item, state, running, known.get(item.offer_id), trouble) for item in chosen
    )


def explain(
    device: DeviceState,
    state: AgentState,
    running: bool,
    known: OfferExplanation | None,
    trouble: str = "",
) -> DeviceWhy:
    """What can be said of one device; ``known`` is the coordinator's part of it."""

    def told(status: str, summary: str, reasons: Sequence[Why] = ()) -> DeviceWhy:
        return DeviceWhy(
            device.device,
            device.name or device.device,
            device.offer_id,
            status,
            summary,
            device.ask_nano_per_hour,
            device.formula,
            tuple(reasons),
            modes=device.modes,
            not_exact=device.not_exact,
            contradictions=state.contradictions,
        )

    def because(status: str, reason: Reason, detail: str = "") -> DeviceWhy:
        meaning = REASONS[reason]
        said = f"{meaning.for_owners}: {detail}" if detail else meaning.for_owners
        hint = meaning.owner_remedy or meaning.remedy
        return told(status, said, [Why(reason.value, meaning.for_owners, hint, 1)])

    if not running:
        return because("offline", Reason.OFFLINE, "no worker runs in this folder")
    if device.reason:
        return because("not offered", Reason(device.reason), device.detail)
    if state.phase == "draining":
        return because("not offered", Reason.DRAINING)
    if known is not None:
        return replace(told(known.state, known.summary, known.reasons), proof=known.proof)
    if trouble or state.phase != "connected":
        return because("offline", Reason.OFFLINE, trouble or state.detail or state.phase)
    return because("withdrawn", Reason.OFFER_REFUSED, "the coordinator lists no such offer")


def _is_asked(device: DeviceState, asked: str) -> bool:
    words = asked.lower()
    return (
        words in device.device.lower()
        or words in device.name.lower()
        or device.device_id.startswith(words)
        or device.offer_id.startswith(words)
    )


async def _ask(state: AgentState) -> tuple[OfferExplanation, ...]:
    """The coordinator's part, asked as the worker's device key."""
    if not state.account_id:
        raise InvalidInput("the worker has no account yet", code="ACCOUNT_MISSING")
    key = KeyPair.load(Path(state.device_key_file))
    link = CoordinatorLink(
        state.address,
        Credentials(key, None, state.account_id, "why"),
        now_us=wall_clock_us,
        nonce=random_nonce,
        ca_pem=Path(state.ca_file).read_bytes() if state.ca_file else None,
    )
    try:
        return offer_explanations_from_proto(await link.explain_offers())
    finally:
        await link.close()
