"""Invitations of operators: one account each, in time, for the key that was admitted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.errors import FlopmarketError, Forbidden
from flopmarket.trust.administration import (
    AdminAction,
    AdminOrder,
    invitation_value,
    read_invitation,
)
from flopmarket.trust.documents import AccountRegistration
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.errors import DocumentError
from flopmarket.trust.key_documents import AccountAdmission
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket_coordinator.parameters import Parameters
from tests.unit.coordinator.keyring import HOUR_US, key
from tests.unit.coordinator.test_administration import Operator
from tests.unit.coordinator.world import World

INVITED, OWNER = key("invited"), key("a new owner")


@pytest.fixture
def closed(tmp_path: Path) -> World:
    """A market whose accounts are by invitation only."""
    return World(tmp_path, Parameters(invitation_only=True))


def invite(operator: Operator, invited: KeyPair = INVITED, hours: int = 24) -> str:
    until_us = operator.world.now_us + hours * HOUR_US
    value = invitation_value(invited.public, until_us)
    operator.order(AdminOrder.INVITE, invited.key_id, value, "for Carol")
    return invited.key_id


def register(
    world: World, owner: KeyPair, invited: KeyPair | None = None, admitted: KeyPair | None = None
) -> str:
    """Open an account for ``owner``; ``admitted`` is the key that the invitation admits."""
    signed = world.sign(AccountRegistration(owner.public.raw, "Carol"), owner)
    admission: Envelope | None = None
    if invited is not None:
        admission = world.sign(AccountAdmission((admitted or owner).public.raw), invited)
    return world.do(world.application.register, signed, admission)


def refused(*arguments: object) -> str:
    with pytest.raises(FlopmarketError) as error:
        register(*arguments)  # type: ignore[arg-type]
    return error.value.code


def test_nobody_registers_without_an_invitation(closed: World) -> None:
    operator = Operator(closed)
    assert refused(closed, OWNER) == "INVITATION_NEEDED"
    name = invite(operator)
    assert register(closed, OWNER, INVITED) == OWNER.key_id
    assert register(closed, OWNER, INVITED) == OWNER.key_id  # the answer was lost
    assert register(closed, OWNER) == OWNER.key_id
    assert refused(closed, key("another owner"), INVITED) == "INVITATION_USED"
    listed = closed.see(closed.application.list_account_invitations, operator.session())
    assert [(item.invitation_id, item.account_id, item.reason) for item in listed] == [
        (name, OWNER.key_id, "for Carol")
    ]
    assert listed[0].state(closed.now_us) == "used" and listed[0].admission is not None


def test_the_trail_says_who_invited_whom(closed: World) -> None:
    operator = Operator(closed)
    invite(operator)
    register(closed, OWNER, INVITED)
    assert operator.trail(subject=OWNER.key_id) == ["account-invited"]
    assert operator.trail(subject=INVITED.key_id) == ["invite"]
    page = closed.see(
        closed.application.list_decisions, operator.session(), "account-invited", "", 10, ""
    )
    assert (page.decisions[0].cause, page.decisions[0].reason) == (INVITED.key_id, "for Carol")
    assert operator.key.key_id in page.decisions[0].detail


def test_an_invitation_ends_in_time_or_by_order(closed: World) -> None:
    operator = Operator(closed)
    invite(operator, hours=1)
    closed.now_us += HOUR_US
    assert refused(closed, OWNER, INVITED) == "INVITATION_EXPIRED"
    name = invite(operator, key("second"))
    operator.order(AdminOrder.REVOKE_INVITE, name)
    assert refused(closed, OWNER, key("second")) == "INVITATION_REVOKED"
    for subject, code in (
        (name, "ADMIN_NO_CHANGE"),
        (INVITED.key_id, "ADMIN_NO_CHANGE"),
        ("f" * 64, "INVITATION_UNKNOWN"),
    ):
        with pytest.raises(FlopmarketError) as error:
            operator.order(AdminOrder.REVOKE_INVITE, subject)
        assert error.value.code == code


def test_the_secret_admits_one_key_and_another_secret_none(closed: World) -> None:
    invite(Operator(closed))
    assert refused(closed, OWNER, INVITED, key("somebody else")) == "INVITATION_OTHER_KEY"
    assert refused(closed, OWNER, key("a guess")) == "INVITATION_UNKNOWN"
    registration = closed.sign(AccountRegistration(OWNER.public.raw, ""), OWNER)
    forged = closed.sign(AccountAdmission(OWNER.public.raw), key("a guess"))
    named = replace(forged, signatures=(replace(forged.signatures[0], key_id_hint=INVITED.key_id),))
    with pytest.raises(FlopmarketError) as error:
        closed.do(closed.application.register, registration, named)
    assert error.value.code == "ENVELOPE_BAD_SIGNATURE"
    assert register(closed, OWNER, INVITED) == OWNER.key_id


def test_where_anybody_may_come_an_invitation_is_still_used_once(world: World) -> None:
    operator = Operator(world)
    invite(operator)
    register(world, OWNER, INVITED)
    assert refused(world, key("another owner"), INVITED) == "INVITATION_USED"
    assert register(world, key("another owner")) == key("another owner").key_id


def test_who_invites_and_how_long(world: World) -> None:
    operator, owner = Operator(world), world.account("ann")[0]
    with pytest.raises(Forbidden):
        invite(Operator(world, owner))
    with pytest.raises(Forbidden):
        session = world.session(owner, owner.key_id, KeyRole.OWNER)
        world.see(world.application.list_account_invitations, session)
    for hours, code in ((24 * 31, "INVITATION_TOO_LONG"), (0, "INVITATION_EXPIRED")):
        with pytest.raises(FlopmarketError) as error:
            invite(operator, hours=hours)
        assert error.value.code == code
    invite(operator)
    with pytest.raises(FlopmarketError) as error:
        invite(operator)
    assert error.value.code == "KEY_IN_USE"


def test_an_order_names_the_key_that_it_gives() -> None:
    value = invitation_value(INVITED.public, 17)
    assert read_invitation(value) == (INVITED.public, 17)
    AdminAction(AdminOrder.INVITE, INVITED.key_id, value, "x", "1")
    for subject, wrong in (
        (OWNER.key_id, value),
        (INVITED.key_id, ""),
        (INVITED.key_id, value.replace("until", "from")),
        (INVITED.key_id, value + "0" * 19),
        (INVITED.key_id, value.upper()),
    ):
        with pytest.raises(DocumentError):
            AdminAction(AdminOrder.INVITE, subject, wrong, "x", "1")
