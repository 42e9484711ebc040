"""Use cases of benchmark challenges: who is asked when, and what an owner is told of a proof.

The challenge itself is between the worker and the desk (:mod:`flopmarket_coordinator.desk`); a row
says that it is open. What an outcome does is
:mod:`flopmarket_coordinator.application.challenge_ends`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flopmarket.bench.challenge import plan_for
from flopmarket.limits import MAX_BENCHMARK_DEVICES
from flopmarket.market.proof import PROVED_CLASS
from flopmarket.trust.benchmark import BenchmarkReason
from flopmarket.trust.benchmark_schedule import Sighting, possible_twins
from flopmarket.trust.benchmark_shape import Advertised, Operands
from flopmarket.trust.documents import OfferTerms
from flopmarket.trust.encoding import decode, encode
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.application.context import UseCases
from flopmarket_coordinator.application.types_benchmark import (
    ChallengeAsked,
)
from flopmarket_coordinator.core.proving import (
    identity_of,
    refused,
    renewed,
)
from flopmarket_coordinator.store import benchmarks
from flopmarket_coordinator.store.benchmarks import ChallengeRow, Present
from flopmarket_coordinator.store.engine import Transaction

_FAST_FLOPS_PER_SECOND = 4 * 10**12
_SLOW_PART = 4
_LEAST_SECONDS = 2
_NO_RATE = "the offer states no dot-f32 rate, which is what a challenge measures"


class BenchmarkingUseCases(UseCases):
    """Challenges. Called by the challenger's loop; each call is complete in itself."""

    def begin_challenges(
        self, tx: Transaction, addresses: Mapping[str, str], room: int, *, all_twins: bool
    ) -> tuple[ChallengeAsked, ...]:
        """Idle devices whose time has come, at most ``room``; those that might be one card at once.

        ``addresses`` are where workers connect from, by key. ``all_twins`` also looks for devices
        that are here together for the first time, which takes a look at every offer.
        """
        if not self._parameters.benchmark_required or self._draining or room <= 0:
            return ()
        since_us = tx.now_us - self._parameters.presence_ttl_us
        wanted = benchmarks.due(tx, since_us, room)
        if not wanted and not all_twins:
            return ()
        here = {item.offer_id: item for item in benchmarks.present(tx, since_us, _MOST)}
        groups = _groups(here.values(), addresses)
        if all_twins:
            strangers = _strangers(here, groups)
            benchmarks.hasten(tx, strangers)
            wanted = benchmarks.due(tx, since_us, room)
        asked: list[ChallengeAsked] = []
        begun: set[str] = set()
        for offer_id in wanted:
            if offer_id in begun or offer_id not in here:
                continue
            group = _group_of(here[offer_id], groups)
            idle = [name for name in group if not here[name].busy and name not in begun]
            if len(asked) + len(idle) > room:
                if len(idle) <= room:
                    break  # the group comes whole with the next look
                idle = [offer_id, *(name for name in idle if name != offer_id)][:room]
            begun.update(idle)
            asked += self._begin(tx, [here[name] for name in idle])
        return tuple(asked)

    # --- for the other rooms ------------------------------------------------------------------

    def _offer_listed(self, tx: Transaction, offer_id: str, terms: OfferTerms) -> None:
        """An offer was listed: a device that is another than was proved is unproved."""
        known = benchmarks.standing(tx, offer_id)
        if known is not None and (fresh := renewed(known, identity_of(terms))) is not known:
            benchmarks.put_standing(tx, offer_id, fresh)

    def _proof_text(self, tx: Transaction, offer_id: str) -> str:
        """One sentence about what a device proved, for its owner."""
        known = benchmarks.standing(tx, offer_id)
        if not self._parameters.benchmark_required and known is None:
            return ""
        if known is None or not known.reason:
            return "unproved: the device has not been challenged yet"
        hours = (tx.now_us - known.challenged_at_us) / 3.6e9
        rate = f"{known.worth_flops_per_second / 1e9:,.1f} GFLOPS of {PROVED_CLASS}"
        if known.proof is not None:
            since = (tx.now_us - known.proved_at_us) / 3.6e9
            said = f"proved {rate} {since:.1f} h ago"
            if known.sharing == "one_card":
                said += ", as one card with another offer"
            if known.delivered_ppm:
                said += f"; verified work showed {known.delivered_ppm / 1e4:.0f} % of it"
            return said
        return f"unproved: {known.reason} {hours:.1f} h ago: {known.detail}".rstrip(": ")

    # --- inside -------------------------------------------------------------------------------

    def _begin(self, tx: Transaction, devices: Sequence[Present]) -> list[ChallengeAsked]:
        group_id = self._new_id() if len(devices) > 1 else ""
        asked = []
        for device in devices:
            terms = decode(OfferTerms, device.terms)
            advertised = stated_figures(terms)
            if advertised is None:
                known = renewed(benchmarks.standing(tx, device.offer_id), identity_of(terms))
                told = refused(known, BenchmarkReason.SHAPE_WRONG, _NO_RATE, tx.now_us)
                benchmarks.put_standing(tx, device.offer_id, told)
                continue
            seed, challenge_id = self._entropy(32), self._new_id()
            plan = plan_for(
                advertised,
                device_id=terms.device_id,
                sampling_seed=seed,
                max_allocation_bytes=terms.max_allocation_bytes,
                seconds=self._seconds(advertised),
                account_id=terms.account_id,
                device_key_id=terms.device_key_id,
                challenge_id=challenge_id,
                at_once=len(devices),
                operands=_operands(terms),
            )
            row = ChallengeRow(
                challenge_id, device.offer_id, group_id, bool(group_id), encode(plan), "", "", 0,
                tx.now_us, 0,
            )  # fmt: skip
            benchmarks.open_challenge(tx, row)
            asked.append(
                ChallengeAsked(
                    challenge_id,
                    device.offer_id,
                    device.device_key_id,
                    device.device_id,
                    group_id,
                    plan,
                    self._entropy(32),
                    seed,
                    tx.now_us,
                )
            )
        return asked

    def _seconds(self, advertised: Advertised) -> int:
        """Shorter for slow devices: their stages are long against any journey anyway."""
        seconds = self._parameters.benchmark_seconds
        if advertised.dot_flops_per_second >= _FAST_FLOPS_PER_SECOND:
            return seconds
        return max(_LEAST_SECONDS, seconds // _SLOW_PART)


_MOST = MAX_BENCHMARK_DEVICES


def stated_figures(terms: OfferTerms) -> Advertised | None:
    """What a challenge of an offer is planned by; None where it states no such rate."""
    rates = {rate.work_class: rate.flops_per_second for rate in terms.rates}
    if not rates.get(PROVED_CLASS):
        return None
    return Advertised(rates[PROVED_CLASS], terms.bandwidth_bytes_per_second, terms.memory_bytes)


def _operands(terms: OfferTerms) -> Operands:
    """Fractions prove the exact profile beside the rate; who does not offer it cannot have them."""
    return Operands.FRACTIONS if Mode.EXACT in terms.modes else Operands.INTEGERS


def _groups(
    devices: Iterable[Present], addresses: Mapping[str, str]
) -> tuple[tuple[str, ...], ...]:
    sightings = [
        Sighting(
            item.offer_id,
            item.account_id,
            addresses.get(item.device_key_id, ""),
            item.card_fingerprint,
        )
        for item in devices
    ]
    return possible_twins(sightings)


def _group_of(device: Present, groups: Sequence[Sequence[str]]) -> Sequence[str]:
    """Whom it is challenged with: the neighbours it met least. A device that failed comes alone,
    so that nobody can keep its neighbours busy."""
    alone = (device.offer_id,)
    if device.failures:
        return alone
    mine = [names for names in groups if device.offer_id in names]
    return max(mine, key=lambda names: len({*names} - {*device.joint_with}), default=alone)


def _strangers(here: Mapping[str, Present], groups: Sequence[Sequence[str]]) -> list[str]:
    """Idle devices that are here with possible twins they were never challenged together with."""
    found = []
    for group in groups:
        idle = [here[name] for name in group if not here[name].busy]
        names = {item.offer_id for item in idle}
        if len(idle) > 1:
            found += [item.offer_id for item in idle if not names <= {*item.joint_with}]
    return found
