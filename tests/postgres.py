"""A throw-away PostgreSQL cluster: in a temporary folder, reached by a Unix socket, gone after.

The server refuses to run as root, so a root test run starts it as another user of the machine.
``cluster()`` starts one for the whole process; ``missing()`` says in one line why there is none.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import sqlalchemy as sa

_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "40",
    "shared_buffers": "64MB",
    "log_min_messages": "fatal",
}
_USERS = ("postgres", "nobody")
_START_SECONDS = 60


class Cluster:
    """A running server. One that is not ``durable`` does not wait for the disk: for tests only."""

    def __init__(self, *, durable: bool = False) -> None:
        self._user = _unprivileged()
        self.folder = Path(tempfile.mkdtemp(prefix="flopmarket-pg-"))
        if self._user:
            found = pwd.getpwnam(self._user)
            os.chown(self.folder, found.pw_uid, found.pw_gid)
        self._data = self.folder / "data"
        self._names = count(1)
        self._run("initdb", "-D", self._data, "-U", "flopmarket", "-A", "trust", "-E", "UTF8",
                  "--locale=C", "--no-sync")  # fmt: skip
        settings = _SETTINGS | {"unix_socket_directories": str(self.folder)}
        settings |= {} if durable else {"fsync": "off", "full_page_writes": "off"}
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._server = self._start("postgres", "-D", self._data, *flags)
        self._await()

    def url(self, database: str) -> str:
        """A database of this cluster, for SQLAlchemy."""
        return f"postgresql+psycopg://flopmarket@/{database}?host={self.folder}"

    def create(self, template: str = "template0") -> str:
        """A new database, a copy of ``template``; its name."""
        name = f"market_{next(self._names)}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop(self, database: str) -> None:
        """Remove a database, whoever is connected."""
        self._execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def stop(self) -> None:
        """End the server and remove everything."""
        self._server.send_signal(signal.SIGINT)  # "fast": whoever is connected is cut off
        try:
            self._server.wait(5)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _execute(self, statement: str) -> None:
        engine = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql(statement)
        finally:
            engine.dispose()

    def _await(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self._execute("SELECT 1")
            except sa.exc.OperationalError:
                if time.monotonic() > deadline or self._server.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def _start(self, program: str, *arguments: object) -> subprocess.Popen[bytes]:
        command = [str(_binaries() / program), *map(str, arguments)]
        return subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, **self._identity())  # fmt: skip

    def _run(self, program: str, *arguments: object) -> None:
        if self._start(program, *arguments).wait(_START_SECONDS):
            raise RuntimeError(f"{program} failed in {self.folder}")

    def _identity(self) -> dict[str, Any]:
        if not self._user:
            return {}
        found = pwd.getpwnam(self._user)
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


@cache
def cluster() -> Cluster:
    """The one cluster of this process, started on first use."""
    made = Cluster()
    atexit.register(made.stop)
    return made


@cache
def missing() -> str:
    """Why no cluster can be started here; empty when one can."""
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        return f"no PostgreSQL driver: {error}"
    try:
        _binaries()
        _unprivileged()
    except LookupError as error:
        return str(error)
    return ""


def _binaries() -> Path:
    """The newest installed server's programs."""
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda path: int(path.parent.name),
        reverse=True,
    )
    on_path = shutil.which("initdb")
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise LookupError("no PostgreSQL server is installed (Debian: apt-get install postgresql)")


def _unprivileged() -> str:
    """Whom to run the server as; empty for ourselves."""
    if os.geteuid() != 0:
        return ""
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in _USERS:
        if name in known:
            return name
    raise LookupError("PostgreSQL does not run as root, and there is no other user here")
