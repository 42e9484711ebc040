"""Invitations: a machine joins with a secret, once, in time, and never with the owner's key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flopmarket.errors import FlopmarketError, Forbidden, NotFound
from flopmarket.limits import MAX_INVITATIONS_PER_ACCOUNT
from flopmarket.trust.key_documents import Invitation, enrolment
from flopmarket.trust.keys import KeyRole
from tests.unit.coordinator.keyring import HOUR_US, Keyring, key
from tests.unit.coordinator.world import World

INVITED, DEVICE = key("invited"), key("device")


@pytest.fixture
def ring(world: World) -> Keyring:
    return Keyring(world)


def refused(run: object, *arguments: object) -> str:
    with pytest.raises(FlopmarketError) as error:
        run(*arguments)  # type: ignore[operator]
    return error.value.code


def test_a_machine_joins_once(ring: Keyring) -> None:
    world = ring.world
    name = ring.invite(ring.first, INVITED)
    assert name == INVITED.key_id
    assert ring.join(INVITED, DEVICE) == (ring.account, DEVICE.key_id)
    assert ring.join(INVITED, DEVICE) == (ring.account, DEVICE.key_id)  # the answer was lost
    assert refused(ring.join, INVITED, key("second device")) == "INVITATION_USED"
    world.session(DEVICE, ring.account, KeyRole.DEVICE)
    listed = world.see(world.application.list_invitations, ring.session(ring.first))
    assert [(item.state, item.device_key_id, item.label) for item in listed] == [
        ("used", DEVICE.key_id, "cellar")
    ]
    keys = world.see(world.application.list_keys, ring.session(ring.first)).keys
    assert [(item.role, item.label) for item in keys] == [("owner", "owner"), ("device", "cellar")]
    ring.revoke(ring.first, DEVICE.key_id)
    assert refused(world.session, DEVICE, ring.account, KeyRole.DEVICE) == "KEY_REVOKED"


def test_an_invitation_ends_in_time_or_when_its_owner_says_so(ring: Keyring) -> None:
    world, application = ring.world, ring.world.application
    ring.invite(ring.first, INVITED, hours=1)
    world.now_us += HOUR_US
    assert refused(ring.join, INVITED, DEVICE) == "INVITATION_EXPIRED"
    other = key("other invited")
    name = ring.invite(ring.first, other)
    stranger = Keyring(world, "bob")
    with pytest.raises(NotFound):
        world.do(application.revoke_invitation, stranger.session(stranger.first), name)
    world.do(application.revoke_invitation, ring.session(ring.first), name)
    world.do(application.revoke_invitation, ring.session(ring.first), name)
    assert refused(ring.join, other, DEVICE) == "INVITATION_REVOKED"
    listed = world.see(application.list_invitations, ring.session(ring.first))
    assert [item.state for item in listed] == ["revoked", "expired"]


def test_who_joins_holds_both_keys_and_names_the_right_account(ring: Keyring) -> None:
    world = ring.world
    ring.invite(ring.first, INVITED)
    good = enrolment(ring.account, DEVICE, "", INVITED.public)
    bob = Keyring(world, "bob")
    for body, signer, code in (
        (replace(good, device_key=key("another").public.raw), INVITED, "COUNTERSIGNATURE"),
        (enrolment(ring.account, DEVICE, "", key("x").public), INVITED, "COUNTERSIGNATURE"),
        (enrolment(bob.account, DEVICE, "", INVITED.public), INVITED, "INVITATION_OTHER_ACCOUNT"),
        (enrolment(ring.account, bob.first, "", INVITED.public), INVITED, "KEY_IN_USE"),
        (good, DEVICE, "INVITATION_UNKNOWN"),
        (good, ring.first, "INVITATION_UNKNOWN"),
    ):
        assert refused(world.do, world.application.join, world.sign(body, signer)) == code
    forged = world.sign(good, key("x"))
    named = replace(forged, signatures=(replace(forged.signatures[0], key_id_hint=INVITED.key_id),))
    assert refused(world.do, world.application.join, named) == "ENVELOPE_BAD_SIGNATURE"
    assert ring.join(INVITED, DEVICE)[1] == DEVICE.key_id


def test_only_an_owner_invites_and_only_to_his_account(ring: Keyring) -> None:
    world = ring.world
    worker = world.worker("w", owner="carol")
    bob = Keyring(world, "bob")
    assert refused(ring.invite, worker.key, INVITED) == "SIGNER_NOT_ALLOWED"
    assert refused(ring.invite, bob.first, INVITED) == "NOT_THE_OWNER"
    assert refused(ring.invite, ring.first, INVITED, 24 * 31) == "INVITATION_TOO_LONG"
    with pytest.raises(Forbidden):
        world.see(world.application.list_invitations, worker.session)
    ring.invite(ring.first, INVITED)
    assert refused(ring.invite, ring.first, INVITED) == "KEY_IN_USE"
    ring.rotate(ring.first, key("second"))  # what the owner promised holds under the next key
    assert ring.join(INVITED, DEVICE)[0] == ring.account


def test_open_invitations_are_bounded(ring: Keyring) -> None:
    for number in range(MAX_INVITATIONS_PER_ACCOUNT):
        ring.invite(ring.first, key(f"invited {number}"))
    assert refused(ring.invite, ring.first, INVITED) == "TOO_MANY_INVITATIONS"
    ring.join(key("invited 0"), DEVICE)
    ring.invite(ring.first, INVITED)


def test_the_same_invitation_again_is_no_other(ring: Keyring) -> None:
    world = ring.world
    document = world.sign(Invitation(ring.account, INVITED.public.raw, "x"), ring.first)
    first = world.do(world.application.invite, document)
    assert world.do(world.application.invite, document) == first
