"""A lease as offered: checked against the buyer's signed spec before anything is fetched.

The message comes from the coordinator, the spec inside it from the buyer. What is computed follows
from the spec alone; the message adds which steps, from which state, and where the bytes are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flopmarket.engine.exact import PROFILE
from flopmarket.errors import InvalidInput
from flopmarket.jobs.bundle import EMPTY_ROOT
from flopmarket.jobs.process import DATA_FILE, FROZEN_FILE, PROGRAM_FILE
from flopmarket.jobs.spec import JobSpec, job_id
from flopmarket.limits import MAX_BUNDLE_BYTES, MAX_PROGRAM_ARTIFACT_BYTES
from flopmarket.trust.challenge import ChallengeTerms
from flopmarket.trust.device_class import DeviceClass, class_digest
from flopmarket.trust.envelope import keys_by_id, open_envelope
from flopmarket.trust.grants import check_job_within, check_owner_signed, open_ci_grant
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.modes import Mode
from flopmarket.v1 import worker_pb2
from flopmarket.wire import envelope_from_proto
from flopmarket_worker.challenge_check import check_terms, read_terms
from flopmarket_worker.core.events import LeaseKey, LeaseTerms
from flopmarket_worker.offers import Calibration, DeviceCard

_ARTIFACT_ID = re.compile(r"[0-9a-f]{64}")
_MAX_LEASE_ID_LENGTH = 128
_DIGEST_BYTES = 32


class OfferRejected(InvalidInput):
    """An offered lease contradicts itself or the spec it carries."""

    default_code = "LEASE_OFFER_INVALID"


@dataclass(frozen=True, slots=True)
class LeaseOffer:
    """A lease whose numbers fit the spec. Artifact ids are hex, or empty for an empty bundle."""

    terms: LeaseTerms
    spec: JobSpec
    spec_bytes: bytes
    job_id: bytes
    program_artifact: str
    frozen_artifact: str
    data_artifact: str
    state_artifact: str
    challenge: ChallengeTerms | None
    """What its audits are drawn from; None from a coordinator that says nothing of it."""

    @property
    def files(self) -> tuple[tuple[str, str, int], ...]:
        """Artifact, file name and most bytes of all that a job's folder needs but the state."""
        files = (
            (self.program_artifact, PROGRAM_FILE, MAX_PROGRAM_ARTIFACT_BYTES),
            (self.frozen_artifact, FROZEN_FILE, MAX_BUNDLE_BYTES),
            (self.data_artifact, DATA_FILE, MAX_BUNDLE_BYTES),
        )
        return tuple(file for file in files if file[0])


def key_of(message: worker_pb2.LeaseOffered) -> LeaseKey:
    """Which lease a message offers."""
    return LeaseKey(message.lease_id, message.fence)


def read_offer(
    message: worker_pb2.LeaseOffered,
    *,
    audience: str | None,
    now_us: int | None = None,
    coordinator: PublicKey | None = None,
) -> LeaseOffer:
    """The lease in ``message``; an error of ours when it is wrong.

    ``audience`` is the coordinator's key id: a spec that was signed for another market is refused.
    ``coordinator`` is its key, which signed the challenge terms; None for terms that were checked.
    ``now_us`` is the wall clock: the grant behind a CI key's job must not have ended. None skips
    these two, for offers that passed them before and were found on disk.
    """
    if not 0 < len(message.lease_id) <= _MAX_LEASE_ID_LENGTH:
        raise OfferRejected("a lease id has 1 to 128 characters")
    spec, spec_bytes = _open_spec(message, audience)
    _check_signer(message, spec, audience, now_us)
    identity = job_id(spec)
    if message.job_id != identity.hex():
        raise OfferRejected(
            f"the spec is that of job {identity.hex()}, the lease names {message.job_id[:64]!r}",
            code="LEASE_JOB_MISMATCH",
        )
    if spec.profile != PROFILE:
        raise OfferRejected(
            f"profile {spec.profile!r}; this worker computes {PROFILE}", code="LEASE_PROFILE"
        )
    end_step = message.first_step + message.step_count
    if message.step_count == 0 or end_step > spec.steps:
        raise OfferRejected(
            f"{message.step_count} steps from {message.first_step} of a job of {spec.steps}",
            code="LEASE_RANGE",
        )
    if len(message.state_root) != _DIGEST_BYTES:
        raise OfferRejected("a state root has 32 bytes")
    if message.first_step == 0 and message.state_root != spec.state_root:
        raise OfferRejected(
            "the lease starts the job from another state than the spec names",
            code="LEASE_STATE_ROOT",
        )
    stateless = spec.state_root == EMPTY_ROOT
    _check_artifact("program", message.program_artifact, required=True)
    _check_artifact("frozen", message.frozen_artifact, required=spec.frozen_root != EMPTY_ROOT)
    _check_artifact("data", message.data_artifact, required=spec.data_root != EMPTY_ROOT)
    _check_artifact("state", message.state_artifact, required=not stateless)
    return LeaseOffer(
        terms=LeaseTerms(
            key=key_of(message),
            device_id=message.device_id,
            first_step=message.first_step,
            step_count=message.step_count,
            first_segment=message.first_segment,
            segment_steps=spec.segment_steps,
            checkpoint_segments=spec.checkpoint_segments,
            state_root=message.state_root,
            stateless=stateless,
        ),
        spec=spec,
        spec_bytes=spec_bytes,
        job_id=identity,
        program_artifact=message.program_artifact,
        frozen_artifact=message.frozen_artifact,
        data_artifact=message.data_artifact,
        state_artifact=message.state_artifact,
        challenge=_read_challenge(message, coordinator),
    )


def check_numerics(spec: JobSpec, card: DeviceCard, calibration: Calibration) -> None:
    """:class:`OfferRejected` unless a device computes what the job's mode asks for, whatever the
    coordinator believes it offered."""
    if spec.mode is Mode.EXACT and calibration.admission_digest is None:
        raise OfferRejected(
            "the job is in exact mode, for which this device is not admitted", code="LEASE_MODE"
        )
    if spec.mode is not Mode.CLASS:
        return
    if calibration.classified is None:
        raise OfferRejected("this device has no class of fast kernels", code="LEASE_MODE")
    own = class_digest(DeviceClass(card.name, card.driver, *calibration.classified))
    if spec.class_digest != own:
        raise OfferRejected(
            f"the job is bound to class {spec.class_digest.hex()}, this device is of {own.hex()}",
            code="LEASE_CLASS",
        )


def _read_challenge(
    message: worker_pb2.LeaseOffered, coordinator: PublicKey | None
) -> ChallengeTerms | None:
    if not message.HasField("challenge_terms"):
        return None
    terms = read_terms(envelope_from_proto(message.challenge_terms), coordinator)
    check_terms(terms, message.lease_id, message.step_count)
    return terms


def _open_spec(message: worker_pb2.LeaseOffered, audience: str | None) -> tuple[JobSpec, bytes]:
    """The buyer's spec, its signature verified before anything in it is parsed."""
    envelope = envelope_from_proto(message.spec)
    keys = keys_by_id(PublicKey(message.spec_public_key))
    opened = open_envelope(
        envelope, JobSpec, keys=keys, audience=audience, now_us=None, replay=None
    )
    return opened.body, opened.header.body


def _check_signer(
    message: worker_pb2.LeaseOffered, spec: JobSpec, audience: str | None, now_us: int | None
) -> None:
    """Whether the key that signed the spec is the buyer's, or acts under a grant of the buyer's."""
    signer = PublicKey(message.spec_public_key)
    links = [envelope_from_proto(link) for link in message.owner_links]
    first = PublicKey(message.buyer_public_key) if message.buyer_public_key else signer
    if not message.HasField("grant"):
        check_owner_signed(signer, spec.buyer, first=first, links=links, audience=audience)
        return
    check_owner_signed(first, spec.buyer)
    grant = open_ci_grant(
        envelope_from_proto(message.grant),
        first,
        signer,
        audience=audience,
        links=links,
        rotations=[envelope_from_proto(item) for item in message.signer_rotations],
    )
    check_job_within(
        grant,
        max_price_nano=spec.max_price_nano,
        deadline_us=spec.deadline_us,
        now_us=now_us,
    )


def _check_artifact(what: str, artifact: str, *, required: bool) -> None:
    if not artifact and not required:
        return
    if not _ARTIFACT_ID.fullmatch(artifact):
        raise OfferRejected(
            f"{what} artifact {artifact[:80]!r} is not 64 hex digits", code="LEASE_ARTIFACT"
        )
