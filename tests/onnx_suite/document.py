"""Writes the tables of docs/onnx.md from a full run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from flopmarket.engine.formats.onnx import ops, registry
from tests.onnx_suite.running import Outcome, table

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "onnx.md"


def write_document(outcomes: Sequence[Outcome]) -> None:
    """Replace what stands between the markers of docs/onnx.md."""
    text = DOCUMENT.read_text("utf-8")
    text = _replaced(text, "conformance", table(outcomes) + "\n\n" + _not_passed(outcomes))
    text = _replaced(text, "operators", _operators())
    DOCUMENT.write_text(text, "utf-8")


def _replaced(text: str, name: str, content: str) -> str:
    pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    assert pattern.search(text), f"docs/onnx.md has no markers for {name}"
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def _not_passed(outcomes: Sequence[Outcome]) -> str:
    rows = [o for o in outcomes if o.verdict != "passed"]
    if not rows:
        return "Every case passes."
    lines = ["| not passed | verdict | reason |", "|---|---|---|"]
    lines += [f"| {o.name} | {o.verdict} | {o.reason.replace('|', '/')[:160]} |" for o in rows]
    return "\n".join(lines)


def _operators() -> str:
    """Operators by domain: own handlers, those evaluated by onnx's definition, and the rest."""
    ops.load()
    known = registry.known()
    newest = {(s.domain or "ai.onnx", s.name): s for s in onnx.defs.get_all_schemas()}
    lines = ["| domain | handler | by ONNX's definition | not computed |", "|---|---:|---:|---|"]
    for domain in sorted({domain for domain, _ in newest}):
        names = sorted(name for d, name in newest if d == domain)
        own = [name for name in names if (domain, name) in known]
        defined = [name for name in names if name not in own and _has_body(newest[domain, name])]
        rest = [
            f"~~{name}~~" if newest[domain, name].deprecated else name
            for name in names
            if name not in own and name not in defined
        ]
        lines.append(f"| {domain} | {len(own)} | {len(defined)} | {', '.join(rest) or 'none'} |")
    return "\n".join(lines)


def _has_body(schema: Any) -> bool:
    return bool(schema.has_function or schema.has_context_dependent_function)
