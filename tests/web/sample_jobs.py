"""One owner's own jobs in the sample market, and the story of one of them."""

from __future__ import annotations

import dataclasses
import math
import random

from flopmarket_coordinator.web.model import Job, JobEvent, Segment

SECOND_US = 1_000_000


def make_jobs(now_us: int, title: str) -> list[Job]:
    """A running job of that title, a waiting one, and one that is done."""
    steps, per_segment = 20_000, 800
    devices = ("AMD Radeon RX 7900 XTX", "AMD Radeon RX 7800 XT", "NVIDIA GeForce RTX 4070")
    segments = []
    for index in range(14):
        state = "settled" if index < 11 else "verified" if index == 11 else "committed"
        segments.append(
            Segment(
                index=index,
                first_step=index * per_segment,
                steps=per_segment,
                state="rejected" if index == 6 else state,
                device_name=devices[index // 6] if index != 6 else "AMD Radeon RX 6800 XT",
                price_nano=0 if index == 6 else 18_734_211,
                reason="an audit recomputed it with another state root" if index == 6 else "",
            )
        )
    running = Job(
        job_id="5f" * 32,
        title=title,
        state="running",
        has_ended=False,
        kind="training",
        created_at_us=now_us - 2_900 * SECOND_US,
        ended_at_us=0,
        steps=steps,
        steps_committed=14 * per_segment,
        steps_verified=12 * per_segment,
        ceiling_nano=612_000_000,
        billed_nano=10 * 18_734_211,
        currency="USD",
        reason="",
        segments=tuple(segments),
        segment_count=len(segments),
    )
    waiting = dataclasses.replace(
        running,
        job_id="a1" * 32,
        title="SmolLM2 adapter, night shift",
        state="queued",
        created_at_us=now_us - 9_000 * SECOND_US,
        steps_committed=0,
        steps_verified=0,
        billed_nano=0,
        ceiling_nano=6_000_000_000,
        segments=(),
        segment_count=0,
    )
    done = dataclasses.replace(
        running,
        job_id="c3" * 32,
        title="MiniLM embeddings of 120,000 abstracts",
        kind="inference",
        state="succeeded",
        has_ended=True,
        created_at_us=now_us - 90_000 * SECOND_US,
        ended_at_us=now_us - 82_000 * SECOND_US,
        steps_committed=steps,
        steps_verified=steps,
        billed_nano=468_355_275,
    )
    return [running, waiting, done]


def make_story(job: Job) -> list[JobEvent]:
    """What happened to a job: every segment, with values on the way."""
    story = [JobEvent(1, job.created_at_us, "queued", "$0.612 held", 0, {})]
    chance, time_us = random.Random(3), job.created_at_us
    for segment in job.segments:
        time_us += 190 * SECOND_US
        kind = "rejected" if segment.state == "rejected" else "committed"
        text = f"segment {segment.index} on {segment.device_name}"
        story.append(JobEvent(len(story) + 1, time_us, kind, text, 0, {}))
        for part in range(1, 11):
            step = segment.first_step + part * segment.steps // 10
            loss = 2.3 * math.exp(-step / 3_500) + 0.11 + chance.gauss(0, 0.012)
            right = 0.985 - 0.88 * math.exp(-step / 2_600) + chance.gauss(0, 0.006)
            scalars = {"loss": loss, "accuracy": min(1.0, right)}
            story.append(JobEvent(len(story), time_us, "progress", "", step, scalars))
    return story
