"""The coordinator of a simulation, with its workers' streams: the work of the real servicer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from flopmarket.errors import Conflict, FlopmarketError, InvalidInput, NotFound
from flopmarket_coordinator.application.beating import Beat
from flopmarket_coordinator.application.types_working import LeaseRevoked
from flopmarket_coordinator.rpc import convert
from flopmarket_coordinator.store.engine import Transaction
from tests.sim.network import Command, Done, Stream
from tests.sim.writer import Writer


class Place(Writer):
    """One coordinator, which may crash and come back."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self.beats = 0
        self.misspoken: Counter[str] = Counter()
        """Answers about steps that were none, by key."""
        self._beats: list[tuple[Stream, Beat]] = []
        self._streams: dict[str, Stream] = {}
        self._offered: dict[Stream, set[tuple[str, int]]] = {}
        super().__init__(*arguments, **more)

    def _forget_streams(self) -> None:
        self._beats.clear()
        for stream in list(self._streams.values()):
            stream.drop()
        self._streams.clear()
        self._offered.clear()

    def instruct(self, instruction: Any) -> None:
        """Pass an instruction on to its worker, if that is connected; as the real hub does."""
        stream = self._streams.get(instruction.device_key_id)
        if stream is None:
            return
        lease = (getattr(instruction, "lease_id", ""), getattr(instruction, "fence", 0))
        told = self._offered[stream]
        message = convert.instruction(instruction)
        kind = str(message.WhichOneof("message"))
        if kind == "lease_offered":
            if lease in told:
                return
            told.add(lease)
        elif kind == "lease_revoked":
            told.discard(lease)
        stream.down(kind, message)

    def opened(self, stream: Stream) -> None:
        """See :class:`tests.sim.network.Office`. A newer stream of a key ends the older."""
        if not self.up:
            stream.drop()
            return
        older = self._streams.get(stream.key_id)
        self._streams[stream.key_id] = stream
        self._offered[stream] = set()
        if older is not None:
            older.drop()

    def closed(self, stream: Stream) -> None:
        """See :class:`tests.sim.network.Office`."""
        self._offered.pop(stream, None)
        if self._streams.get(stream.key_id) is stream:
            del self._streams[stream.key_id]
            session = getattr(stream, "session", None)
            if session is not None and stream.greeted:
                application = self.application
                self.submit(lambda tx: application.worker_gone(tx, session), _ignore)

    def receive(self, stream: Stream, kind: str, body: Any) -> None:
        """See :class:`tests.sim.network.Office`; the work of the real servicer."""
        if not self.up or self._streams.get(stream.key_id) is not stream:
            return
        handle = getattr(self, f"_on_{kind}")
        handle(stream, body)

    def _for(self, stream: Stream, command: Command, then: Callable[[Any], None]) -> None:
        """Run a stream's message; what it raises ends the stream."""

        def done(answer: Any, error: FlopmarketError | None) -> None:
            if error is not None:
                self.trace.tell(f"stream of {stream.key_id[:8]} ends: {error.code}")
                stream.drop()
            elif stream.at_coordinator:
                then(answer)

        self.submit(command, done)

    def _on_hello(self, stream: Stream, body: Any) -> None:
        token, hello = body
        application = self.application

        def run(tx: Transaction) -> Any:
            session = application.authenticate(tx, token)
            return session, application.worker_hello(tx, session, hello)

        def then(answer: Any) -> None:
            stream.session, welcome = answer  # type: ignore[attr-defined]
            stream.greeted = True
            stream.down("welcome", welcome)
            for instruction in welcome.again:
                self.instruct(instruction)

        self._for(stream, run, then)

    def _on_heartbeat(self, stream: Stream, body: Any) -> None:
        session = getattr(stream, "session", None)
        if session is not None:
            self._beats.append((stream, Beat(session, body, ())))
            self._wake()

    def _join_beats(self) -> list[tuple[Command, Done]]:
        """Heartbeats of one tick share a command, as the servicer joins those of one moment."""
        if not self._beats:
            return []
        together, self._beats = self._beats, []
        self.beats += len(together)
        beats, application = tuple(beat for _, beat in together), self.application

        def done(answers: Any, error: FlopmarketError | None) -> None:
            for at, (stream, _) in enumerate(together):
                answer = error if error is not None else answers[at]
                if isinstance(answer, FlopmarketError):
                    self.trace.tell(f"stream of {stream.key_id[:8]} ends: {answer.code}")
                    stream.drop()
                elif stream.at_coordinator:
                    for lost in answer.lost:
                        self.instruct(lost)

        return [(lambda tx: application.worker_heartbeats(tx, beats), done)]

    def _on_lease_accepted(self, stream: Stream, body: Any) -> None:
        session, application = getattr(stream, "session", None), self.application
        if session is None:
            return

        def run(tx: Transaction) -> Any:
            try:
                # In a SAVEPOINT of its own, as the servicer catches outside of the command.
                with tx.connection.begin_nested():
                    return application.lease_accepted(tx, session, body)
            except (Conflict, NotFound) as error:
                return error

        def then(answer: Any) -> None:
            if isinstance(answer, FlopmarketError):
                lease_id = answer.details.get("lease_id", "")
                fence = answer.details.get("fence", "0")
                if lease_id:
                    self.instruct(
                        LeaseRevoked(stream.key_id, lease_id, int(fence), answer.code, "")
                    )
                else:
                    stream.drop()

        self._for(stream, run, then)

    def _on_lease_released(self, stream: Stream, body: Any) -> None:
        session, application = getattr(stream, "session", None), self.application
        if session is None:
            return
        lease_id, fence, reason, detail = body

        def done(answer: Any, error: FlopmarketError | None) -> None:
            if error is not None and not isinstance(error, Conflict | NotFound):
                stream.drop()

        self.submit(
            lambda tx: application.lease_released(tx, session, lease_id, fence, reason, detail),
            done,
        )

    def _on_segment_committed(self, stream: Stream, body: Any) -> None:
        session, application = getattr(stream, "session", None), self.application
        if session is None:
            return
        self._for(
            stream,
            lambda tx: application.segment_committed(tx, session, body),
            lambda answer: stream.down("commitment_answer", answer),
        )

    def _on_segment_opened(self, stream: Stream, body: Any) -> None:
        session, application = getattr(stream, "session", None), self.application
        if session is None:
            return

        def done(answer: Any, error: FlopmarketError | None) -> None:
            # As the servicer does: an opening that nobody waits for ends nothing.
            if error is not None:
                self.trace.tell(f"opening of {stream.key_id[:8]}: {error.code}")
                if not isinstance(error, Conflict | NotFound):
                    stream.drop()

        self.submit(lambda tx: application.segment_opened(tx, session, body), done)

    def _on_steps_answered(self, stream: Stream, body: Any) -> None:
        session, application = getattr(stream, "session", None), self.application
        if session is None:
            return

        def done(answer: Any, error: FlopmarketError | None) -> None:
            # As the servicer does: what nobody waits for, or is about something else, ends nothing.
            if error is not None:
                self.trace.tell(f"steps of {stream.key_id[:8]}: {error.code}")
                self.misspoken[stream.key_id] += isinstance(error, InvalidInput)
                if not isinstance(error, Conflict | InvalidInput | NotFound):
                    stream.drop()
            self.look_again()  # the house may have to run steps

        self.submit(lambda tx: application.steps_answered(tx, session, body), done)


def _ignore(answer: Any, error: FlopmarketError | None) -> None:
    """Nobody waits for this answer."""
