"""The chain behind a job: first owner key, rotations, grant, CI key, specification.

A first owner key's id is its account, so a specification that it signed needs no further proof. A
later owner key is proved by the account's chain (:mod:`flopmarket.trust.ownership`).
For a CI key the owner's :class:`~flopmarket.trust.documents.DeviceGrant` travels beside the
specification, and whoever is asked to work checks the two together here, believing nobody. Sums
over many jobs are the coordinator's to keep; what one job may cost, and until when, is granted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flopmarket.trust.documents import DeviceGrant
from flopmarket.trust.envelope import Envelope, keys_by_id, open_envelope
from flopmarket.trust.errors import SignerNotAllowed
from flopmarket.trust.keys import KeyRole, PublicKey
from flopmarket.trust.ownership import follow_rotations, verify_chain


class SpendingLimits(Protocol):
    """What a grant says about money: a :class:`DeviceGrant`, or a coordinator's record of one."""

    @property
    def cap_nano(self) -> int:
        """Most that all jobs of the key may come to."""

    @property
    def monthly_nano(self) -> int:
        """Most that its jobs of one calendar month may come to."""

    @property
    def expires_at_us(self) -> int:
        """From then on the key may do nothing."""


def check_owner_signed(
    signer: PublicKey,
    buyer: str,
    *,
    first: PublicKey | None = None,
    links: Sequence[Envelope] = (),
    audience: str | None = None,
) -> None:
    """:class:`SignerNotAllowed` ``GRANT_MISSING`` unless this is or was the buyer's owner key.

    ``first`` is the account's first owner key and ``links`` its chain, where the key has followed
    another. A job outlives the key that signed it.
    """
    if signer.key_id == buyer:
        return
    if (
        first is None
        or first.key_id != buyer
        or signer not in verify_chain(first, links, audience=audience).owners
    ):
        raise SignerNotAllowed(
            f"key {signer.key_id} signed for account {buyer[:64]!r} without a grant of its owner",
            code="GRANT_MISSING",
        )


def open_ci_grant(
    envelope: Envelope,
    owner: PublicKey,
    signer: PublicKey,
    *,
    audience: str | None,
    links: Sequence[Envelope] = (),
    rotations: Sequence[Envelope] = (),
) -> DeviceGrant:
    """The grant of an account to the CI key ``signer``; its limits are not checked yet.

    ``owner`` is the account's first owner key, whose id is the account; ``links`` are its chain as
    far as it is needed, ``rotations`` those of the granted key to ``signer``. ``audience`` is the
    coordinator's key id, None where that was checked before. Raises :class:`EnvelopeError`, or
    :class:`SignerNotAllowed` ``GRANT_OTHER_ACCOUNT`` or ``GRANT_OTHER_KEY``.
    """
    owners = verify_chain(owner, links, audience=audience).owners
    keys = keys_by_id(*owners)
    grant = open_envelope(
        envelope, DeviceGrant, keys=keys, audience=audience, now_us=None, replay=None
    ).body
    if grant.account_id != owner.key_id:
        raise SignerNotAllowed(
            f"an owner of {owner.key_id} grants for account {grant.account_id[:64]!r}",
            code="GRANT_OTHER_ACCOUNT",
        )
    granted = PublicKey(grant.device_key)
    acting = follow_rotations(granted, grant.account_id, KeyRole.CI, rotations, audience=audience)
    if grant.role is not KeyRole.CI or acting != signer:
        raise SignerNotAllowed(
            f"the grant is to another key than {signer.key_id}, or not for jobs",
            code="GRANT_OTHER_KEY",
        )
    return grant


def check_job_within(
    grant: SpendingLimits, *, max_price_nano: int, deadline_us: int, now_us: int | None
) -> None:
    """:class:`SignerNotAllowed` unless one job fits the grant by itself.

    A job's deadline is no later than the end of the grant (``GRANT_OUTLIVED``), so nobody needs to
    know when it was signed; ``now_us`` None skips the question whether the grant has ended
    (``GRANT_EXPIRED``). ``GRANT_CAP`` when the price limit alone passes a cap.
    """
    if now_us is not None and grant.expires_at_us <= now_us:
        raise SignerNotAllowed(
            f"the grant to this CI key ended {now_us - grant.expires_at_us} us ago",
            code="GRANT_EXPIRED",
            hint="its owner can grant again: flop key grant",
        )
    if deadline_us > grant.expires_at_us:
        raise SignerNotAllowed(
            "the deadline of a CI key's job is later than the end of the key's grant",
            code="GRANT_OUTLIVED",
            hint="name a deadline before the key expires",
            details={
                "deadline_us": str(deadline_us),
                "grant_expires_at_us": str(grant.expires_at_us),
            },
        )
    cap_nano = min(grant.cap_nano, grant.monthly_nano)
    if max_price_nano > cap_nano:
        raise SignerNotAllowed(
            f"the price limit is {max_price_nano} nano-units, the key is granted {cap_nano}",
            code="GRANT_CAP",
            hint="name a lower price limit, or have the owner grant more",
            details={"max_price_nano": str(max_price_nano), "granted_nano": str(cap_nano)},
        )
