"""Who may import whom: ARCHITECTURE.md's layering rules, read from the sources by AST.

Nothing is imported here: a lazy import inside a function counts like one at the top.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "flopmarket": ROOT / "flopmarket",
    "flopmarket_worker": ROOT / "worker" / "flopmarket_worker",
    "flopmarket_coordinator": ROOT / "coordinator" / "flopmarket_coordinator",
}
PROTOBUF = ("google.protobuf", "flopmarket.v1")
SERVICES = ("grpc", "grpc_status", "grpc_health", "grpc_reflection")
SQL = ("sqlalchemy", "alembic", "sqlite3")
EFFECTS = (
    "asyncio",
    "datetime",
    "http",
    "os",
    "pathlib",
    "random",
    "secrets",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
    "uuid",
)

# (room, what it may not import, exceptions inside the room). A room is a dotted module prefix.
RULES: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
    ("flopmarket.engine", (*SERVICES, *SQL, *PROTOBUF, "cryptography", "click", "rich"), ()),
    ("flopmarket.market", (*SERVICES, *SQL, *PROTOBUF, *EFFECTS), ()),
    ("flopmarket.trust", (*SERVICES, *SQL, *PROTOBUF), ()),
    ("flopmarket.jobs", (*SERVICES, *SQL, *PROTOBUF), ()),
    ("flopmarket", (*SQL, "flopmarket_worker", "flopmarket_coordinator"), ("flopmarket.v1",)),
    ("flopmarket_worker", (*SQL, "flopmarket_coordinator"), ()),
    ("flopmarket_coordinator", ("flopmarket_worker", "flopmarket.cli"), ()),
    ("flopmarket_coordinator", ("flopmarket.client",), ("flopmarket_coordinator.web",)),
    ("flopmarket_worker.core", (*SERVICES, *PROTOBUF, *EFFECTS), ()),
    ("flopmarket_coordinator.core", (*SERVICES, *PROTOBUF, *SQL, *EFFECTS), ()),
    ("flopmarket_coordinator.rpc", SQL, ()),
    # The price board is a client of the coordinator: it has no more of it than its address parser.
    (
        "flopmarket_coordinator.web",
        (
            *SERVICES,
            *SQL,
            *PROTOBUF,
            "flopmarket_coordinator.application",
            "flopmarket_coordinator.core",
            "flopmarket_coordinator.rpc",
            "flopmarket_coordinator.server",
            "flopmarket_coordinator.store",
        ),
        (),
    ),
    ("flopmarket_coordinator.store", (*SERVICES, *PROTOBUF), ()),
    ("flopmarket_coordinator.application", SERVICES, ()),
]

# The tick owns the transaction of a batch and its savepoints: it is the store's other half.
SQL_ROOMS = ("flopmarket_coordinator.store", "flopmarket_coordinator.tick")
# (module, what it imports against a rule), each with its reason.
ALLOWED = frozenset(
    {
        # The checker reads whole tables in their order, which no other use case may.
        ("flopmarket_coordinator.application.checking", "sqlalchemy"),
    }
)


def inside(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *(part for part in parts if part != "__init__"))), path


def imports(module: str, path: Path) -> Iterator[str]:
    """Every module a file imports; ``from a import b`` gives both ``a`` and ``a.b``."""
    is_package = path.name == "__init__.py"
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = module.split(".")
                kept = up[: len(up) - node.level + (1 if is_package else 0)]
                base = ".".join([*kept, *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


GRAPH = {module: sorted(set(imports(module, path))) for module, path in modules()}


def test_the_scan_sees_the_project() -> None:
    assert "flopmarket.trust.envelope" in GRAPH
    assert "flopmarket.errors" in GRAPH["flopmarket.trust.envelope"]
    assert set(PACKAGES) <= {module.split(".")[0] for module in GRAPH}


@pytest.mark.parametrize(("room", "forbidden", "except_in"), RULES, ids=[rule[0] for rule in RULES])
def test_rooms_keep_their_doors_shut(
    room: str, forbidden: tuple[str, ...], except_in: tuple[str, ...]
) -> None:
    broken = [
        f"{module} imports {target}"
        for module, targets in GRAPH.items()
        if inside(module, room) and not any(inside(module, other) for other in except_in)
        for target in targets
        if any(inside(target, name) for name in forbidden) and (module, target) not in ALLOWED
    ]
    assert not broken, "\n".join(broken)


def test_the_engine_stands_alone() -> None:
    broken = [
        f"{module} imports {target}"
        for module, targets in GRAPH.items()
        if inside(module, "flopmarket.engine")
        for target in targets
        if inside(target, "flopmarket") and not inside(target, "flopmarket.engine")
        if target != "flopmarket"
    ]
    assert not broken, "\n".join(broken)


def test_sql_stays_in_the_store() -> None:
    broken = [
        f"{module} imports {target}"
        for module, targets in GRAPH.items()
        if not any(inside(module, room) for room in SQL_ROOMS)
        for target in targets
        if any(inside(target, name) for name in SQL) and (module, target) not in ALLOWED
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import os.path", {"os.path"}),
        ("from flopmarket import v1", {"flopmarket", "flopmarket.v1"}),
        ("def f():\n    from time import sleep", {"time", "time.sleep"}),
        ("from . import peer", {"flopmarket.room", "flopmarket.room.peer"}),
        ("from ..other import name", {"flopmarket.other", "flopmarket.other.name"}),
    ],
)
def test_the_scan_reads_every_form_of_import(
    tmp_path: Path, source: str, expected: set[str]
) -> None:
    path = tmp_path / "module.py"
    path.write_text(source, "utf-8")
    assert set(imports("flopmarket.room.module", path)) == expected
