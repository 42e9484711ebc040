"""All targets, by name."""

from __future__ import annotations

from tests.fuzz import (
    audits,
    disputes,
    documents,
    envelopes,
    files,
    keys,
    messages,
    programs,
    texts,
)
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for group in (audits, disputes, documents, envelopes, files, keys, messages, programs, texts)
    for target in group.TARGETS
}
