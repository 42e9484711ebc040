"""Optimizers, schedules and clipping as torch is asked for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.engine.functional.case import Array

STEPS = 6
RATES = 24
RATE = 0.05
MAX_NORM = 0.5


def parameters() -> dict[str, Array]:
    """Two parameters."""
    random = np.random.default_rng(1)
    return {
        "w": random.uniform(-1, 1, (3, 4)).astype(np.float32),
        "b": random.uniform(-1, 1, (5,)).astype(np.float32),
    }


def gradients(step: int) -> dict[str, Array]:
    """Their gradients in one step; the same for every optimizer."""
    random = np.random.default_rng(100 + step)
    return {
        "w": random.uniform(-1, 1, (3, 4)).astype(np.float32),
        "b": random.uniform(-1, 1, (5,)).astype(np.float32),
    }


OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "sgd nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {"lr": 0.01, "weight_decay": 0.1}),
    "adamw": ("AdamW", {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 0.01, "alpha": 0.9, "weight_decay": 0.1}),
    "rmsprop centered": ("RMSprop", {"lr": 0.01, "momentum": 0.9, "centered": True}),
    "adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.1}),
}

SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "constant": ("ConstantLR", {"factor": 1.0}),
    "step": ("StepLR", {"step_size": 5, "gamma": 0.3}),
    "exponential": ("ExponentialLR", {"gamma": 0.9}),
    "cosine": ("LambdaLR", {"lr_lambda": lambda t: (1 + np.cos(np.pi * min(t, 20) / 20)) / 2}),
    "polynomial": ("PolynomialLR", {"total_iters": 16, "power": 1.5}),
    "linear": ("LinearLR", {"start_factor": 1.0, "end_factor": 0.1, "total_iters": 16}),
    "warmup_cosine": (
        "LambdaLR",
        {"lr_lambda": lambda t: t / 6 if t < 6 else (1 + np.cos(np.pi * min(t - 6, 14) / 14)) / 2},
    ),
    "one_cycle": (
        "OneCycleLR",
        {"max_lr": RATE, "total_steps": RATES + 1, "cycle_momentum": False},
    ),
    "piecewise": ("MultiStepLR", {"milestones": [4, 9], "gamma": 0.1}),
}
