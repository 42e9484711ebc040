"""Kept checksum lists: found again, also by another process, until they are old or too many."""

from __future__ import annotations

from pathlib import Path

from flopmarket.jobs.checksums import ChecksumList
from flopmarket.jobs.roots import StateRoots
from flopmarket.limits import KEPT_OPENING_SECONDS
from flopmarket_worker.checksum_lists import ChecksumLists

DAYS_US = KEPT_OPENING_SECONDS * 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now_us = 10**15

    def __call__(self) -> int:
        return self.now_us


def sums(index: int, steps: int = 3) -> ChecksumList:
    return ChecksumList(index * steps, 2, bytes([index]) * (8 * steps))


def put(lists: ChecksumLists, folder: Path, lease: str, index: int) -> None:
    path = folder / "written"
    path.write_bytes(sums(index).to_bytes())
    lists.keep(lease, index, path)
    assert not path.exists()


def test_lists_outlive_the_process(tmp_path: Path) -> None:
    clock, folder = Clock(), tmp_path / "lists"
    lists = ChecksumLists(folder, clock)
    for index in (0, 1):
        put(lists, tmp_path, "lease/../1", index)
    put(lists, tmp_path, "lease 2", 1)
    again = ChecksumLists(folder, clock)
    for known in (lists, again):
        assert [known.find("lease/../1", index) for index in (0, 1, 2)] == [sums(0), sums(1), None]
        assert known.find("lease 2", 1) == sums(1)
        assert known.find("lease 3", 1) is None


def test_two_days_after_the_end_they_are_gone(tmp_path: Path) -> None:
    clock = Clock()
    lists = ChecksumLists(tmp_path / "lists", clock)
    for lease in ("one", "two", "three"):
        put(lists, tmp_path, lease, 0)
    lists.lease_ended("one")
    again = ChecksumLists(tmp_path / "lists", clock)
    again.only_live({"three"})
    clock.now_us += DAYS_US - 1
    assert again.find("one", 0) and again.find("two", 0)
    clock.now_us += 1
    assert again.find("one", 0) is again.find("two", 0) is None
    put(again, tmp_path, "four", 0)
    assert again.find("three", 0) == sums(0)
    assert len(list((tmp_path / "lists").iterdir())) == 2


def test_the_oldest_leases_go_when_there_is_too_much(tmp_path: Path) -> None:
    size = len(sums(0).to_bytes())
    lists = ChecksumLists(tmp_path / "lists", Clock(), most_bytes=3 * size)
    for lease, index in (("one", 0), ("one", 1), ("two", 0), ("three", 0)):
        put(lists, tmp_path, lease, index)
    assert lists.find("one", 0) is lists.find("one", 1) is None
    assert lists.find("two", 0) and lists.find("three", 0)


def test_a_list_that_is_sent_again_takes_its_own_place(tmp_path: Path) -> None:
    size = len(sums(0).to_bytes())
    lists = ChecksumLists(tmp_path / "lists", Clock(), most_bytes=2 * size)
    for _ in range(5):
        put(lists, tmp_path, "one", 0)
    put(lists, tmp_path, "two", 0)
    assert lists.find("one", 0) == sums(0)


def test_a_torn_or_missing_list_is_none(tmp_path: Path) -> None:
    lists = ChecksumLists(tmp_path / "lists", Clock())
    lists.keep("one", 0, tmp_path / "missing")
    put(lists, tmp_path, "one", 1)
    (path,) = (tmp_path / "lists").glob("*/1.checksums")
    path.write_bytes(path.read_bytes()[:-1])
    assert lists.find("one", 0) is lists.find("one", 1) is None


def roots_of(index: int) -> StateRoots:
    return StateRoots(index, bytes([index]) * 96)


def test_roots_are_kept_beside_their_list_and_within_the_same_bytes(tmp_path: Path) -> None:
    size = len(sums(0).to_bytes()) + len(roots_of(0).to_bytes())
    lists = ChecksumLists(tmp_path / "lists", Clock(), most_bytes=2 * size)
    for index, lease in enumerate(("one", "two", "three")):
        put(lists, tmp_path, lease, 0)
        path = tmp_path / "roots"
        path.write_bytes(roots_of(index).to_bytes())
        lists.keep_roots(lease, 0, path)
    again = ChecksumLists(tmp_path / "lists", Clock(), most_bytes=2 * size)
    for known in (lists, again):
        assert known.find_roots("one", 0) is None and known.find("one", 0) is None
        assert known.find_roots("two", 0) == roots_of(1) and known.find("two", 0) == sums(0)
        assert known.find_roots("three", 0) == roots_of(2)
        assert known.find_roots("three", 1) is None
