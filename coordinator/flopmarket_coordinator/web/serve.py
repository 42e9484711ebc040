"""The board's process: one gateway, one application, one HTTP server, until a signal."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import uvicorn

from flopmarket.errors import Unavailable
from flopmarket_coordinator.web.app import application
from flopmarket_coordinator.web.board import Board

STOP_SECONDS = 3  # for answers that are being written


class BoardServer(uvicorn.Server):
    """A server whose live pages are told to go before it waits for its connections."""

    def __init__(self, board: Board, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._board = board

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: an event stream would otherwise be waited for until the last moment."""
        self._board.end_streams()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: :func:`serve` takes them, and a stop that was asked for is no failure."""
        yield

    @property
    def port(self) -> int:
        """The port that was bound; only while it serves."""
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port


def server(board: Board, host: str, port: int, hosts: tuple[str, ...] = ()) -> BoardServer:
    """A server for ``board``; ``hosts`` are names it answers to beside loopback ones."""
    config = uvicorn.Config(
        application(board, hosts),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=1_024,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return BoardServer(board, config)


async def serve(
    board: Board, host: str, port: int, hosts: tuple[str, ...], address_file: Path | None
) -> None:
    """Serve until SIGTERM or Ctrl-C. Prints one line with the address when ready.

    Raises Unavailable BOARD_PORT when the port cannot be had.
    """
    http = server(board, host, port, hosts)
    bound = _bind(host, port)
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        http.force_exit = http.should_exit  # a second one does not wait for anybody
        http.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    running = loop.create_task(http.serve(sockets=[bound]))
    while not http.started and not running.done():
        await asyncio.sleep(0.01)
    if http.started:
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{bound.getsockname()[1]}/"
        if address_file is not None:
            temporary = address_file.with_name(f".{address_file.name}.new")
            temporary.write_text(f"{address}\n", "utf-8")
            temporary.replace(address_file)
        click.echo(f"board at {address}")
        sys.stdout.flush()
    await running


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise Unavailable(
            f"cannot listen on {host}:{port}: {error.strerror}",
            code="BOARD_PORT",
            retryable=False,
            hint="another program may have the port; choose another with --listen",
        ) from None
    return bound
