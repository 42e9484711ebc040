"""Rulings without a dispute of lists: who may read them, what they say, and that files prove it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.client.rulings import RulingInfo, _info, _record
from flopmarket.errors import InvalidInput, NotFound
from flopmarket.trust.audit_answers import AuditorAnswer
from flopmarket.trust.audit_records import check
from flopmarket.trust.challenge import FindingCode
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.reason_codes import REASON_CODES
from flopmarket.trust.ruling_records import (
    RulingRecord,
    check_ruling,
    from_file,
    to_file,
    voices,
)
from flopmarket.trust.step_audit import Finding, StepCode
from flopmarket_coordinator.application.types_disputes import RulingView
from flopmarket_coordinator.core.auditing import AuditPhase, RulingKind
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.core.verification import VerdictCode, VoidReason
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.rpc import convert_rulings
from flopmarket_coordinator.store import audits
from tests.unit.coordinator.auditors import Club, auditor, ban, club_parameters
from tests.unit.coordinator.class_market import (
    NAMES,
    class_market,
    collude,
    drawn_first,
    go_on,
    join,
    main_audit,
    offered_to,
    play,
)
from tests.unit.coordinator.drawn import bonded, published
from tests.unit.coordinator.stepped import STEPS, answered, looked_at, started, too_big
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer, Worker
from tests.unit.coordinator.world_work import digest_of

Person = Buyer | Worker


def listed(world: World, who: Person, size: int = 50) -> list[RulingView]:
    token, found = "", []
    while True:
        page = world.see(world.application.list_rulings, who.session, size, token)
        found += page.rulings
        if not (token := page.next_page_token):
            return found


def whole(world: World, who: Person, ruling_id: str) -> tuple[RulingInfo, RulingRecord | None]:
    """As a client reads it from the wire."""
    view = world.see(world.application.get_ruling, who.session, ruling_id)
    message = convert_rulings.whole(view)
    info = _info(message.ruling)
    record = _record(info, message.record) if message.HasField("record") else None
    assert record == view.record
    return info, record


def codes(world: World, record: RulingRecord) -> set[FindingCode]:
    return {item.code for item in check_ruling(record, world.key.public)}


class Story:
    """A class job in which somebody lied, played to its end."""

    def __init__(self, folder: Path, *, auditor_lies: bool) -> None:
        self.world = World(folder, club_parameters())
        self.club = Club(self.world)
        self.buyer, self.producer, job = class_market(self.club)
        self.liar = self.producer
        if auditor_lies:
            self.liar = drawn_first(self.club)
            self.liar.lie = lambda step: digest_of(f"slander {step}")
            go_on(self.club, self.liar)
        else:
            self.producer.lie = lambda step: digest_of(f"wrong {step}")
            self.club.turn(80)
        assert self.buyer.job(job.job_id).state is JobState.SUCCEEDED
        (view,) = listed(self.world, self.buyer)
        self.ruling_id = view.ruling_id
        self.info, record = whole(self.world, self.buyer, view.ruling_id)
        assert record is not None
        self.record = record


@pytest.fixture(scope="module")
def convicted(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("convicted"), auditor_lies=False)


@pytest.fixture(scope="module")
def cleared(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("cleared"), auditor_lies=True)


# --- arbitrations ---------------------------------------------------------------------------------


def test_a_lost_device_reads_who_answered_what_and_what_follows(convicted: Story) -> None:
    info, record = whole(convicted.world, convicted.producer, convicted.ruling_id)
    assert info.roles == ("producer",) and info.kind == "arbitration" and record is not None
    assert (info.outcome, info.reason) == ("producer-wrong", VerdictCode.CLASS_OUTVOTED)
    assert "stands alone and is outvoted" in info.seen and info.ended_at_us >= info.opened_at_us > 0
    said = voices(record, convicted.world.key.public)
    assert [voice.part for voice in said] == ["producer", "auditor", "arbiter", "arbiter"]
    own, *others = said
    assert own.key_id == convicted.producer.key.key_id
    assert len({voice.state_root for voice in others}) == 1 != own.state_root
    assert own.state_root not in {voice.state_root for voice in others}
    assert any(line.startswith("the unit of $") for line in info.follows)
    assert any(line.startswith("slash: $") for line in info.follows)


def test_everybody_who_took_part_may_read_it_and_nobody_else(convicted: Story) -> None:
    world, club = convicted.world, convicted.club
    roles = {
        worker.name: listed(world, worker)[0].roles
        for worker in club.workers.values()
        if listed(world, worker)
    }
    assert sorted(roles.values()) == [("arbiter",), ("arbiter",), ("auditor",), ("producer",)]
    assert convicted.info.roles == ("buyer",)
    outsider = next(w for w in club.workers.values() if w.name not in roles)
    with pytest.raises(NotFound, match="no such ruling"):
        world.see(world.application.get_ruling, outsider.session, convicted.ruling_id)
    arbiter = next(w for w in club.workers.values() if roles.get(w.name) == ("arbiter",))
    assert whole(world, arbiter, convicted.ruling_id)[0].follows == ()


def test_while_others_are_asked_they_do_not_learn_that_they_judge(club: Club) -> None:
    _, producer, _ = class_market(club)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    for _ in range(80):
        club.round()
        if club.audits() and main_audit(club).phase is AuditPhase.ARBITRATION:
            break
    (seen,) = listed(club.world, producer)
    assert (seen.outcome, seen.reason, seen.ended_at_us, seen.unheard) == ("", "", 0, ())
    info, record = whole(club.world, producer, seen.ruling_id)
    assert record is None and info.follows == () and "are asked" in info.seen
    told = [name for name in NAMES if listed(club.world, auditor(club, name))]
    first = main_audit(club).auditor_key_id
    assert [auditor(club, name).key.key_id for name in told] == [first]


def test_the_signed_words_lead_to_the_outcome_and_the_draw_to_who_was_asked(
    convicted: Story, cleared: Story
) -> None:
    for story, outcome in ((convicted, "producer-wrong"), (cleared, "auditor-wrong")):
        assert story.record.draws is not None
        assert check_ruling(story.record, story.world.key.public) == ()
        assert (story.info.outcome, story.record.outcome) == (outcome, outcome)
    assert cleared.info.reason == "AUDITOR_WRONG"


def test_before_the_job_has_ended_the_draw_is_not_shown(club: Club) -> None:
    buyer, producer, job = class_market(club, steps=30)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    for _ in range(80):
        club.round()
        if club.audits() and main_audit(club).finding:
            break
    assert buyer.job(job.job_id).state is not JobState.SUCCEEDED
    seen = next(view for view in listed(club.world, producer) if view.reason)
    _, record = whole(club.world, producer, seen.ruling_id)
    assert record is not None and record.draws is None
    assert check_ruling(record, club.world.key.public) == ()


def test_a_file_is_read_as_it_was_written(convicted: Story, cleared: Story) -> None:
    for story in (convicted, cleared):
        key = story.world.key.public
        assert from_file(to_file(story.record, key.raw)) == (story.record, key)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"nothing",
        lambda data: b"{}",
        lambda data: b"[" * 10_000,
        lambda data: data[:-9],
        lambda data: data.replace(b"ruling-1", b"ruling-2"),
        lambda data: data.replace(b'"witnesses"', b'"friends"'),
        lambda data: data.replace(b'"coordinator_key":"', b'"coordinator_key":"zz'),
    ],
)
def test_what_is_no_such_file_is_refused(
    convicted: Story, damage: Callable[[bytes], bytes]
) -> None:
    data = to_file(convicted.record, convicted.world.key.public.raw)
    with pytest.raises(InvalidInput) as caught:
        from_file(damage(data))
    assert caught.value.code in ("RULING_FILE", "AUDIT_FILE")


def test_somebody_elses_key_has_signed_nothing_of_it(convicted: Story) -> None:
    stranger = PublicKey(convicted.producer.key.public.raw)
    assert {it.code for it in check_ruling(convicted.record, stranger)} == {FindingCode.UNREADABLE}


def _voice_away(record: RulingRecord) -> RulingRecord:
    decided = record.segment.arbitration
    assert decided is not None
    fewer = replace(decided, arbiters=decided.arbiters[:1])
    return replace(record, segment=replace(record.segment, arbitration=fewer))


def _turned(record: RulingRecord) -> RulingRecord:
    decided = record.segment.arbitration
    assert decided is not None
    other = replace(decided, outcome="undecided")
    return replace(record, segment=replace(record.segment, arbitration=other))


def _nobody(record: RulingRecord) -> RulingRecord:
    return replace(record, segment=replace(record.segment, arbitration=None))


def _unopened(record: RulingRecord) -> RulingRecord:
    decided = record.segment.arbitration
    assert decided is not None
    first: AuditorAnswer = replace(decided.arbiters[0], opening=b"")
    changed = replace(decided, arbiters=(first, *decided.arbiters[1:]))
    return replace(record, segment=replace(record.segment, arbitration=changed))


def _opened_by_another(record: RulingRecord) -> RulingRecord:
    decided = record.segment.arbitration
    assert decided is not None
    changed = replace(decided.auditor, worker_opening=decided.auditor.opening)
    segment = replace(record.segment, arbitration=replace(decided, auditor=changed))
    return replace(record, segment=segment)


def _other_reason(record: RulingRecord) -> RulingRecord:
    return replace(record, reason="STATE_DIFFERS")


def _no_candidates(record: RulingRecord) -> RulingRecord:
    assert record.draws is not None
    return replace(record, draws=replace(record.draws, candidates=record.draws.house))


def _without_verdict(record: RulingRecord) -> RulingRecord:
    return replace(record, segment=replace(record.segment, verdict=b""))


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (_voice_away, FindingCode.ARBITRATION_DIFFERS),
        (_turned, FindingCode.ARBITRATION_DIFFERS),
        (_nobody, FindingCode.ARBITRATION_DIFFERS),
        (_without_verdict, FindingCode.ARBITRATION_DIFFERS),
        (_unopened, FindingCode.OPENING_MISSING),
        (_opened_by_another, FindingCode.UNREADABLE),
        (_other_reason, FindingCode.VERDICT_DIFFERS),
        (_no_candidates, FindingCode.CANDIDATES_DIFFER),
        (_no_candidates, FindingCode.AUDITOR_NOT_DRAWN),
    ],
)
def test_a_changed_record_is_found(
    convicted: Story, lie: Callable[[RulingRecord], RulingRecord], code: FindingCode
) -> None:
    assert code in codes(convicted.world, lie(convicted.record))


def test_what_nobody_could_decide_says_so(club: Club) -> None:
    _, producer, _ = class_market(club, NAMES[:3])
    first = drawn_first(club)
    collude(first, next(auditor(club, name) for name in NAMES[:3] if name != first.name))
    club.work(first, offered_to(club, first))
    play(club)
    (seen,) = listed(club.world, producer)
    info, record = whole(club.world, producer, seen.ruling_id)
    assert (info.outcome, info.reason) == ("undecided", VoidReason.CLASS_UNDECIDED)
    assert record is not None and check_ruling(record, club.world.key.public) == ()
    assert any("strike" in line for line in info.follows)
    assert len(voices(record, club.world.key.public)) == 4


def test_who_was_asked_and_did_not_answer_is_named(club: Club) -> None:
    _, producer, _ = class_market(club)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    first = drawn_first(club)
    quiet = next(auditor(club, name) for name in NAMES if name != first.name)
    club.silent.add(quiet.key.key_id)
    club.work(first, offered_to(club, first))
    play(club, rounds=200, step_us=600 * SECOND_US)
    (seen,) = listed(club.world, producer)
    assert seen.outcome == "producer-wrong"
    assert seen.unheard in ((), ((quiet.key.key_id, "silent"),))


def test_a_unit_at_which_nobody_came_to_look_is_explained(club: Club) -> None:
    buyer, producer, _ = class_market(club, NAMES[:2], funded=False)
    for _ in range(200):
        club.round()
        club.world.now_us += 600 * SECOND_US
        if listed(club.world, buyer):
            break
    seen = listed(club.world, producer)[-1]
    info, record = whole(club.world, producer, seen.ruling_id)
    assert (info.kind, info.outcome, info.reason) == (
        "arbitration",
        "undecided",
        VoidReason.CLASS_UNDECIDED,
    )
    assert record is None and info.seen.startswith("nobody of its class")
    assert any("neither billed nor paid" in line for line in info.follows)
    assert not [name for name in NAMES[:2] if listed(club.world, auditor(club, name))]


def test_a_banned_worker_that_never_opened_is_outvoted_in_public(club: Club) -> None:
    """Its class is asked all the same, and what it answered is published like any arbitration."""
    buyer, producer, job = class_market(club)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    club.silent.add(producer.key.key_id)
    first = drawn_first(club)
    club.work(first, offered_to(club, first))
    club.round()
    assert main_audit(club).phase is AuditPhase.WORKER_OPENS
    ban(club, producer.key.key_id)
    join(club, "fifth", ask=1)
    club.turn(80)
    assert main_audit(club).finding == "REFUTED"
    (seen,) = listed(club.world, buyer)
    assert seen.outcome == "producer-wrong"
    for _ in range(300):
        if buyer.job(job.job_id).state is JobState.SUCCEEDED:
            break
        if not club.round():
            club.world.now_us += 3_600 * SECOND_US
    leases = published(club.world, buyer, job.job_id)
    assert check(leases, club.world.key.public) == ()
    assert any(item.arbitration for lease in leases for item in lease.segments)
    _, record = whole(club.world, buyer, seen.ruling_id)
    assert record is not None and codes(club.world, record) == set()


def test_a_house_worker_is_named_as_such(club: Club) -> None:
    _, producer, _ = class_market(club, NAMES[:3])
    house = join(club, "house")
    club.world.do(lambda tx: audits.put_house_account(tx, house.account))
    producer.lie = lambda step: digest_of(f"wrong {step}")
    club.turn(80)
    (seen,) = listed(club.world, producer)
    _, record = whole(club.world, producer, seen.ruling_id)
    assert record is not None and "of the house" in seen.seen
    said = voices(record, club.world.key.public)
    assert [voice.key_id for voice in said if voice.house] == [house.key.key_id]
    assert codes(club.world, record) == set()


# --- steps and the house's own word ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "outcome", "reason"),
    [
        (StepCode.DIFFERS, "producer-wrong", "STEP_DIFFERS"),
        (StepCode.FAULT, "producer-wrong", "TOLERANCE_FAULT"),
        (StepCode.SECOND_OPINION, "undecided", "TOLERANCE_OUTSIDE"),
        (StepCode.UNUSABLE, "undecided", "STEPS_UNANSWERED"),
    ],
)
def test_a_step_audit_against_a_worker_is_explained(
    tmp_path: Path, found: StepCode, outcome: str, reason: str
) -> None:
    world = World(tmp_path, too_big())
    buyer, worker, lease = started(world)
    worker.commit(lease, STEPS)
    question = answered(world, worker)
    looked_at(world, Finding(found, question.steps[0], "the step comes to another state"))
    (seen,) = listed(world, worker)
    info, record = whole(world, worker, seen.ruling_id)
    assert (info.kind, info.outcome, info.reason) == ("steps", outcome, reason)
    assert info.seen == "the step comes to another state" and info.roles == ("producer",)
    assert REASON_CODES[reason].remedy and REASON_CODES[reason].for_buyers
    assert record is not None and record.segment.steps is not None
    assert codes(world, record) == set() and record.draws is None
    buyer.cancel(seen.row.job_id)
    _, record = whole(world, buyer, seen.ruling_id)
    assert record is not None and record.draws is not None
    assert codes(world, record) == set()
    steps = record.segment.steps
    assert steps is not None
    forged = replace(record.segment, steps=replace(steps, number=2))
    assert codes(world, replace(record, segment=forged)) == {FindingCode.WRONG_STEPS}
    assert from_file(to_file(record, world.key.public.raw)) == (record, world.key.public)
    world.check()
    world.close()


def test_steps_that_were_right_are_no_ruling(tmp_path: Path) -> None:
    world = World(tmp_path, too_big())
    buyer, worker, lease = started(world)
    worker.commit(lease, STEPS)
    answered(world, worker)
    looked_at(world)
    assert listed(world, worker) == listed(world, buyer) == []
    world.close()


def test_a_file_that_convicts_by_itself_is_explained(tmp_path: Path) -> None:
    world = World(tmp_path)
    buyer, worker = world.buyer(), world.worker("ann")
    buyer.submit()
    lease = worker.accept(world.offers()[0])
    commit = worker.commitment(lease, 3)
    world.artifacts.stored[commit.checkpoint_artifact] = b"something else"
    worker.send(commit)
    world.audit_all()
    (seen,) = listed(world, worker)
    info, record = whole(world, worker, seen.ruling_id)
    assert (info.kind, info.reason) == (RulingKind.HOUSE, "CHECKPOINT_FILE_DIFFERS")
    assert info.outcome == "producer-wrong" and len(info.ruling_id) == 64
    assert record is not None and codes(world, record) == set()
    assert codes(world, _other_reason(record)) == {FindingCode.VERDICT_DIFFERS}
    assert [view.roles for view in listed(world, buyer)] == [("buyer",)]
    for unknown in ("ab", "no hex", "1"):
        with pytest.raises(NotFound):
            world.see(world.application.get_ruling, buyer.session, unknown)
    world.close()


def test_pages_hold_every_ruling_once(tmp_path: Path) -> None:
    world = World(tmp_path, too_big())
    buyer, worker, lease = started(world)
    worker.commit(lease, STEPS)
    answered(world, worker)
    looked_at(world, Finding(StepCode.UNUSABLE, 0, "nothing"))
    other = bonded(world, "other")
    (lease,) = world.offers()
    other.accept(lease)
    other.commit(lease, STEPS)
    answered(world, other)
    looked_at(world, Finding(StepCode.DIFFERS, 1, "elsewhere"))
    every = [view.ruling_id for view in listed(world, buyer)]
    assert len(set(every)) == 2
    assert [view.ruling_id for view in listed(world, buyer, 1)] == every
    world.close()
