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


@dataclass(frozen=True, slots=True)
class StepsQuestion:
    """A segment to run again for a step audit, from the state after ``step`` steps of the job, at
    or before its first one; ``path`` is None for a program without a state.

    Without ``drawn`` steps the roots of all its states are asked for. With them the states before
    these steps of the job (ascending), and, ``with_values``, the values of their operations.
    """

    path: Path | None
    step: int
    first_step: int
    steps: int
    drawn: tuple[int, ...] = ()
    with_values: bool = False

    def to_command(self, folder: Path, spec: bytes, target: Path) -> dict[str, Any]:
        """The command of the job in ``folder``; the answer is written into ``target``."""
        return {
            "op": "replay_steps",
            "folder": str(folder),
            "spec": spec.hex(),
            "state_path": str(self.path) if self.path else "",
            "state_step": self.step,
            "first_step": self.first_step,
            "steps": self.steps,
            "drawn": list(self.drawn),
            "with_values": self.with_values,
            "target": str(target),
        }

    @classmethod
    def of_command(cls, fields: Mapping[str, Any]) -> StepsQuestion:
        """The inverse; InvalidInput (ENGINE_COMMAND) when it is none."""
        try:
            return cls(
                Path(fields["state_path"]) if fields["state_path"] else None,
                int(fields["state_step"]),
                int(fields["first_step"]),
                int(fields["steps"]),
                tuple(int(step) for step in fields["drawn"]),
                bool(fields["with_values"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"no replay of steps: {error}", code="ENGINE_COMMAND") from None


@dataclass(frozen=True, slots=True)
class ValuesQuestion:
    """One step of the job in ``folder``, to be judged by the values of its operations.

    ``state`` is the file of the state before it (None for a program without one), ``values`` that
    of the claimed values, ``seed`` was drawn after both.
    """

    folder: Path
    spec: bytes
    step: int
    state: Path | None
    values: Path
    seed: int

    def to_command(self) -> dict[str, Any]:
        """The command."""
        return {
            "op": "judge_step",
            "folder": str(self.folder),
            "spec": self.spec.hex(),
            "step": self.step,
            "state_path": str(self.state) if self.state else "",
            "values_path": str(self.values),
            "seed": self.seed,
        }

    @classmethod
    def of_command(cls, fields: Mapping[str, Any]) -> ValuesQuestion:
        """The inverse; InvalidInput (ENGINE_COMMAND) when it is none."""
        try:
            return cls(
                Path(fields["folder"]),
                bytes.fromhex(fields["spec"]),
                int(fields["step"]),
                Path(fields["state_path"]) if fields["state_path"] else None,
                Path(fields["values_path"]),
                int(fields["seed"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"no step to judge: {error}", code="ENGINE_COMMAND") from None


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """What judging one step came to. ``opinion`` is one of ``trust.tolerance.Opinion``.

    ``root_before`` is that of the given state; the claimed values lead to ``root_after``, to
    ``outputs_root`` (outputs with a first axis of one) and to the checksums ``entry``, which are
    empty where the step was not followed to its end. ``entry_before``: checksums of the state.
    """

    opinion: str
    detail: str
    root_before: bytes
    entry_before: bytes
    root_after: bytes = b""
    outputs_root: bytes = b""
    entry: bytes = b""

    def to_fields(self) -> dict[str, str]:
        """As members of an answer."""
        return {
            "opinion": self.opinion,
            "detail": self.detail,
            "root_before": self.root_before.hex(),
            "entry_before": self.entry_before.hex(),
            "root_after": self.root_after.hex(),
            "outputs_root": self.outputs_root.hex(),
            "entry": self.entry.hex(),
        }

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> StepVerdict:
        """The inverse, of an engine's own answer."""
        return cls(
            str(fields["opinion"]),
            str(fields["detail"]),
            bytes.fromhex(fields["root_before"]),
            bytes.fromhex(fields["entry_before"]),
            bytes.fromhex(fields["root_after"]),
            bytes.fromhex(fields["outputs_root"]),
            bytes.fromhex(fields["entry"]),
        )


@dataclass(frozen=True, slots=True)
class Flip:
    """Bits of one element that flipped in memory once.

    Of a state: that after ``step`` steps of the job. Of an output (``output``): that of the step
    ``step``. ``summed``: before its checksum was taken, which is that of the wrong value.
    """

    step: int
    tensor: str
    element: int
    bits: tuple[int, ...]
    output: bool = False
    summed: bool = False

    def __str__(self) -> str:
        bits = " and ".join(map(str, self.bits))
        where = f"of {self.tensor} after" if not self.output else f"of output {self.tensor} in"
        return f"bit {bits} of element {self.element} {where} step {self.step}"

    def to_fields(self) -> dict[str, Any]:
        """As members of an event."""
        return {
            "step": self.step,
            "tensor": self.tensor,
            "element": self.element,
            "bits": list(self.bits),
            "output": self.output,
            "summed": self.summed,
        }

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Flip:
        """The inverse."""
        return cls(
            int(fields["step"]),
            str(fields["tensor"]),
            int(fields["element"]),
            tuple(int(bit) for bit in fields["bits"]),
            bool(fields["output"]),
            bool(fields["summed"]),
        )


@dataclass(frozen=True, slots=True)
class FlipQuestion:
    """A segment whose end is wrong: where its replay starts, what was kept and what was claimed.

    ``path`` is the state after ``step`` steps, None for a program without a state; ``kept_path``
    the file of the list; ``end_path`` and ``outputs_path`` the committed end state and outputs,
    None where they were not uploaded.
    """

    path: Path | None
    step: int
    first_step: int
    steps: int
    kept_path: Path
    end_path: Path | None
    outputs_path: Path | None
    state_root: bytes
    outputs_root: bytes

    def to_command(self, folder: Path, spec: bytes) -> dict[str, Any]:
        """The command about the job in ``folder``."""
        return {
            "op": "find_flips",
            "folder": str(folder),
            "spec": spec.hex(),
            "state_path": str(self.path or ""),
            "state_step": self.step,
            "first_step": self.first_step,
            "steps": self.steps,
            "kept_path": str(self.kept_path),
            "end_path": str(self.end_path or ""),
            "outputs_path": str(self.outputs_path or ""),
            "state_root": self.state_root.hex(),
            "outputs_root": self.outputs_root.hex(),
        }

    @classmethod
    def of_command(cls, fields: Mapping[str, Any]) -> FlipQuestion:
        """The inverse; InvalidInput (ENGINE_COMMAND) when it is none."""
        try:
            return cls(
                Path(fields["state_path"]) if fields["state_path"] else None,
                int(fields["state_step"]),
                int(fields["first_step"]),
                int(fields["steps"]),
                Path(fields["kept_path"]),
                Path(fields["end_path"]) if fields["end_path"] else None,
                Path(fields["outputs_path"]) if fields["outputs_path"] else None,
                bytes.fromhex(fields["state_root"]),
                bytes.fromhex(fields["outputs_root"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"no search for a flip: {error}", code="ENGINE_COMMAND") from None


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
