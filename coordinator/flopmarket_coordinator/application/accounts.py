"""Use cases of people and their keys: accounts, grants, sessions."""

from __future__ import annotations

import hashlib

from flopmarket.engine.exact import PROFILE
from flopmarket.errors import Conflict, Forbidden, Unauthenticated
from flopmarket.trust.documents import (
    AccountRegistration,
    DeviceGrant,
    SessionRequest,
)
from flopmarket.trust.envelope import Envelope, open_envelope, unverified_body
from flopmarket.trust.keys import KeyRole, PublicKey
from flopmarket.trust.policy import Signer, check_role_claim
from flopmarket_coordinator.application import admitting
from flopmarket_coordinator.application.budgets import BudgetUseCases
from flopmarket_coordinator.application.types_accounts import (
    CoordinatorInfo,
    OpenedSession,
    Session,
)
from flopmarket_coordinator.store import buyers, identity, keys, ledger
from flopmarket_coordinator.store.engine import Transaction


class AccountUseCases(BudgetUseCases):
    """Accounts, keys, sessions."""

    def coordinator_info(self) -> CoordinatorInfo:
        """Who this coordinator is."""
        return CoordinatorInfo(
            self._key.public, PROFILE, self._parameters.currency, self._parameters.fee_ppm
        )

    def register(
        self, tx: Transaction, registration: Envelope, admission: Envelope | None = None
    ) -> str:
        """Open an account for the owner key that signed; again, the same account id.

        ``admission`` uses an operator's invitation; a market that is by invitation only takes
        nobody without: Forbidden ``INVITATION_NEEDED``.
        """
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
            if known.revoked:
                raise Forbidden(
                    f"key {owner.key_id} acts no more: {known.banned_reason or 'rotated'}",
                    code="KEY_BANNED" if known.banned_reason else "KEY_ROTATED",
                )
            return known.account_id
        invitation = None
        if admission is not None:
            invitation = admitting.check_admission(tx, admission, owner, audience=self._key.key_id)
        elif self._parameters.invitation_only:
            raise Forbidden(
                "accounts of this market are by invitation",
                code="INVITATION_NEEDED",
                hint="ask whoever runs it for a token, then: flop join TOKEN",
            )
        identity.add_account(tx, owner.key_id, opened.body.display_name)
        identity.add_key(tx, owner, owner.key_id, KeyRole.OWNER, "owner")
        ledger.open_platform(tx)
        ledger.open_market_account(tx, owner.key_id, self._parameters.overdraft_nano)
        if invitation is not None and admission is not None:
            admitting.use(tx, invitation, owner.key_id, admission)
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
        if body.role is KeyRole.CI:
            self._grant_ci(tx, grant, opened)
        return key.key_id

    def open_session(self, tx: Transaction, request: Envelope) -> OpenedSession:
        """A bearer token for the key that signed."""
        opened, signed_by = self._open(tx, request, SessionRequest, once=True)
        check_role_claim(opened.body, Signer(signed_by.role))  # its standing was looked at
        if opened.body.account_id != signed_by.account_id:
            raise Forbidden(
                "the key belongs to another account than the request names",
                code="SESSION_OTHER_ACCOUNT",
            )
        token = self._entropy(32).hex()
        expires_at_us = tx.now_us + self._parameters.session_ttl_us
        if signed_by.role is KeyRole.CI:
            valid = buyers.grant(tx, signed_by.key_id)
            expires_at_us = min(expires_at_us, valid.expires_at_us if valid else tx.now_us)
        session = Session(signed_by.account_id, signed_by.key_id, signed_by.role, expires_at_us)
        identity.add_session(
            tx,
            _token_hash(token),
            session.account_id,
            session.key_id,
            session.role,
            expires_at_us,
            opened.body.purpose,
        )
        return OpenedSession(token, session)

    def authenticate(self, tx: Transaction, token: str) -> Session:
        """Whose token it is; :class:`Unauthenticated` when it is nobody's (any more)."""
        token_hash = _token_hash(token)
        row = identity.session(tx, token_hash)
        if row is None:
            raise Unauthenticated(
                "the session token is unknown or expired",
                code="SESSION_UNKNOWN",
                hint="open a new session",
            )
        return Session(
            row["account_id"],
            row["key_id"],
            KeyRole(row["role"]),
            row["expires_at_us"],
            keys.session_id(token_hash),
        )


def _claimed_owner(registration: Envelope) -> PublicKey:
    """The key an unverified registration names; what it proves is checked with that key."""
    return PublicKey(unverified_body(registration, AccountRegistration).owner_key)


def _token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
