"""What must hold of the ledger's own rows: every hash again, from the first row to the last.

Takes rows as they are stored, however somebody edited them, and names the first one that is wrong:
a transfer whose contents do not hash to its leaf, a number that is missing or too many, a batch or
head that does not follow from the rows. What the transfers *mean* is :mod:`core.invariants`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flopmarket.errors import FlopmarketError
from flopmarket.market.money import FLOPCOIN
from flopmarket.trust import ledger_log as log
from flopmarket.trust.encoding import DIGEST_BYTES
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.statement import open_head
from flopmarket_coordinator.core.invariants import Finding
from flopmarket_coordinator.core.ledger import (
    EXTERNAL,
    PLATFORM_ACCOUNTS,
    Balance,
    Transfer,
    TransferKind,
    account_of,
    owner_of,
)
from flopmarket_coordinator.core.payments import WithdrawalState

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """Rows of the ledger's tables, each table in order of its key, nothing trusted.

    ``accounts`` are rows of ``ledger_account``; ``market_accounts`` the ids of people's accounts.
    """

    transfers: Sequence[Row]
    batches: Sequence[Row]
    heads: Sequence[Row]
    accounts: Sequence[Row]
    expiries: Sequence[Row]
    withdrawals: Sequence[Row]
    market_accounts: frozenset[str]
    currency: str
    key: PublicKey


Rule = Callable[[LedgerFacts], Iterator[tuple[str, str]]]


def check_ledger(facts: LedgerFacts) -> tuple[Finding, ...]:
    """The first break of every rule, in a fixed order; empty when all is well."""
    findings: list[Finding] = []
    for name, rule in LEDGER_RULES.items():
        for row, text in rule(facts):
            findings.append(Finding(name, row, text))
            break
    return tuple(findings)


def readable(row: Row) -> Transfer | None:
    """The transfer of a row; None for a row that holds none (the rules here say so)."""
    try:
        return Transfer.of_row(row)
    except (FlopmarketError, ValueError, TypeError):
        return None


def holds_amounts(row: Row) -> bool:
    """Whether the sums of a ledger account are integers at all."""
    return all(
        type(row[name]) is int for name in ("balance_nano", "reserved_nano", "overdraft_nano")
    )


def _transfers_are_as_hashed(facts: LedgerFacts) -> Iterator[tuple[str, str]]:
    expected = 0
    for row in facts.transfers:
        expected += 1
        if row["number"] != expected:
            yield _gap("transfer", expected, row["number"])
            return
        leaf = _leaf_of(row)
        if leaf is None or readable(row) is None:
            yield f"transfer {expected}", f"({row['transfer_id']}) is not a transfer any more"
        elif leaf != row["leaf"]:
            yield f"transfer {expected}", f"({row['transfer_id']}) is not what was hashed"
    last = facts.batches[-1]["last_transfer"] if facts.batches else 0
    if isinstance(last, int) and last > expected:
        yield f"transfer {expected + 1}", f"is missing; batches hold {last} transfers"


def _batches_follow(facts: LedgerFacts) -> Iterator[tuple[str, str]]:
    leaves = [row["leaf"] for row in facts.transfers]
    nodes: dict[int, tuple[bytes, ...]] = {}
    first = 0
    for expected, row in enumerate(facts.batches, 1):
        name = f"batch {expected}"
        last = row["last_transfer"]
        if row["number"] != expected:
            yield _gap("batch", expected, row["number"])
            return
        if not isinstance(last, int) or last <= first:
            yield name, f"ends with transfer {last}, the one before with {first}"
            return
        peaks = _nodes(nodes, log.peaks(expected - 1))
        try:
            root = log.transfers_root(leaves[first:last])
            batch = log.LedgerBatch(expected, last, root, log.fold(peaks), row["created_at_us"])
            right = log.completed_nodes(expected, log.batch_leaf(batch), peaks)
        except (FlopmarketError, TypeError) as error:
            yield name, f"holds something that cannot be hashed: {error}"
            return
        if row["transfers_root"] != root:
            yield name, f"its root is not that of transfers {first + 1} to {last}"
        elif row["root_before"] != batch.root_before:
            yield name, "does not follow the batches before it"
        elif row["nodes"] != b"".join(right):
            yield name, "its place in the log is not what its contents hash to"
        nodes[expected] = right
        first = last
    if first < len(leaves):
        yield f"transfer {first + 1}", "is in no batch"


def _heads_agree(facts: LedgerFacts) -> Iterator[tuple[str, str]]:
    stored = {row["number"]: row["nodes"] for row in facts.batches}
    for row in facts.heads:
        count = row["batch_count"]
        name = f"head of {count} batches"
        try:
            head = open_head(Envelope.from_bytes(row["envelope"]), facts.key)
        except (FlopmarketError, TypeError) as error:
            yield name, f"is not signed by this coordinator: {error}"
            continue
        try:
            root = log.fold([_stored_node(stored, item) for item in log.peaks(count)])
            last = facts.batches[count - 1]["last_transfer"]
        except (KeyError, IndexError, TypeError, ValueError):
            yield name, "names batches that are not there"
            continue
        stated = (head.batch_count, head.transfer_count, head.root, head.currency, head.as_of_us)
        if stated != (count, last, root, facts.currency, row["created_at_us"]):
            yield name, "this coordinator signed another ledger than the one that is here"


def _accounts_are_people_s(facts: LedgerFacts) -> Iterator[tuple[str, str]]:
    stored = {row["ledger_account_id"] for row in facts.accounts}
    wanted = {account_of(owner, balance) for owner in facts.market_accounts for balance in Balance}
    wanted |= set(PLATFORM_ACCOUNTS) if wanted else set()
    for account in sorted(stored ^ wanted, key=str):
        yield str(account), "is missing" if account in wanted else "belongs to nobody"
    for row in facts.accounts:
        if not holds_amounts(row):
            yield row["ledger_account_id"], "holds something that is no amount"


def _overdrafts_are_allowed(facts: LedgerFacts) -> Iterator[tuple[str, str]]:
    for row in facts.accounts:
        overdraft = row["overdraft_nano"]
        owner, balance = owner_of(row["ledger_account_id"])
        may = (
            facts.currency == FLOPCOIN
            and balance == Balance.AVAILABLE
            and owner in facts.market_accounts
        )
        if overdraft and not may:
            yield row["ledger_account_id"], f"may go {overdraft} below zero in {facts.currency}"


def _coins_stay_inside(facts: LedgerFacts) -> Iterator[tuple[str, str]]:
    if facts.currency != FLOPCOIN:
        return
    for row in facts.transfers:
        if EXTERNAL in (row["debit"], row["credit"]):
            yield f"transfer {row['number']}", "crosses the border of a flopcoin market"


def _expiries_are_listed(facts: LedgerFacts) -> Iterator[tuple[str, str]]:
    resolved = {row["pending_id"] for row in facts.transfers if row["pending_id"]}
    due = {
        row["transfer_id"]: row["expires_at_us"]
        for row in facts.transfers
        if row["expires_at_us"] and row["transfer_id"] not in resolved
    }
    listed = {row["transfer_id"]: row["expires_at_us"] for row in facts.expiries}
    for transfer_id in sorted({*due, *listed}, key=str):
        if due.get(transfer_id) != listed.get(transfer_id):
            yield str(transfer_id), "the list of what expires does not follow from the transfers"


def _withdrawals_are_held(facts: LedgerFacts) -> Iterator[tuple[str, str]]:
    by_id = {row["transfer_id"]: row for row in facts.transfers}
    closed = {row["pending_id"]: row for row in facts.transfers if row["pending_id"]}
    for row in facts.withdrawals:
        name = f"withdrawal {row['withdrawal_id']}"
        held = by_id.get(row["withdrawal_id"])
        if held is None or tuple(row[column] for column in _ASKED) != (
            owner_of(held["debit"])[0],
            held["amount_nano"],
            held["reference"],
            held["created_at_us"],
            held["expires_at_us"],
        ):
            yield name, "does not say what was reserved for it"
            continue
        end = closed.get(row["withdrawal_id"])
        kind, reference, time_us = ("", "", 0)
        if end is not None:
            kind, reference, time_us = end["kind"], end["reference"], end["created_at_us"]
        right = (_RESOLVED_BY.get(row["state"]), row["reference"], row["decided_at_us"])
        if right != (kind, reference, time_us):
            yield name, f"is {row['state']}, its money says otherwise"


_ASKED = ("account_id", "amount_nano", "destination", "created_at_us", "expires_at_us")
_RESOLVED_BY = {
    WithdrawalState.PENDING.value: "",
    WithdrawalState.PAID.value: TransferKind.POST.value,
    WithdrawalState.REJECTED.value: TransferKind.VOID.value,
    WithdrawalState.EXPIRED.value: TransferKind.VOID.value,
}

LEDGER_RULES: Mapping[str, Rule] = {
    "transfer-hash": _transfers_are_as_hashed,
    "batch-root": _batches_follow,
    "signed-head": _heads_agree,
    "ledger-accounts": _accounts_are_people_s,
    "overdraft": _overdrafts_are_allowed,
    "coins-inside": _coins_stay_inside,
    "expiry-list": _expiries_are_listed,
    "withdrawal": _withdrawals_are_held,
}


def _gap(kind: str, expected: int, found: object) -> tuple[str, str]:
    """Of rows in order, this one is not the next: another one is missing, or it is one too many."""
    if isinstance(found, int) and found > expected:
        return f"{kind} {expected}", f"is missing; the next one is {found}"
    return f"{kind} {found}", f"stands where {kind} {expected} belongs"


def _leaf_of(row: Row) -> bytes | None:
    """What the contents of a row hash to; None when they cannot be hashed."""
    fields = {name: row[name] for name in log.LedgerTransfer.__dataclass_fields__}
    fields["pending_id"] = row["pending_id"] or ""
    try:
        return log.transfer_leaf(log.LedgerTransfer(**fields))
    except FlopmarketError:
        return None


def _nodes(known: Mapping[int, tuple[bytes, ...]], wanted: Sequence[log.Node]) -> list[bytes]:
    return [known[log.completing_batch(item)][item[0]] for item in wanted]


def _stored_node(stored: Mapping[int, bytes], item: log.Node) -> bytes:
    start = item[0] * DIGEST_BYTES
    node = stored[log.completing_batch(item)][start : start + DIGEST_BYTES]
    if len(node) != DIGEST_BYTES:
        raise ValueError("a node is missing")
    return node
