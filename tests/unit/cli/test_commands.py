"""Every command, for people and for programs, against the fake coordinator."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from flopmarket.cli.progress import ProgressDisplay
from flopmarket.jobs import bundle
from flopmarket.trust.keys import KeyPair, PublicKey
from flopmarket.v1 import job_pb2
from tests.integration.client.doubles import (
    BUYER_KEY,
    COORDINATOR_KEY,
    OPERATOR_KEY,
    FakeCoordinator,
)
from tests.unit.cli.conftest import Flop, json_lines


def bought(flop: Flop, job_file: str) -> str:
    (job,) = json_lines(flop("submit", job_file, "--json"))
    return str(job["job_id"])


# --- keys -----------------------------------------------------------------------------------------


def test_key_new_and_show(flop: Flop, home: Path) -> None:
    made = flop("key", "new")
    assert made.exit_code == 0
    key_id = made.stdout.strip()
    file = home / "config" / "flopmarket" / "keys" / "default.pem"
    assert KeyPair.load(file).key_id == key_id
    assert file.stat().st_mode & 0o777 == 0o600
    assert key_id in flop("key", "show").stdout
    (shown,) = json_lines(flop("key", "show", "default", "--json"))
    assert shown["key_id"] == key_id
    pem = flop("key", "show", "--pem").stdout
    assert PublicKey.from_pem(pem.encode()).key_id == key_id
    assert "PRIVATE" not in pem + flop("key", "show").output


def test_a_key_is_never_overwritten(flop: Flop) -> None:
    assert flop("key", "new", "mine").exit_code == 0
    again = flop("key", "new", "mine")
    assert again.exit_code == 2
    assert "KEY_FILE_EXISTS" in again.stderr


def test_a_missing_key_says_how_to_make_one(flop: Flop, fake: FakeCoordinator) -> None:
    nobody = flop("account", "show", "--address", fake.address)
    assert nobody.exit_code == 3
    assert "flop key new" in nobody.stderr
    named = flop("account", "show", "--address", fake.address, "--key", "ghost")
    assert named.exit_code == 2
    assert "KEY_FILE_MISSING" in named.stderr


# --- account --------------------------------------------------------------------------------------


def test_account(flop: Flop, buyer: FakeCoordinator, home: Path) -> None:
    register = ("account", "register", "--no-recovery")
    assert flop(*register).exit_code == 0  # a name is for people and may be left out
    assert flop(*register, "Ada").stdout.strip() == BUYER_KEY.key_id
    OPERATOR_KEY.save(home / "operator.pem")
    operator = ("--operator-key", str(home / "operator.pem"))
    deposited = flop("account", "deposit", "$12.345", *operator, "--request-id", "d1")
    assert deposited.stdout.strip() == "d1"
    assert "$12.345" in deposited.stderr
    assert flop("account", "deposit", "12.345", *operator, "--request-id", "d1").exit_code == 0
    shown = flop("account", "show").stdout
    assert "Ada" in shown and "$12.345" in shown
    (balances,) = json_lines(flop("account", "show", "--json"))
    assert balances["available_nano"] == 12_345_000_000
    assert balances["currency"] == "USD"
    assert "deposit" in flop("account", "statement").stdout
    (line,) = json_lines(flop("account", "statement", "--json"))
    assert line["change_nano"] == 12_345_000_000


def test_an_amount_must_be_one(flop: Flop, buyer: FakeCoordinator, home: Path) -> None:
    OPERATOR_KEY.save(home / "operator.pem")
    refused = flop("account", "deposit", "lots", "--operator-key", str(home / "operator.pem"))
    assert refused.exit_code == 2
    assert "MONEY_MALFORMED" in refused.stderr


def test_a_deposit_by_somebody_else_is_forbidden(
    flop: Flop, buyer: FakeCoordinator, home: Path
) -> None:
    refused = flop("account", "deposit", "1", "--operator-key", str(home / "buyer.pem"))
    assert refused.exit_code == 3


def test_an_operator_needs_no_account(flop: Flop, fake: FakeCoordinator, home: Path) -> None:
    OPERATOR_KEY.save(home / "operator.pem")
    arguments = ("--operator-key", str(home / "operator.pem"), "--address", fake.address)
    assert flop("account", "deposit", "3", "--to", BUYER_KEY.key_id, *arguments).exit_code == 0
    assert fake.balance_nano == {BUYER_KEY.key_id: 3_000_000_000}
    assert flop("account", "deposit", "3", *arguments).exit_code == 3  # to whom?


def test_an_empty_statement_is_an_answer(flop: Flop, buyer: FakeCoordinator) -> None:
    empty = flop("account", "statement")
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "no transfers" in empty.stderr


# --- buying ---------------------------------------------------------------------------------------


def test_quote(flop: Flop, buyer: FakeCoordinator, job_file: str) -> None:
    shown = flop("quote", job_file).stdout
    for part in (
        "10 GFLOP (2 GFLOP a step)",
        "5.0 MiB",
        "3.0 MiB",
        "7 eligible; not: 2 MEMORY",
        "$0.45 per PFLOP dot-f32",
        "3.0 MiB, 1.5 s, $0.000001 of the price",
        "about 12, 1.0 s, $0.000002 of the price",
        "5.0 MiB for 30 days after the end, covered by the fee",
        "from 40 delivered segments",
        "3.0 s of it waiting for a device",
        "x1.25  busy for 30 s",
        "$0.0045",
        "$0.009",
        "15 s likely, 1 min 35 s",
        "deter, no surcharge; choose another with --verify",
        "4.2 kJ (declared)",
        "Radeon RX 7900 XTX",
    ):
        assert part in shown, part
    assert [line.split() for line in shown.splitlines() if line.startswith(("check", "dual"))] == [
        ["check", "$0.005301", "$0.010602", "20", "%", "20", "%", "89.26", "%", "100", "%"],
        ["dual", "$0.008865", "$0.01773", "100", "%", "100", "%", "100", "%", "100", "%"],
    ]
    assert "deter <" in shown and "99.99 %" in shown
    assert "does not stop one malicious segment" in flop("quote", job_file).stderr
    (found,) = json_lines(flop("quote", job_file, "--json"))
    assert found["ceiling_nano"] == 9_000_000
    assert found["offers"][0]["total_nano"] == 4_500_000
    assert found["work"] == [{"work_class": "dot-f32", "flops_per_step": 2_000_000_000}]
    assert found["offers"][0]["calibration_ppm"] == 1_250_000
    assert (found["kernel_builds"], found["without_offers"]) == (12, "refuse")
    assert [level["level"] for level in found["levels"]] == ["deter", "check", "dual"]
    (found,) = json_lines(flop("quote", job_file, "--json", "--verify", "dual"))
    assert found["verification"] == "dual"
    assert flop("quote", job_file, "--verify", "all").exit_code == 2


def test_a_job_file_chooses_a_level_and_the_command_line_another(
    flop: Flop, buyer: FakeCoordinator, job_file: str
) -> None:
    def bought(*arguments: str) -> str:
        made = flop("submit", job_file, *arguments)
        assert made.exit_code == 0, made.stderr
        return buyer.jobs[made.stdout.strip()].spec.verification

    assert bought() == "deter"
    with Path(job_file).open("a") as file:
        file.write('\nverification = "check"\n')
    assert bought() == "check"
    assert bought("--verify", "dual") == "dual"
    with Path(job_file).open("a") as file:
        file.write('\nverification = "trust-me"\n')
    wrong = flop("submit", job_file)
    assert wrong.exit_code != 0 and "VERIFICATION_UNKNOWN" in wrong.stderr


def test_run_writes_what_was_proven(
    flop: Flop, buyer: FakeCoordinator, job_file: str, home: Path
) -> None:
    done = flop("run", job_file, "-o", "result", "--max-price", "0.0085")
    assert done.exit_code == 0, done.output
    assert "$0.0045 of at most $0.0085" in done.stdout
    assert "succeeded" in done.stderr and "step 1/5  loss 0.5" in done.stderr
    state = bundle.load((home / "result" / "state.safetensors").read_bytes())
    np.testing.assert_array_equal(state["weights"], np.arange(6, dtype=np.float32) + 5)
    outputs = bundle.load((home / "result" / "outputs.safetensors").read_bytes())
    assert outputs["loss"].shape == (5,)
    key = home / "coordinator.pem"
    key.write_bytes(COORDINATOR_KEY.public.to_pem())
    assert flop("receipt", "verify", "result/receipt.json", "--key", str(key)).exit_code == 0


def test_run_as_json(flop: Flop, buyer: FakeCoordinator, job_file: str) -> None:
    (done,) = json_lines(flop("run", job_file, "--json"))
    assert done["billed_nano"] == 4_500_000
    assert len(done["state_root"]) == 64


def test_run_refuses_to_overwrite_before_it_buys(
    flop: Flop, buyer: FakeCoordinator, job_file: str, home: Path
) -> None:
    (home / "result").mkdir()
    (home / "result" / "receipt.json").write_text("precious")
    refused = flop("run", job_file, "-o", "result")
    assert refused.exit_code == 5
    assert "SubmitJob" not in buyer.calls
    assert flop("run", job_file, "-o", "result", "--force").exit_code == 0


def test_an_interrupted_run_leaves_the_job_and_says_how_to_go_on(
    flop: Flop, buyer: FakeCoordinator, job_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(display: ProgressDisplay, event: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ProgressDisplay, "__call__", interrupt)
    stopped = flop("run", job_file)
    (job_id,) = buyer.jobs
    assert stopped.exit_code == 130
    assert f"flop job watch {job_id}" in stopped.stderr
    assert "CancelJob" not in buyer.calls


def test_run_of_a_job_that_fails(flop: Flop, buyer: FakeCoordinator, job_file: str) -> None:
    buyer.outcome = job_pb2.Job.STATE_FAILED
    failed = flop("run", job_file)
    assert failed.exit_code == 1
    assert "NO_WORKER_LEFT" in failed.stderr and "JOB_FAILED" in failed.stderr


def test_a_result_that_is_not_the_proven_one(
    flop: Flop, buyer: FakeCoordinator, job_file: str, home: Path
) -> None:
    job_id = bought(flop, job_file)
    buyer.tricks.add("wrong-state")
    refused = flop("job", "fetch", job_id, "-o", "out")
    assert refused.exit_code == 1
    assert "STATE_ROOT_MISMATCH" in refused.stderr
    assert list((home / "out").iterdir()) == []


def test_submit(flop: Flop, buyer: FakeCoordinator, job_file: str) -> None:
    done = flop("submit", job_file)
    assert done.stdout.strip() in buyer.jobs
    assert "$0.009 is held" in done.stderr
    over = flop("submit", job_file, "--max-price", "0.000001")
    assert over.exit_code == 6
    assert over.stderr.splitlines()[-1] == "hint: raise --max-price"


@pytest.mark.parametrize(
    ("content", "code", "part"),
    [
        ("x = 1\n", "JOB_FILE_EMPTY", "defines no job"),
        ("job = 7\n", "NOT_A_JOB", "int is not a job"),
        ("\n1/0\n", "JOB_FILE_FAILED", "job.py:2: ZeroDivisionError"),
        ("def make_job():\n    raise KeyError('x')\n", "JOB_FILE_FAILED", "job.py:2: KeyError"),
        ("def (:\n", "JOB_FILE_FAILED", "job.py:1:"),
        ("raise SystemExit(0)\n", "JOB_FILE_FAILED", "job.py:1: SystemExit"),
    ],
)
def test_job_files_that_are_wrong(
    flop: Flop, home: Path, content: str, code: str, part: str
) -> None:
    (home / "job.py").write_text(content)
    refused = flop("quote", "job.py")
    assert refused.exit_code == 2
    assert code in refused.stderr and part in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_job_file_may_import_its_neighbours_and_make_its_job(
    flop: Flop, buyer: FakeCoordinator, home: Path
) -> None:
    (home / "neighbour_of_job.py").write_text("STEPS = 4\n")
    (home / "job.py").write_text(
        "import neighbour_of_job\n"
        "from tests.integration.client.doubles import TinyJob\n"
        "def make_job():\n    return TinyJob(steps=neighbour_of_job.STEPS)\n"
    )
    before = list(sys.path)
    (found,) = json_lines(flop("quote", "job.py", "--json"))
    assert found["steps"] == 4
    assert sys.path == before


# --- jobs -----------------------------------------------------------------------------------------


def test_job_list_show_and_short_ids(flop: Flop, buyer: FakeCoordinator, job_file: str) -> None:
    assert "no jobs yet" in flop("job", "list").stderr
    job_id = bought(flop, job_file)
    assert job_id[:12] in flop("job", "list").stdout
    assert [job["job_id"] for job in json_lines(flop("job", "list", "--json"))] == [job_id]
    shown = flop("job", "show", job_id[:8]).stdout
    assert job_id in shown and "5: 5 committed, 5 verified" in shown
    assert "\x1b" not in shown  # the device's name has an escape sequence in it
    (found,) = json_lines(flop("job", "show", job_id, "--json"))
    assert [segment["price_nano"] for segment in found["segments"]] == [1_500_000] * 3


def test_job_ids_that_name_nothing(flop: Flop, buyer: FakeCoordinator) -> None:
    assert flop("job", "show", "f" * 64).exit_code == 4
    assert flop("job", "show", "abcdef").exit_code == 4
    assert flop("job", "show", "nonsense").exit_code == 2


def test_job_watch(flop: Flop, buyer: FakeCoordinator, job_file: str) -> None:
    job_id = bought(flop, job_file)
    shown = flop("job", "watch", job_id)
    assert shown.exit_code == 0
    assert "queued" in shown.stdout and "loss 0.5" in shown.stdout
    events = json_lines(flop("job", "watch", job_id, "--json", "--after", "4"))
    assert [event["sequence"] for event in events] == [5, 6]


def test_job_watch_of_a_failed_job_exits_with_1(
    flop: Flop, buyer: FakeCoordinator, job_file: str
) -> None:
    buyer.outcome = job_pb2.Job.STATE_FAILED
    failed = flop("job", "watch", bought(flop, job_file))
    assert failed.exit_code == 1
    assert "JOB_FAILED" in failed.stderr


def test_job_cancel(flop: Flop, buyer: FakeCoordinator, job_file: str) -> None:
    job_id = bought(flop, job_file)
    assert "cancelled" in flop("job", "cancel", job_id[:10]).stderr
    (found,) = json_lines(flop("job", "cancel", job_id, "--json"))
    assert found["state"] == "cancelled"


def test_job_fetch(flop: Flop, buyer: FakeCoordinator, job_file: str, home: Path) -> None:
    job_id = bought(flop, job_file)
    (done,) = json_lines(flop("job", "fetch", job_id, "--json"))
    assert done["proven"] is True
    assert sorted(path.name for path in (home / job_id[:12]).iterdir()) == [
        "outputs.safetensors",
        "receipt.json",
        "state.safetensors",
    ]
    assert flop("job", "fetch", job_id).exit_code == 5
    assert flop("job", "fetch", job_id, "--force").exit_code == 0


# --- prices ---------------------------------------------------------------------------------------


def test_prices(flop: Flop, fake: FakeCoordinator) -> None:
    at = ("--address", fake.address)
    spot = flop("prices", "spot", *at)
    assert "$0.0021" in spot.stdout and "470 PFLOP" in spot.stdout and "declared" in spot.stdout
    (found,) = json_lines(flop("prices", "spot", *at, "--json"))
    assert found["prices"][0]["per_pflop_nano"] == 2_100_000
    offers = flop("prices", "offers", *at, "--order-by", "-memory").stdout
    assert "24.0 GiB" in offers and "31 TFLOP/s" in offers and "90 GFLOP/s/W" in offers
    (offer,) = json_lines(flop("prices", "offers", *at, "--json"))
    assert offer["ask_per_hour_nano"] == 240_000_000
    assert "no offers" in flop("prices", "offers", *at, "--min-memory", "25").stderr
    accuracy = flop("prices", "accuracy", *at)
    words = " ".join(accuracy.stdout.split())
    assert "all all 40 18.0 % 42.0 % x1.02 66.0 % 92.7 % dot-f32 card o1 40" in words
    (report,) = json_lines(flop("prices", "accuracy", *at, "--json", "--work-class", "dot-f32"))
    assert report["overall"]["error_p50_ppm"] == 180_000
    assert report["rows"][0]["work_class"] == "dot-f32"


def test_an_empty_market_is_an_answer(flop: Flop, fake: FakeCoordinator) -> None:
    fake.empty_market = True
    spot = flop("prices", "spot", "--address", fake.address)
    assert (spot.exit_code, spot.stdout) == (0, "")
    assert "no offers now" in spot.stderr


def test_nobody_there_is_7(flop: Flop) -> None:
    away = flop("prices", "spot", "--address", "127.0.0.1:1")
    assert away.exit_code == 7
    assert "COORDINATOR_UNREACHABLE" in away.stderr


# --- receipts -------------------------------------------------------------------------------------


@pytest.fixture
def receipt_file(flop: Flop, buyer: FakeCoordinator, job_file: str, home: Path) -> Path:
    job_id = bought(flop, job_file)
    path = home / "receipt.json"
    path.write_bytes(buyer.receipt(job_id))
    return path


def test_a_receipt_says_what_it_proves(flop: Flop, receipt_file: Path) -> None:
    shown = flop("receipt", "verify", str(receipt_file), "--key", COORDINATOR_KEY.key_id)
    assert shown.exit_code == 0
    for part in (
        "valid receipt",
        "(trusted)",
        "completed, 5 of 5 steps",
        "3 on 1 device(s), no gap",
        "3 of 3 segments confirmed",
        "$0.0045 (sum of the segments)",
        "$0.000135",
    ):
        assert part in shown.stdout, part
    (found,) = json_lines(
        flop("receipt", "verify", str(receipt_file), "--json", "--key", COORDINATOR_KEY.key_id)
    )
    assert (found["valid"], found["trusted"], found["invoice_nano"]) == (True, True, 4_500_000)


def test_a_receipt_without_a_trusted_key_says_so(flop: Flop, receipt_file: Path) -> None:
    shown = flop("receipt", "verify", str(receipt_file))
    assert shown.exit_code == 0
    assert "not checked against a trusted key" in shown.stdout
    (found,) = json_lines(flop("receipt", "verify", str(receipt_file), "--json"))
    assert found["trusted"] is False


def test_the_raw_public_key_will_do(flop: Flop, receipt_file: Path) -> None:
    key = COORDINATOR_KEY.public.raw.hex()
    assert flop("receipt", "verify", str(receipt_file), "--key", key).exit_code == 0


@pytest.mark.parametrize("trick", ["receipt-bad-signature", "receipt-garbage"])
def test_a_forged_receipt_is_exit_1(
    flop: Flop, buyer: FakeCoordinator, receipt_file: Path, trick: str
) -> None:
    buyer.tricks.add(trick)
    receipt_file.write_bytes(buyer.receipt(next(iter(buyer.jobs))))
    refused = flop("receipt", "verify", str(receipt_file))
    assert refused.exit_code == 1
    assert "is not a valid receipt" in refused.stderr
    as_json = flop("receipt", "verify", str(receipt_file), "--json")
    assert as_json.exit_code == 1
    assert '"valid": false' in as_json.stdout


def test_a_receipt_of_another_coordinator_is_exit_1(
    flop: Flop, receipt_file: Path, home: Path
) -> None:
    stranger = KeyPair.from_seed(b"S" * 32).public
    assert flop("receipt", "verify", str(receipt_file), "--key", stranger.key_id).exit_code == 1
    (home / "stranger.pem").write_bytes(stranger.to_pem())
    refused = flop("receipt", "verify", str(receipt_file), "--key", str(home / "stranger.pem"))
    assert refused.exit_code == 1
    assert "ENVELOPE_BAD_SIGNATURE" in refused.stderr
