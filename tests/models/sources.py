"""Where the models lie: files inside installed wheels, found without importing their code."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def inside(package: str, *parts: str) -> Path:
    """A file of an installed package; raises SystemExit with what to install."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"package {package!r} is not installed: run `make real-models`")
    path = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    if not path.exists():
        raise SystemExit(f"{path.name} is not in this version of {package!r}")
    return path
