"""Use cases of people and their keys and money: accounts, sessions, balances, deposits."""

from __future__ import annotations

import hashlib

from flopmarket.engine.exact import PROFILE
from flopmarket.errors import Conflict, Forbidden, NotFound, Unauthenticated
from flopmarket.trust.documents import (
    AccountRegistration,
    Deposit,
    DeviceGrant,
    SessionRequest,
)
from flopmarket.trust.encoding import decode
from flopmarket.trust.envelope import Envelope, Header, open_envelope
from flopmarket.trust.keys import KeyRole, PublicKey
from flopmarket.trust.policy import Signer, check_role_claim
from flopmarket_coordinator.application.context import UseCases, page_size
from flopmarket_coordinator.application.types import (
    Balances,
    CoordinatorInfo,
    DepositResult,
    OpenedSession,
    Session,
    TransferPage,
    TransferView,
)
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.ledger import (
    Balance,
    LedgerConflict,
    TransferKind,
    account_of,
    owner_of,
)
from flopmarket_coordinator.store import identity, ledger
from flopmarket_coordinator.store.engine import Transaction


class AccountUseCases(UseCases):
    """Accounts, keys, sessions, money."""

    def coordinator_info(self) -> CoordinatorInfo:
        """Who this coordinator is."""
        return CoordinatorInfo(
            self._key.public, PROFILE, self._parameters.currency, self._parameters.fee_ppm
        )

    def register(self, tx: Transaction, registration: Envelope) -> str:
        """Open an account for the owner key that signed; again, the same account id."""
        owner = _claimed_owner(registration)
        opened = open_envelope(
            registration,
            AccountRegistration,
            keys={owner.key_id: owner},
            audience=self._key.key_id,
            now_us=tx.now_us,
            replay=None,  # registering twice is registering once
        )
        known = identity.key(tx, owner.key_id)
        if known is not None:
            if known.role != KeyRole.OWNER:
                raise Conflict(
                    f"key {owner.key_id} is registered as a {known.role} key", code="KEY_IN_USE"
                )
            return known.account_id
        identity.add_account(tx, owner.key_id, opened.body.display_name)
        identity.add_key(tx, owner, owner.key_id, KeyRole.OWNER, "owner")
        ledger.open_platform(tx)
        ledger.open_market_account(tx, owner.key_id)
        return owner.key_id

    def grant_device(self, tx: Transaction, grant: Envelope) -> str:
        """Let a device or CI key act for the signer's account; again, no change."""
        opened, signed_by = self._open(tx, grant, DeviceGrant)
        body = opened.body
        if body.account_id != signed_by.account_id:
            raise Forbidden("a grant is for the signer's own account", code="GRANT_OTHER_ACCOUNT")
        key = PublicKey(body.device_key)
        known = identity.key(tx, key.key_id)
        if known is None:
            identity.add_key(tx, key, body.account_id, body.role, body.label)
        elif (known.account_id, known.role) != (body.account_id, body.role.value):
            raise Conflict(f"key {key.key_id} is registered otherwise", code="KEY_IN_USE")
        elif known.revoked:
            raise Forbidden(
                f"key {key.key_id} is banned: {known.banned_reason or 'revoked'}", code="KEY_BANNED"
            )
        return key.key_id

    def open_session(self, tx: Transaction, request: Envelope) -> OpenedSession:
        """A bearer token for the key that signed."""
        opened, signed_by = self._open(tx, request, SessionRequest, once=True)
        check_role_claim(opened.body, Signer(signed_by.role))
        if opened.body.account_id != signed_by.account_id:
            raise Forbidden(
                "the key belongs to another account than the request names",
                code="SESSION_OTHER_ACCOUNT",
            )
        token = self._entropy(32).hex()
        expires_at_us = tx.now_us + self._parameters.session_ttl_us
        session = Session(signed_by.account_id, signed_by.key_id, signed_by.role, expires_at_us)
        identity.add_session(
            tx, _token_hash(token), session.account_id, session.key_id, session.role, expires_at_us
        )
        return OpenedSession(token, session)

    def authenticate(self, tx: Transaction, token: str) -> Session:
        """Whose token it is; :class:`Unauthenticated` when it is nobody's (any more)."""
        row = identity.session(tx, _token_hash(token))
        if row is None:
            raise Unauthenticated(
                "the session token is unknown or expired",
                code="SESSION_UNKNOWN",
                hint="open a new session",
            )
        return Session(row["account_id"], row["key_id"], KeyRole(row["role"]), row["expires_at_us"])

    def balances(self, tx: Transaction, session: Session) -> Balances:
        """Money of the caller's account."""
        name = identity.display_name(tx, session.account_id)
        if name is None:
            raise NotFound("this key has no account", code="ACCOUNT_UNKNOWN")
        available, reserved = ledger.balance(tx, account_of(session.account_id, Balance.AVAILABLE))
        held, _ = ledger.balance(tx, account_of(session.account_id, Balance.HELD))
        bond, _ = ledger.balance(tx, account_of(session.account_id, Balance.BOND))
        return Balances(session.account_id, name, available - reserved, reserved, held, bond)

    def transfers(
        self, tx: Transaction, session: Session, asked_size: int, page_token: str
    ) -> TransferPage:
        """The caller's statement, oldest first."""
        query = f"transfers/{session.account_id}"
        size = page_size(asked_size)
        after = self._page_position(query, page_token) or 0
        rows = ledger.statement(tx, session.account_id, after, size + 1)
        views: list[TransferView] = []
        for row in rows[:size]:
            transfer = ledger.to_transfer(row)
            for account, sign in ((transfer.debit, -1), (transfer.credit, 1)):
                owner, balance = owner_of(account)
                if owner != session.account_id:
                    continue
                moved = transfer.kind in (TransferKind.DIRECT, TransferKind.POST)
                views.append(
                    TransferView(
                        transfer.transfer_id,
                        row["created_at_us"],
                        transfer.kind.value,
                        balance,
                        sign * transfer.amount_nano if moved else 0,
                        transfer.amount_nano,
                        transfer.purpose.value,
                        transfer.job_id,
                        transfer.reference,
                    )
                )
        more = len(rows) > size
        return TransferPage(
            tuple(views), self._page_token(query, rows[size - 1]["number"]) if more else ""
        )

    def deposit(self, tx: Transaction, deposit: Envelope) -> DepositResult:
        """Money from outside, on the word of the operator; a repeated request id moves nothing."""
        opened, signed_by = self._open(tx, deposit, Deposit)
        body = opened.body
        if identity.display_name(tx, body.account_id) is None:
            raise NotFound(f"there is no account {body.account_id}", code="ACCOUNT_UNKNOWN")
        transfer = escrow.deposit(
            signed_by.key_id,
            body.request_id,
            body.account_id,
            Balance(body.target.value),
            body.amount_nano_usd,
            body.reference,
        )
        try:
            ledger.execute(tx, transfer)
        except LedgerConflict as error:
            if error.code != "TRANSFER_ID_REUSED":
                raise
            raise Conflict(
                f"request id {body.request_id!r} made another deposit", code="REQUEST_ID_REUSED"
            ) from error
        balance, reserved = ledger.balance(tx, transfer.credit)
        return DepositResult(transfer.transfer_id, balance - reserved)


def _claimed_owner(registration: Envelope) -> PublicKey:
    """The key an unverified registration names; what it proves is checked with that key."""
    header = decode(Header, registration.payload)
    return PublicKey(decode(AccountRegistration, header.body).owner_key)


def _token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
