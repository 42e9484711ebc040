"""How a quote looks in a terminal: what is bought, from whom, for how much, when, how sure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flopmarket.cli.mode_options import MEANINGS
from flopmarket.cli.output import Output, duration, scaled, size

if TYPE_CHECKING:
    from flopmarket.client.results import Quote

_DAY_US = 24 * 3_600 * 1_000_000


def print_quote(out: Output, quote: Quote) -> None:
    """A quote for people; the offers are data, the last words talk."""
    fields = [*_asked(quote), ("mode", f"{quote.mode}: {MEANINGS.get(quote.mode, 'unknown')}")]
    if quote.offers:
        fields += _offered(quote)
    fields.append(("verification", _verification(quote)))
    if quote.audited_steps:
        fields.append(("audits", _steps(quote)))
    out.fields(fields)
    if quote.levels:
        _print_levels(out, quote)
    if quote.mode == "class":
        _print_classes(out, quote)
    if quote.offers:
        _print_offers(out, quote)
    elif quote.without_offers == "rest":
        out.say("no offer fits now: the order rests in the book until one does or its deadline")
    else:
        out.say("no offer fits now: a submission is refused; --wait rests it in the book instead")
    out.say("workers see the tensors they compute on")


def _asked(quote: Quote) -> list[tuple[str, str]]:
    """The work, and who could do it."""
    fields = [
        (
            f"work {work.work_class}",
            f"{scaled(work.flops_per_step * quote.steps, 'FLOP')} "
            f"({scaled(work.flops_per_step, 'FLOP')} a step)",
        )
        for work in quote.work
        if work.flops_per_step
    ]
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(quote.ineligible.items()))
    return [
        *fields,
        ("steps", str(quote.steps)),
        ("bytes moved", size(quote.bytes_moved_per_step * quote.steps)),
        ("peak memory", size(quote.peak_memory_bytes)),
        ("offers", f"{quote.eligible} eligible" + (f"; not: {reasons}" if reasons else "")),
    ]


def _offered(quote: Quote) -> list[tuple[str, str]]:
    """Prices and times."""
    unit = f", {quote.per_pflop} per PFLOP {quote.work_class}" if quote.work_class else ""
    joules = f"{scaled(quote.joules, 'J')} ({quote.joules_source})" if quote.joules else "unknown"
    basis = (
        f"from {quote.spread_segments} delivered segments"
        if quote.spread_segments
        else "nothing was delivered yet: within a factor of two"
    )
    wait = ""
    if quote.wait_seconds_p95:
        wait = f"; {duration(quote.wait_seconds_p50)} of it waiting for a device"
    return [
        ("expected", f"{quote.expected}{unit} (fee of {quote.fee_within_expected} inside)"),
        ("ceiling", f"{quote.ceiling} (never billed more)"),
        (
            "transfer",
            f"{size(quote.transfer_bytes)}, {duration(quote.transfer_seconds)}, "
            f"{quote.transfer_price} of the price",
        ),
        (
            "kernel builds",
            f"about {quote.kernel_builds}, {duration(quote.build_seconds)}, "
            f"{quote.build_price} of the price",
        ),
        (
            "storage",
            f"{size(quote.storage_bytes)} for {quote.storage_retention_us // _DAY_US} days after "
            "the end, covered by the fee",
        ),
        (
            "finish",
            f"{duration(quote.finish_seconds_p50)} likely, "
            f"{duration(quote.finish_seconds_p95)} at the 95th percentile ({basis}){wait}",
        ),
        ("energy", joules),
        ("valid for", duration((quote.expires_at_us - quote.as_of_us) / 1e6)),
    ]


def _verification(quote: Quote) -> str:
    price = f"{quote.verification_price} of it" if quote.verification_price.nano else "no surcharge"
    return f"{quote.verification}, {price}; choose another with --verify"


def _steps(quote: Quote) -> str:
    """What is looked at where nobody recomputes a segment whole, and what is billed for it."""
    share = f"{quote.audited_steps} drawn steps of a segment's {quote.audited_of_steps}"
    if quote.mode == "tolerance":
        return (
            f"of {share}, value by value, of every segment at every level, so that none adds "
            "anything; the chances below are those of one wrong step"
        )
    if quote.others_recompute:
        whose = "other devices that could recompute all of it are there now, and are asked first"
    else:
        whose = "nobody else is there now who could recompute all of it"
    return (
        f"too big for the operator, which looks at {share}; {whose}. The chances below are those "
        "of one wrong step by that look, and what only it has seen is billed no surcharge beyond "
        "its cost; shorter segments may be recomputed whole"
    )


def _print_levels(out: Output, quote: Quote) -> None:
    """Every level, and in plain words what none but the last one does."""
    rows = [
        (
            f"{level.level} <" if level.level == quote.verification else level.level,
            str(level.expected) if quote.offers else f"+{_percent(level.surcharge_ppm)}",
            str(level.ceiling) if quote.offers else "",
            _percent(level.audited_ppm),
            _percent(level.detected_one_ppm),
            _percent(level.detected_ten_ppm),
            _percent(level.detected_all_ppm),
        )
        for level in quote.levels
    ]
    out.line("")
    out.table(
        (
            "level", ">expected", ">ceiling", ">recomputed", ">finds 1 wrong", ">finds 10",
            ">finds all",
        ),
        rows,
        "",
    )  # fmt: skip
    out.say(
        "shares and chances are the least, whoever runs it; a newcomer's segments are all "
        "recomputed. Sampling makes cheating a loss for whoever does it for money; it does not "
        "stop one malicious segment: dual does, unless two owners collude"
    )


def _print_classes(out: Output, quote: Quote) -> None:
    """Classes of devices, and what their size means."""
    rows = [
        (
            item.device_class + (" <" if item.device_class == quote.device_class else ""),
            item.device_name,
            item.driver,
            str(item.devices),
            str(item.other_accounts),
            _percent(item.convicted_ppm),
            _percent(item.outvoted_ppm),
            str(item.expected),
            str(item.ceiling),
        )
        for item in quote.classes
    ]
    out.line("")
    out.table(
        (
            "class", "device", "driver", ">devices", ">other accounts", ">convicts", ">wrongly",
            ">expected", ">ceiling",
        ),
        rows,
        "no class of devices has an offer that fits",
    )  # fmt: skip
    out.say(
        "a job runs and is audited inside one class, which needs another account besides the one "
        "that runs it; a majority of a small class can outvote an honest device, so more is "
        "better. Convicts, wrongly: the chances that an audit convicts a wrong device, and an "
        "honest one, if as many of the other accounts collude as the market's rules assume"
    )


def _percent(ppm: int) -> str:
    """A chance, never shown as certain when it is not."""
    if ppm in (0, 1_000_000):
        return f"{ppm // 10_000} %"
    return f"{min(ppm / 10_000, 99.99):.4g} %"


def _print_offers(out: Output, quote: Quote) -> None:
    rows = [
        (
            offer.offer_id,
            offer.device_name,
            str(offer.total),
            duration(offer.seconds),
            f"x{offer.calibration_ppm / 1e6:.2f}",
            f"busy for {duration(offer.busy_seconds)}" if offer.busy_seconds else "idle",
        )
        for offer in quote.offers
    ]
    out.line("")
    out.table(("offer", "device", ">total", ">time", ">calibrated", "now"), rows, "")
