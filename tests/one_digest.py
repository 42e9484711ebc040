"""The training job whose digest is the same everywhere: reference, devices, workers, kills."""

from __future__ import annotations

from flopmarket.demo import digits
from flopmarket.engine import functional, nn, optim
from flopmarket.jobs.job import TrainingJob
from flopmarket.jobs.prepared import PreparedJob

STEPS = 10
ONE_DIGEST = (
    "3f4a120d57ddb4e0f9cc4476f12f7e208dcbad2482e87cce6c416d164be5fb92"
    "e22f19e1ef72acab20d39b0b1b1aef4f432bb862834ef37be88e404a51fce8f2"
)
"""State root and outputs root, as hex: what every way of running the job must come to."""


def one_digest_job(steps: int = STEPS, segment_steps: int = 4) -> PreparedJob:
    """A strided convolution and a linear layer, SGD with momentum, on real digits."""
    data = digits.load()
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
    )
    return TrainingJob(
        model=model,
        loss=functional.cross_entropy,
        optimizer=optim.SGD(lr=0.1, momentum=0.9),
        data=(data.train_x, data.train_y),
        batch=72,
        steps=steps,
        segment_steps=segment_steps,
        seed=11,
        title="one digest",
    ).prepare()


def rich_job() -> PreparedJob:
    """One of every layer of a convolutional network, Adam with weight decay, three steps."""
    data = digits.load()
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.Sigmoid(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.LayerNorm(12),
        nn.Dropout(0.2),
        nn.Linear(12, 10),
    )
    return TrainingJob(
        model=model,
        loss=functional.cross_entropy,
        optimizer=optim.Adam(lr=1e-2, weight_decay=1e-3),
        data=(data.train_x, data.train_y),
        batch=24,
        steps=3,
        seed=11,
    ).prepare()
