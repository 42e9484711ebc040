"""Laws of keys over any history: one owner, a provable chain, and the ended stay ended."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flopmarket.errors import FlopmarketError
from flopmarket.trust.documents import DeviceGrant
from flopmarket.trust.keys import KeyPair, KeyRole
from tests.unit.coordinator.keyring import HOUR_US, Keyring, key
from tests.unit.coordinator.world import World

NAMES = st.integers(0, 9)
PLACES = st.integers(0, 30)


class KeyHistory(RuleBasedStateMachine):
    """Anybody does anything with any key that was ever made; some of it is refused."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self._folder.name))
        self.ring = Keyring(self.world)
        self.made = [self.ring.first]
        self.owner = self.ring.first
        self.recovery: KeyPair | None = None
        self.pending: KeyPair | None = None
        self.devices: dict[int, KeyPair] = {}
        self.ended: list[tuple[KeyPair, KeyRole]] = []

    def teardown(self) -> None:
        self.world.close()
        self._folder.cleanup()

    def _any(self, place: int) -> KeyPair:
        return self.made[place % len(self.made)]

    def _new(self) -> KeyPair:
        fresh = key(f"made {len(self.made)}")
        self.made.append(fresh)
        return fresh

    @rule(signer=PLACES)
    def rotate_owner(self, signer: int) -> None:
        old = self._any(signer)
        new = self._new()
        allowed = old is self.owner and self.pending is None
        assert self._happens(lambda: self.ring.rotate(old, new)) == allowed
        if allowed:
            self.ended.append((self.owner, KeyRole.OWNER))
            self.owner = new

    @rule(signer=PLACES)
    def set_recovery(self, signer: int) -> None:
        who, new = self._any(signer), self._new()
        allowed = who is (self.recovery or self.owner) and self.pending is None
        assert self._happens(lambda: self.ring.set_recovery(new, who)) == allowed
        if allowed:
            self.recovery = new

    @rule(signer=PLACES)
    def start_recovery(self, signer: int) -> None:
        who, new = self._any(signer), self._new()
        allowed = who is self.recovery and self.pending is None
        assert self._happens(lambda: self.ring.recover(who, new)) == allowed
        if allowed:
            self.pending = new

    @rule(signer=PLACES)
    def object(self, signer: int) -> None:
        who = self._any(signer)
        done = self._happens(lambda: self.ring.object(who))
        assert not done or (who is self.owner and self.pending is not None)
        if done:
            self.pending = self.recovery = None

    @rule(hours=st.sampled_from((1, 71, 73, 200)))
    def time_passes(self, hours: int) -> None:
        if self.ring.wait(hours * HOUR_US):
            self.ended.append((self.owner, KeyRole.OWNER))
            assert self.pending is not None
            self.owner, self.pending = self.pending, None

    @rule(number=NAMES)
    def enrol(self, number: int) -> None:
        if number in self.devices:
            return
        device = self._new()
        grant = DeviceGrant(self.ring.account, device.public.raw, "", KeyRole.DEVICE)
        document = self.world.sign(grant, self.owner)
        self.world.do(self.world.application.grant_device, document)
        self.devices[number] = device

    @precondition(lambda self: bool(self.devices))
    @rule(number=NAMES)
    def rotate_device(self, number: int) -> None:
        device, new = self.devices.get(number), self._new()
        if device is not None:
            self.ring.rotate(device, new, KeyRole.DEVICE)
            self.devices[number] = new

    @precondition(lambda self: bool(self.devices))
    @rule(number=NAMES, signer=PLACES)
    def revoke_device(self, number: int, signer: int) -> None:
        device, who = self.devices.get(number), self._any(signer)
        if device is None:
            return
        done = self._happens(lambda: self.ring.revoke(who, device.key_id))
        assert done == (who is self.owner)
        if done:
            self.ended.append((device, KeyRole.DEVICE))
            del self.devices[number]

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @invariant()
    def exactly_one_key_owns_the_account_and_everybody_can_check_which(self) -> None:
        chain = self.ring.chain()
        assert chain.owner == self.owner.public
        assert chain.recovery == (self.recovery and self.recovery.public)
        session = self.ring.session(self.owner)
        report = self.world.see(self.world.application.list_keys, session)
        owners = [item for item in report.keys if item.role == "owner"]
        assert [item.key_id for item in owners if item.state == "active"] == [self.owner.key_id]

    @invariant()
    def a_key_that_ended_opens_nothing(self) -> None:
        for pair, role in self.ended[-4:]:
            assert not self._happens(lambda: self.ring.session(pair, role))  # noqa: B023

    @invariant()
    def a_device_that_is_in_force_works(self) -> None:
        for pair in list(self.devices.values())[:2]:
            self.ring.session(pair, KeyRole.DEVICE)

    @staticmethod
    def _happens(run: object) -> bool:
        try:
            run()  # type: ignore[operator]
        except FlopmarketError:
            return False
        return True


KeyHistory.TestCase.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
TestKeyHistory = KeyHistory.TestCase
