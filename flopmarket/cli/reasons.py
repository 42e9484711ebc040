"""How explanations are printed: a sentence, then the reasons with what can be done about each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flopmarket.cli.output import Output, instant

if TYPE_CHECKING:
    from flopmarket.client.results_orders import JobExplanation, Why


def print_job(out: Output, found: JobExplanation) -> None:
    """Why a job waits."""
    pairs = [("job", found.job_id), ("state", str(found.state)), ("why", found.summary)]
    if found.offers:
        pairs.append(("offers", f"{found.fitting} of {found.offers} could take it now"))
    if found.ahead:
        pairs.append(("orders ahead", str(found.ahead)))
    if found.limit_per_pflop is not None:
        pairs.append(("limit", f"{found.limit_per_pflop} a PFLOP of {found.work_class}"))
    if found.best_ask_per_pflop is not None:
        pairs.append(("cheapest fitting ask", f"{found.best_ask_per_pflop} a PFLOP"))
    pairs.append(("as of", f"{instant(found.as_of_us)} UTC"))
    out.fields(pairs)
    print_reasons(out, found.reasons)


def print_reasons(out: Output, reasons: Sequence[Why]) -> None:
    """A table of reasons; nothing when there are none."""
    if not reasons:
        return
    rows = [(why.code, str(why.count), why.text, why.hint) for why in reasons]
    out.line("")
    out.table(("reason", ">count", "what it means", "what to do"), rows, "")
