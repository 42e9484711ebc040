"""Recovery keys as words: 24 of BIP 39's English list, which carry 256 bits and a checksum."""

from __future__ import annotations

from mnemonic import Mnemonic

from flopmarket.trust.errors import UnusableKey
from flopmarket.trust.keys import KeyPair

WORDS = 24
_LIST = "english"


def to_words(seed: bytes) -> str:
    """The words of a 32-byte seed, with blanks between them."""
    return Mnemonic(_LIST).to_mnemonic(seed)


def from_words(text: str) -> KeyPair:
    """The key of such words, in whatever case and space they were typed.

    :class:`UnusableKey` ``RECOVERY_WORDS`` for a wrong word, number of words or checksum.
    """
    words = text.lower().split()
    if len(words) != WORDS:
        raise UnusableKey(
            f"a recovery key has {WORDS} words, these are {len(words)}", code="RECOVERY_WORDS"
        )
    known = Mnemonic(_LIST)
    for number, word in enumerate(words, 1):
        if word not in known.wordlist:
            raise UnusableKey(f"word {number} is not on the list", code="RECOVERY_WORDS")
    try:
        seed = bytes(known.to_entropy(words))
    except ValueError:
        raise UnusableKey(
            "the words do not fit together: one is wrong, or their order",
            code="RECOVERY_WORDS",
        ) from None
    return KeyPair.from_seed(seed)
