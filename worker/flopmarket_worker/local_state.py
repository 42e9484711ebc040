"""What a worker knows of itself, written down for `flop worker why`.

One small JSON file in the work folder, replaced whole whenever something changed. It tells people
things; nothing is decided by it, and a worker starts without it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flopmarket.errors import InvalidInput
from flopmarket.limits import (
    MAX_AGENT_STATE_BYTES,
    MAX_KEPT_CONTRADICTIONS,
    MAX_WORKER_DEVICES,
)
from flopmarket.market.reasons import Reason

STATE_FILE = "agent.json"
LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True)
class DeviceState:
    """One device. ``reason`` is why it is not offered, empty when it is."""

    device: str
    device_id: str = ""
    name: str = ""
    offer_id: str = ""
    reason: str = ""
    detail: str = ""
    ask_nano_per_hour: int = 0
    formula: str = ""
    modes: tuple[str, ...] = ()
    """What it takes jobs of."""
    not_exact: str = ""
    """Why it takes none in exact mode, where it cannot."""


@dataclass(frozen=True, slots=True)
class AgentState:
    """The whole worker. ``phase``: measuring, connecting, connected, draining."""

    address: str
    ca_file: str = ""
    account_id: str = ""
    device_key_file: str = ""
    phase: str = "measuring"
    detail: str = ""
    devices: tuple[DeviceState, ...] = ()
    contradictions: tuple[str, ...] = ()
    """What the coordinator published and cannot both be true; the newest last."""


class Notes:
    """The state of a running worker; ``save`` is called with every change of it."""

    def __init__(self, state: AgentState, save: Callable[[AgentState], None]) -> None:
        self._state = state
        self._save = save
        save(state)

    @property
    def state(self) -> AgentState:
        """How things stand."""
        return self._state

    def phase(self, phase: str, detail: str = "") -> None:
        """What the worker does now, and what went wrong last."""
        self._change(replace(self._state, phase=phase, detail=detail))

    def contradicted(self, text: str) -> None:
        """The coordinator's draws do not follow from what it had published before."""
        kept = (*self._state.contradictions, text)[-MAX_KEPT_CONTRADICTIONS:]
        self._change(replace(self._state, contradictions=kept))

    def device(self, device: str, **changes: Any) -> None:
        """Something about one device, by the name its owner knows it under."""
        known = {item.device: item for item in self._state.devices}
        if device not in known and len(known) >= MAX_WORKER_DEVICES:
            return
        known[device] = replace(known.get(device, DeviceState(device)), **changes)
        self._change(replace(self._state, devices=tuple(known.values())))

    def offered(self, device_id: str, ask_nano_per_hour: int) -> None:
        """A device is on the list at this ask."""
        self._of_id(device_id, reason="", detail="", ask_nano_per_hour=ask_nano_per_hour)

    def kept_back(self, device_id: str, reason: Reason, detail: str) -> None:
        """A device is not on the list."""
        self._of_id(device_id, reason=reason.value, detail=detail, ask_nano_per_hour=0)

    def _of_id(self, device_id: str, **changes: Any) -> None:
        for item in self._state.devices:
            if item.device_id == device_id:
                self.device(item.device, **changes)

    def _change(self, state: AgentState) -> None:
        if state != self._state:
            self._state = state
            self._save(state)


def unwritten() -> Notes:
    """Notes that nobody reads, for a worker without a folder."""
    return Notes(AgentState(""), lambda _: None)


def saver(folder: Path) -> Callable[[AgentState], None]:
    """Writes states into a folder, each whole or not at all."""

    def save(state: AgentState) -> None:
        fresh = folder / f"{STATE_FILE}.new"
        fresh.write_text(json.dumps(asdict(state), indent=1), "utf-8")
        fresh.replace(folder / STATE_FILE)

    return save


def read_state(folder: Path) -> AgentState | None:
    """What the last worker of this folder wrote; None when there was none.

    InvalidInput ``AGENT_STATE_MALFORMED`` for a file that is something else.
    """
    path = folder / STATE_FILE
    try:
        with path.open("rb") as file:
            data = file.read(MAX_AGENT_STATE_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        content = json.loads(data[:MAX_AGENT_STATE_BYTES])
        devices = tuple(
            DeviceState(**item | {"modes": tuple(item["modes"])}) for item in content.pop("devices")
        )
        contradictions = tuple(content.pop("contradictions", ()))
        return AgentState(**content, devices=devices, contradictions=contradictions)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInput(
            f"{path} is not what a worker writes: {error}",
            code="AGENT_STATE_MALFORMED",
            hint="restart the worker: it writes the file anew",
        ) from error


def is_running(folder: Path) -> bool:
    """Whether a worker holds this folder."""
    with contextlib.suppress(FileNotFoundError), (folder / LOCK_FILE).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
