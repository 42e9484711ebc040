"""Audit rules of an operator's own: a JSON file with the constants that differ from the project's.

The file is read once, at start. Leases name the digest of the rules they were given under, so a
change is seen by everybody who re-derives draws.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket.limits import MAX_AUDIT_RULES_FILE_BYTES
from flopmarket.trust.audit_policy import RULES, AuditRules


def read_rules(path: Path) -> AuditRules:
    """The project's rules with what the file says instead.

    :class:`~flopmarket.errors.InvalidInput` ``AUDIT_RULES`` for a file that is no JSON object of
    whole numbers, names an unknown constant, or makes rules that deter nobody.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_AUDIT_RULES_FILE_BYTES + 1)
        given = json.loads(data)
    except (OSError, ValueError) as error:
        raise _invalid(path, str(error)) from error
    names = [field.name for field in fields(AuditRules)]
    if len(data) > MAX_AUDIT_RULES_FILE_BYTES or not isinstance(given, dict):
        raise _invalid(path, "it is not one small JSON object")
    for name, value in given.items():
        if name not in names:
            raise _invalid(path, f"there is no constant {name[:60]!r}")
        if type(value) is not int or not 0 <= value < 2**63:
            raise _invalid(path, f"{name} is not a whole number from 0 on")
    try:
        return replace(RULES, **given)
    except FlopmarketError as error:
        raise _invalid(path, error.message) from error


def _invalid(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"audit rules in {path}: {why}",
        code="AUDIT_RULES",
        hint='a JSON object such as {"floor_ppm": 20000}; docs/audits.md lists the constants',
    )
