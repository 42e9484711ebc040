"""Targets: every document type there is, and the proofs that are made of documents."""

from __future__ import annotations

import importlib
import pkgutil
import random
import zlib
from functools import cache
from typing import Any

import flopmarket.market
import flopmarket.trust
from flopmarket.errors import FlopmarketError
from flopmarket.jobs import spec as job_spec
from flopmarket.trust import wire
from flopmarket.trust.encoding import Layout, decode, encode, layout_of
from flopmarket.trust.ledger_log import check_consistency
from flopmarket.trust.merkle import MerkleProof, root_from_proof, verify_tensor_leaf
from tests.fuzz.target import Target, check_same

_TRIES = 200


@cache
def document_types() -> dict[str, type[Any]]:
    """Every declared document by its domain tag, in order of the tags."""
    modules = [job_spec]
    for package in (flopmarket.trust, flopmarket.market):
        modules += [
            importlib.import_module(f"{package.__name__}.{found.name}")
            for found in pkgutil.iter_modules(package.__path__)
        ]
    found = {
        value.__dict__["__document_layout__"].domain: value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type)
        and isinstance(value.__dict__.get("__document_layout__"), Layout)
        and value.__module__.startswith("flopmarket.")
    }
    return dict(sorted(found.items()))


def read_document(data: bytes) -> object:
    """``<domain tag> 0x00 <encoding>``; a tag that nobody declared chooses some type."""
    tag, _, body = data.partition(b"\x00")
    types = document_types()
    cls = types.get(tag.decode("latin-1"))
    if cls is None:
        cls = list(types.values())[zlib.crc32(tag) % len(types)]
    value = decode(cls, body)
    check_same(encode(value), body)
    return value


def some_document(cls: type[Any]) -> Any:
    """A small document with values drawn from a fixed seed.

    Where no draw satisfies the type's own rules, one of its form that ``decode`` refuses.
    """
    layout = layout_of(cls)
    rng = random.Random(layout.domain)
    for _ in range(_TRIES):
        value = _value(layout.codec, rng)
        try:
            decode(cls, encode(value))
        except FlopmarketError:
            continue
        break
    return value


def _value(codec: Any, rng: random.Random) -> Any:
    match codec:
        case wire.RecordCodec(build=type() as build, fields=fields):
            value: Any = object.__new__(build)  # whether the parts fit is decode's to say
            for name, item in fields:
                object.__setattr__(value, name, _value(item, rng))
            return value
        case wire.TupleCodec(item, limit):
            return tuple(_value(item, rng) for _ in range(min(limit, rng.choice((0, 1, 1, 2)))))
        case wire.EnumCodec(members):
            return rng.choice(list(members))
        case wire.BoolCodec():
            return rng.random() < 0.5
        case wire.FixedBytesCodec(length):
            return rng.randbytes(length)
        case wire.IntegerCodec() | wire.NaturalCodec():
            return rng.choice((0, 1, 1, 2, 3, 1_000, 10**12))
        case wire.BytesCodec(limit):
            return rng.randbytes(min(limit, 3))
        case wire.TextCodec(limit):
            return rng.choice(("", "a", "eu", "1", "FRAUD", "dot-f32"))[:limit]
    raise AssertionError(codec)


def document_seeds() -> dict[str, bytes]:
    """One of each type."""
    return {
        domain.removeprefix("flopmarket."): domain.encode() + b"\x00" + encode(some_document(cls))
        for domain, cls in document_types().items()
    }


def read_proof(data: bytes) -> object:
    """A proof, held against leaves and roots that it was not made for."""
    proof = decode(MerkleProof, data)
    root = root_from_proof(bytes(32), proof)
    verify_tensor_leaf(root, "float32", (4,), 16, bytes(16), proof)
    return root


def proof_seeds() -> dict[str, bytes]:
    shapes = {"single": (0, 1, 0), "left": (0, 2, 1), "odd": (4, 5, 1), "deep": (1, 2**40, 40)}
    return {
        name: encode(MerkleProof(index, count, (bytes(32),) * siblings))
        for name, (index, count, siblings) in shapes.items()
    }


def read_consistency(data: bytes) -> object:
    """Two sizes, two roots, and the hashes that are to join them."""
    first, second = (int.from_bytes(data[at : at + 8], "big") for at in (0, 8))
    roots = [data[at : at + 32] for at in range(16, min(len(data), 2048), 32)]
    old, new = (roots[:1] or [b""])[0], (roots[1:2] or [b""])[0]
    check_consistency(first, old, second, new, roots[2:])
    return first, second


def consistency_seeds() -> dict[str, bytes]:
    sizes = {"equal": (4, 4, 2), "grown": (3, 7, 6), "huge": (2**40, 2**63, 20)}
    return {
        name: first.to_bytes(8, "big") + second.to_bytes(8, "big") + bytes(range(32)) * hashes
        for name, (first, second, hashes) in sizes.items()
    }


TARGETS = (
    Target("documents", read_document, document_seeds),
    Target("merkle-proof", read_proof, proof_seeds),
    Target("ledger-consistency", read_consistency, consistency_seeds),
)
