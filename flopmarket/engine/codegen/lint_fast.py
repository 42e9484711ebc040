"""What generated OpenCL C may contain under FAST: the rules of exact mode, and what is named here.

A FAST source begins with contraction ON, is built with the options of :mod:`numerics`, and may
define the helpers of :mod:`matrix`, word for word. With that line put back to what exact mode says
and the helpers emptied, it has to pass :mod:`lint`: so there are no float atomics, no vendor
functions and no assembler but that of the helpers.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from functools import cache

from flopmarket.engine.codegen import lint
from flopmarket.engine.codegen.matrix import HELPERS
from flopmarket.engine.errors import EngineError
from flopmarket.engine.numerics import CONTRACT_OFF, CONTRACT_ON, FAST_OPTIONS


@cache
def rules_digest() -> str:
    """64 hex digits that change with this check."""
    rules = [lint.rules_digest(), inspect.getsource(sys.modules[__name__]), *HELPERS]
    return hashlib.sha256("\0".join(rules).encode()).hexdigest()


def check(source: str, options: tuple[str, ...] = ()) -> None:
    """Raise :class:`EngineError` with a ``LINT_...`` code where the source is not FAST C.

    Codes as for :func:`lint.check`; ``LINT_CONTRACT`` where it does not begin with contraction ON.
    """
    for option in options:
        if option not in FAST_OPTIONS:
            raise EngineError(
                f"compiler option {option!r} is not allowed in fast mode", code="LINT_OPTION"
            )
    if not source.startswith(CONTRACT_ON):
        raise EngineError(
            f"a fast source begins with {CONTRACT_ON.strip()!r}", code="LINT_CONTRACT"
        )
    plain = CONTRACT_OFF + source.removeprefix(CONTRACT_ON)
    for helper, empty in HELPERS.items():
        plain = plain.replace(helper, empty, 1)
    lint.check(plain)
