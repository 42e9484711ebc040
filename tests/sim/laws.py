"""What must hold after every tick, whatever happened.

Each tick's changed rows are compared with what was known of them before, and new ledger entries
with the books kept here. Nothing is asked of the code under test but its rows: what is read is raw
SQL. The coordinator's own checker runs every few ticks and at the end beside it. The simulation
knows the truth about every worker, so that also "nobody honest was accused" is a law.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flopmarket.limits import MAX_QUEUED_COMMANDS, MAX_UNANSWERED_COMMITMENTS
from flopmarket_coordinator.core.changes import SegmentChanged
from flopmarket_coordinator.core.lifecycle import (
    FINAL_JOB_STATES,
    JOB_TRANSITIONS,
    LEASE_TRANSITIONS,
    LIVE_LEASE_STATES,
    SEGMENT_TRANSITIONS,
    JobState,
    LeaseState,
    SegmentState,
)
from tests.sim import arithmetic
from tests.sim.arithmetic import EMPTY, Ran
from tests.sim.audit_laws import AuditLaws
from tests.sim.broken import Broken
from tests.sim.class_laws import ClassLaws
from tests.sim.fault_laws import FaultLaws
from tests.sim.house_laws import HouseLaws
from tests.sim.place import Place
from tests.sim.step_laws import StepLaws
from tests.sim.worker import Worker

SCAN_TICKS = 25
"""Between two readings of all rows, only those are read that the coordinator says it changed."""
_BLOBS = {"receipt", "envelope", "spec", "commitment"}
_ORDER = {"job": "number", "lease": "rowid", "segment": "segment_id"}
LATE_US = 30_000_000
FULL_CHECK_TICKS = 100
"""The coordinator's own checker reads everything: so often, and at the end."""


class Laws:
    """Everything that was true so far."""

    def __init__(self, place: Place, workers: Mapping[str, Worker]) -> None:
        self.place = place
        self.workers = workers
        """By device key."""
        self._rows: dict[str, dict[Any, dict[str, Any]]] = {"job": {}, "lease": {}, "segment": {}}
        self._number = 0
        self._balances: Counter[str] = Counter()
        self._resolved: dict[str, str] = {}
        self._pending: dict[str, dict[str, Any]] = {}
        self._fences: Counter[tuple[str, bool]] = Counter()
        self.seen: Counter[str] = Counter()
        """What happened, for the summary of a run."""
        place.raw.row_factory = None
        self._columns = {
            table: [
                row[1]
                for row in place.raw.execute(f"PRAGMA table_info({table})")
                if row[1] not in _BLOBS
            ]
            for table in ("job", "lease", "segment", "transfer")
        }
        self._bans: set[str] = set()
        self._accepted: set[int] = set()
        self._afterwards: list[Callable[[], None]] = []
        self._before: dict[int, dict[str, Any] | None] = {}
        self._found: Broken | None = None
        place.watch_commands(self._after_command)
        self.audits = AuditLaws(self)
        self.classes = ClassLaws(self)
        self.steps = StepLaws(self)
        self._house = HouseLaws(place.raw, place.key.key_id)
        self._faults = FaultLaws(place.raw, place.parameters.audit_rules.refund_ppm)
        self.follow()
        place.after_tick.append(self.follow)

    # --- after every command ------------------------------------------------------------------

    def _after_command(self, changes: Any) -> None:
        """A result that was just accepted carries the fence that is current at this moment."""
        for change in changes:
            if not isinstance(change, SegmentChanged) or change.segment_id in self._accepted:
                continue
            self._accepted.add(change.segment_id)
            chain, fence, newest, state = self.place.raw.execute(
                "SELECT lease.chain, lease.fence, job.fence, lease.state FROM segment "
                "JOIN lease USING (lease_id) JOIN job ON job.job_id = segment.job_id "
                "WHERE segment_id = ?",
                (change.segment_id,),
            ).fetchone()
            # An observer's error fails the batch and no more: it is told after the tick.
            name = f"segment {change.segment_id}"
            if chain and fence != newest:
                self._found = Broken("fence", f"{name} has fence {fence}, the job {newest}")
            elif state not in ("running", "finished"):
                self._found = Broken("fence", f"{name} is of a lease that is {state}")

    # --- after every tick ---------------------------------------------------------------------

    def follow(self) -> None:
        """Read what changed and judge it."""
        if self._found is not None:
            raise self._found
        self._ledger()
        noted = self.place.take_noted()
        everything = self.place.ticks % SCAN_TICKS == 0
        for table, key, judge in (
            ("job", "job_id", self._job),
            ("lease", "lease_id", self._lease),
            ("segment", "segment_id", self._segment),
        ):
            if everything:
                self._changed(table, key, judge, self._read(table, f"1 ORDER BY {_ORDER[table]}"))
            elif noted[table]:
                values = sorted(noted[table])
                marks = ", ".join("?" * len(values))
                where = f"{key} IN ({marks}) ORDER BY {_ORDER[table]}"
                self._changed(table, key, judge, self._read(table, where, *values))
        for run in self._afterwards:
            run()
        self._afterwards.clear()
        for job_id in sorted(noted["job"]):
            if not self._rows["job"][job_id]["stateless"]:
                self.audits.chain(job_id)
        self.audits.follow()
        self.classes.follow()
        self.steps.follow()
        if self.place.parameters.house_disputes:
            for outcome in self._house.follow(self.place.now_us(), settled=self.place.settled):
                self.seen[f"house dispute: {outcome}"] += 1
        self._faults.follow()
        self._keys()
        self._before.clear()
        self._overdue()
        self._queues()
        if self.place.ticks % FULL_CHECK_TICKS == FULL_CHECK_TICKS - 1:
            self.check()

    def check(self) -> None:
        """The coordinator's own checker."""
        findings = self.place.read(self.place.application.check)
        for finding in findings:
            raise Broken(f"check/{finding.rule}", f"{finding.row} {finding.text}")

    def _read(self, table: str, where: str, *values: Any) -> Iterator[dict[str, Any]]:
        names = self._columns[table]
        for row in self.place.raw.execute(
            f"SELECT {', '.join(names)} FROM {table} WHERE {where}", values
        ):
            yield dict(zip(names, row, strict=True))

    def _changed(
        self,
        table: str,
        key: str,
        judge: Callable[[dict[str, Any] | None, dict[str, Any]], None],
        rows: Iterator[dict[str, Any]],
    ) -> None:
        known = self._rows[table]
        for row in rows:
            before = known.get(row[key])
            if before == row:
                continue
            known[row[key]] = row
            judge(before, row)

    # --- money --------------------------------------------------------------------------------

    def _ledger(self) -> None:
        """Books of our own, from the transfers alone."""
        touched: set[str] = set()
        for row in self._read("transfer", "number > ? ORDER BY number", self._number):
            self._number = row["number"]
            self._entry(row)
            touched |= {row["debit"], row["credit"]}
        if not touched:
            return
        total = 0
        for name, balance, reserved in self.place.raw.execute(
            "SELECT ledger_account_id, balance_nano, reserved_nano FROM ledger_account"
        ):
            total += balance
            if name in touched and balance != self._balances[name]:
                raise Broken(
                    "money", f"{name} has {balance}, its transfers say {self._balances[name]}"
                )
            if reserved < 0:
                raise Broken("money", f"{name} reserves {reserved}")
        if total:
            raise Broken("money", f"all accounts sum up to {total}")

    def _entry(self, row: dict[str, Any]) -> None:
        kind, pending = row["kind"], row["pending_id"]
        if row["amount_nano"] < 0:
            raise Broken("money", f"transfer {row['transfer_id']} is of {row['amount_nano']}")
        self._faults.entry(row, self._pending.get(pending))
        if kind == "pending":
            self._pending[row["transfer_id"]] = row
            return
        if pending:
            if pending not in self._pending:
                raise Broken("hold-once", f"{row['transfer_id']} resolves {pending}: no hold")
            if pending in self._resolved:
                raise Broken(
                    "hold-once", f"{pending} by {self._resolved[pending]} and {row['transfer_id']}"
                )
            self._resolved[pending] = row["transfer_id"]
            if row["amount_nano"] > self._pending[pending]["amount_nano"]:
                raise Broken("hold-once", f"{row['transfer_id']} posts more than was held")
        if kind != "void":
            self._balances[row["debit"]] -= row["amount_nano"]
            self._balances[row["credit"]] += row["amount_nano"]

    # --- jobs, leases, segments ---------------------------------------------------------------

    def _job(self, before: dict[str, Any] | None, now: dict[str, Any]) -> None:
        name = now["job_id"]
        state = JobState(now["state"])
        if before is not None:
            _legal("job", name, JOB_TRANSITIONS, JobState(before["state"]), state)
            if now["fence"] < before["fence"]:
                raise Broken("fence", f"job {name} fell from {before['fence']} to {now['fence']}")
        if now["billed_nano"] > now["ceiling_nano"]:
            raise Broken("ceiling", f"job {name} is billed {now['billed_nano']}")
        if state in FINAL_JOB_STATES and (before is None or before["state"] != now["state"]):
            self.seen[f"job {state}"] += 1
            if now["hold_nano"]:
                raise Broken("hold-at-end", f"job {name} ended and holds {now['hold_nano']}")

    def _lease(self, before: dict[str, Any] | None, now: dict[str, Any]) -> None:
        name = now["lease_id"]
        state = LeaseState(now["state"])
        audit = bool(now.get("audit_id"))
        if before is None:
            space = (now["job_id"], audit)
            if now["fence"] <= self._fences[space]:
                raise Broken("fence", f"lease {name} has fence {now['fence']} of {space}")
            self._fences[space] = now["fence"]
            if now["device_key_id"] in self._bans:
                raise Broken("banned", f"lease {name} went to a banned key")
            self.seen["lease"] += 1
        else:
            _legal("lease", name, LEASE_TRANSITIONS, LeaseState(before["state"]), state)
            if before["fence"] != now["fence"]:
                raise Broken("fence", f"lease {name} changed its fence")
        if state in LIVE_LEASE_STATES:
            self._alone(now, audit)
        elif before is None or before["state"] != now["state"]:
            self.seen[f"lease {state}"] += 1

    def _alone(self, now: dict[str, Any], audit: bool) -> None:
        """One live lease a chain, one a device; stateless ranges do not overlap."""
        for other in self._rows["lease"].values():
            if other["lease_id"] == now["lease_id"] or LeaseState(other["state"]) not in (
                LIVE_LEASE_STATES
            ):
                continue
            same = other["job_id"] == now["job_id"] and bool(other.get("audit_id")) == audit
            if same and not audit and (now["chain"] or _overlap(other, now)):
                current = self._stored_state("lease", "lease_id", other["lease_id"])
                if LeaseState(current) in LIVE_LEASE_STATES:
                    raise Broken("one-lease", f"{now['lease_id']} beside {other['lease_id']}")

    def _stored_state(self, table: str, key: str, value: Any) -> str:
        query = f"SELECT state FROM {table} WHERE {key} = ?"
        return str(self.place.raw.execute(query, (value,)).fetchone()[0])

    def _segment(self, before: dict[str, Any] | None, now: dict[str, Any]) -> None:
        name = f"segment {now['segment_id']}"
        state = SegmentState(now["state"])
        self._before[now["segment_id"]] = before
        if before is None:
            self._committed(name, now)
        else:
            _legal("segment", name, SEGMENT_TRANSITIONS, SegmentState(before["state"]), state)
        if before is not None and before["state"] == now["state"]:
            return
        self.seen[f"segment {state}"] += 1
        if state is SegmentState.SETTLED:
            self._afterwards.append(lambda: self.audits.settled(name, now))
        elif state is SegmentState.REJECTED:
            self._afterwards.append(lambda: self.audits.rejected(name, now))
            if self.place.parameters.house_disputes:
                out = now["device_key_id"] in self._bans
                self._afterwards.append(
                    lambda: self._house.rejected(now["segment_id"], shut_out=out)
                )
        if state in (SegmentState.VERIFIED, SegmentState.SETTLED):
            self._afterwards.append(lambda: self.audits.verified(name, now))
        if state in (SegmentState.VERIFIED, SegmentState.SETTLED):
            self._verified(name, now)
        elif state is SegmentState.REJECTED and self._was_right(now):
            raise Broken("false-accusation", f"{name} of {self._name(now)} was right")

    def _committed(self, name: str, now: dict[str, Any]) -> None:
        """A result that was accepted carries the current fence and the work of one lease."""
        lease = self._rows["lease"].get(now["lease_id"])
        if lease is None:
            raise Broken("fence", f"{name} is of no lease")
        if lease["device_key_id"] != now["device_key_id"]:
            raise Broken("producer", f"{name} was committed by another key than its lease's")
        if now["device_key_id"] in self._bans:
            raise Broken("banned", f"{name} was committed by a banned key")
        self.audits.committed(name, now, lease)
        worker = self.workers.get(now["device_key_id"])
        if worker is not None and worker.account != now["account_id"]:
            raise Broken("producer", f"{name} counts for another account")
        for other in self._rows["segment"].values():
            live = other["state"] in ("committed", "verified", "settled")
            same = live and other["job_id"] == now["job_id"]
            if same and other["segment_id"] != now["segment_id"] and _steps_overlap(other, now):
                current = self._stored_state("segment", "segment_id", other["segment_id"])
                if current in ("committed", "verified", "settled"):
                    raise Broken("paid-twice", f"{name} and {other['segment_id']} overlap")

    def _verified(self, name: str, now: dict[str, Any]) -> None:
        if now["verdict"] is not None and not now["verdict_accepted"]:
            raise Broken("verdict", f"{name} is {now['state']} against its verdict")
        if not self._files_right(now):
            raise Broken("files", f"{name} of {self._name(now)}: files are not what was committed")
        if now["verdict"] is None or self._right(now):
            return
        if self.steps.overlooked(now["segment_id"]):
            return
        producer, auditor = (self.workers.get(now[k]) for k in ("device_key_id", "auditor"))
        if auditor is not None and auditor.guilty and producer is not None:
            self.seen["accepted by a friend"] += 1  # found by cross-audits and looking back
            return
        raise Broken("wrong-accepted", f"{name} of {self._name(now)} was audited and is wrong")

    # --- truth --------------------------------------------------------------------------------

    def _was_right(self, row: dict[str, Any]) -> bool:
        """Whether what was rejected was right, and not by the one means that a class has."""
        right = self._right(row) and self._files_right(row)
        return right and not self.classes.lost_to_three(row)

    def _right(self, row: dict[str, Any]) -> bool:
        job = bytes.fromhex(row["job_id"])
        ran = Ran(row["root_after"], row["outputs_root"], b"")
        kind = self.classes.kind_of(row["job_id"])
        right = arithmetic.run(job, row["root_before"], row["first_step"], row["steps"], kind)
        return (ran.root_after, ran.outputs_root) == (right.root_after, right.outputs_root)

    def _files_right(self, row: dict[str, Any]) -> bool:
        shelf = self.place.shelf
        saved = shelf.root_in(row["checkpoint_artifact"])
        return shelf.root_in(row["outputs_artifact"]) == row["outputs_root"] and (
            saved is None or row["root_after"] == EMPTY or saved == row["root_after"]
        )

    def _name(self, row: dict[str, Any]) -> str:
        worker = self.workers.get(row["device_key_id"])
        return row["device_key_id"][:8] if worker is None else worker.name

    def _keys(self) -> None:
        revoked = {
            row[0] for row in self.place.raw.execute("SELECT key_id FROM account_key WHERE revoked")
        }
        for key_id in sorted(revoked - self._bans):
            worker = self.workers.get(key_id)
            self.seen["ban"] += 1
            if worker and not worker.guilty and not self.classes.was_misjudged(key_id):
                raise Broken("false-accusation", f"{worker.name} was banned and did nothing")
            self.audits.looked_back(key_id)
        self._bans = revoked

    def _overdue(self) -> None:
        """No lease outlives its time by more than a few rounds of expiry."""
        query = (
            "SELECT lease_id, expires_at_us FROM lease "
            "WHERE state IN ('offered', 'running') AND expires_at_us < ?"
        )
        for name, until_us in self.place.raw.execute(query, (self.place.now_us() - LATE_US,)):
            # A coordinator that was away gives everybody the time back first.
            if self.place.settled:
                raise Broken("expiry", f"lease {name} should have ended at {until_us}")

    def _queues(self) -> None:
        if self.place.most_queued > MAX_QUEUED_COMMANDS:
            raise Broken("queue", f"{self.place.most_queued} commands waited")
        for worker in self.workers.values():
            for key, folder in worker.disk.items():
                waiting = len(folder.computed) - len(set(folder.answered))
                if waiting > MAX_UNANSWERED_COMMITMENTS:
                    raise Broken("queue", f"{worker.name}: {waiting} unanswered in {key.lease_id}")

    # --- at the end ---------------------------------------------------------------------------

    def unfinished(self) -> list[str]:
        """Jobs that have not ended."""
        return [
            row["job_id"]
            for row in self._rows["job"].values()
            if JobState(row["state"]) not in FINAL_JOB_STATES
        ]

    def at_end(self) -> None:
        """What is asked once."""
        self.follow()
        if unfinished := self.unfinished():
            raise Broken("every-job-ends", f"{unfinished} in the quiet phase")
        self.check()
        self.audits.at_end()
        self.steps.at_end()

    @property
    def newest_transfer(self) -> int:
        """Number of the last transfer that was judged."""
        return self._number

    def one_tick_ago(self, segment_id: int) -> dict[str, Any] | None:
        """A segment before this tick; None if it was not there."""
        if segment_id in self._before:
            return self._before[segment_id]
        return self._rows["segment"].get(segment_id)

    def known(self, table: str) -> dict[Any, dict[str, Any]]:
        """Rows of a table by their key, as they were after the last tick."""
        return self._rows[table]


def _legal(kind: str, name: str, table: Mapping[Any, Any], before: Any, now: Any) -> None:
    if before is not now and now not in _reachable(table, before):
        raise Broken("transition", f"{kind} {name} went from {before} to {now}")


def _reachable(table: Mapping[Any, Any], start: Any) -> set[Any]:
    """States that one tick, which is many commands, may lead to."""
    found, open_ = set(), [start]
    while open_:
        for following in table[open_.pop()]:
            if following not in found:
                found.add(following)
                open_.append(following)
    return found


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    first = max(one["next_step"], other["next_step"])
    return bool(
        first
        < min(
            one["first_step"] + one["step_count"],
            other["first_step"] + other["step_count"],
        )
    )


def _steps_overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    first = max(one["first_step"], other["first_step"])
    return bool(first < min(one["first_step"] + one["steps"], other["first_step"] + other["steps"]))
