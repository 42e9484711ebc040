"""Use cases of operators: orders, the trail of decisions, what the coordinator is doing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from flopmarket.errors import Conflict, Forbidden, InvalidInput, NotFound
from flopmarket.limits import MAX_PAGE_ROWS
from flopmarket.trust.administration import AdminAction, AdminOrder
from flopmarket.trust.encoding import encode
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.keys import PUBLIC_KEY_BYTES, KeyRole, PublicKey
from flopmarket_coordinator.application import admitting
from flopmarket_coordinator.application.context import page_size
from flopmarket_coordinator.application.dispatching import DispatchingUseCases
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.changes import Change, ParametersChanged
from flopmarket_coordinator.core.leasing import RevokeReason
from flopmarket_coordinator.core.ledger import PLATFORM_ACCOUNTS
from flopmarket_coordinator.core.lifecycle import LeaseState
from flopmarket_coordinator.parameters import ADJUSTABLE, Parameters, adjusted
from flopmarket_coordinator.store import (
    account_invitations,
    audits,
    decisions,
    identity,
    jobs,
    ledger,
    segments,
    settings,
    work,
)
from flopmarket_coordinator.store.account_invitations import AccountInvitationRow
from flopmarket_coordinator.store.decisions import Decision, DecisionKind
from flopmarket_coordinator.store.engine import Transaction

_PARAMETER = "parameter/"
_DRAINING = "draining"
_METHOD = "admin"


@dataclass(frozen=True, slots=True)
class DecisionPage:
    """Lines of the trail, newest first."""

    decisions: tuple[Decision, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Status:
    """What is connected, queued and waiting. Sizes are bytes, balances nano-units."""

    as_of_us: int
    draining: bool
    workers_connected: int
    offers_listed: int
    jobs_by_state: dict[str, int]
    leases_live: int
    audits_waiting: int
    artifacts: int
    artifact_bytes: int
    platform_balances_nano: dict[str, int]
    house_accounts: tuple[str, ...]
    audits_open: dict[str, int]
    """Audits by workers of other accounts that did not end, by phase."""
    parameters: Parameters
    overridden: frozenset[str]


class AdministrationUseCases(DispatchingUseCases):
    """The operator's side. Every order is signed, is written to the trail, and gives its reason."""

    def administer(self, tx: Transaction, order: Envelope) -> Decision:
        """Do what an operator signed. The same request id again: the first decision."""
        opened, signed_by = self._open(tx, order, AdminAction)
        action = opened.body
        payload = encode(action)
        known = identity.answered(tx, signed_by.key_id, _METHOD, action.request_id)
        if known is not None:
            if known[0] != payload:
                raise Conflict(
                    f"request id {action.request_id!r} gave another order",
                    code="REQUEST_ID_REUSED",
                )
            return decisions.numbered(tx, int(known[1]))
        detail = self._carry_out(tx, action, signed_by.key_id)
        decision = decisions.record(
            tx,
            DecisionKind(action.order.value),
            action.subject,
            actor=signed_by.key_id,
            cause=action.request_id,
            reason=action.reason,
            detail=detail,
            order_envelope=order.to_bytes(),
        )
        identity.remember_answer(
            tx, signed_by.key_id, _METHOD, action.request_id, payload, str(decision.number)
        )
        return decision

    def list_decisions(
        self, tx: Transaction, session: Session, kind: str, subject: str, asked: int, token: str
    ) -> DecisionPage:
        """The trail, newest first, of one subject or kind if they are not empty."""
        _require_operator(session)
        query = f"decisions/{kind}/{subject}"
        size = page_size(asked)
        before = self._page_position(query, token) or 2**62
        rows = decisions.find(tx, subject, kind, before, size + 1)
        more = len(rows) > size
        return DecisionPage(
            tuple(rows[:size]), self._page_token(query, rows[size - 1].number) if more else ""
        )

    def list_account_invitations(
        self, tx: Transaction, session: Session
    ) -> tuple[AccountInvitationRow, ...]:
        """Invitations to open an account, newest first."""
        _require_operator(session)
        return tuple(account_invitations.newest(tx, MAX_PAGE_ROWS))

    def status(self, tx: Transaction, session: Session) -> Status:
        """Figures of this moment."""
        _require_operator(session)
        return self.figures(tx)

    def figures(self, tx: Transaction) -> Status:
        """As :meth:`status`, for the process itself (metrics)."""
        artifacts, artifact_bytes = work.artifact_totals(tx)
        return Status(
            as_of_us=tx.now_us,
            draining=self._draining,
            workers_connected=len(
                work.present_workers(tx, tx.now_us - self._parameters.presence_ttl_us)
            ),
            offers_listed=work.count_listed_offers(tx),
            jobs_by_state=jobs.count_by_state(tx),
            leases_live=work.count_live_leases(tx),
            audits_waiting=segments.count_unaudited(tx),
            artifacts=artifacts,
            artifact_bytes=artifact_bytes,
            platform_balances_nano={
                account: ledger.balance(tx, account)[0] for account in PLATFORM_ACCOUNTS
            },
            house_accounts=audits.house_accounts(tx),
            audits_open=audits.count_open(tx),
            parameters=self._parameters,
            overridden=frozenset(settings.with_prefix(tx, _PARAMETER)),
        )

    def reload(self, tx: Transaction) -> None:
        """Read what orders left in the store: parameters, operators' keys, whether to drain."""
        overrides = settings.with_prefix(tx, _PARAMETER)
        self._parameters = adjusted(self._started_with, overrides)
        self._ordered_operators = decisions.operator_keys(tx)
        self._draining = settings.get(tx, _DRAINING) is not None

    def _carry_out(self, tx: Transaction, action: AdminAction, actor: str) -> str:
        """Do one order; what to write beside it. Each raises before it has changed anything."""
        match action.order:
            case AdminOrder.DRAIN | AdminOrder.RESUME:
                return self._drain(tx, action.order is AdminOrder.DRAIN)
            case AdminOrder.BAN:
                return self._ban_by_order(tx, action)
            case AdminOrder.UNBAN:
                return self._unban(tx, action.subject)
            case AdminOrder.REFUND:
                return self._refund(tx, action)
            case AdminOrder.SET | AdminOrder.UNSET:
                return self._set_parameter(tx, action)
            case AdminOrder.ADD_HOUSE | AdminOrder.REMOVE_HOUSE:
                return self._change_house(tx, action)
            case AdminOrder.ADD_OPERATOR | AdminOrder.REMOVE_OPERATOR:
                return self._change_operators(tx, action, actor)
            case AdminOrder.INVITE:
                return admitting.invite(tx, action, actor)
            case AdminOrder.REVOKE_INVITE:
                return admitting.revoke(tx, action.subject)

    def _drain(self, tx: Transaction, begin: bool) -> str:
        if begin == self._draining:
            raise Conflict(
                f"the coordinator is {'draining already' if begin else 'not draining'}",
                code="ADMIN_NO_CHANGE",
            )
        if begin:
            settings.put(tx, _DRAINING, str(tx.now_us))
        else:
            settings.drop(tx, _DRAINING)
        tx.note(ParametersChanged())
        return f"{work.count_live_leases(tx)} leases run"

    def _keys_of(self, tx: Transaction, subject: str) -> list[str]:
        """Keys of an account, or the one key named and those that took each other's place."""
        keys = identity.keys_of_account(tx, subject)
        if not keys and identity.key(tx, subject) is not None:
            keys = identity.same_lineage(tx, subject)
        if not keys:
            raise NotFound(f"there is no account or key {subject[:80]}", code="SUBJECT_UNKNOWN")
        return keys

    def _ban_by_order(self, tx: Transaction, action: AdminAction) -> str:
        keys = self._keys_of(tx, action.subject)
        revoked = 0
        for key_id in keys:
            identity.ban_key(tx, key_id, f"{action.reason}, by the operator")
            work.unlist_offers(tx, key_id)
            for lease in work.live_leases_of_key(tx, key_id):
                self._end_lease(
                    tx, lease, LeaseState.REVOKED, RevokeReason.KEY_BANNED, action.reason
                )
                self._after_lease(tx, lease)
                revoked += 1
        return f"{len(keys)} keys, {revoked} leases revoked"

    def _unban(self, tx: Transaction, subject: str) -> str:
        keys = self._keys_of(tx, subject)
        freed = [key_id for key_id in keys if identity.unban_key(tx, key_id)]
        if not freed:
            raise Conflict(f"{subject[:80]} is not banned", code="ADMIN_NO_CHANGE")
        return f"{len(freed)} keys"

    def _refund(self, tx: Transaction, action: AdminAction) -> str:
        job = jobs.get(tx, action.subject)
        if job is None:
            raise NotFound(f"there is no job {action.subject[:80]}", code="JOB_UNKNOWN")
        amount = int(action.value)
        if amount + ledger.refunded(tx, job.job_id) > job.billed_nano:
            raise InvalidInput(
                f"job {job.job_id} was billed {job.billed_nano} nano-units; refunds cannot pass it",
                code="REFUND_TOO_LARGE",
                details={"billed_nano": str(job.billed_nano)},
            )
        transfer = escrow.refund(job.job_id, job.buyer, amount, action.request_id, action.reason)
        ledger.execute(tx, transfer)
        return f"{self._money(amount)} to {job.buyer}"

    def _set_parameter(self, tx: Transaction, action: AdminAction) -> str:
        name = action.subject
        if name not in ADJUSTABLE:
            raise InvalidInput(
                f"{name[:40]!r} cannot be set while the coordinator runs",
                code="PARAMETER_UNKNOWN",
                hint=f"one of {', '.join(sorted(ADJUSTABLE))}",
            )
        before = getattr(self._parameters, name)
        overrides = settings.with_prefix(tx, _PARAMETER)
        if action.order is AdminOrder.SET:
            overrides[name] = action.value
        elif overrides.pop(name, None) is None:
            raise Conflict(f"{name} is what the process started with", code="ADMIN_NO_CHANGE")
        after = getattr(adjusted(self._started_with, overrides), name)  # refuses what cannot work
        if action.order is AdminOrder.SET:
            settings.put(tx, _PARAMETER + name, action.value)
        else:
            settings.drop(tx, _PARAMETER + name)
        tx.note(ParametersChanged())
        return f"{before} -> {after}"

    def _change_house(self, tx: Transaction, action: AdminAction) -> str:
        """Whose workers audit for the house. Leases that were given keep their lists."""
        account = action.subject
        if not identity.keys_of_account(tx, account):
            raise NotFound(f"there is no account {account[:80]}", code="SUBJECT_UNKNOWN")
        adding = action.order is AdminOrder.ADD_HOUSE
        if adding == (account in audits.house_accounts(tx)):
            raise Conflict(
                f"{account[:80]} is {'' if adding else 'not '}the house's", code="ADMIN_NO_CHANGE"
            )
        if adding:
            audits.put_house_account(tx, account)
        else:
            audits.drop_house_account(tx, account)
        return f"{len(audits.house_keys(tx))} device keys audit for the house"

    def _change_operators(self, tx: Transaction, action: AdminAction, actor: str) -> str:
        if action.order is AdminOrder.ADD_OPERATOR:
            key = _public_key(action.value)
            if identity.key(tx, key.key_id) is not None:
                raise Conflict(f"key {key.key_id} belongs to an account", code="KEY_IN_USE")
            if key.key_id in self._operators or decisions.was_operator(tx, key.key_id):
                raise Conflict(f"key {key.key_id} is or was an operator's", code="KEY_IN_USE")
            decisions.put_operator(tx, key, removed=False)
            tx.note(ParametersChanged())
            return key.key_id
        known = decisions.operator_keys(tx).get(action.subject)
        if known is None:
            raise NotFound(
                f"{action.subject[:80]} is no operator's key that an order added",
                code="SUBJECT_UNKNOWN",
                hint="the key of the data directory is replaced there",
            )
        if known.key_id == actor:
            raise Forbidden("a key does not remove itself", code="ADMIN_OWN_KEY")
        decisions.put_operator(tx, known, removed=True)
        identity.end_sessions(tx, known.key_id)
        tx.note(ParametersChanged())
        return known.key_id


class OrdersInForce:
    """An observer of the tick: the application follows what orders left in the store."""

    def __init__(self, application: AdministrationUseCases) -> None:
        self._application = application

    def applied(self, tx: Transaction, changes: Sequence[Change]) -> None:
        """See :class:`~flopmarket_coordinator.tick.Observer`."""
        if any(isinstance(change, ParametersChanged) for change in changes):
            self._application.reload(tx)

    def committed(self, changes: Sequence[Change], now_us: int) -> None:
        """See :class:`~flopmarket_coordinator.tick.Observer`."""

    def reset(self, tx: Transaction) -> None:
        """See :class:`~flopmarket_coordinator.tick.Observer`."""
        self._application.reload(tx)


def parameter_texts(parameters: Parameters) -> dict[str, str]:
    """Names and values, as an operator reads and sets them."""
    return {name: str(value) for name, value in dataclasses.asdict(parameters).items()}


def _require_operator(session: Session) -> None:
    if session.role is not KeyRole.OPERATOR:
        raise Forbidden("this is for operators", code="NOT_AN_OPERATOR")


def _public_key(text: str) -> PublicKey:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != PUBLIC_KEY_BYTES:
        raise InvalidInput(
            f"a public key is {2 * PUBLIC_KEY_BYTES} hex digits", code="PUBLIC_KEY_MALFORMED"
        )
    return PublicKey(raw)
