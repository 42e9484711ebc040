"""One training job, one digest: however it is compiled, whatever was in memory before.

The job is a small convolutional network on real digits, ten steps (``tests/one_digest.py``); the
reference interpreter says what the digest is. The market's half of this law (workers, kills,
audits) is in tests/integration.
"""

from __future__ import annotations

import pytest

from flopmarket.engine.codegen.templates.gemm import GemmTile, legal_tiles
from flopmarket.engine.runtime.devices import find
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.engine.schedule.fuse import is_packed_dot
from flopmarket.jobs.prepared import PreparedJob, run_local
from tests.one_digest import ONE_DIGEST, one_digest_job, rich_job


@pytest.fixture(scope="module")
def job() -> PreparedJob:
    return one_digest_job()


@pytest.fixture(scope="module")
def expected(job: PreparedJob) -> bytes:
    """The law: the reference interpreter's final state and losses."""
    result = run_local(job, "reference")
    return result.state_root + result.outputs_root


def digest(job: PreparedJob, options: CompileOptions) -> bytes:
    result = run_local(job, None, options=options)
    return result.state_root + result.outputs_root


def test_fused(job: PreparedJob, expected: bytes) -> None:
    assert digest(job, CompileOptions()) == expected


def test_every_operation_a_kernel_of_its_own(job: PreparedJob, expected: bytes) -> None:
    assert digest(job, CompileOptions(fusion=False)) == expected


def test_poisoned_buffers(job: PreparedJob, expected: bytes) -> None:
    assert digest(job, CompileOptions(poison=True)) == expected


@pytest.mark.parametrize("tile", legal_tiles(find(None)), ids=str)
def test_every_tile_of_the_matrix_product(
    job: PreparedJob, expected: bytes, tile: GemmTile
) -> None:
    assert any(is_packed_dot(node) for node in job.program.nodes)
    assert digest(job, CompileOptions(gemm_tile=tile)) == expected


def test_the_digest_is_the_one_that_was_committed(expected: bytes) -> None:
    """Known on every machine: a change of one bit anywhere in the engine shows here."""
    assert expected.hex() == ONE_DIGEST


def test_normalisation_pooling_dropout_and_adam() -> None:
    job = rich_job()
    result = run_local(job, "reference")
    assert digest(job, CompileOptions(poison=True)) == result.state_root + result.outputs_root
