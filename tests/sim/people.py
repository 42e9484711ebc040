"""Accounts, keys and first money of every simulation: made once, copied into each.

Owners of workers have one device each, but for the last, who has two (the attempt to audit oneself
needs them). Which of them behave is decided by the seed later.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from functools import cache

import sqlalchemy as sa

from flopmarket.trust.documents import AccountRegistration, Deposit, DepositTarget, DeviceGrant
from flopmarket.trust.encoding import Document
from flopmarket.trust.envelope import Envelope, seal
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.parameters import Parameters
from flopmarket_coordinator.store import schema
from tests.sim.arithmetic import named
from tests.sim.schedule import SECOND_US, Dice, Schedule, Trace
from tests.sim.shelf import Shelf

START_US = 1_700_000_000 * SECOND_US
OWNERS = 10
BUYERS = 3
BOND_NANO = 2_000_000
"""An owner's stake from the first day, so that its devices may audit soon."""
MONEY_NANO = 1_000_000_000_000
FOREVER_US = START_US + 10**6 * SECOND_US


@dataclass(frozen=True, slots=True)
class Person:
    """An account and the key that acts for it."""

    key: KeyPair
    account: str


@dataclass(frozen=True, slots=True)
class People:
    """Everybody, and the database in which they are registered."""

    image: sqlite3.Connection
    coordinator: KeyPair
    operator: KeyPair
    buyers: tuple[Person, ...]
    devices: tuple[Person, ...]
    """One of each owner, then the second of the last owner."""


@cache
def key_of(name: str) -> KeyPair:
    """The key of somebody with this name."""
    return KeyPair.from_seed(named(name))


def buyer_session(person: Person) -> Session:
    """A session that outlives the run: buyers' sessions are not what is tested here."""
    return Session(person.account, person.key.key_id, KeyRole.OWNER, FOREVER_US)


@cache
def people(parameters: Parameters, owners: int = OWNERS) -> People:
    """Register everybody with a coordinator on an empty database."""
    from tests.sim.place import Place
    from tests.sim.quick import store_of

    image = sqlite3.connect(":memory:", check_same_thread=False)
    empty = store_of(image)
    with empty.begin() as connection:
        schema.metadata.create_all(connection)
    _raw(empty).backup(image)
    schedule = Schedule(START_US)
    place = Place(
        schedule,
        Trace(schedule),
        Dice(0, "people"),
        image=image,
        key=key_of("coordinator"),
        operator=key_of("operator"),
        parameters=parameters,
        shelf=Shelf(),
    )
    found = _Registry(place)
    buyers = tuple(found.account(f"buyer {number}") for number in range(BUYERS))
    for buyer in buyers:
        found.deposit(buyer.account, MONEY_NANO)
    persons = [found.account(f"owner {number}") for number in range(owners)]
    devices = [found.device(f"device {at}", owner) for at, owner in enumerate(persons)]
    for person in persons:
        found.deposit(person.account, BOND_NANO, DepositTarget.BOND)
    devices.append(found.device("device twin", persons[-1]))
    _raw(place.store).backup(image)
    return People(image, place.key, place.operator, buyers, tuple(devices))


def _raw(store: sa.Engine) -> sqlite3.Connection:
    connection = store.raw_connection().driver_connection
    assert isinstance(connection, sqlite3.Connection)
    return connection


class _Registry:
    """Signs and runs registrations at once."""

    def __init__(self, place) -> None:  # type: ignore[no-untyped-def]  # a Place; see above
        self._place = place
        self._nonces = 0

    def account(self, name: str) -> Person:
        key = key_of(name)
        body = AccountRegistration(key.public.raw, name)
        return Person(key, self._do("register", self._sign(body, key)))

    def device(self, name: str, owner: Person) -> Person:
        key = key_of(name)
        body = DeviceGrant(owner.account, key.public.raw, name, KeyRole.DEVICE)
        self._do("grant_device", self._sign(body, owner.key))
        return Person(key, owner.account)

    def deposit(
        self, account: str, amount: int, target: DepositTarget = DepositTarget.AVAILABLE
    ) -> None:
        body = Deposit(account, target, amount, "USD", "cash", f"first of {account} {target}")
        self._do("deposit", self._sign(body, self._place.operator))

    def _do(self, name: str, envelope: Envelope) -> str:
        from flopmarket_coordinator.store import engine

        place = self._place
        with engine.write(place.store, place.now_us()) as tx:
            answer: str = getattr(place.application, name)(tx, envelope)
        return answer

    def _sign(self, body: Document, key: KeyPair) -> Envelope:
        self._nonces += 1
        return seal(
            body,
            key,
            audience=self._place.key.key_id,
            nonce=named(f"registration {self._nonces}")[:16],
            issued_at_us=START_US,
            expires_at_us=FOREVER_US,
        )
