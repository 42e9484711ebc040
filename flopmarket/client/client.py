"""The buyer's side of the market in Python: quote, submit, watch, fetch, verify, pay.

``Client`` is synchronous and is used from one thread. Everything it returns is a plain value whose
checks have passed; every failure is a :class:`~flopmarket.errors.FlopmarketError`.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

from flopmarket.client import buying, messages
from flopmarket.client.artifacts import Artifacts
from flopmarket.client.buying import JobHandle, Progress
from flopmarket.client.channel import open_channel
from flopmarket.client.config import Settings, key_file, load_settings
from flopmarket.client.failures import AnswerRefused
from flopmarket.client.jobs import prepare
from flopmarket.client.money import Amount, nano_of
from flopmarket.client.results import (
    Account,
    CoordinatorInfo,
    Deposited,
    JobEvent,
    JobInfo,
    JobResult,
    Offer,
    Quote,
    Spot,
    Tensors,
    Transfer,
)
from flopmarket.client.session import Identity, Ports, Session
from flopmarket.client.watching import watch_events
from flopmarket.errors import InvalidInput
from flopmarket.limits import (
    CLIENT_PAGE_SIZE,
    CLIENT_SESSION_LIFETIME_US,
    MAX_CLIENT_PAGES,
    MAX_RECEIPT_BYTES,
)
from flopmarket.trust.documents import AccountRegistration, CancelRequest, Deposit, DepositTarget
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.v1 import (
    identity_pb2,
    identity_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    market_pb2,
    market_pb2_grpc,
)

NO_DEADLINE_US = 4_102_444_800_000_000
"""The year 2100: the deadline, and the end of the signature, of a job that names none."""

SYSTEM_PORTS = Ports(
    now_us=lambda: time.time_ns() // 1000, sleep=time.sleep, random_bytes=secrets.token_bytes
)


class Client:
    """One coordinator, one account.

    ``address`` is ``host:port``. ``key`` is a :class:`KeyPair`, a key file, or the name of a key of
    this user; without one only prices and offers can be asked for. ``ca`` is the authority (PEM
    bytes or file) of a coordinator that is not on this machine. ``coordinator_key`` is the key id
    to insist on. ``account_id`` is needed for a CI key, which acts for another key's account.
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
        pair = key if isinstance(key, KeyPair) or key is None else KeyPair.load(key_file(key))
        identity = None
        if pair is not None:
            role = KeyRole.CI if account_id and account_id != pair.key_id else KeyRole.OWNER
            identity = Identity(pair, account_id or pair.key_id, role)
        self._ports = ports
        self._channel = open_channel(address, _authority(ca))
        self._session = Session(self._channel, address, ports, identity, coordinator_key)
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

    def register(self, display_name: str) -> str:
        """Open the account of our key; returns its id. Doing it again changes nothing."""
        key = self._session.identity.key
        document = AccountRegistration(owner_key=key.public.raw, display_name=display_name)
        answer = self._session.call(
            self._identity_service.Register,
            identity_pb2.RegisterRequest(
                registration=self._session.seal(document, lifetime_us=CLIENT_SESSION_LIFETIME_US)
            ),
            authenticated=False,
        )
        if answer.account_id != key.key_id:
            raise AnswerRefused("the coordinator opened an account with another id than our key's")
        return answer.account_id

    # --- buying -------------------------------------------------------------------------------

    def quote(self, job: object) -> Quote:
        """What ``job`` will cost at most, and is expected to. No money moves.

        The program is shown to the coordinator, the tensors are not.
        """
        request = buying.quote_request(prepare(job), self._artifacts)
        answer = self._session.call(self._jobs.QuoteJob, request)
        return messages.quote_from_proto(answer, self._currency)

    def submit(
        self,
        job: object,
        max_price: Amount | None = None,
        *,
        verify: str = "audit-all",
        request_id: str | None = None,
        deadline_seconds: float | None = None,
    ) -> JobHandle:
        """Upload what is missing, sign the job and submit it; its ceiling is held from now on.

        ``max_price`` is a hard cap; without one it is the ceiling of a fresh quote. A repeated
        ``request_id`` with the same job, ``max_price`` and deadline gives the first answer; with
        anything else it raises Conflict REQUEST_ID_REUSED. Without ``deadline_seconds`` the job
        waits until it is cancelled.
        """
        prepared = prepare(job)
        buying.check_verification(verify)
        if max_price is None:
            max_price = self.quote(prepared).ceiling
        now_us = self._ports.now_us()
        deadline_us = NO_DEADLINE_US
        if deadline_seconds is not None:
            deadline_us = now_us + int(deadline_seconds * 1e6)
        account_id = self._session.identity.account_id
        request_id = request_id or self._new_id()
        spec = prepared.spec(
            buyer=account_id,
            max_price_nano=nano_of(max_price, "max_price"),
            deadline_us=deadline_us,
            nonce=buying.submission_nonce(account_id, request_id),
        )
        digests = self._artifacts.ensure(prepared.artifacts())
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
        verify: str = "audit-all",
        progress: Progress | None = None,
        request_id: str | None = None,
        deadline_seconds: float | None = None,
    ) -> JobResult:
        """:meth:`submit`, wait for the end, fetch, and check everything against the receipt.

        ``progress`` is called with every event. Raises JobEnded when the job failed or was
        cancelled, AnswerRefused when what was delivered is not what the receipt proves.
        """
        handle = self.submit(
            job,
            max_price,
            verify=verify,
            request_id=request_id,
            deadline_seconds=deadline_seconds,
        )
        return handle.wait(progress)

    # --- jobs ---------------------------------------------------------------------------------

    def job(self, job_id: str) -> JobInfo:
        """How a job stands, with its segments."""
        request = job_pb2.GetJobRequest(job_id=_job_id(job_id))
        answer = self._session.call(self._jobs.GetJob, request)
        found = messages.job_from_proto(answer.job, self._currency)
        return buying.check_asked(found, job_id)

    def jobs(self) -> Iterator[JobInfo]:
        """Our jobs, newest first, page by page."""
        token = ""
        for _ in range(MAX_CLIENT_PAGES):
            request = job_pb2.ListJobsRequest(page_size=CLIENT_PAGE_SIZE, page_token=token)
            page = self._session.call(self._jobs.ListJobs, request)
            for job in page.jobs:
                yield messages.job_from_proto(job, self._currency)
            token = page.next_page_token
            if not token:
                return
        raise _too_many_pages("jobs")

    def watch(self, job_id: str, after_sequence: int = 0) -> Iterator[JobEvent]:
        """Events of a job until it has ended; goes on by itself after a lost connection."""
        asked = _job_id(job_id)

        def connect(after: int) -> Iterator[JobEvent]:
            request = job_pb2.WatchJobRequest(job_id=asked, after_sequence=after)
            with self._session.stream(
                self._jobs.WatchJob, request, timeout_seconds=None
            ) as answers:
                for answer in answers:
                    yield messages.event_from_proto(answer, self._currency)

        return watch_events(connect, lambda: self.job(asked), self._ports, after_sequence)

    def wait(self, job_id: str, progress: Callable[[JobEvent], None] | None = None) -> JobInfo:
        """Wait until a job has ended; how it stands then."""
        for event in self.watch(job_id):
            if progress is not None:
                progress(event)
        return self.job(job_id)

    def cancel(self, job_id: str, request_id: str | None = None) -> JobInfo:
        """Stop a job. Finished segments stay paid, the rest of the hold is released."""
        document = CancelRequest(
            job_id=bytes.fromhex(_job_id(job_id)), request_id=request_id or self._new_id()
        )
        envelope = self._session.seal(document, lifetime_us=CLIENT_SESSION_LIFETIME_US)
        answer = self._session.call(self._jobs.CancelJob, job_pb2.CancelJobRequest(cancel=envelope))
        found = messages.job_from_proto(answer.job, self._currency)
        return buying.check_asked(found, job_id)

    def fetch(self, job_id: str) -> Tensors:
        """Last durable verified state and verified outputs so far, checked against their roots."""
        job = self.job(job_id)
        receipt = self.receipt(job_id) if job.state.has_ended else b""
        return buying.fetch_tensors(job, receipt, self.coordinator().public_key, self._artifacts)

    def receipt(self, job_id: str) -> bytes:
        """The signed receipt file of a job that has ended, as sent; :meth:`fetch` checks it too."""
        request = job_pb2.GetReceiptRequest(job_id=_job_id(job_id))
        answer = self._session.call(self._jobs.GetReceipt, request)
        if len(answer.receipt) > MAX_RECEIPT_BYTES:
            raise AnswerRefused("the receipt is longer than any receipt", code="RECEIPT_TOO_LONG")
        buying.checked_receipt(answer.receipt, self.coordinator().public_key, job_id)
        return answer.receipt

    # --- market -------------------------------------------------------------------------------

    def spot(self) -> Spot:
        """The cheapest offer of each class of work; needs no key."""
        answer = self._session.call(
            self._market.GetSpot, market_pb2.GetSpotRequest(), authenticated=False
        )
        return messages.spot_from_proto(answer)

    def offers(
        self, *, order_by: str = "", min_memory_bytes: int = 0, work_class: str = ""
    ) -> Iterator[Offer]:
        """Live offers; needs no key.

        ``order_by`` is price, flops_per_dollar, flops_per_watt or memory; a leading '-' reverses.
        """
        token = ""
        for _ in range(MAX_CLIENT_PAGES):
            request = market_pb2.ListOffersRequest(
                page_size=CLIENT_PAGE_SIZE,
                page_token=token,
                order_by=order_by,
                min_memory_bytes=min_memory_bytes,
                work_class=work_class,
            )
            page = self._session.call(self._market.ListOffers, request, authenticated=False)
            for offer in page.offers:
                yield messages.offer_from_proto(offer, self._currency)
            token = page.next_page_token
            if not token:
                return
        raise _too_many_pages("offers")

    # --- money --------------------------------------------------------------------------------

    def account(self) -> Account:
        """Balances of our account."""
        answer = self._session.call(self._ledger.GetAccount, ledger_pb2.GetAccountRequest())
        return messages.account_from_proto(answer, self._currency)

    def transfers(self) -> Iterator[Transfer]:
        """The statement of our account, oldest first."""
        token = ""
        for _ in range(MAX_CLIENT_PAGES):
            request = ledger_pb2.ListTransfersRequest(page_size=CLIENT_PAGE_SIZE, page_token=token)
            page = self._session.call(self._ledger.ListTransfers, request)
            for transfer in page.transfers:
                yield messages.transfer_from_proto(transfer, self._currency)
            token = page.next_page_token
            if not token:
                return
        raise _too_many_pages("transfers")

    def deposit(
        self,
        operator_key: KeyPair | Path | str,
        amount: Amount,
        *,
        account_id: str = "",
        reference: str = "",
        target: DepositTarget = DepositTarget.AVAILABLE,
        request_id: str | None = None,
    ) -> Deposited:
        """Record money that arrived for an account (ours unless named), as the operator.

        The operator's signature is the authority; no session is needed. The same ``request_id``
        changes nothing the second time.
        """
        key = (
            operator_key
            if isinstance(operator_key, KeyPair)
            else KeyPair.load(key_file(operator_key))
        )
        document = Deposit(
            account_id=account_id or self._session.identity.account_id,
            target=target,
            amount_nano_usd=nano_of(amount),
            reference=reference,
            request_id=request_id or self._new_id(),
        )
        envelope = self._session.seal(document, lifetime_us=CLIENT_SESSION_LIFETIME_US, key=key)
        answer = self._session.call(
            self._ledger.Deposit, ledger_pb2.DepositRequest(deposit=envelope), authenticated=False
        )
        return messages.deposited_from_proto(answer, self._currency)

    @property
    def _currency(self) -> str:
        return self.coordinator().currency

    def _new_id(self) -> str:
        return str(uuid.UUID(bytes=self._ports.random_bytes(16), version=4))


def _authority(ca: bytes | Path | str | None) -> bytes | None:
    if ca is None or isinstance(ca, bytes):
        return ca
    try:
        return Path(ca).expanduser().read_bytes()
    except OSError as error:
        raise InvalidInput(f"authority file {ca}: {error.strerror}", code="CA_UNREADABLE") from None


def _job_id(text: str) -> str:
    if len(text) == 64 and not set(text) - set("0123456789abcdef"):
        return text
    raise InvalidInput(
        f"{text[:80]!r} is not a job id",
        code="JOB_ID_INVALID",
        hint="64 hex digits; see `flop job list`",
    )


def _too_many_pages(what: str) -> AnswerRefused:
    return AnswerRefused(f"more than {MAX_CLIENT_PAGES} pages of {what}", code="TOO_MANY_PAGES")
