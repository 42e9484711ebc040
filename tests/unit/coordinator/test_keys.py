"""Keys that change: rotation, revocation, sessions, and what goes on under the new key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flopmarket.errors import Conflict, FlopmarketError, Forbidden, NotFound, Unauthenticated
from flopmarket.trust.documents import DeviceGrant
from flopmarket.trust.grants import check_owner_signed, open_ci_grant
from flopmarket.trust.key_documents import CertificateRequest, rotation
from flopmarket.trust.keys import KeyRole, PublicKey
from flopmarket_coordinator.application.types_working import HeldLease, LeaseOffered
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.store import identity, work
from tests.unit.coordinator.keyring import HOUR_US, Keyring, key
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer, Worker
from tests.unit.coordinator.world_work import DOLLAR


@pytest.fixture
def ring(world: World) -> Keyring:
    return Keyring(world)


def code_of(error: pytest.ExceptionInfo[FlopmarketError]) -> str:
    return error.value.code


def renewed(worker: Worker, name: str = "new device") -> Worker:
    """The same machine under a new key."""
    world, new = worker.world, key(name)
    body = rotation(worker.account, KeyRole.DEVICE, worker.key.public, new)
    world.do(world.application.rotate_key, world.sign(body, worker.key))
    session = world.session(new, worker.account, KeyRole.DEVICE)
    return replace(worker, key=new, session=session)


# --- owners ---------------------------------------------------------------------------------------


def test_a_rotated_owner_key_is_worth_nothing_and_the_new_one_owns_the_account(
    ring: Keyring,
) -> None:
    world, old, new = ring.world, ring.first, key("second")
    before = ring.session(old)
    document = ring.rotate(old, new)
    assert ring.chain().owner == new.public
    with pytest.raises(FlopmarketError, match="revoked"):
        ring.session(old)
    with pytest.raises(FlopmarketError):
        ring.rotate(old, key("third"))
    with pytest.raises(Forbidden, match="rotated"):
        Keyring(world)  # registering the first key again opens nothing
    assert ring.session(new).account_id == ring.account
    assert world.do(world.application.rotate_key, document) == new.key_id  # once more: no change
    report = world.see(world.application.list_keys, ring.session(new))
    assert [(item.role, item.state) for item in report.keys] == [
        ("owner", "rotated"),
        ("owner", "active"),
    ]
    assert before.key_id not in [
        item.key_id for item in world.see(world.application.list_sessions, ring.session(new))
    ]


def test_a_rotation_is_countersigned_and_of_the_signers_own_key(ring: Keyring) -> None:
    world, old = ring.world, ring.first
    good = rotation(ring.account, KeyRole.OWNER, old.public, key("second"))
    theirs = Keyring(world, "bob")
    for body, code in (
        (replace(good, new_key=theirs.first.public.raw), "COUNTERSIGNATURE"),
        (replace(good, role=KeyRole.CI), "ROTATION_OTHER_KEY"),
        (replace(good, account_id=theirs.account), "ROTATION_OTHER_KEY"),
        (replace(good, old_key=theirs.first.public.raw), "ROTATION_OTHER_KEY"),
        (rotation(ring.account, KeyRole.OWNER, old.public, theirs.first), "KEY_IN_USE"),
        (rotation(ring.account, KeyRole.OWNER, old.public, world.operator), "KEY_IN_USE"),
        (
            rotation(ring.account, KeyRole.OWNER, old.public, key("second"), b"\1" * 32),
            "OWNERSHIP_STALE",
        ),
    ):
        with pytest.raises(FlopmarketError) as refused:
            world.do(world.application.rotate_key, world.sign(body, old))
        assert code_of(refused) == code
    assert ring.chain().links == 0


def test_workers_check_jobs_of_every_owner_key_without_believing_the_coordinator(
    world: World,
) -> None:
    ring = Keyring(world)
    world.deposit(ring.account, 100 * DOLLAR, "first")
    buyer = Buyer(world, ring.first, ring.account, ring.session(ring.first))
    worker = world.worker("w")
    old_job = buyer.submit("old", max_price_nano=10 * DOLLAR)
    ring.set_recovery(key("words"), ring.first)
    ring.rotate(ring.first, key("second"))
    ring.rotate(key("second"), key("third"))
    third = replace(buyer, key=key("third"), session=ring.session(key("third")))
    offer = world.offers()[0]
    assert offer.job_id == old_job.job_id and not offer.owner_links
    check_owner_signed(PublicKey(offer.spec_public_key), ring.account)
    worker.run(offer)
    new_job = third.submit("new", max_price_nano=10 * DOLLAR)
    world.audit_all()
    offer = next(item for item in world.offers() if item.job_id == new_job.job_id)
    signer, first = PublicKey(offer.spec_public_key), PublicKey(offer.buyer_public_key)
    assert signer == key("third").public and len(offer.owner_links) == 3
    check_owner_signed(
        signer, ring.account, first=first, links=offer.owner_links, audience=world.key.key_id
    )
    for links in (offer.owner_links[:-1], offer.owner_links[1:], offer.owner_links[::-1], ()):
        with pytest.raises(FlopmarketError):
            check_owner_signed(
                signer, ring.account, first=first, links=links, audience=world.key.key_id
            )
    with pytest.raises(FlopmarketError):  # a chain of another market
        check_owner_signed(
            signer, ring.account, first=first, links=offer.owner_links, audience="f" * 64
        )
    with pytest.raises(FlopmarketError):  # nobody's first key
        check_owner_signed(signer, ring.account, first=signer, links=(), audience=None)


# --- CI keys --------------------------------------------------------------------------------------


def test_a_rotated_ci_key_keeps_its_grant_and_what_it_spent(world: World) -> None:
    ring = Keyring(world)
    world.deposit(ring.account, 100 * DOLLAR, "first")
    ring.rotate(ring.first, key("second"))
    old, new = key("ci"), key("ci two")
    grant = DeviceGrant(
        ring.account, old.public.raw, "nightly", KeyRole.CI, 5 * DOLLAR, 5 * DOLLAR,
        world.now_us + 30 * 24 * HOUR_US,
    )  # fmt: skip
    world.do(world.application.grant_device, world.sign(grant, key("second"), 30 * 86_400))
    buyer = Buyer(world, old, ring.account, world.session(old, ring.account, KeyRole.CI))
    limits = {"max_price_nano": 3 * DOLLAR, "deadline_us": world.now_us + 24 * HOUR_US}
    buyer.submit("first", **limits)
    ring.rotate(old, new, KeyRole.CI)
    with pytest.raises(FlopmarketError):
        world.session(old, ring.account, KeyRole.CI)
    renewed_buyer = replace(buyer, key=new, session=world.session(new, ring.account, KeyRole.CI))
    with pytest.raises(FlopmarketError) as refused:
        renewed_buyer.submit("too much", **limits)
    assert code_of(refused) == "KEY_CAP"  # the cap is over both keys
    job = renewed_buyer.submit("second", **(limits | {"max_price_nano": DOLLAR}))
    for name in ("w1", "w2"):
        world.worker(name)
    offers = {item.job_id: item for item in world.offers()}
    offer = offers[job.job_id]
    arguments = {"links": offer.owner_links, "rotations": offer.signer_rotations}
    assert offer.grant is not None and len(offer.signer_rotations) == 1
    first, signer = PublicKey(offer.buyer_public_key), PublicKey(offer.spec_public_key)
    audience = world.key.key_id
    assert open_ci_grant(offer.grant, first, signer, audience=audience, **arguments) == grant
    for missing in ("links", "rotations"):
        with pytest.raises(FlopmarketError):
            open_ci_grant(
                offer.grant, first, signer, audience=audience, **(arguments | {missing: ()})
            )
    world.do(world.application.rotate_key, world.sign(
        rotation(ring.account, KeyRole.CI, new.public, key("ci three")), new))  # fmt: skip


# --- devices --------------------------------------------------------------------------------------


def test_leases_of_a_rotated_device_key_finish_under_it_and_history_goes_over(
    world: World,
) -> None:
    buyer, worker = world.buyer(), world.worker("w")
    job = buyer.submit(steps=12)
    lease = world.offers()[0]
    worker.accept(lease)
    worker.commit(lease)
    world.audit_all()
    offer_before = world.see(work.listed_offers, worker.key.key_id)[0]
    assert offer_before.streak == 1
    moved = renewed(worker)
    # Nothing begins under the old key: no offers, and none is believed of it.
    assert world.see(work.listed_offers, worker.key.key_id) == []
    welcome = worker.hello(held=(HeldLease(lease.lease_id, lease.fence),))
    assert [item.code for item in welcome.refused] == ["KEY_ROTATED"]
    assert [item.lease_id for item in welcome.kept] == [lease.lease_id]
    # What began is finished under it, with a session of its own.
    again = replace(worker, session=world.session(worker.key, worker.account, KeyRole.DEVICE))
    for _ in range(3):
        assert again.commit(lease).accepted
    world.audit_all()
    assert world.see(world.application.get_job, buyer.session, job.job_id).state == "succeeded"
    # The new key has the same offer with all that is remembered of the device.
    moved.hello()
    offer = world.see(work.listed_offers, moved.key.key_id)[0]
    assert (offer.offer_id, offer.streak) == (offer_before.offer_id, 4)
    assert world.application.keeper.book.listing(offer.offer_id) is not None
    second = buyer.submit("second")
    taken = world.offers()[0]
    assert (taken.job_id, taken.device_key_id) == (second.job_id, moved.key.key_id)


def test_a_device_is_leased_once_even_while_two_of_its_keys_work(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("w")
    buyer.submit()
    lease = world.offers()[0]
    worker.accept(lease)
    moved = renewed(worker)
    moved.hello()
    buyer.submit("second")
    assert world.offers() == []


def test_an_unanswered_lease_of_a_rotated_key_is_given_to_somebody_else(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("w")
    job = buyer.submit()
    lease = world.offers()[0]
    moved = renewed(worker)
    with pytest.raises(FlopmarketError):
        worker.accept(lease)
    moved.hello()
    again = world.offers()[0]
    assert (again.job_id, again.device_key_id) == (job.job_id, moved.key.key_id)


def test_a_rotated_device_key_ends_when_its_work_and_its_time_are_over(world: World) -> None:
    worker = world.worker("w")
    renewed(worker)
    world.now_us += world.parameters.retired_key_us - SECOND_US
    world.session(worker.key, worker.account, KeyRole.DEVICE)
    world.now_us += SECOND_US
    with pytest.raises(FlopmarketError) as refused:
        world.session(worker.key, worker.account, KeyRole.DEVICE)
    assert code_of(refused) == "KEY_REVOKED"


def test_no_key_is_rotated_out_of_a_ban(world: World) -> None:
    worker = world.worker("w")
    moved = renewed(worker)
    banned = world.do(identity.ban_key, worker.key.key_id, "a wrong segment")
    assert sorted(banned) == sorted([worker.key.key_id, moved.key.key_id])
    for one in (worker, moved):
        with pytest.raises(FlopmarketError):
            world.session(one.key, one.account, KeyRole.DEVICE)
    body = rotation(worker.account, KeyRole.DEVICE, moved.key.public, key("fresh"))
    with pytest.raises(FlopmarketError):
        world.do(world.application.rotate_key, world.sign(body, moved.key))
    assert world.do(identity.unban_key, moved.key.key_id)
    world.session(moved.key, moved.account, KeyRole.DEVICE)


# --- revocation -----------------------------------------------------------------------------------


def test_a_revoked_device_can_do_nothing_from_that_moment(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("w", owner="alice")
    owner, account = world.account("alice")
    job = buyer.submit()
    lease = world.offers()[0]
    worker.accept(lease)
    moved = renewed(worker)
    ring = object.__new__(Keyring)
    ring.world, ring.account = world, account
    ended = ring.revoke(owner, moved.key.key_id)
    assert sorted(ended) == sorted([worker.key.key_id, moved.key.key_id])
    assert ring.revoke(owner, moved.key.key_id) == ended  # again: no change
    for one in (worker, moved):
        with pytest.raises(FlopmarketError):
            world.session(one.key, account, KeyRole.DEVICE)
        with pytest.raises(Forbidden):
            one.hello()
    with pytest.raises(FlopmarketError):
        worker.commit(lease)
    told = [item for item in world.match() if not isinstance(item, LeaseOffered)]
    assert [(item.lease_id, item.reason) for item in told] == [(lease.lease_id, "KEY_REVOKED")]
    other = world.worker("another")
    assert [item.device_key_id for item in world.offers()] == [other.key.key_id]
    assert world.see(world.application.get_job, buyer.session, job.job_id).state == "running"
    with pytest.raises(Conflict):
        renewed(world.worker("third"), "new device")  # a key that was somebody's stays his


def test_an_operator_lets_a_banned_key_act_again_but_not_one_its_owner_ended(
    world: World,
) -> None:
    worker = world.worker("w", owner="alice")
    owner, account = world.account("alice")
    ring = object.__new__(Keyring)
    ring.world, ring.account = world, account
    world.do(identity.ban_key, worker.key.key_id, "a wrong segment")
    ring.revoke(owner, worker.key.key_id)
    assert world.do(identity.unban_key, worker.key.key_id)
    with pytest.raises(FlopmarketError):
        world.session(worker.key, account, KeyRole.DEVICE)


def test_only_its_owner_revokes_a_key_and_never_an_owner_key(ring: Keyring) -> None:
    world = ring.world
    worker = world.worker("w")
    with pytest.raises(NotFound):
        ring.revoke(ring.first, worker.key.key_id)
    with pytest.raises(Conflict) as refused:
        ring.revoke(ring.first, ring.account)
    assert code_of(refused) == "OWNER_KEY"
    with pytest.raises(FlopmarketError):
        ring.revoke(worker.key, worker.key.key_id)


# --- sessions and certificates --------------------------------------------------------------------


def test_an_owner_sees_and_ends_the_sessions_of_the_account(world: World) -> None:
    worker = world.worker("w", owner="alice")
    owner, account = world.account("alice")
    session = world.session(owner, account, KeyRole.OWNER)
    application = world.application
    found = world.see(application.list_sessions, session)
    assert sorted(item.role for item in found) == ["device", "owner"]
    assert {item.purpose for item in found} == {"test"}
    device = next(item for item in found if item.role == "device")
    assert [i.key_id for i in world.see(application.list_sessions, worker.session)] == [
        worker.key.key_id
    ]
    with pytest.raises(Forbidden):
        world.do(application.end_session, worker.session, device.session_id)
    assert world.do(application.end_session, session, device.session_id) == worker.key.key_id
    with pytest.raises(NotFound):
        world.do(application.end_session, session, device.session_id)
    stranger = world.buyer("stranger")
    own = world.see(application.list_sessions, stranger.session)[0]
    with pytest.raises(NotFound):
        world.do(application.end_session, session, own.session_id)
    assert set(world.do(application.end_all_sessions, session)) == {owner.key_id}
    assert world.see(application.list_sessions, session) == ()


def test_certificates_are_for_the_key_of_the_session_once_a_request(world: World) -> None:
    worker, other = world.worker("w"), world.worker("other")
    application = world.application
    asked = world.sign(CertificateRequest(worker.key.key_id, b"pem"), worker.key)
    assert world.do(application.check_certificate_request, worker.session, asked) == b"pem"
    for session, document in (
        (worker.session, asked),  # a second time
        (other.session, world.sign(CertificateRequest(worker.key.key_id, b"x"), worker.key)),
        (worker.session, world.sign(CertificateRequest(other.key.key_id, b"x"), worker.key)),
    ):
        with pytest.raises((Forbidden, Unauthenticated)):
            world.do(application.check_certificate_request, session, document)
