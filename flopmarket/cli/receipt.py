"""``flop receipt verify``: check a receipt file on this machine alone, and say what it proves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flopmarket.cli.mode_options import MEANINGS
from flopmarket.cli.options import json_option, output, trusted_key_option
from flopmarket.cli.output import Output, instant

if TYPE_CHECKING:
    from flopmarket.client.checks import CheckedReceipt
    from flopmarket.trust.keys import PublicKey
    from flopmarket.trust.receipt import Receipt, ReceiptDevice


@click.group()
def receipt() -> None:
    """Check a signed receipt offline."""


@receipt.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@trusted_key_option
@json_option
def verify(file: Path, key: str | None, as_json: bool) -> None:
    """Verify FILE; exit code 1 when it proves nothing."""
    from flopmarket.client.checks import check_receipt
    from flopmarket.errors import FlopmarketError

    trusted, key_id = trusted_key(key)
    out = output(as_json)
    try:
        checked = check_receipt(_read(file), trusted)
        found_id = checked.receipt.coordinator_key.key_id
        if key_id and key_id not in (found_id, checked.receipt.coordinator_key.raw.hex()):
            raise FlopmarketError(
                f"signed by {found_id}, not by {key_id}", code="RECEIPT_WRONG_KEY"
            )
    except FlopmarketError as error:
        if as_json:
            out.record({"valid": False, "code": error.code, "message": error.message})
        raise FlopmarketError(
            f"{file} is not a valid receipt: {error.message}", code=str(error.code)
        ) from error
    is_trusted = checked.verified.trusted or bool(key_id)
    if as_json:
        out.record(_as_json(checked, trusted=is_trusted))
    else:
        _print(out, checked, trusted=is_trusted)


def trusted_key(text: str | None) -> tuple[PublicKey | None, str]:
    """The key, or the id of one: 64 hex digits may be either, the receipt decides which."""
    from flopmarket.errors import InvalidInput
    from flopmarket.trust.keys import PublicKey

    if text is None:
        return None, ""
    if len(text) == 64 and not set(text) - set("0123456789abcdef"):
        return None, text
    try:
        return PublicKey.from_pem(Path(text).read_bytes()), ""
    except OSError as error:
        raise InvalidInput(f"--key {text}: {error.strerror}", code="KEY_FILE_UNREADABLE") from None


def _read(file: Path) -> bytes:
    from flopmarket.errors import InvalidInput, LimitExceeded
    from flopmarket.limits import MAX_RECEIPT_BYTES

    try:
        if file.stat().st_size > MAX_RECEIPT_BYTES:
            raise LimitExceeded(f"larger than {MAX_RECEIPT_BYTES} bytes", code="RECEIPT_TOO_LONG")
        return file.read_bytes()
    except OSError as error:
        raise InvalidInput(str(error.strerror), code="RECEIPT_UNREADABLE") from None


def _print(out: Output, checked: CheckedReceipt, *, trusted: bool) -> None:
    from flopmarket.client.money import Money

    stated = checked.receipt
    key_id = stated.coordinator_key.key_id
    extra = Money(stated.surcharge_nano, stated.currency)
    steps_done = sum(segment.steps for segment in stated.segments)
    last = stated.segments[-1] if stated.segments else None
    gaps = last is not None and last.first_step + last.steps > steps_done
    out.line(
        "valid receipt" if trusted else "consistent receipt, not checked against a trusted key"
    )
    out.fields(
        [
            ("signed by", key_id + (" (trusted)" if trusted else " (stated by the file itself)")),
            ("job", f"{stated.job_id.hex()} (recomputed from the signed specification)"),
            ("kind", checked.spec.kind),
            ("buyer", stated.buyer_account_id),
            ("program", stated.program_digest.hex()),
            ("profile", stated.profile),
            ("data root", stated.data_root.hex()),
            ("seed", str(stated.seed)),
            ("outcome", f"{stated.outcome}, {steps_done} of {stated.steps} steps"),
            ("initial state", stated.initial_state_root.hex()),
            ("final state", stated.final_state_root.hex()),
            ("outputs", stated.outputs_root.hex()),
            (
                "segments",
                f"{len(stated.segments)} on {len(stated.devices)} device(s), "
                + ("steps are missing between them" if gaps else "no gap"),
            ),
            *(("device", _device(device)) for device in stated.devices),
            ("mode", _mode(stated)),
            ("verification", f"{stated.verification}, surcharge {extra}"),
            ("recomputed", _audits(stated)),
            ("ceiling", str(Money(stated.ceiling_nano, stated.currency))),
            (
                "invoice",
                f"{Money(stated.invoice_nano, stated.currency)} (sum of the segments"
                f"{' and their surcharges' if stated.surcharge_nano else ''})",
            ),
            ("fee inside", str(Money(stated.fee_nano, stated.currency))),
            ("submitted", f"{instant(stated.submitted_at_us)} UTC"),
            ("ended", f"{instant(stated.ended_at_us)} UTC"),
        ]
    )
    if stated.replaces:
        out.say(f"corrects an earlier receipt, the file with sha256 {stated.replaces.hex()}")
    if not trusted:
        out.say("anybody could have made this file; name the coordinator's key with --key")


def _mode(stated: Receipt) -> str:
    """The mode, and what it means for what is proved."""
    bound = f" of {stated.device_class[:12]}" if stated.device_class else ""
    return f"{stated.mode}{bound}: {MEANINGS[stated.mode]}"


def _device(device: ReceiptDevice) -> str:
    """A device as it was offered, and what it proved."""
    from flopmarket.client.failures import clean_text

    proved = "".join(f", proved {rate / 1e9:.4g} G{name}/s" for name, rate in device.proved_rates)
    return f"{clean_text(device.name)} ({clean_text(device.driver) or 'driver unknown'}){proved}"


def _audits(stated: Receipt) -> str:
    """How many segments somebody else computed again, and who that was."""
    from flopmarket.trust.receipt import HOUSE

    by = [segment.auditor for segment in stated.segments if segment.auditor]
    house = by.count(HOUSE)
    return (
        f"{len(by)} of {len(stated.segments)} segments confirmed, {house} by the house and "
        f"{len(by) - house} by other owners' devices"
    )


def _as_json(checked: CheckedReceipt, *, trusted: bool) -> dict[str, object]:
    stated = checked.receipt
    return {
        "valid": True,
        "trusted": trusted,
        "coordinator_key_id": stated.coordinator_key.key_id,
        "job_id": stated.job_id,
        "kind": str(checked.spec.kind),
        "buyer": stated.buyer_account_id,
        "program_digest": stated.program_digest,
        "profile": stated.profile,
        "mode": str(stated.mode),
        "device_class": stated.device_class,
        "verification": str(stated.verification),
        "data_root": stated.data_root,
        "seed": stated.seed,
        "outcome": str(stated.outcome),
        "steps": stated.steps,
        "initial_state_root": stated.initial_state_root,
        "final_state_root": stated.final_state_root,
        "outputs_root": stated.outputs_root,
        "devices": stated.devices,
        "segments": stated.segments,
        "currency": stated.currency,
        "ceiling_nano": stated.ceiling_nano,
        "invoice_nano": stated.invoice_nano,
        "fee_nano": stated.fee_nano,
        "surcharge_nano": stated.surcharge_nano,
        "replaces": stated.replaces,
        "submitted_at_us": stated.submitted_at_us,
        "ended_at_us": stated.ended_at_us,
    }
