"""One target under libFuzzer: ``python -m tests.fuzz.child TARGET [libFuzzer's arguments]``.

Ends with a traceback and a kept input at the first finding.
"""

from __future__ import annotations

import sys
import warnings

import atheris

with atheris.instrument_imports(
    include=["flopmarket", "flopmarket_coordinator", "flopmarket_worker"],
    exclude=["flopmarket.v1"],
):
    from tests.fuzz.registry import TARGETS
from tests.fuzz.target import attempt


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    warnings.simplefilter("ignore")
    name, *arguments = sys.argv[1:]
    target = TARGETS[name]
    atheris.Setup(
        [sys.argv[0], *arguments, f"-max_len={target.max_bytes}"],
        lambda data: attempt(target, data) and None,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
