"""Workers that cheat where only single steps are looked at, or do not answer for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flopmarket_coordinator.application.types_working import StepsAnswered
from flopmarket_worker.lease_offer import LeaseOffer
from flopmarket_worker.stepping import Question
from tests.sim.arithmetic import EMPTY, Ran, named
from tests.sim.bots import Bot
from tests.sim.schedule import SECOND_US
from tests.sim.stepping import StepWorker
from tests.sim.stories import Story, one_step, right_story
from tests.sim.worker import Worker

MOST_WRONG = 4
"""Steps of a segment that are made up, and never more than half of them."""


class StepBot(Bot, StepWorker):
    """Answers for its steps, as far as it does not say otherwise."""


class HalfWorker(StepBot):
    """Makes up what some steps of a segment come to, and goes on from there: everything that it
    signs fits together."""

    most = MOST_WRONG

    def tell(self, offer: LeaseOffer, before: bytes, first_step: int, steps: int) -> Story:
        """A few steps of nothing."""
        if not self.cheats():
            return super().tell(offer, before, first_step, steps)
        self.guilty = True
        most = min(self.most, max(1, steps // 2))
        wrong = self.dice.sample(range(steps), self.dice.randint(1, most))
        roots, rows = [before], []
        for place in range(steps):
            after, row = one_step(offer.job_id, roots[-1], first_step + place)
            if place in wrong:
                name = f"made up {self.name} {offer.terms.key.lease_id} {first_step + place}"
                after = EMPTY if after == EMPTY else named(name)
                row = named(f"{name} outputs")
            roots.append(after)
            rows.append(row)
        return Story(offer.job_id, first_step, tuple(roots), tuple(rows))


class Chooser(HalfWorker):
    """Answers where the draw missed what it made up, and is silent where it did not: a strike
    instead of the stake."""

    def reply(self, question: Question) -> None:
        """Only what looks well."""
        if self.reformed or not self.story_of(question).wrong_steps() & {*question.drawn}:
            super().reply(question)
        else:
            self.trace.tell(f"{self.name} would rather not say")


class OtherRoots(HalfWorker):
    """Signs the states of honest work when it is asked, whatever it had committed to; of the first
    and the last, one time in two, those of its commitment."""

    def roots_of(self, story: Story) -> Sequence[bytes]:
        """Another trajectory."""
        right = right_story(story.job_id, story.roots[0], story.first_step, len(story.rows))
        if self.dice.chance(0.5):
            return (*right.roots[:-1], story.roots[-1])
        return right.roots


class Dumb(StepBot):
    """Works honestly and answers nothing; repeated, silence costs the stake."""

    def reply(self, question: Question) -> None:
        """Silence."""
        if self.reformed:
            super().reply(question)
        else:
            self.guilty = True


class Late(StepBot):
    """Works honestly and answers when the time is over, which is silence."""

    def reply(self, question: Question) -> None:
        """Later."""
        if not self.cheats():
            super().reply(question)
            return
        self.guilty = True
        wait_us = self.place.parameters.audit_waits.worker_us + 20 * SECOND_US
        self._later(wait_us, super().reply, question)


class Fader(HalfWorker):
    """Signs its roots, and is away once steps are drawn."""

    def reply(self, question: Question) -> None:
        """The first round only."""
        if question.claim is None or not self.cheats():
            super().reply(question)
            return
        self.guilty = True
        self.trace.tell(f"{self.name} fades")
        self.crash(self.dice.between_us(130, 200))


class OtherState(StepBot):
    """Works honestly and hands over states that are not those whose roots it signed."""

    def state_of(self, story: Story, step: int) -> bytes:
        """Some other state."""
        if not self.cheats():
            return super().state_of(story, step)
        self.guilty = True
        return named(f"another state before {step}")


class Redrawer(HalfWorker):
    """Signs other roots once it sees that the draw is against it, to be drawn otherwise."""

    def reply(self, question: Question) -> None:
        """The first claim again, a little different."""
        wrong = self.story_of(question).wrong_steps()
        if self.reformed or question.claim is None or not wrong & {*question.drawn}:
            super().reply(question)
            return
        self.trace.tell(f"{self.name} signs once more")
        self._put(replace(question, claim=None, drawn=()), self._varied(question))

    def _varied(self, question: Question) -> list[bytes]:
        story = self.story_of(question)
        self.deeds += 1
        name = named(f"variant {self.name} {self.deeds}")
        roots = list(story.roots)
        if len(roots) > 2:
            roots[self.dice.randint(1, len(roots) - 2)] = name
        return [story.sums.to_bytes(), b"".join(roots)]

    def _say(self, question: Question, said: StepsAnswered) -> None:
        """Whatever is asked next is answered anew."""
        super()._say(question, said)
        self._replaying.clear()
        self._said.clear()


class OddShape(StepBot):
    """Commits to outputs of fewer steps than the segment has."""

    def compute(self, offer: LeaseOffer, before: bytes, first_step: int, steps: int) -> Ran:
        """One row, whatever was asked for."""
        right = super().compute(offer, before, first_step, steps)
        if steps == 1 or not self.cheats():
            return right
        self.guilty = True
        short = named(f"one row {self.name} {offer.terms.key.lease_id} {first_step}")
        self.place.shelf.inside[short] = self.stories[offer.terms.key.lease_id, first_step].rows[:1]
        return replace(right, outputs_root=short)


class WrongEnd(StepBot):
    """Does the work, commits to another end of it, and signs the states that the work went
    through."""

    def compute(self, offer: LeaseOffer, before: bytes, first_step: int, steps: int) -> Ran:
        """The last state is another one."""
        right = super().compute(offer, before, first_step, steps)
        if before == EMPTY or not self.cheats():
            return right
        self.guilty = True
        return replace(right, root_after=named(f"end {self.name} {first_step + steps}"))


STEP_BOTS: tuple[type[Worker], ...] = (
    HalfWorker,
    Chooser,
    OtherRoots,
    Dumb,
    Late,
    Fader,
    OtherState,
    Redrawer,
    OddShape,
    WrongEnd,
)
