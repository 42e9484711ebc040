"""Thieves of keys: of the owner key, of the recovery key, and what each of them can reach."""

from __future__ import annotations

import pytest

from flopmarket.errors import FlopmarketError, Forbidden
from flopmarket.trust.documents import DeviceGrant, WithdrawalDecision
from flopmarket.trust.key_documents import RecoveryObjection, recovery, recovery_key
from flopmarket.trust.keys import KeyRole
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.store import identity
from tests.unit.coordinator.keyring import HOUR_US, WAIT_US, Keyring, key
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_work import DOLLAR

WORDS, THIEF, SAFE = key("words"), key("thief"), key("safe")


@pytest.fixture
def ring(world: World) -> Keyring:
    """An account with money, a recovery key, and a month of quiet behind it."""
    ring = Keyring(world)
    world.deposit(ring.account, 100 * DOLLAR, "first")
    ring.set_recovery(WORDS, ring.first)
    world.now_us += 30 * 24 * HOUR_US
    return ring


def refused(run: object, *arguments: object) -> str:
    with pytest.raises(FlopmarketError) as error:
        run(*arguments)  # type: ignore[operator]
    return error.value.code


def test_a_thief_of_the_owner_key_who_rotates_loses_to_the_recovery_key(ring: Keyring) -> None:
    world = ring.world
    ring.rotate(ring.first, THIEF)
    # The thief has the account for now, and cannot carry the money away.
    assert refused(ring.withdraw, THIEF) == "ACCOUNT_FROZEN"
    world.now_us += 24 * HOUR_US
    ring.recover(WORDS, SAFE)
    # Neither with the new key nor with the stolen one can it stop that.
    assert refused(ring.object, THIEF) == "OBJECTION_TOO_NEW"
    assert refused(ring.object, ring.first) == "ENVELOPE_UNKNOWN_KEY"
    assert refused(ring.rotate, THIEF, key("thief again")) == "RECOVERY_PENDING"
    assert refused(ring.set_recovery, key("their words"), THIEF) == "RECOVERY_PENDING"
    assert refused(ring.withdraw, THIEF) == "ACCOUNT_FROZEN"
    ended = ring.wait()
    assert THIEF.key_id in ended and ring.chain().owner == SAFE.public
    assert refused(ring.session, THIEF) == "KEY_REVOKED"
    assert refused(ring.session, ring.first) == "KEY_REVOKED"
    ring.withdraw(SAFE)
    assert ring.chain().recovery == WORDS.public


def test_a_thief_of_the_owner_key_cannot_take_the_recovery_key_away(ring: Keyring) -> None:
    theirs = key("their words")
    assert refused(ring.set_recovery, theirs, ring.first) == "ENVELOPE_UNKNOWN_KEY"
    assert ring.chain().recovery == WORDS.public
    ring.set_recovery(theirs, WORDS)  # only the words replace themselves
    assert ring.chain().recovery == theirs.public
    assert refused(ring.recover, WORDS, SAFE) == "ENVELOPE_UNKNOWN_KEY"
    assert refused(ring.set_recovery, WORDS, theirs) == "OWNERSHIP_KEY_USED"


def test_what_the_thief_enrolled_to_spend_ends_with_the_recovery(ring: Keyring) -> None:
    world = ring.world
    grant = DeviceGrant(
        ring.account, key("ci").public.raw, "", KeyRole.CI, DOLLAR, DOLLAR, world.now_us + 10**13
    )
    world.do(world.application.grant_device, world.sign(grant, ring.first))
    ring.invite(ring.first, key("invited"), hours=200)
    device = DeviceGrant(ring.account, key("device").public.raw, "", KeyRole.DEVICE)
    world.do(world.application.grant_device, world.sign(device, ring.first))
    world.session(key("ci"), ring.account, KeyRole.CI)
    ring.recover(WORDS, SAFE)
    ring.wait()
    assert refused(world.session, key("ci"), ring.account, KeyRole.CI) == "KEY_REVOKED"
    assert refused(ring.join, key("invited"), key("another")) == "INVITATION_REVOKED"
    world.session(key("device"), ring.account, KeyRole.DEVICE)  # it earns, and spends nothing
    roles = {item.role for item in world.see(world.application.list_sessions, ring.session(SAFE))}
    assert roles == {"owner", "device"}


def test_a_thief_of_the_recovery_key_is_objected_to(ring: Keyring) -> None:
    world = ring.world
    ring.recover(WORDS, THIEF)
    report = world.see(world.application.list_keys, ring.session(ring.first))
    assert report.pending is not None and report.pending.new_key_id == THIEF.key_id
    world.now_us += WAIT_US - SECOND_US
    document = ring.object(ring.first)
    world.do(world.application.object_to_recovery, document)  # again: no change
    assert ring.wait() == ()
    assert ring.chain().owner == ring.first.public and ring.chain().recovery is None
    assert refused(ring.recover, WORDS, THIEF) == "RECOVERY_MISSING"
    assert refused(ring.session, THIEF) != ""
    ring.set_recovery(key("new words"), ring.first)
    assert refused(ring.set_recovery, WORDS, key("new words")) == "OWNERSHIP_KEY_USED"
    ring.withdraw(ring.first)


def test_money_stays_where_it_is_until_it_is_clear_who_owns_it(ring: Keyring) -> None:
    world = ring.world
    asked = ring.withdraw(ring.first, "before")
    ring.recover(WORDS, SAFE)
    paid = world.sign(WithdrawalDecision(asked, True, "wire 1"), world.operator)
    assert refused(world.do, world.application.decide_withdrawal, paid) == "ACCOUNT_FROZEN"
    world.now_us += HOUR_US
    ring.object(ring.first)
    assert refused(ring.withdraw, ring.first, "after") == "ACCOUNT_FROZEN"
    world.now_us += WAIT_US
    paid = world.sign(WithdrawalDecision(asked, True, "wire 1"), world.operator)
    assert world.do(world.application.decide_withdrawal, paid).state == "paid"
    ring.withdraw(ring.first, "after")


def test_an_objection_names_the_recovery_that_waits(ring: Keyring) -> None:
    world = ring.world
    assert refused(ring.object, ring.first) == "RECOVERY_NONE"
    ring.recover(WORDS, SAFE)
    body = RecoveryObjection(ring.account, b"\1" * 32, ring.chain().head)
    document = world.sign(body, ring.first)
    assert refused(world.do, world.application.object_to_recovery, document) == "RECOVERY_OTHER"
    assert refused(ring.object, WORDS) == "ENVELOPE_UNKNOWN_KEY"


def test_documents_of_another_time_or_point_of_the_chain_are_worth_nothing(ring: Keyring) -> None:
    world, application = ring.world, ring.world.application
    early = world.sign(recovery(ring.account, SAFE, ring.chain().head), WORDS)
    later = world.sign(recovery_key(ring.account, key("more words"), ring.chain().head), WORDS)
    ring.rotate(ring.first, key("second"))
    assert refused(world.do, application.start_recovery, early) == "OWNERSHIP_STALE"
    assert refused(world.do, application.set_recovery_key, later) == "OWNERSHIP_STALE"
    fresh = world.sign(recovery(ring.account, SAFE, ring.chain().head), WORDS)
    world.now_us += 2 * HOUR_US
    assert refused(world.do, application.start_recovery, fresh) == "ENVELOPE_EXPIRED"
    assert refused(ring.recover, WORDS, key("second")) == "OWNERSHIP_KEY_USED"
    bob = Keyring(world, "bob")
    assert refused(ring.recover, WORDS, bob.first) == "KEY_IN_USE"
    theirs = world.sign(recovery(bob.account, SAFE, bob.chain().head), WORDS)
    assert refused(world.do, application.start_recovery, theirs) == "RECOVERY_MISSING"


def test_a_recovery_is_asked_for_once_and_shown_again(ring: Keyring) -> None:
    world = ring.world
    document = ring.recover(WORDS, SAFE)
    world.now_us += HOUR_US
    pending = world.do(world.application.start_recovery, document)
    assert pending.due_at_us == world.now_us - HOUR_US + WAIT_US
    assert refused(ring.recover, WORDS, key("other")) == "RECOVERY_PENDING"
    world.restart()
    assert ring.wait()[0] == ring.first.key_id
    assert ring.wait() == ()


def test_a_recovery_is_no_way_out_of_a_ban(ring: Keyring) -> None:
    world = ring.world
    ring.recover(WORDS, SAFE)
    world.do(identity.ban_key, ring.first.key_id, "fraud")
    assert ring.wait() == ()
    assert refused(ring.recover, WORDS, SAFE) == "KEY_BANNED"
    with pytest.raises(FlopmarketError):
        ring.session(SAFE)


def test_devices_and_scripts_have_no_say_about_owners(world: World) -> None:
    worker = world.worker("w", owner="alice")
    ring = object.__new__(Keyring)
    ring.world, ring.account = world, worker.account
    for run in (
        lambda: ring.set_recovery(WORDS, worker.key),
        lambda: ring.rotate(worker.key, SAFE),
        lambda: ring.invite(worker.key, key("invited")),
    ):
        with pytest.raises(FlopmarketError):
            run()
    with pytest.raises(Forbidden):
        world.see(world.application.list_keys, worker.session)
    assert ring.chain().links == 0


def test_an_account_ends_with_a_way_back_even_after_very_many_rotations(ring: Keyring) -> None:
    world, owner = ring.world, ring.first
    with pytest.raises(FlopmarketError) as full:
        for number in range(100):
            ring.rotate(owner, key(f"owner {number}"))
            owner = key(f"owner {number}")
    assert full.value.code == "OWNERSHIP_FULL"
    ring.recover(WORDS, SAFE)
    ring.wait()
    assert ring.chain().owner == SAFE.public
    assert world.see(world.application.list_keys, ring.session(SAFE)).keys[-1].state == "active"
