"""What an operator orders, as a signed document, so that the audit trail proves who ordered it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

from flopmarket.trust.documents import Identifier, Label
from flopmarket.trust.encoding import MaxLength, document
from flopmarket.trust.errors import DocumentError
from flopmarket.trust.keys import PublicKey


class AdminOrder(StrEnum):
    """What is to be done. ``subject`` and ``value`` of the action mean what stands here."""

    DRAIN = "drain"
    """No new leases and no new jobs; what runs is finished. Nothing else is named."""
    RESUME = "resume"
    """The end of a drain."""
    BAN = "ban"
    """The key (64 hex digits) or account ``subject`` may not act any more."""
    UNBAN = "unban"
    """The key or account ``subject`` may act again; a slashed bond stays gone."""
    REFUND = "refund"
    """``value`` nano-units from the reserve to the buyer of the job ``subject``."""
    SET = "set"
    """The parameter ``subject`` becomes ``value`` at once, and stays so after a restart."""
    UNSET = "unset"
    """The parameter ``subject`` is what the process was started with."""
    ADD_OPERATOR = "add-operator"
    """The key whose public half ``value`` gives in hex may give orders too."""
    ADD_HOUSE = "add-house"
    """Workers of the account ``subject`` are the operator's own and audit for the house."""
    REMOVE_HOUSE = "remove-house"
    """The account ``subject`` is one like any other again."""
    REMOVE_OPERATOR = "remove-operator"
    """The key ``subject`` may give no more orders. The key of the data directory stays."""
    INVITE = "invite"
    """Whoever has the secret of the key ``subject`` may open one account; ``value`` is what
    :func:`invitation_value` writes: its public half, and until when."""
    REVOKE_INVITE = "revoke-invite"
    """Nobody opens an account with the invitation ``subject`` any more."""


class BanReason(StrEnum):
    """Why somebody was banned; shown to the banned."""

    FRAUD = "FRAUD"
    ABUSE = "ABUSE"
    UNPAID = "UNPAID"
    LEGAL = "LEGAL"
    KEY_COMPROMISED = "KEY_COMPROMISED"
    OWN_REQUEST = "OWN_REQUEST"


_NANO = re.compile(r"[0-9]{1,19}")
_INVITATION = re.compile(r"([0-9a-f]{64}) until ([1-9][0-9]{0,18})")

NEEDS_SUBJECT = frozenset(AdminOrder) - {
    AdminOrder.DRAIN,
    AdminOrder.RESUME,
    AdminOrder.ADD_OPERATOR,
}
NEEDS_VALUE = frozenset(
    {AdminOrder.REFUND, AdminOrder.SET, AdminOrder.ADD_OPERATOR, AdminOrder.INVITE}
)


@document("flopmarket.admin-action.v1")
class AdminAction:
    """Signed by an operator key: "do this". A repeated ``request_id`` does nothing more.

    ``reason`` is a :class:`BanReason` for a ban and free text otherwise; it is never empty, since
    the trail shows it to whoever asks why.
    """

    order: AdminOrder
    subject: Identifier
    value: Annotated[str, MaxLength(256)]
    reason: Label
    request_id: Identifier

    def __post_init__(self) -> None:
        if bool(self.subject) != (self.order in NEEDS_SUBJECT):
            wanted = "names a subject" if self.order in NEEDS_SUBJECT else "has no subject"
            raise _invalid(f"{self.order} {wanted}")
        if bool(self.value) != (self.order in NEEDS_VALUE):
            wanted = "gives a value" if self.order in NEEDS_VALUE else "has no value"
            raise _invalid(f"{self.order} {wanted}")
        if not self.reason.strip() or not self.request_id:
            raise _invalid("an order gives its reason and a request id")
        if self.order is AdminOrder.BAN and self.reason not in set(BanReason):
            raise _invalid(f"a ban's reason is one of {', '.join(BanReason)}")
        if self.order is AdminOrder.REFUND and not (
            _NANO.fullmatch(self.value) and 0 < int(self.value) < 2**63
        ):
            raise _invalid("a refund is a whole number of nano-units above zero in 63 bits")
        if self.order is AdminOrder.INVITE and read_invitation(self.value)[0].key_id != (
            self.subject
        ):
            raise _invalid("an invitation is named by the id of its key")


def invitation_value(key: PublicKey, expires_at_us: int) -> str:
    """``value`` of an order that invites: the invitation's key, and until when it holds."""
    return f"{key.raw.hex()} until {expires_at_us}"


def read_invitation(value: str) -> tuple[PublicKey, int]:
    """Inverse of :func:`invitation_value`; :class:`DocumentError` ``ADMIN_ACTION``."""
    found = _INVITATION.fullmatch(value)
    if found is None or int(found[2]) >= 2**63:
        raise _invalid("an invitation is 64 hex digits, `until`, and microseconds since the epoch")
    return PublicKey(bytes.fromhex(found[1])), int(found[2])


def _invalid(message: str) -> DocumentError:
    return DocumentError(message, code="ADMIN_ACTION")
