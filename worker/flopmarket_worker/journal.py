"""What a worker writes down of its leases, so that a crash or a power cut costs nothing reported.

One folder a lease: the offer as received, the job's files, outputs and states that are not uploaded
yet, and ``journal.jsonl``, to which one line is added (and forced to disk) when a segment is
computed, uploaded, answered. Read once when the worker starts; deleted when the lease has ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flopmarket.errors import LimitExceeded
from flopmarket.jobs.checksums import checksums_path
from flopmarket.jobs.roots import roots_path
from flopmarket.limits import MAX_LEASE_JOURNAL_BYTES, MAX_RECOVERED_LEASES
from flopmarket.trust.encoding import DIGEST_BYTES
from flopmarket_worker.checksum_lists import ChecksumLists
from flopmarket_worker.core.events import LeaseKey, SegmentRecord, Times, UploadedFiles
from flopmarket_worker.openings import Openings

_OFFER_FILE = "offer.bin"
_JOURNAL_FILE = "journal.jsonl"
_ROOTS = ("state_root_before", "state_root_after", "outputs_root", "inner")


@dataclass(slots=True)
class Progress:
    """What the journal of one lease says."""

    computed: list[SegmentRecord] = field(default_factory=list)
    uploaded: dict[int, UploadedFiles] = field(default_factory=dict)
    answered: list[int] = field(default_factory=list)


class LeaseFolder:
    """The folder of one lease."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written_bytes = 0

    @property
    def job(self) -> Path:
        """Where the engine finds program, frozen tensors and data."""
        return self.path / "job"

    @property
    def start_state(self) -> Path:
        """The state that the lease starts from."""
        return self.path / "start.safetensors"

    def outputs(self, index: int) -> Path:
        """Outputs of a segment."""
        return self.path / f"outputs-{index}.safetensors"

    def checksums(self, index: int) -> Path:
        """Checksums of a segment, where its engine wrote them."""
        return checksums_path(self.outputs(index))

    def roots(self, index: int) -> Path:
        """Roots of a segment's states, where its engine wrote them."""
        return roots_path(self.outputs(index))

    def state(self, index: int) -> Path:
        """State after a segment."""
        return self.path / f"state-{index}.safetensors"

    def create(self, offer: bytes) -> None:
        """Make the folder and store the offer; a folder that is there already stays as it is."""
        self.job.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self.path / _OFFER_FILE).exists():
            write_durably(self.path / _OFFER_FILE, offer)

    def offer(self) -> bytes:
        """The stored offer."""
        return (self.path / _OFFER_FILE).read_bytes()

    def note_computed(self, record: SegmentRecord) -> None:
        """A segment is computed and its files are on disk."""
        entry: dict[str, Any] = {
            "index": record.index,
            "first_step": record.first_step,
            "steps": record.steps,
            "has_state": record.has_state,
            "upload_state": record.upload_state,
            "times": asdict(record.times),
        }
        entry.update({name: getattr(record, name).hex() for name in _ROOTS})
        self._append({"computed": entry})

    def note_uploaded(self, index: int, files: UploadedFiles) -> None:
        """A segment's files are durable elsewhere."""
        self._append({"uploaded": [index, files.outputs_artifact, files.checkpoint_artifact]})

    def note_answered(self, index: int) -> None:
        """The coordinator accepted a segment's commitment."""
        self._append({"answered": index})

    def read(self) -> Progress:
        """The journal. From the first torn or unreadable line on (power cut) it is cut off."""
        progress = Progress()
        path = self.path / _JOURNAL_FILE
        if not path.exists():
            return progress
        good_bytes = 0
        with path.open("r+b") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    _apply(progress, json.loads(line))
                except (ValueError, KeyError, TypeError):
                    break
                good_bytes += len(line)
            file.truncate(good_bytes)
        self._written_bytes = good_bytes
        return progress

    def forget_files(self, uploaded: int, newest_state: int | None) -> None:
        """After segment ``uploaded`` (and all before it): their outputs go, and every state of
        theirs but the newest."""
        self.outputs(uploaded).unlink(missing_ok=True)
        self.checksums(uploaded).unlink(missing_ok=True)
        self.roots(uploaded).unlink(missing_ok=True)
        for path in self.path.glob("state-*.safetensors"):
            index = int(path.name.removeprefix("state-").partition(".")[0])
            if index <= uploaded and index != newest_state:
                path.unlink(missing_ok=True)

    def delete(self) -> None:
        """Remove everything of the lease."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        self._written_bytes += len(line)
        if self._written_bytes > MAX_LEASE_JOURNAL_BYTES:
            raise LimitExceeded(f"a lease journal passes {MAX_LEASE_JOURNAL_BYTES} bytes")
        with (self.path / _JOURNAL_FILE).open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


class Journal:
    """All lease folders of a worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def lease(self, key: LeaseKey) -> LeaseFolder:
        """The folder of a lease. Ids come from outside, so the folder's name is their hash."""
        name = hashlib.sha256(f"{key.fence}\0{key.lease_id}".encode()).hexdigest()[:32]
        return LeaseFolder(self._folder / name)

    def openings(self, now_us: Callable[[], int]) -> Openings:
        """What the worker's commitments hide; it outlives their leases."""
        return Openings(self._folder, now_us, lambda: os.urandom(DIGEST_BYTES))

    def checksum_lists(self, now_us: Callable[[], int]) -> ChecksumLists:
        """Checksums of the worker's segments; they outlive their leases too."""
        return ChecksumLists(self._folder.with_name(f"{self._folder.name}-checksums"), now_us)

    @property
    def step_audits(self) -> Path:
        """A folder beside, for segments whose steps are asked for."""
        return self._folder.with_name(f"{self._folder.name}-steps")

    @property
    def disputes(self) -> Path:
        """A folder beside, for segments that are run again."""
        return self._folder.with_name(f"{self._folder.name}-disputed")

    def folders(self) -> list[LeaseFolder]:
        """Folders that an earlier run left, in a fixed order."""
        if not self._folder.exists():
            return []
        paths = sorted(path for path in self._folder.iterdir() if path.is_dir())
        return [LeaseFolder(path) for path in paths[:MAX_RECOVERED_LEASES]]


def write_durably(path: Path, data: bytes) -> None:
    """Whole or not at all, and on disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _apply(progress: Progress, entry: dict[str, Any]) -> None:
    if "computed" in entry:
        value: dict[str, Any] = dict(entry["computed"])
        value.update({name: bytes.fromhex(value[name]) for name in _ROOTS})
        value["times"] = Times(**value.get("times", {}))
        progress.computed.append(SegmentRecord(**value))
    elif "uploaded" in entry:
        index, outputs, checkpoint = entry["uploaded"]
        progress.uploaded[int(index)] = UploadedFiles(str(outputs), str(checkpoint))
    elif "answered" in entry:
        progress.answered.append(int(entry["answered"]))
