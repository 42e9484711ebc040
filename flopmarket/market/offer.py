"""One offer as the market sees it: a device, what it sustains, what its owner asks.

Figures of merit (price of 10^15 operations, operations per currency unit and per joule) are derived
here, so that the spot price, the list and the command line cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flopmarket.errors import InvalidInput
from flopmarket.market.calibrate import NO_FACTORS, Factors
from flopmarket.market.money import NANO_PER_UNIT, MoneyError, Nano, round_up_nano
from flopmarket.market.predict import DeviceRates, JobWork, Prediction, predict
from flopmarket.market.price import PriceTerms
from flopmarket.market.proof import ONE_PPM, plausible_watts, shown_rate
from flopmarket.market.region import check_region
from flopmarket.trust.device_class import class_of
from flopmarket.trust.documents import OfferTerms, WattsSource
from flopmarket.trust.modes import Mode

PFLOP = 10**15
SECONDS_PER_HOUR = 3_600
MAX_RATE = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Offer:
    """A device for rent. Made from signed terms by :func:`offer_from_terms`.

    ``milliwatts`` and ``card_price_nano`` are zero when unknown, ``region`` is empty then.
    ``factors`` are the device's deliveries so far, which correct every prediction.
    ``delivered_ppm`` is the share of its proved rates that verified work showed; it corrects the
    figures of merit here, never a prediction, which has its factors. ``modes`` are those that it
    takes jobs of, ascending; ``device_class`` is the class of a device that offers class mode, as
    hex, and empty otherwise.
    """

    offer_id: str
    account_id: str
    device_key_id: str
    device_id: str
    device_name: str
    driver: str
    profile: str
    memory_bytes: int
    rates: DeviceRates
    ask_nano_per_hour: Nano
    milliwatts: int
    watts_source: str
    card_price_nano: Nano
    region: str = ""
    factors: Factors = NO_FACTORS
    delivered_ppm: int = ONE_PPM
    modes: tuple[Mode, ...] = (Mode.EXACT,)
    device_class: str = ""

    def shown_rate(self, work_class: str) -> int:
        """Operations a second of a class as lists show them; 0 without a rate."""
        return shown_rate(self.rates.flops_per_second.get(work_class, 0), self.delivered_ppm)

    def predict(self, work: JobWork) -> Prediction:
        """Time of a job on this device, no longer than it was promised; :class:`NoRate` when it
        cannot be predicted."""
        return predict(work, self.rates, self.factors, work.promised.get(self.offer_id))

    def terms_for(self, work: JobWork) -> PriceTerms:
        """Price terms of a job on this device; raises as :meth:`predict` does."""
        return PriceTerms(self.ask_nano_per_hour, self.predict(work).priced_step_picoseconds)

    def pflop_price(self, work_class: str) -> Nano | None:
        """Nano-units that 10^15 operations of a class cost; None without a rate, or when it does
        not fit 63 bits."""
        rate = self.shown_rate(work_class)
        if not rate:
            return None
        try:
            return round_up_nano(self.ask_nano_per_hour * PFLOP, rate * SECONDS_PER_HOUR)
        except MoneyError:
            return None

    def flops_per_dollar_hour(self, work_class: str) -> float:
        """Sustained operations per second that one currency unit an hour rents."""
        rate = self.shown_rate(work_class)
        return rate * NANO_PER_UNIT / self.ask_nano_per_hour

    def flop_per_dollar(self, work_class: str) -> float:
        """Operations that one currency unit buys."""
        return self.flops_per_dollar_hour(work_class) * SECONDS_PER_HOUR

    def flops_per_card_dollar(self, work_class: str) -> float:
        """Sustained operations per second for each currency unit that the card costs; 0.0 when its
        owner does not say."""
        rate = self.shown_rate(work_class)
        return rate * NANO_PER_UNIT / self.card_price_nano if self.card_price_nano else 0.0

    def flops_per_watt(self, work_class: str) -> float:
        """Sustained operations per second and watt; 0.0 when the power is unknown."""
        rate = self.shown_rate(work_class)
        return rate * 1000 / self.milliwatts if self.milliwatts else 0.0


def offer_id(device_key_id: str, device_id: str) -> str:
    """One live offer per device key and device."""
    return f"{device_key_id[:16]}-{device_id[:16]}"


def offer_from_terms(terms: OfferTerms, factors: Factors = NO_FACTORS) -> Offer:
    """The offer that signed terms make; :class:`InvalidInput` for figures that cannot be priced.

    Watts that no device can have count as not stated.
    """
    if not 0 < terms.ask_nano_per_hour < 2**63:
        raise InvalidInput(
            f"an ask is above zero and fits 63 bits, got {terms.ask_nano_per_hour}",
            code="OFFER_ASK",
            hint="ask at least one nano-unit an hour",
        )
    figures = (
        terms.memory_bytes,
        terms.bandwidth_bytes_per_second,
        terms.launch_nanoseconds,
        terms.step_nanoseconds,
        terms.build_milliseconds,
        terms.download_bytes_per_second,
        terms.upload_bytes_per_second,
        terms.watts_milli,
        terms.card_price_nano,
        *(rate.flops_per_second for rate in terms.rates),
    )
    if max(figures) > MAX_RATE:
        raise InvalidInput("a figure of the offer does not fit 63 bits", code="OFFER_FIGURE")
    if not terms.rates or terms.bandwidth_bytes_per_second == 0 or terms.memory_bytes == 0:
        raise InvalidInput(
            "an offer states memory, bandwidth and at least one rate", code="OFFER_INCOMPLETE"
        )
    believed = plausible_watts(terms.watts_milli, _rates(terms))
    return Offer(
        offer_id=offer_id(terms.device_key_id, terms.device_id),
        account_id=terms.account_id,
        device_key_id=terms.device_key_id,
        device_id=terms.device_id,
        device_name=terms.device_name,
        driver=terms.driver,
        profile=terms.profile,
        memory_bytes=terms.memory_bytes,
        rates=DeviceRates(
            flops_per_second=_rates(terms),
            bandwidth_bytes_per_second=terms.bandwidth_bytes_per_second,
            launch_nanoseconds=terms.launch_nanoseconds,
            step_nanoseconds=terms.step_nanoseconds,
            build_milliseconds=terms.build_milliseconds,
            download_bytes_per_second=terms.download_bytes_per_second,
            upload_bytes_per_second=terms.upload_bytes_per_second,
        ),
        ask_nano_per_hour=terms.ask_nano_per_hour,
        milliwatts=terms.watts_milli if believed else 0,
        watts_source=(terms.watts_source if believed else WattsSource.UNKNOWN).value,
        card_price_nano=terms.card_price_nano,
        region=check_region(terms.region, empty=True),
        factors=factors,
        modes=terms.modes,
        device_class=(class_of(terms) or b"").hex(),
    )


def _rates(terms: OfferTerms) -> Mapping[str, int]:
    return MappingProxyType({rate.work_class: rate.flops_per_second for rate in terms.rates})
