"""``POST /payments``: where a payment provider's signed messages reach a running coordinator.

Plain HTTP on a loopback address, for a reverse proxy in front of it that ends TLS; the message's
own signature is its authority (:class:`~flopmarket_coordinator.rails.WebhookRail`). The standard
library's threaded server is enough for one provider; payments become commands of the tick.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from flopmarket.errors import Unavailable
from flopmarket.limits import MAX_PAYMENT_BODY_BYTES, PAYMENT_ANSWER_SECONDS
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.core.payments import Notice, PaymentRail
from flopmarket_coordinator.rails import WebhookAnswer, answer_webhook

PATH = "/payments"
_LENGTH = re.compile(r"[0-9]{1,19}")
_log = logging.getLogger(__name__)


def serve_payments(
    host: str, port: int, rail: PaymentRail, backend: Backend, loop: asyncio.AbstractEventLoop
) -> tuple[int, Callable[[], None]]:
    """Answer ``POST /payments`` on a thread; the port that was bound, and how to stop."""

    async def apply(notice: Notice) -> str:
        application = backend.application
        result = await backend.command(lambda tx: application.payment(tx, notice))
        return result.transfer_id

    def answer(headers: dict[str, str], body: bytes) -> WebhookAnswer:
        work = answer_webhook(rail, apply, headers, body, backend.clock_us())
        return asyncio.run_coroutine_threadsafe(work, loop).result(PAYMENT_ANSWER_SECONDS)

    class Handler(BaseHTTPRequestHandler):
        """One request; everything that matters is in ``answer``."""

        timeout = PAYMENT_ANSWER_SECONDS

        def do_POST(self) -> None:
            """The only method there is."""
            length = self.headers.get("content-length", "")
            counted = _LENGTH.fullmatch(length) is not None
            if self.path != PATH:
                self._send(WebhookAnswer(404, b"{}"))
            elif not counted or int(length) > MAX_PAYMENT_BODY_BYTES:
                self.close_connection = True
                self._send(WebhookAnswer(413 if counted else 411, b"{}"))
            else:
                body = self.rfile.read(int(length))
                try:
                    self._send(answer(dict(self.headers.items()), body))
                except TimeoutError:
                    self._send(WebhookAnswer(503, b"{}"))

        def log_message(self, format: str, *args: object) -> None:
            """Requests go to our log, and only when somebody wants to see them."""
            _log.info("payments: %s", format % args)

        def _send(self, found: WebhookAnswer) -> None:
            self.send_response(found.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise Unavailable(
            f"cannot take payments on {host}:{port}: {error.strerror}", code="ADDRESS_IN_USE"
        ) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="payments")
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return int(server.server_address[1]), stop
