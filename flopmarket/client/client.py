"""The buyer's side of the market in Python: quote, submit, watch, fetch, verify, pay.

``Client`` is synchronous and is used from one thread. Everything it returns is a plain value whose
checks have passed; every failure is a :class:`~flopmarket.errors.FlopmarketError`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from flopmarket.client import buying, messages
from flopmarket.client.artifacts import Artifacts, OnUpload
from flopmarket.client.auditing import AuditCalls
from flopmarket.client.banking import Banking
from flopmarket.client.buying import JobHandle, Numerics, Progress
from flopmarket.client.channel import open_channel
from flopmarket.client.config import Settings, key_file, load_settings
from flopmarket.client.disputes import DisputeCalls
from flopmarket.client.explaining import Explaining
from flopmarket.client.failures import AnswerRefused
from flopmarket.client.following import JobCalls
from flopmarket.client.jobs import PreparedJob, prepare
from flopmarket.client.keys import KeyCalls
from flopmarket.client.money import Amount, Money, nano_of
from flopmarket.client.orders import (
    ANY_OFFER,
    Order,
    budget_nano,
    class_of_work,
    order_terms,
)
from flopmarket.client.owner import OwnerCalls
from flopmarket.client.predictions import PredictionCalls
from flopmarket.client.prices import PriceCalls
from flopmarket.client.results import (
    CoordinatorInfo,
    JobResult,
    Quote,
)
from flopmarket.client.rulings import RulingCalls
from flopmarket.client.session import Identity, Ports, Session
from flopmarket.errors import InvalidInput
from flopmarket.jobs.form import JobForm
from flopmarket.limits import (
    CLIENT_SESSION_LIFETIME_US,
)
from flopmarket.market.order import OrderTerms
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.documents import AccountRegistration
from flopmarket.trust.key_documents import AccountAdmission
from flopmarket.trust.key_identity import read_identity
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.modes import Mode
from flopmarket.v1 import (
    identity_pb2,
    identity_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    ledger_pb2_grpc,
    market_pb2_grpc,
)
from flopmarket.wire import order_to_proto

NO_DEADLINE_US = 4_102_444_800_000_000
"""The year 2100: the deadline, and the end of the signature, of a job that names none."""

SYSTEM_PORTS = Ports(
    now_us=lambda: time.time_ns() // 1000, sleep=time.sleep, random_bytes=secrets.token_bytes
)


def _identity(key: KeyPair | Path | str, account_id: str) -> Identity:
    """The key, and what is said or stands beside its file of what it is for."""
    if isinstance(key, KeyPair):
        pair, known = key, None
    else:
        file = key_file(key)
        pair, known = KeyPair.load(file), read_identity(file)
    if known is not None and account_id in ("", known.account_id):
        return Identity(pair, known.account_id, known.role)
    role = KeyRole.CI if account_id and account_id != pair.key_id else KeyRole.OWNER
    return Identity(pair, account_id or pair.key_id, role)


class Client(
    JobCalls,
    AuditCalls,
    OwnerCalls,
    KeyCalls,
    PriceCalls,
    Explaining,
    Banking,
    PredictionCalls,
    DisputeCalls,
    RulingCalls,
):
    """One coordinator, one account.

    ``address`` is ``host:port``. ``key`` is a :class:`KeyPair`, a key file, or the name of a key of
    this user; without one only prices and offers can be asked for. ``ca`` is the authority (PEM
    bytes or file) of a coordinator that is not on this machine. ``coordinator_key`` is the key id
    to insist on. ``account_id`` is needed for a CI key, which acts for another key's account,
    unless a file beside the key names it (:mod:`flopmarket.trust.key_identity`).
    """

    def __init__(
        self,
        address: str,
        key: KeyPair | Path | str | None = None,
        ca: bytes | Path | str | None = None,
        *,
        coordinator_key: str = "",
        account_id: str = "",
        ports: Ports = SYSTEM_PORTS,
    ) -> None:
        identity = None if key is None else _identity(key, account_id)
        self._ports = ports
        ca_pem = authority_bytes(ca)
        self._channel = open_channel(address, ca_pem)
        self._session = Session(self._channel, address, ports, identity, coordinator_key, ca_pem)
        self._artifacts = Artifacts(self._session)
        self._identity_service = identity_pb2_grpc.IdentityServiceStub(self._channel)
        self._jobs = job_pb2_grpc.JobServiceStub(self._channel)
        self._market = market_pb2_grpc.MarketServiceStub(self._channel)
        self._ledger = ledger_pb2_grpc.LedgerServiceStub(self._channel)

    @classmethod
    def from_settings(cls, settings: Settings, *, with_key: bool = True) -> Client:
        """A client for resolved settings. The default key may be missing, a named one may not."""
        key: Path | None = None
        if with_key:
            key = key_file(settings.key)
            if settings.key_is_default and not key.exists():
                key = None
        return cls(
            settings.address,
            key,
            Path(settings.ca) if settings.ca else None,
            coordinator_key=settings.coordinator_key,
            account_id=settings.account,
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Client:
        """A client for what the environment and the user's configuration file say."""
        return cls.from_settings(load_settings({}, environment))

    def close(self) -> None:
        """End all connections. The client is used up."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- identity -----------------------------------------------------------------------------

    def coordinator(self) -> CoordinatorInfo:
        """Who the coordinator is; asked once."""
        return self._session.coordinator()

    def register(self, display_name: str, *, invitation: KeyPair | None = None) -> str:
        """Open the account of our key; returns its id. Doing it again changes nothing.

        ``invitation`` is the key of an operator's invitation
        (:class:`~flopmarket.trust.joining.JoinToken`), where the market wants one.
        """
        key = self._session.identity.key
        document = AccountRegistration(owner_key=key.public.raw, display_name=display_name)
        lifetime_us = CLIENT_SESSION_LIFETIME_US
        request = identity_pb2.RegisterRequest(
            registration=self._session.seal(document, lifetime_us=lifetime_us)
        )
        if invitation is not None:
            admission = AccountAdmission(key.public.raw)
            request.admission.CopyFrom(
                self._session.seal(admission, lifetime_us=lifetime_us, key=invitation)
            )
        answer = self._session.call(self._identity_service.Register, request, authenticated=False)
        if answer.account_id != self._session.identity.account_id:
            raise AnswerRefused("the coordinator opened an account with another id than our key's")
        return answer.account_id

    # --- buying -------------------------------------------------------------------------------

    def quote(
        self,
        job: object,
        order: Order = ANY_OFFER,
        *,
        verification: str = Level.DETER,
        mode: str = Mode.EXACT,
        device_class: str = "",
        inputs: object = None,
        batch: int | None = None,
    ) -> Quote:
        """What ``job`` will cost at most, and is expected to, on offers that fit ``order``.

        ``verification`` is deter, check or dual: how much of the work somebody else computes again.
        The quote has the others too, each with its price and the chance that it sees a wrong
        segment. Sampling deters whoever cheats for money and does not stop one malicious segment.

        ``mode`` is exact, class or tolerance: what numerics the job runs with and is verified by
        (docs/modes.md). In class mode the quote lists the classes of devices with what each would
        cost; ``device_class`` names one, else it is the cheapest that has somebody to audit it.

        ``job`` may be an ``fm.Model`` with the ``inputs`` it is to be applied to (see :meth:`run`),
        or a :class:`~flopmarket.jobs.form.JobForm` of a job whose data do not exist yet. No money
        moves. The program is shown to the coordinator, the tensors are not.
        """
        form = job if isinstance(job, JobForm) else prepare(job, inputs, batch)
        numerics = buying.numerics_of(mode, device_class)
        return self._quote(form, order, buying.level_of(verification), numerics)[0]

    def _quote(
        self, prepared: PreparedJob | JobForm, order: Order, level: Level, numerics: Numerics
    ) -> tuple[Quote, OrderTerms]:
        """A quote, and the order's terms in the headline class of the program."""
        request = buying.quote_request(prepared, level, numerics, self._artifacts)
        request.deadline_us = order.deadline_us
        work_class = ""
        if order.needs_class:  # the first quote counts the work, the second one is in its class
            answer = self._session.call(self._jobs.QuoteJob, request)
            work_class = class_of_work(messages.quote_from_proto(answer, self._currency))
        terms = order_terms(order, work_class)
        request.order.CopyFrom(order_to_proto(terms))
        answer = self._session.call(self._jobs.QuoteJob, request)
        return messages.quote_from_proto(answer, self._currency), terms

    def submit(
        self,
        job: object,
        max_price: Amount | None = None,
        *,
        verification: str = Level.DETER,
        mode: str = Mode.EXACT,
        device_class: str = "",
        request_id: str | None = None,
        deadline_seconds: float | None = None,
        order: Order = ANY_OFFER,
        inputs: object = None,
        batch: int | None = None,
        on_upload: OnUpload | None = None,
    ) -> JobHandle:
        """Upload what is missing, sign the job and submit it; its ceiling is held from now on.

        ``inputs`` and ``batch`` are for an ``fm.Model``, as in :meth:`run`. Files that an earlier
        job of the account brought are not sent again; ``on_upload`` hears of each.

        ``order`` says which offers may run it and whether it waits for them; ``verification``,
        ``mode`` and ``device_class`` are as in :meth:`quote`. ``max_price`` is a hard cap; without
        one it is the order's limit price times its work and the level's surcharge, or the ceiling
        of a fresh quote. A repeated ``request_id`` with the same job, ``max_price`` and deadline
        gives the first answer; with anything else it raises Conflict REQUEST_ID_REUSED. Without
        ``deadline_seconds`` the job waits until it is cancelled.
        """
        prepared = prepare(job, inputs, batch)
        level = buying.level_of(verification)
        numerics = buying.numerics_of(mode, device_class)
        chooses = numerics.mode is Mode.CLASS and not numerics.device_class
        if max_price is None or order.needs_class or chooses:
            quote, terms = self._quote(prepared, order, level, numerics)
            numerics = buying.bound_by(numerics, quote)
        else:
            quote, terms = None, order_terms(order)
        if max_price is None:
            assert quote is not None
            max_price = Money(budget_nano(terms, quote), self._currency)
        now_us = self._ports.now_us()
        deadline_us = order.deadline_us or NO_DEADLINE_US
        if deadline_seconds is not None:
            deadline_us = now_us + int(deadline_seconds * 1e6)
        identity = self._session.identity
        account_id = identity.account_id
        if identity.role is KeyRole.CI:  # a CI key's job ends before its grant does
            grants = [key.expires_at_us for key in self.budget().keys]
            deadline_us = min([deadline_us, *grants])
        request_id = request_id or self._new_id()
        spec = prepared.spec(
            buyer=account_id,
            max_price_nano=nano_of(max_price, "max_price"),
            deadline_us=deadline_us,
            nonce=buying.submission_nonce(account_id, request_id),
            order=terms,
            verification=level,
            mode=numerics.mode,
            class_digest=numerics.class_digest,
        )
        digests = self._artifacts.ensure(prepared.artifacts(), on_upload)
        answer = self._session.call(
            self._jobs.SubmitJob,
            job_pb2.SubmitJobRequest(
                request_id=request_id,
                spec=self._session.seal(spec, lifetime_us=deadline_us - now_us),
                program_artifact=digests.get("program", ""),
                frozen_artifact=digests.get("frozen", ""),
                state_artifact=digests.get("state", ""),
                data_artifact=digests.get("data", ""),
                title=prepared.title,
            ),
        )
        submitted = messages.job_from_proto(answer.job, self._currency)
        buying.check_submitted(submitted, spec)
        return JobHandle(self, submitted)

    def run(
        self,
        job: object,
        max_price: Amount | None = None,
        *,
        verification: str = Level.DETER,
        mode: str = Mode.EXACT,
        device_class: str = "",
        progress: Progress | None = None,
        request_id: str | None = None,
        deadline_seconds: float | None = None,
        order: Order = ANY_OFFER,
        inputs: object = None,
        batch: int | None = None,
        on_upload: OnUpload | None = None,
    ) -> JobResult:
        """:meth:`submit`, wait for the end, fetch, and check everything against the receipt.

        ``job`` is a TrainingJob or an InferenceJob; or an ``fm.Model`` to apply to every row of
        ``inputs`` (arrays by input name with rows on the first axis, or one array), ``batch`` rows
        a step: then ``result.outputs_of(model)`` has the outputs by the model's own names.

        ``progress`` is called with every event. Raises JobEnded when the job failed or was
        cancelled, AnswerRefused when what was delivered is not what the receipt proves.
        """
        handle = self.submit(
            job,
            max_price,
            verification=verification,
            mode=mode,
            device_class=device_class,
            request_id=request_id,
            deadline_seconds=deadline_seconds,
            order=order,
            inputs=inputs,
            batch=batch,
            on_upload=on_upload,
        )
        return handle.wait(progress)


def authority_bytes(ca: bytes | Path | str | None) -> bytes | None:
    if ca is None or isinstance(ca, bytes):
        return ca
    try:
        return Path(ca).expanduser().read_bytes()
    except OSError as error:
        raise InvalidInput(f"authority file {ca}: {error.strerror}", code="CA_UNREADABLE") from None
