"""Conditions on offers as people write them: ``flops_per_watt>=2e10``, ``region=eu``."""

from __future__ import annotations

import re

from flopmarket.errors import InvalidInput
from flopmarket.v1 import market_pb2

_CONDITION = re.compile(r"\s*([a-z_]+)\s*(!=|<=|>=|=|<|>|~)\s*(.*?)\s*", re.DOTALL)


def filter_to_proto(text: str) -> market_pb2.OfferFilter:
    """The condition that a text states; ``FILTER_MALFORMED`` when it states none.

    Which fields there are and how they compare is the coordinator's to say.
    """
    match = _CONDITION.fullmatch(text)
    if match is None or not match[3]:
        raise InvalidInput(
            f"{text[:60]!r} is no condition on offers",
            code="FILTER_MALFORMED",
            hint="write FIELD OP VALUE, such as 'flops_per_watt>=2e10'; OP is = != < <= > >= or ~",
        )
    return market_pb2.OfferFilter(field=match[1], op=match[2], value=match[3])
