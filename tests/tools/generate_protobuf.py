"""Generate ``flopmarket/v1`` from ``proto/``; the result is committed and never edited.

``make proto`` writes into the tree; ``tests/contract/test_protobuf.py`` generates into a temporary
folder and compares. The generator's version is pinned in pyproject.toml: generated code must not be
newer than the oldest runtime that the project supports.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"


def generate(destination: Path) -> list[Path]:
    """Write the generated modules below ``destination``; returns their paths, sorted."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    well_known = str(files("grpc_tools") / "_proto")
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTO}",
            f"--proto_path={well_known}",
            f"--python_out={destination}",
            f"--grpc_python_out={destination}",
            f"--mypy_out={destination}",
            f"--mypy_grpc_out={destination}",
            *sources,
        ]
    )
    if status:
        raise SystemExit(f"protoc ended with status {status}")
    return sorted((destination / "flopmarket" / "v1").glob("*_pb2*"))


if __name__ == "__main__":
    for path in generate(ROOT):
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
