"""Why a segment counts for nothing and why a device was punished: one table of codes.

Verdicts, receipts of disputes, `flop job why`, `flop worker why` and errors speak in these codes;
what was seen and what can be done about it stands here and nowhere else. Codes are part of the
public surface. Why an order waits or a device is idle is :mod:`flopmarket.market.reasons`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Finding:
    """What a code says: what was seen, what it means for the buyer, and what an owner can do.

    Whole sentences without an end mark.
    """

    seen: str
    for_buyers: str
    remedy: str


_AGAIN = "nothing to do: the steps are computed again and you pay for right ones only"
_CHECK_CARD = "run `flop worker bench`; lower the clocks or the memory's, and test the memory"

REASON_CODES: Mapping[str, Finding] = MappingProxyType(
    {
        # verdicts
        "EQUAL": Finding(
            "a recomputation gave the committed bits", "nothing to do: the segment counts", "none"
        ),
        "STATE_DIFFERS": Finding(
            "a recomputation ended in another state than the one committed",
            _AGAIN,
            "the dispute names the step, the operation and the tile: `flop dispute show`; then "
            + _CHECK_CARD,
        ),
        "OUTPUTS_DIFFER": Finding(
            "a recomputation gave other outputs than those committed",
            _AGAIN,
            "the dispute names the step, the operation and the tile: `flop dispute show`; then "
            + _CHECK_CARD,
        ),
        "CHECKPOINT_FILE_DIFFERS": Finding(
            "the uploaded checkpoint does not hold the state that was committed",
            _AGAIN,
            "the file was damaged or exchanged on its way out: check the disk and the agent's own "
            "copy",
        ),
        "OUTPUTS_FILE_DIFFERS": Finding(
            "the uploaded outputs are not those that were committed",
            _AGAIN,
            "the file was damaged or exchanged on its way out: check the disk and the agent's own "
            "copy",
        ),
        # void though nobody proved it wrong
        "BUILT_ON_WRONG_STATE": Finding(
            "the segment starts from a state that turned out wrong",
            _AGAIN,
            "none: verified work is paid out of what the other forfeits, then by the reserve",
        ),
        "NOT_DURABLE": Finding(
            "nobody has the state after it: the worker left before it was stored",
            "nothing to do: the job goes on from the newest stored state",
            "keep the agent running until the next checkpoint is uploaded",
        ),
        "OUT_OF_ORDER": Finding(
            "the job ended with a gap before it",
            "nothing to do: only steps without a gap are billed",
            "none: verified work is paid by the reserve as far as it goes",
        ),
        "JOB_ENDED": Finding(
            "the job ended before anybody had looked at it",
            "nothing to do: it is not billed",
            "none: a job that no auditor can run pays nobody",
        ),
        "WORKER_SILENT": Finding(
            "the worker did not open its commitment in time",
            "nothing to do: the work was found right without it",
            "keep the agent reachable for 24 hours after a segment; its secrets outlive restarts",
        ),
        # strikes
        "flip": Finding(
            "a few bits in one tile were wrong and all later work followed from them",
            _AGAIN,
            "the unit is not paid and the device is offered again after a new admission: "
            + _CHECK_CARD,
        ),
        "silence": Finding(
            "a commitment was not opened in time",
            "nothing to do: the work was found right without it",
            "the unit is not paid; a fifth time within 500 units costs the stake",
        ),
        "auditor-silent": Finding(
            "an audit was taken and not answered, or its answer not opened",
            "nothing to do: the next auditor is asked",
            "the audit is not paid; keep the agent running until a lease has ended",
        ),
        "auditor-wrong": Finding(
            "an audit's answer is not what the house found",
            "nothing to do: the segment is judged by the house",
            _CHECK_CARD,
        ),
        # what follows
        "AUDITOR_WRONG": Finding(
            "this device answered an audit with wrong roots",
            "nothing to do: the segment is judged by the house",
            _CHECK_CARD,
        ),
        "DEVICE_QUARANTINED": Finding(
            "the device showed a soft error and is not offered for now",
            "none: other offers are taken",
            "admit and measure it again with `flop worker bench`; it is listed with the "
            "first offer after the pause",
        ),
        "KEY_BANNED": Finding(
            "a fault of this device was confirmed and its account's stake forfeited",
            "none: other offers are taken",
            "read the dispute with `flop dispute show`; an operator can lift a ban",
        ),
    }
)


def finding(code: str) -> Finding:
    """What a code says; of a code of another version, that it is unknown here."""
    return REASON_CODES.get(code, Finding(f"code {code}", "ask the operator", "ask the operator"))
