"""An accepted challenge as a file: the signed report, the opening, and whose signature it is.

Whoever has the file recomputes the same verdict with ``benchmark_verifier.tasks_of``; nobody has to
ask the coordinator. JSON with the members ``type``, ``coordinator_key`` (hexadecimal), ``report``
(a DSSE envelope) and ``opening`` (hexadecimal canonical bytes).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_BENCHMARK_REPORT_BYTES
from flopmarket.trust.benchmark import BenchmarkOpening, BenchmarkReport
from flopmarket.trust.encoding import decode
from flopmarket.trust.envelope import payload_type_of, read_json_envelope, verify_signature
from flopmarket.trust.errors import EnvelopeCode, EnvelopeError
from flopmarket.trust.keys import PublicKey

FILE_TYPE = "https://flopmarket.dev/benchmark/v1"


@dataclass(frozen=True, slots=True)
class BenchmarkFile:
    """A file with a good signature; ``trusted`` is False when the file itself named the key."""

    report: BenchmarkReport
    opening: BenchmarkOpening
    key: PublicKey
    trusted: bool


def benchmark_file(report: bytes, opening: bytes, coordinator_key: bytes) -> bytes:
    """The file of a signed report (JSON) and the opening it names."""
    content = {
        "type": FILE_TYPE,
        "coordinator_key": coordinator_key.hex(),
        "report": json.loads(report),
        "opening": opening.hex(),
    }
    return json.dumps(content, sort_keys=True).encode() + b"\n"


def read_benchmark_file(data: bytes, coordinator_key: PublicKey | None) -> BenchmarkFile:
    """Check the signature with the key the caller trusts, or else the one inside.

    InvalidInput BENCHMARK_FILE for what is no such file, EnvelopeError for the signature. What the
    report says is checked by ``tasks_of`` and by recomputing.
    """
    if len(data) > MAX_BENCHMARK_REPORT_BYTES:
        raise _no_file(f"it has {len(data)} bytes, at most {MAX_BENCHMARK_REPORT_BYTES}")
    try:
        content = json.loads(data)
        if content["type"] != FILE_TYPE:
            raise _no_file("it is of another type")
        key = coordinator_key or PublicKey(bytes.fromhex(content["coordinator_key"]))
        signed, opening = json.dumps(content["report"]).encode(), bytes.fromhex(content["opening"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _no_file(f"{type(error).__name__}") from None
    envelope = read_json_envelope(signed, max_bytes=MAX_BENCHMARK_REPORT_BYTES)
    if envelope.payload_type != payload_type_of(BenchmarkReport):
        raise EnvelopeError("the envelope holds no report", code=EnvelopeCode.WRONG_TYPE)
    verify_signature(envelope, lambda _hint: key)
    report = decode(BenchmarkReport, envelope.payload)
    return BenchmarkFile(
        report, decode(BenchmarkOpening, opening), key, coordinator_key is not None
    )


def _no_file(message: str) -> InvalidInput:
    return InvalidInput(f"this is no benchmark report: {message}", code="BENCHMARK_FILE")
