"""What every use case shares: key, parameters, programs, and how signers are checked.

:class:`UseCases` is the base of the rooms beside it; :class:`Application` puts them together.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from flopmarket.engine.errors import EngineError
from flopmarket.engine.limits import MAX_PROGRAM_BYTES
from flopmarket.engine.program import Program
from flopmarket.errors import Forbidden, InvalidInput
from flopmarket.jobs.builds import kernel_count
from flopmarket.jobs.checksums import words_per_step
from flopmarket.limits import MAX_CACHED_PROGRAMS, MAX_PAGE_ROWS
from flopmarket.market.money import format_amount
from flopmarket.market.work import JobWork, StepWork
from flopmarket.trust.encoding import AnyDocument
from flopmarket.trust.envelope import Envelope, Opened, open_envelope
from flopmarket.trust.keys import KeyPair, KeyRole, PublicKey
from flopmarket.trust.modes import Mode
from flopmarket.trust.policy import Signer, check_may_sign
from flopmarket_coordinator.application.bookkeeping import BookKeeper
from flopmarket_coordinator.application.chains import Chains, FrozenDocuments
from flopmarket_coordinator.application.tolerance_rules import StepValues, step_values
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.core.book.book import Book
from flopmarket_coordinator.core.ports import ArtifactReader
from flopmarket_coordinator.parameters import Parameters
from flopmarket_coordinator.store import buyers, identity, work
from flopmarket_coordinator.store.engine import Transaction

DEFAULT_PAGE_ROWS = 50
_MAC_BYTES = 16


@dataclass(frozen=True, slots=True)
class ProgramFacts:
    """What pricing and matching need of a program. ``batches`` are first axes of its inputs,
    ``kernels`` what a device builds that never ran it, ``size_bytes`` that of its file. Outputs are
    those of a step."""

    digest: bytes
    stateless: bool
    peak_memory_bytes: int
    work: StepWork
    batches: frozenset[int]
    kernels: int
    size_bytes: int
    state_bytes: int
    output_bytes: int
    checksum_words: int
    """Of one step, in the list that a commitment hides the hash of."""
    values: StepValues
    """Of one step, as tolerance mode asks for them."""

    def job_work(self, steps: int, input_bytes: int, mode: Mode = Mode.EXACT) -> JobWork:
        """A job of so many steps whose frozen, state and data files have ``input_bytes``.

        In class mode other kernels run: what devices deliver there is learned apart."""
        name = self.digest.hex()
        return JobWork(
            step=self.work,
            steps=steps,
            download_bytes=self.size_bytes + input_bytes,
            kernels=self.kernels,
            program=f"{name}/{mode}" if mode is Mode.CLASS else name,
        )


@dataclass(frozen=True, slots=True)
class SignedBy:
    """An opened envelope and the account whose key signed it (empty for an operator)."""

    account_id: str
    key_id: str
    role: KeyRole


class ProgramCatalogue:
    """Facts of programs by the sha256 of their bytes; remembers the last few. Thread-safe."""

    def __init__(self, artifacts: ArtifactReader) -> None:
        self._artifacts = artifacts
        self._known: OrderedDict[str, ProgramFacts] = OrderedDict()
        self._lock = threading.Lock()

    def of_artifact(self, digest: str) -> ProgramFacts:
        """Facts of a stored program; raises what :meth:`of_bytes` and the reader raise."""
        with self._lock:
            known = self._known.get(digest)
        return known or self.of_bytes(self._artifacts.read(digest, MAX_PROGRAM_BYTES))

    def of_bytes(self, data: bytes) -> ProgramFacts:
        """Facts of canonical program bytes; :class:`InvalidInput` with the engine's own code."""
        name = hashlib.sha256(data).hexdigest()
        with self._lock:
            if name in self._known:
                self._known.move_to_end(name)
                return self._known[name]
        try:
            program = Program.from_bytes(data)
        except EngineError as error:
            raise InvalidInput(f"not a program: {error}", code=error.code) from error
        cost = program.cost
        facts = ProgramFacts(
            digest=program.digest,
            stateless=not program.state,
            peak_memory_bytes=cost.peak_memory_bytes,
            work=StepWork(dict(cost.flops), cost.bytes_moved, cost.launches),
            batches=frozenset(spec.shape[0] if spec.shape else 0 for spec in program.inputs),
            kernels=kernel_count(program),
            size_bytes=len(data),
            state_bytes=cost.state_bytes,
            output_bytes=cost.output_bytes,
            checksum_words=words_per_step(program),
            values=step_values(program),
        )
        with self._lock:
            self._known[name] = facts
            while len(self._known) > MAX_CACHED_PROGRAMS:
                self._known.popitem(last=False)
        return facts


class UseCases:
    """State and checks that the use cases share. Holds no facts about the market."""

    def __init__(
        self,
        *,
        key: KeyPair,
        parameters: Parameters,
        artifacts: ArtifactReader,
        entropy: Callable[[int], bytes],
        operator_keys: Collection[PublicKey],
        chain_secret: bytes,
    ) -> None:
        self._key = key
        self._started_with = parameters
        # Orders of operators change these three; see AdministrationUseCases.reload.
        self._parameters = parameters
        self._ordered_operators: Mapping[str, PublicKey] = {}
        self._draining = False
        self._programs = ProgramCatalogue(artifacts)
        self._entropy = entropy
        self._operators = {operator.key_id: operator for operator in operator_keys}
        self._chains = Chains(chain_secret)
        self._documents = FrozenDocuments()
        self.keeper = BookKeeper(
            parameters.presence_ttl_us, requires_proof=parameters.benchmark_required
        )
        # Ed25519 signatures are deterministic: a secret of this key, the same after a restart.
        self._page_secret = hashlib.sha256(key.sign(b"flopmarket page tokens")).digest()

    @property
    def _book(self) -> Book:
        """Live offers and open orders, as the tick's observer keeps them."""
        return self.keeper.book

    def _money(self, amount_nano: int) -> str:
        """An amount in the words of a story."""
        return format_amount(amount_nano, self._parameters.currency)

    # --- signatures ---------------------------------------------------------------------------

    def _open(
        self,
        tx: Transaction,
        envelope: Envelope,
        body_type: type[AnyDocument],
        *,
        once: bool = False,
    ) -> tuple[Opened[AnyDocument], SignedBy]:
        """Verify an envelope, and that its signer may sign such a document.

        ``once`` refuses a nonce that was used before; documents that name what they are about
        (a lease and fence, a request id) do without.
        """
        opened = open_envelope(
            envelope,
            body_type,
            keys=lambda hint: self._public_key(tx, hint),
            audience=self._key.key_id,
            now_us=tx.now_us,
            replay=identity.StoredReplayCache(tx) if once else None,
        )
        signed_by, standing = self._standing(tx, opened.key_id)
        check_may_sign(opened.body, standing)
        return opened, signed_by

    def _public_key(self, tx: Transaction, key_id: str) -> PublicKey | None:
        operator = self._operators.get(key_id) or self._ordered_operators.get(key_id)
        if operator is not None:
            return operator
        row = identity.key(tx, key_id)
        return None if row is None else PublicKey(row.public_key)

    def _standing(self, tx: Transaction, key_id: str) -> tuple[SignedBy, Signer]:
        if key_id in self._operators or key_id in self._ordered_operators:
            return SignedBy("", key_id, KeyRole.OPERATOR), Signer(KeyRole.OPERATOR)
        row = identity.key(tx, key_id)
        if row is None:  # the envelope was verified with it a moment ago
            raise Forbidden(f"key {key_id} is not registered", code="KEY_UNKNOWN")
        role = KeyRole(row.role)
        if role is KeyRole.CI and not row.revoked:
            self._check_grant(tx, key_id)
        retired, revoked = bool(row.successor), row.revoked
        if retired and tx.now_us >= row.ended_at_us + self._parameters.retired_key_us:
            revoked = revoked or not work.live_leases_of_key(tx, key_id)
        return SignedBy(row.account_id, key_id, role), Signer(role, revoked, retired)

    def _check_grant(self, tx: Transaction, key_id: str) -> None:
        """A CI key acts only while its grant holds."""
        grant = buyers.grant(tx, key_id)
        if grant is None or grant.expires_at_us <= tx.now_us:
            raise Forbidden(
                f"CI key {key_id} has no grant now",
                code="GRANT_EXPIRED" if grant else "GRANT_MISSING",
                hint="the account's owner grants again: flop key grant",
            )

    def _require_key(self, session: Session, signed_by: SignedBy) -> None:
        """A document that arrives on a session is signed by that session's account."""
        if signed_by.account_id != session.account_id:
            raise Forbidden("signed by a key of another account", code="SIGNER_OTHER_ACCOUNT")

    def _new_id(self) -> str:
        return self._entropy(16).hex()

    # --- pages --------------------------------------------------------------------------------

    def _page_token(self, query: str, position: Any) -> str:
        """A token that continues this very query and no other."""
        body = json.dumps(position, separators=(",", ":")).encode()
        return (self._page_mac(query, body) + body).hex()

    def _page_position(self, query: str, token: str) -> Any:
        """Where a page token continues, None for the first page."""
        if not token:
            return None
        try:
            raw = bytes.fromhex(token)
        except ValueError:
            raise _bad_token() from None
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._page_mac(query, body)):
            raise _bad_token()
        return json.loads(body)

    def _page_mac(self, query: str, body: bytes) -> bytes:
        message = len(query.encode()).to_bytes(8, "big") + query.encode() + body
        return hmac.digest(self._page_secret, message, "sha256")[:_MAC_BYTES]


def page_size(asked: int) -> int:
    """Rows of one page: what was asked for within bounds, a default for 0."""
    if asked < 0:
        raise InvalidInput(f"a page has 1 to {MAX_PAGE_ROWS} rows, not {asked}", code="PAGE_SIZE")
    return min(asked or DEFAULT_PAGE_ROWS, MAX_PAGE_ROWS)


def _bad_token() -> InvalidInput:
    return InvalidInput(
        "the page token does not belong to this query",
        code="PAGE_TOKEN_INVALID",
        hint="start from the first page",
    )
