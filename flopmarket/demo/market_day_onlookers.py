"""What onlookers without a key see of a market day, each in a thread with a client of its own."""

from __future__ import annotations

import threading
import time

from flopmarket.client import Client
from flopmarket.client.results_prices import Offer, TradeInfo
from flopmarket.errors import FlopmarketError

GLANCE_SECONDS = 0.2
STREAM_END_SECONDS = 20.0


class OfferWatch:
    """Every offer that was on the list for longer than a glance; nothing is asked again afterwards.

    The buyers' own thread would look too seldom: an order may keep it for longer than an owner
    who comes for an hour of the day stays.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.as_of_us: list[int] = []
        self.offers: dict[str, Offer] = {}
        """The newest sight of every offer."""
        self.asks: dict[str, set[int]] = {}
        """Asks of an offer, nano-units an hour."""
        self.counts: list[int] = []
        """Offers on the list, glance by glance."""
        self.trouble = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="offers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more. Returns when the thread has ended."""
        self._stopped.set()
        self._thread.join()
        self._client.close()

    def _watch(self) -> None:
        try:
            while not self._stopped.wait(GLANCE_SECONDS):
                page = self._client.offers_page()
                self.as_of_us.append(page.as_of_us)
                self.counts.append(page.matching)
                for offer in page.offers:
                    self.offers[offer.offer_id] = offer
                    self.asks.setdefault(offer.offer_id, set()).add(offer.ask_per_hour.nano)
        except FlopmarketError as error:
            self.trouble = str(error)


class TapeListener:
    """Everything that the trade stream says, from a thread with a client of its own."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.trades: list[TradeInfo] = []
        self.as_of_us: list[int] = []
        self.gaps = 0
        self.trouble = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="tape", daemon=True)
        self._thread.start()

    def wait_for(self, number: int) -> bool:
        """Whether the trade with this number has been heard, after a while at most."""
        deadline = time.monotonic() + STREAM_END_SECONDS
        while number and (not self.trades or self.trades[-1].number < number):
            if time.monotonic() > deadline or self.trouble:
                return False
            time.sleep(0.1)
        return True

    def stop(self) -> None:
        """No more. The thread ends with the connection."""
        self._stopped.set()
        self._client.close()

    def _listen(self) -> None:
        try:
            for message in self._client.watch_trades():
                if self._stopped.is_set():
                    return
                self.as_of_us.append(message.as_of_us)
                self.gaps += message.gap
                self.trades += message.trades
        except (FlopmarketError, ValueError) as error:  # ValueError: of a channel that was closed
            if not self._stopped.is_set():
                self.trouble = str(error)
