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
        "CLASS_OUTVOTED": Finding(
            "three other accounts of the device's class came to one and the same result, or one of "
            "the house did, and nobody came to this one",
            _AGAIN,
            "`flop dispute show` says who answered what; a class has no referee, so an operator "
            "can lift a ban: check that driver and kernels are those of the class, then "
            + _CHECK_CARD,
        ),
        "STEPS_EQUAL": Finding(
            "steps that nobody could foresee were run again and led where the worker had signed",
            "nothing to do: the segment counts; it is too big for anybody to recompute whole",
            "none",
        ),
        "STEP_DIFFERS": Finding(
            "a step of the segment, from the state that the worker itself handed over, leads "
            "elsewhere than the worker had signed",
            _AGAIN,
            "`flop dispute show` names the step; nothing that an honest device sends looks like "
            "this: " + _CHECK_CARD,
        ),
        "TOLERANCE_FAULT": Finding(
            "a value of a drawn step is further from what its own operands give than any rounding "
            "explains, or the values do not lead where the worker had signed",
            _AGAIN,
            "`flop dispute show` names step and value; no order of sums, contraction or flushed "
            "number looks like this: " + _CHECK_CARD,
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
        "STEPS_UNANSWERED": Finding(
            "the segment is too big to be recomputed, and its worker did not answer for the steps "
            "that were drawn from it, or not with the files that it had signed",
            _AGAIN,
            "keep the agent reachable for two days after a segment; where it says REPLAY_DIFFERS, "
            "the card computed something else the second time: " + _CHECK_CARD,
        ),
        "TOLERANCE_OUTSIDE": Finding(
            "values of a drawn step differ more from the reference than those of any device that "
            "tolerance mode was calibrated with, and rounding could still explain them",
            _AGAIN,
            "nothing is forfeited, the unit is not paid: a driver that computes with less than "
            "float32, or in another order, cannot work in tolerance mode; update it, or offer "
            "class mode alone",
        ),
        "CLASS_UNDECIDED": Finding(
            "devices of one class came to different results, or none could look at it in a day, "
            "and the class had nobody to decide between them",
            "nothing to do: you do not pay for it, and another device of the class computes it "
            "again; in a class of few accounts exact mode, or waiting for more, helps",
            "nothing is forfeited, the unit is not paid: `flop dispute show` says who answered "
            "what, `flop worker bench` whether your device still computes what its class does",
        ),
        "BUILT_ON_VOID": Finding(
            "the segment starts from a state that counts for nothing, though nobody is called "
            "wrong",
            "nothing to do: the steps are computed again and you pay for them once",
            "none: nobody's stake answers for it, so it is not paid",
        ),
        # strikes
        "flip": Finding(
            "a few bits in one tile were wrong and all later work followed from them",
            _AGAIN,
            "the unit is not paid and the device works again after a pause and a new challenge: "
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
            "an audit's answer is not what the house, or its class, found",
            "nothing to do: the segment is judged by the others",
            _CHECK_CARD,
        ),
        "tolerance-outside": Finding(
            "values of a step differ more from the reference than those of calibrated devices",
            "nothing to do: the work is done again elsewhere and you do not pay for it twice",
            "the unit is not paid: see TOLERANCE_OUTSIDE; " + _CHECK_CARD,
        ),
        "class-undecided": Finding(
            "the device was one of two of a class that differ, and nobody could say who is right",
            "nothing to do: the work is done again elsewhere and you do not pay for it twice",
            "nothing is forfeited: " + _CHECK_CARD,
        ),
        "benchmark-wrong": Finding(
            "a benchmark challenge was answered with other bits than those it asks for",
            "none: the device has no proof and gets no work until it passes one",
            "nothing is forfeited; a fifth time within 500 units is a quarantine: " + _CHECK_CARD,
        ),
        # what follows
        "BENCHMARK_WRONG": Finding(
            "the device answered five benchmark challenges wrongly within 500 units",
            "none: other offers are taken",
            "the challenge's own code names what was wrong, `flop benchmark show FILE`; then "
            + _CHECK_CARD,
        ),
        "AUDITOR_WRONG": Finding(
            "this device answered an audit with wrong roots",
            "nothing to do: the segment is judged by the house, or by its class",
            _CHECK_CARD,
        ),
        "DEVICE_QUARANTINED": Finding(
            "the device showed a soft error, or answered too many challenges wrongly, and gets no "
            "work for now",
            "none: other offers are taken",
            "admit and measure it again with `flop worker bench`; it is listed with the "
            "first offer after the pause, and works again once it has passed a challenge",
        ),
        "KEY_BANNED": Finding(
            "a fault of this device was confirmed and its account's stake forfeited",
            "none: other offers are taken",
            "`flop dispute list` and `show` have what convicted it; an operator can lift a ban",
        ),
    }
)


def finding(code: str) -> Finding:
    """What a code says; of a code of another version, that it is unknown here."""
    return REASON_CODES.get(code, Finding(f"code {code}", "ask the operator", "ask the operator"))
