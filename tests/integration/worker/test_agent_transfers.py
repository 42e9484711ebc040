"""Files that the agent fetches: what is wrong is never used, what is right is fetched once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from flopmarket.errors import LimitExceeded, NotFound
from flopmarket.jobs import bundle
from flopmarket_worker.link import CoordinatorLink, Credentials
from flopmarket_worker.signing import random_nonce, wall_clock_us
from flopmarket_worker.transfers import Transfers, evict
from tests.integration.worker.fake_job import spec_for, state_after
from tests.integration.worker.scenes import (
    DEVICE_ID,
    DEVICE_KEY,
    OWNER_KEY,
    Scene,
    lease_folders,
    offered,
    play,
)


def test_an_artifact_with_another_hash_is_never_used(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        c.corrupt.add(c.put(b"program"))
        c.offer(DEVICE_ID, spec_for(10, 10))
        await c.until(lambda: c.released)
        assert c.released[0].reason == "DECLINED"
        assert "ARTIFACT_HASH_MISMATCH" in c.released[0].detail
        assert s.engine.ran == []
        assert not list((tmp_path / "cache").iterdir())
        assert lease_folders(tmp_path) == []

    play(tmp_path, act)


def test_a_state_with_another_root_is_never_used(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        spec = spec_for(10, 10)
        book = c.offer(DEVICE_ID, spec, lease_id="good")
        await c.until(lambda: c.released)
        wrong = type(book.message)()
        wrong.CopyFrom(book.message)
        wrong.lease_id, wrong.fence = "wrong", 2
        wrong.challenge_terms.CopyFrom(c.terms(type(book)(wrong)))
        wrong.state_artifact = c.put(bundle.save(state_after(3)))
        c.leases["wrong"] = type(book)(wrong)
        c.send(offered(wrong))
        await c.until(lambda: len(c.released) == 2)
        assert "STATE_ROOT_MISMATCH" in c.released[1].detail

    play(tmp_path, act)


def test_downloads_are_bounded_and_fetched_once(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        link = CoordinatorLink(
            s.coordinator.address,
            Credentials(DEVICE_KEY, OWNER_KEY, "", "test"),
            now_us=wall_clock_us,
            nonce=random_nonce,
        )
        (tmp_path / "small").mkdir()
        transfers = Transfers(link, tmp_path / "small", cache_bytes=10_000)
        first, second = s.coordinator.put(b"a" * 6000), s.coordinator.put(b"b" * 6000)
        with pytest.raises(LimitExceeded, match="longer than 5999"):
            await transfers.fetch(first, "lease", tmp_path / "x", max_bytes=5999)
        assert not list((tmp_path / "small").iterdir())
        await transfers.fetch(first, "lease", tmp_path / "x", max_bytes=6000)
        assert (tmp_path / "x").read_bytes() == b"a" * 6000
        del s.coordinator.artifacts[first]
        await transfers.fetch(first, "lease", tmp_path / "y", max_bytes=6000)  # from the cache
        await transfers.fetch(second, "lease", tmp_path / "z", max_bytes=6000)
        assert [path.name for path in (tmp_path / "small").iterdir()] == [second]
        with pytest.raises(NotFound):
            await transfers.fetch(first, "lease", tmp_path / "x", max_bytes=6000)
        await link.close()

    play(tmp_path, act)


def test_workers_share_one_cache_folder(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        links = [
            CoordinatorLink(
                s.coordinator.address,
                Credentials(DEVICE_KEY, OWNER_KEY, "", "test"),
                now_us=wall_clock_us,
                nonce=random_nonce,
            )
            for _ in range(4)
        ]
        cache = tmp_path / "shared"
        cache.mkdir()
        data = b"shared" * 100_000
        artifact = s.coordinator.put(data)
        workers = [Transfers(link, cache) for link in links]
        await asyncio.gather(
            *(
                worker.fetch(artifact, "lease", tmp_path / f"copy-{at}", max_bytes=len(data))
                for at, worker in enumerate(workers)
            )
        )
        for at in range(len(workers)):
            assert (tmp_path / f"copy-{at}").read_bytes() == data
        assert [path.name for path in cache.iterdir()] == [artifact]
        await asyncio.gather(*(link.close() for link in links))

    play(tmp_path, act)


def test_eviction_spares_downloads_under_way(tmp_path: Path) -> None:
    whole, under_way, abandoned = tmp_path / "aa", tmp_path / ".bb.1.part", tmp_path / ".cc.2.part"
    for path in (whole, under_way, abandoned):
        path.write_bytes(b"x" * 100)
    os.utime(abandoned, (0, 0))
    evict(tmp_path, 50)
    assert list(tmp_path.iterdir()) == [under_way]
