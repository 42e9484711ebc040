"""A simulated worker that answers for single steps of its segments, as the real desk does.

Each question is read by the worker's own code; the replay takes virtual time, files are uploaded
again until the coordinator takes them, and what was said once is said again when it is asked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flopmarket.errors import FlopmarketError
from flopmarket.trust.encoding import digest
from flopmarket.trust.step_audit import DrawnState, StepAnswer, StepClaim
from flopmarket_coordinator.application.types_working import StepsAnswered
from flopmarket_worker.lease_offer import LeaseOffer
from flopmarket_worker.stepping import Question, Round, read_question
from tests.sim.arithmetic import Ran
from tests.sim.broken import Broken
from tests.sim.device import BACKOFF_US
from tests.sim.stories import Story, right_story
from tests.sim.worker import Worker

REPLAYS_FASTER = 8
"""Segments are short here beside the time for an answer; a replay is as much shorter."""


class StepWorker(Worker):
    """Keeps what each segment came to, step by step."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.stories: dict[tuple[str, int], Story] = {}
        """On disk, by lease and first step."""
        self._said: dict[Round, StepsAnswered] = {}
        self._replaying: set[Round] = set()

    def start(self) -> None:
        """A new process remembers no answer."""
        self._said.clear()
        self._replaying.clear()
        super().start()

    def compute(self, offer: LeaseOffer, before: bytes, first_step: int, steps: int) -> Ran:
        """The work, and the list of its checksums."""
        story = self.tell(offer, before, first_step, steps)
        self.stories[offer.terms.key.lease_id, first_step] = story
        ran = story.ran
        self.place.shelf.inside[ran.outputs_root] = story.rows
        return ran

    def tell(self, offer: LeaseOffer, before: bytes, first_step: int, steps: int) -> Story:
        """What these steps come to."""
        return right_story(offer.job_id, before, first_step, steps)

    # --- questions ----------------------------------------------------------------------------

    def hear(self, kind: str, body: Any) -> None:
        """A message of the coordinator."""
        if kind == "steps_asked":
            self._on_steps_asked(body)
        else:
            super().hear(kind, body)

    def _on_steps_asked(self, message: Any) -> None:
        keys = {self.key.key_id: self.key}
        try:
            question = read_question(message.steps_asked, self.place.key.key_id, keys)
        except FlopmarketError as error:
            raise Broken("steps-question", f"{self.name} is asked: {error}") from error
        which = question.round
        if which in self._said:
            self.send("steps_answered", self._said[which])
        elif which not in self._replaying:
            self._replaying.add(which)
            body = question.body
            steps = body.first_step + body.steps_done - question.work.terms.first_step
            self._later(self.card.step_us * steps // REPLAYS_FASTER, self.reply, question)

    def story_of(self, question: Question) -> Story:
        """What this device remembers of the segment."""
        return self.stories[question.body.lease_id, question.body.first_step]

    def reply(self, question: Question) -> None:
        """Upload what is asked for, and sign it."""
        story = self.story_of(question)
        if question.claim is None:
            files = [story.sums.to_bytes(), b"".join(self.roots_of(story))]
        else:
            files = [self.state_of(story, step) for step in question.drawn]
        self._put(question, files)

    def roots_of(self, story: Story) -> Sequence[bytes]:
        """The states that it says the segment went through."""
        return story.roots

    def state_of(self, story: Story, step: int) -> bytes:
        """The file of the state before a step."""
        return story.roots[step - story.first_step]

    # --- answers ------------------------------------------------------------------------------

    def _put(self, question: Question, files: Sequence[bytes]) -> None:
        """Again and again while the coordinator does not take them."""
        session, life, lease_id = self._session, self._life, question.body.lease_id
        if session is None:
            self._later(BACKOFF_US, self._put, question, files)
            return
        digests = [self.place.shelf.put(data) for data in files]

        def run(tx: Any) -> None:
            for name, data in zip(digests, files, strict=True):
                self.place.application.artifact_put(tx, session, name, len(data), lease_id)

        def done(answer: Any, error: FlopmarketError | None) -> None:
            if life != self._life:
                return
            if error is None:
                self._say(question, self._signed(question, [bytes.fromhex(it) for it in digests]))
            elif error.retryable or error.code == "SESSION_UNKNOWN":
                self._later(BACKOFF_US, self._put, question, files)
            else:
                self._say(question, StepsAnswered(*question.case, None, None, error.code, ""))

        self.link.call(run, done)

    def _signed(self, question: Question, files: Sequence[bytes]) -> StepsAnswered:
        body, claim = question.body, question.claim
        if claim is None:
            secret = self.secrets[question.case]
            first, second = files
            made = StepClaim(
                digest(body), self.key.key_id, secret.salt, secret.inner, first, second
            )
            return StepsAnswered(*question.case, self.sign(made), None)
        drawn = zip(question.drawn, files, strict=True)
        answer = StepAnswer(digest(claim), tuple(DrawnState(step, file) for step, file in drawn))
        return StepsAnswered(*question.case, None, self.sign(answer))

    def _say(self, question: Question, said: StepsAnswered) -> None:
        self._said[question.round] = said
        self._replaying.discard(question.round)
        self.send("steps_answered", said)
