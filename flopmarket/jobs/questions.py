"""What a parent asks an engine about a disputed segment, and how it is written in a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flopmarket.errors import InvalidInput
from flopmarket.trust.dispute_documents import DisputeOpening, Level
from flopmarket.trust.dispute_port import Place
from flopmarket.trust.encoding import encode


@dataclass(frozen=True, slots=True)
class TraceStart:
    """Where a replay starts: the state after ``step`` steps, at or before the segment.

    ``path`` is None for a program without a state.
    """

    opening: DisputeOpening
    path: Path | None
    step: int


@dataclass(frozen=True, slots=True)
class TraceQuestion:
    """One question of a dispute, without party and deadline."""

    level: Level
    place: Place

    def to_fields(self) -> dict[str, str | int]:
        """As members of a command."""
        place = self.place
        return {
            "level": self.level.value,
            "step": place.step,
            "operation": place.operation,
            "tile": place.tile,
        }

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> TraceQuestion:
        """The inverse; InvalidInput (ENGINE_COMMAND) when it is none."""
        try:
            place = Place(*(int(fields[name]) for name in ("step", "operation", "tile")))
            return cls(Level(str(fields["level"])), place)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"no question of a dispute: {error}", code="ENGINE_COMMAND"
            ) from None


def trace_open_command(folder: Path, spec: bytes, start: TraceStart) -> dict[str, Any]:
    """Opens a disputed segment."""
    return {
        "op": "trace_open",
        "folder": str(folder),
        "spec": spec.hex(),
        "opening": encode(start.opening).hex(),
        "state_path": str(start.path) if start.path else "",
        "state_step": start.step,
    }


def trace_answer_command(question: TraceQuestion, path: Path) -> dict[str, Any]:
    """Asks for a list, to be written to ``path``."""
    return {"op": "trace_answer", **question.to_fields(), "path": str(path)}


def trace_end_command(place: Place, tile_path: Path) -> dict[str, Any]:
    """Asks where the segment ends if the tile at ``place`` has the bytes of a file."""
    return {
        "op": "trace_end",
        "step": place.step,
        "operation": place.operation,
        "tile": place.tile,
        "tile_path": str(tile_path),
    }
