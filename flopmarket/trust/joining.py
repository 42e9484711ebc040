"""The token of ``flop join``: one line that carries all a fresh machine needs, and one secret.

``flop1-`` and the base64url of an encoded :class:`JoinToken` and four bytes of its SHA-256, so that
a line that was cut in copying is refused before anything is tried.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Annotated

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_ADDRESS_CHARACTERS, MAX_JOIN_TOKEN_CHARACTERS
from flopmarket.trust.documents import KeyId
from flopmarket.trust.encoding import Digest, MaxLength, decode, document, encode
from flopmarket.trust.errors import DocumentError
from flopmarket.trust.keys import KeyPair

PREFIX = "flop1-"
NO_AUTHORITY = bytes(32)
INVITATION_SECRET_BYTES = 32
_CHECK_BYTES = 4


@document("flopmarket.join-token.v1")
class JoinToken:
    """Address of the coordinator, what identifies it, and the seed of the invitation's key.

    ``account_id`` is the account that a machine joins, or empty: then an operator invites somebody
    to open an account. ``authority`` is the SHA-256 of the DER certificate that signs the
    coordinator's, or :data:`NO_AUTHORITY`: plain on loopback, the system's authorities elsewhere.
    """

    address: Annotated[str, MaxLength(MAX_ADDRESS_CHARACTERS)]
    authority: Digest
    coordinator_key: KeyId
    account_id: KeyId
    secret: Digest
    expires_at_us: int

    @property
    def key(self) -> KeyPair:
        """The invitation's key."""
        return KeyPair.from_seed(self.secret)

    def __post_init__(self) -> None:
        named = len(self.coordinator_key) == 64 and len(self.account_id) in (0, 64)
        if not named or not self.address:
            raise DocumentError("a token names address, coordinator and account", code="JOIN_TOKEN")

    @property
    def opens_account(self) -> bool:
        """Whether it lets somebody open an account, and not a machine join one."""
        return not self.account_id

    def __repr__(self) -> str:
        return f"JoinToken({self.address!r}, account {self.account_id[:16] or 'of its own'})"


def write_token(token: JoinToken) -> str:
    """The token as one line."""
    body = encode(token)
    check = hashlib.sha256(body).digest()[:_CHECK_BYTES]
    return PREFIX + base64.urlsafe_b64encode(body + check).rstrip(b"=").decode("ascii")


def read_token(text: str) -> JoinToken:
    """Inverse of :func:`write_token`; :class:`InvalidInput` ``JOIN_TOKEN``."""
    line = text.strip()
    if not line.startswith(PREFIX) or len(line) > MAX_JOIN_TOKEN_CHARACTERS:
        raise _bad("it does not begin like one")
    digits = line.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(
            digits.encode("ascii") + b"=" * (-len(digits) % 4), altchars=b"-_", validate=True
        )
    except (UnicodeEncodeError, binascii.Error, ValueError):
        raise _bad("it has characters that no token has") from None
    body, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
    if hashlib.sha256(body).digest()[:_CHECK_BYTES] != check:
        raise _bad("a part of it is missing or changed")
    try:
        token = decode(JoinToken, body)
    except DocumentError as error:
        raise _bad(error.message) from None
    if write_token(token) != line:
        raise _bad("it is not in its one form")
    return token


def _bad(why: str) -> InvalidInput:
    return InvalidInput(
        f"this is not a token of an invitation: {why}",
        code="JOIN_TOKEN",
        hint="copy the whole line that `flop invite` or `flop admin invite` printed",
    )
