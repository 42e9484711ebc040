"""What a measured device is worth, for people and for programs.

Headline figures always name their class of work: sustained FLOPS per dollar of the card's price,
operations per rental dollar, FLOPS per watt with where the watts come from.
"""

from __future__ import annotations

from typing import Any

from flopmarket.cli.output import scaled, size
from flopmarket.market.money import NANO_PER_UNIT, format_nano
from flopmarket_worker.calibration import Measured
from flopmarket_worker.offers import OwnerTerms

_HOUR_SECONDS = 3600
_HEADLINE_CLASS = "dot-f32"


def flop_per_dollar(rate: int, ask_nano_per_hour: int) -> float | None:
    """Operations that one currency unit rents at ``rate`` operations per second; None for free."""
    return rate * _HOUR_SECONDS * NANO_PER_UNIT / ask_nano_per_hour if ask_nano_per_hour else None


def flops_per_watt(rate: int, milliwatts: int) -> float | None:
    """Operations per second and watt; None when the power is unknown."""
    return rate * 1000 / milliwatts if milliwatts else None


def flops_per_card_dollar(rate: int, card_price_nano: int) -> float | None:
    """Operations per second that one currency unit of the card's price bought."""
    return rate * NANO_PER_UNIT / card_price_nano if card_price_nano else None


def record(measured: Measured, owner: OwnerTerms) -> dict[str, Any]:
    """Everything, as JSON values."""
    power = owner.power.read()
    rates = measured.benchmark.flops_per_second
    return {
        "device": dict(measured.info),
        "admission": dict(measured.admission),
        "classification": measured.classification,
        "benchmark": measured.benchmark.to_json(),
        "ask_nano_per_hour": owner.ask_nano_per_hour,
        "milliwatts": power.milliwatts,
        "watts_source": str(power.source),
        "card_price_nano": owner.card_price_nano,
        "flop_per_dollar": {
            name: flop_per_dollar(rate, owner.ask_nano_per_hour) for name, rate in rates.items()
        },
        "flops_per_watt": {
            name: flops_per_watt(rate, power.milliwatts) for name, rate in rates.items()
        },
        "flops_per_card_dollar": {
            name: flops_per_card_dollar(rate, owner.card_price_nano) for name, rate in rates.items()
        },
    }


def _admission(measured: Measured) -> str:
    if not measured.refusal:
        return f"admitted, {measured.benchmark.profile}"
    left = "class or tolerance mode" if measured.calibration.classified else "tolerance mode"
    return f"not admitted ({measured.refusal}): jobs in {left} only"


def describe(measured: Measured, owner: OwnerTerms) -> list[tuple[str, str]]:
    """Names and values for a person."""
    info, result, power = measured.info, measured.benchmark, owner.power.read()
    headline = result.flops_per_second[_HEADLINE_CLASS]
    lines = [
        ("device", f"{info.get('name', '?')} ({info.get('index_name', '?')})"),
        ("driver", f"{info.get('platform', '?')} {info.get('driver_version', '')}".strip()),
        ("memory", size(int(info.get("global_memory_bytes", 0)))),
        ("admission", _admission(measured)),
    ]
    for name, rate in result.flops_per_second.items():
        shown = scaled(rate, "FLOPS") if rate else f"none ({result.failures.get(name, '')})"
        lines.append((name, shown))
    lines.append(("bandwidth", scaled(result.bandwidth_bytes_per_second, "B/s")))
    lines.append(("launch", f"{result.launch_nanoseconds / 1000:.1f} us"))
    lines.append(("step on the host", f"{result.step_nanoseconds / 1000:.1f} us"))
    lines.append(("building a kernel", f"{result.build_milliseconds} ms"))
    rented = flop_per_dollar(headline, owner.ask_nano_per_hour)
    if rented is not None:
        ask = format_nano(owner.ask_nano_per_hour)
        lines.append(
            (f"{_HEADLINE_CLASS} per $", f"{scaled(rented, 'FLOP')} (asking {ask} an hour)")
        )
    bought = flops_per_card_dollar(headline, owner.card_price_nano)
    if bought is not None:
        lines.append((f"{_HEADLINE_CLASS} per card $", scaled(bought, "FLOPS")))
    efficiency = flops_per_watt(headline, power.milliwatts)
    shown = "unknown" if efficiency is None else f"{scaled(efficiency, 'FLOPS')} ({power.source})"
    lines.append((f"{_HEADLINE_CLASS} per watt", shown))
    return lines
