"""The errors of the trust package: what a check can find wrong, one class a room.

Codes are part of the public surface; tests, clients and the tables of attacks name them.
"""

from __future__ import annotations

from enum import StrEnum

from flopmarket.errors import Forbidden, InvalidInput, Unauthenticated


class DocumentError(InvalidInput):
    """Bytes are not the canonical encoding of the document they claim, or a field is wrong."""

    default_code = "DOCUMENT_MALFORMED"


class UnusableKey(InvalidInput):
    """A key or key file is missing, malformed, or readable by people who must not read it."""

    default_code = "KEY_UNUSABLE"


class EnvelopeCode(StrEnum):
    """Why an envelope was refused."""

    UNSIGNED = "ENVELOPE_UNSIGNED"
    BAD_SIGNATURE = "ENVELOPE_BAD_SIGNATURE"
    WRONG_TYPE = "ENVELOPE_WRONG_TYPE"
    WRONG_AUDIENCE = "ENVELOPE_WRONG_AUDIENCE"
    EXPIRED = "ENVELOPE_EXPIRED"
    NOT_YET_VALID = "ENVELOPE_NOT_YET_VALID"
    REPLAYED = "ENVELOPE_REPLAYED"
    MALFORMED = "ENVELOPE_MALFORMED"
    UNKNOWN_KEY = "ENVELOPE_UNKNOWN_KEY"


class EnvelopeError(Unauthenticated):
    """An envelope does not prove what its carrier says. ``code`` is an :class:`EnvelopeCode`."""

    default_code = EnvelopeCode.MALFORMED


class MerkleError(InvalidInput):
    """Data does not fit the tree it is hashed into or proved against."""

    default_code = "MERKLE_INVALID"


class SignerNotAllowed(Forbidden):
    """The signature is good and its key's role may not sign this document."""

    default_code = "SIGNER_NOT_ALLOWED"


class ReceiptError(InvalidInput):
    """A receipt is malformed or contradicts itself."""

    default_code = "RECEIPT_INVALID"
