"""Owners, thieves and devices that change keys: signs what the command line would."""

from __future__ import annotations

from flopmarket.trust.documents import AccountRegistration, Withdrawal
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.key_documents import (
    NO_LINK,
    Invitation,
    KeyRevocation,
    RecoveryObjection,
    enrolment,
    recovery,
    recovery_key,
    rotation,
)
from flopmarket.trust.keys import KeyPair, KeyRole, PublicKey
from flopmarket.trust.ownership import Ownership, link_digest, verify_chain
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.parameters import SECOND_US
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_work import digest_of

HOUR_US = 3_600 * SECOND_US
WAIT_US = 72 * HOUR_US


def key(name: str) -> KeyPair:
    """The same key for the same name."""
    return KeyPair.from_seed(digest_of(f"key {name}"))


class Keyring:
    """One account and what can be signed about its keys."""

    def __init__(self, world: World, name: str = "alice") -> None:
        self.world = world
        self.first = key(f"{name} first")
        self.account = self.first.key_id
        body = AccountRegistration(self.first.public.raw, name)
        world.do(world.application.register, world.sign(body, self.first))

    def chain(self) -> Ownership:
        """What everybody can check of the account."""
        report = self.world.see(self.world.application.ownership, self.account)
        return verify_chain(
            PublicKey(report.first_key), report.links, audience=self.world.key.key_id
        )

    def rotate(self, old: KeyPair, new: KeyPair, role: KeyRole = KeyRole.OWNER) -> Envelope:
        previous = self.chain().head if role is KeyRole.OWNER else NO_LINK
        document = self.world.sign(rotation(self.account, role, old.public, new, previous), old)
        self.world.do(self.world.application.rotate_key, document)
        return document

    def set_recovery(self, new: KeyPair, signer: KeyPair) -> Envelope:
        document = self.world.sign(recovery_key(self.account, new, self.chain().head), signer)
        self.world.do(self.world.application.set_recovery_key, document)
        return document

    def recover(self, words: KeyPair, new: KeyPair) -> Envelope:
        document = self.world.sign(recovery(self.account, new, self.chain().head), words)
        self.world.do(self.world.application.start_recovery, document)
        return document

    def object(self, owner: KeyPair) -> Envelope:
        report = self.world.see(self.world.application.ownership, self.account)
        chain = self.chain()
        asked = bytes(32)
        if report.recovery is not None and chain.recovery is not None:
            asked = link_digest(report.recovery, chain.recovery)
        body = RecoveryObjection(self.account, asked, chain.head)
        document = self.world.sign(body, owner)
        self.world.do(self.world.application.object_to_recovery, document)
        return document

    def revoke(self, owner: KeyPair, key_id: str) -> tuple[str, ...]:
        body = KeyRevocation(self.account, key_id, "lost")
        return self.world.do(self.world.application.revoke_key, self.world.sign(body, owner))

    def wait(self, microseconds: int = WAIT_US) -> tuple[str, ...]:
        self.world.now_us += microseconds
        return self.world.do(self.world.application.complete_recoveries)

    def session(self, owner: KeyPair, role: KeyRole = KeyRole.OWNER) -> Session:
        return self.world.session(owner, self.account, role)

    def withdraw(self, owner: KeyPair, request_id: str = "w1", amount: int = 1_000) -> str:
        body = Withdrawal(self.account, amount, "USD", "IBAN 1", request_id)
        row = self.world.do(self.world.application.withdraw, self.world.sign(body, owner))
        return row.withdrawal_id

    def invite(self, owner: KeyPair, invited: KeyPair, hours: int = 24) -> str:
        body = Invitation(self.account, invited.public.raw, "cellar")
        document = self.world.sign(body, owner, lifetime_s=hours * 3_600)
        return self.world.do(self.world.application.invite, document)

    def join(self, invited: KeyPair, device: KeyPair, label: str = "") -> tuple[str, str]:
        body = enrolment(self.account, device, label, invited.public)
        return self.world.do(self.world.application.join, self.world.sign(body, invited))
