"""The jobs of a market day: a small network on real digits, trained and applied."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.demo import digits
from flopmarket.demo.market_day_plan import Work
from flopmarket.engine import functional, nn, optim
from flopmarket.jobs.bundle import Array
from flopmarket.jobs.job import InferenceJob, TrainingJob
from flopmarket.jobs.prepared import PreparedJob, Result, run_local

_TRAINING_STEPS = 48
_HIDDEN = 512


def small_classifier() -> nn.Module:
    """Two hidden layers: 10 scores an image."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, _HIDDEN),
        nn.ReLU(),
        nn.Linear(_HIDDEN, _HIDDEN),
        nn.ReLU(),
        nn.Linear(_HIDDEN, 10),
    )


@dataclass(slots=True)
class Jobs:
    """The three kinds of work, prepared once, and what they come to here."""

    prepared: dict[Work, PreparedJob]
    local: dict[bytes, Result]
    """By program digest."""

    @classmethod
    def make(cls) -> Jobs:
        """Train here first: the batches are read by the network that the training ends with."""
        data = digits.load()
        training = TrainingJob(
            model=small_classifier(),
            loss=functional.cross_entropy,
            optimizer=optim.Adam(lr=2e-3),
            data=(data.train_x, data.train_y),
            batch=64,
            steps=_TRAINING_STEPS,
            segment_steps=12,
            seed=11,
        )
        trained = training.run_local()
        weights = training.weights(trained)

        def batches(images: Array, batch: int, segment_steps: int) -> PreparedJob:
            return InferenceJob(
                model=training.model,
                inputs=images,
                batch=batch,
                weights=weights,
                segment_steps=segment_steps,
            ).prepare()

        prepared = {
            Work.TRAINING: training.prepare(),
            Work.SHORT_BATCH: batches(data.test_x, 20, 3),
            Work.LONG_BATCH: batches(data.train_x, 40, 6),
        }
        local = {prepared[Work.TRAINING].program.digest: trained}
        for work in (Work.SHORT_BATCH, Work.LONG_BATCH):
            local[prepared[work].program.digest] = run_local(prepared[work])
        return cls(prepared, local)

    def by_program(self, digest: bytes) -> PreparedJob:
        """The job with this program."""
        return next(job for job in self.prepared.values() if job.program.digest == digest)
