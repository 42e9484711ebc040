"""The committed protobuf code is what the committed .proto files generate, and nothing else."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from flopmarket.v1 import (
    admin_pb2,
    artifact_pb2,
    audit_pb2,
    buyer_pb2,
    common_pb2,
    dispute_pb2,
    identity_pb2,
    job_pb2,
    ledger_pb2,
    market_pb2,
    worker_pb2,
)
from tests.tools.generate_protobuf import PROTO, ROOT, generate
from tests.tools.protobuf_baseline import (
    BASELINE,
    breaks,
    files_of_the_tree,
    from_text,
    promises,
    to_text,
)

MODULES = (
    admin_pb2,
    artifact_pb2,
    audit_pb2,
    buyer_pb2,
    common_pb2,
    dispute_pb2,
    identity_pb2,
    job_pb2,
    ledger_pb2,
    market_pb2,
    worker_pb2,
)


def test_the_committed_code_is_what_the_protos_generate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # protoc finds its plug-ins for type stubs beside the interpreter that runs the tests.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    generated = {path.name: path.read_bytes() for path in generate(tmp_path)}
    committed = {
        path.name: path.read_bytes() for path in (ROOT / "flopmarket" / "v1").glob("*_pb2*.py*")
    }
    assert sorted(generated) == sorted(committed)
    for name, content in generated.items():
        assert content == committed[name], f"{name} differs: run `make proto`"


def test_every_proto_file_is_imported_here() -> None:
    names = {path.stem for path in PROTO.rglob("*.proto")}
    assert names == {Path(module.DESCRIPTOR.name).stem for module in MODULES}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.DESCRIPTOR.name))
def test_files_keep_the_conventions(module: object) -> None:
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)  # type: ignore[attr-defined]
    assert file.package == "flopmarket.v1"
    assert re.fullmatch(r"flopmarket/v1/[a-z_]+\.proto", file.name)
    for service in file.service:
        assert service.name.endswith("Service")
        for method in service.method:
            own = f".flopmarket.v1.{method.name}"
            assert method.input_type == f"{own}Request", f"{service.name}.{method.name}"
            assert method.output_type == f"{own}Response", f"{service.name}.{method.name}"
    for enum in [*file.enum_type, *(e for m in file.message_type for e in m.enum_type)]:
        assert enum.value[0].number == 0
        assert enum.value[0].name.endswith("_UNSPECIFIED")


# --- what clients rely on -------------------------------------------------------------------------


def test_nothing_that_clients_rely_on_is_broken() -> None:
    before = from_text(BASELINE.read_text())
    assert breaks(before, promises(files_of_the_tree())) == []


def test_the_baseline_is_read_as_it_is_written() -> None:
    every = promises(files_of_the_tree())
    assert from_text(to_text(every)) == every and len(every) > 300


def _changed(change: Callable[[descriptor_pb2.FileDescriptorProto], object]) -> list[str]:
    """What breaks when a change is made to market.proto."""
    files = files_of_the_tree()
    before = promises(files)
    change(next(file for file in files if file.name.endswith("market.proto")))
    return breaks(before, promises(files))


def _message(file: descriptor_pb2.FileDescriptorProto, name: str) -> descriptor_pb2.DescriptorProto:
    return next(message for message in file.message_type if message.name == name)


def _trade(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FieldDescriptorProto:
    """Field 3 of Trade, work_class."""
    return _message(file, "Trade").field[2]


def _stream(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.MethodDescriptorProto:
    return next(item for item in file.service[0].method if item.name == "StreamTrades")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda file: _message(file, "Trade").field.pop(11), "field flopmarket.v1.Trade 12"),
        (lambda file: setattr(_trade(file), "number", 99), "field flopmarket.v1.Trade 3"),
        (lambda file: setattr(_trade(file), "name", "kind"), "was 'work_class: string'"),
        (lambda file: setattr(_trade(file), "type", 12), "is 'work_class: bytes'"),
        (lambda file: setattr(_trade(file), "label", 3), "is 'work_class: repeated string'"),
        (
            lambda file: setattr(_message(file, "SpotPrice").field[3], "type_name", ".other.Money"),
            "field flopmarket.v1.SpotPrice 4",
        ),
        (
            lambda file: _message(file, "StreamTradesResponse").field[3].ClearField("oneof_index"),
            "was 'batch: oneof body message .flopmarket.v1.TradeBatch'",
        ),
        (lambda file: file.message_type.pop(), "message flopmarket.v1.ExplainOfferResponse"),
        (lambda file: file.service[0].method.pop(0), "MarketService.GetSpot"),
        (lambda file: setattr(_stream(file), "server_streaming", False), "StreamTrades was"),
        (lambda file: setattr(_stream(file), "client_streaming", True), "StreamTrades was"),
        (lambda file: setattr(_stream(file), "input_type", ".other"), "StreamTrades was"),
        (lambda file: setattr(file, "package", "flopmarket.v2"), "file flopmarket/v1/market.proto"),
        (lambda file: file.ClearField("service"), "service flopmarket.v1.MarketService is gone"),
    ],
)
def test_a_break_is_found_and_named(
    change: Callable[[descriptor_pb2.FileDescriptorProto], object], named: str
) -> None:
    found = _changed(change)
    assert any(named in text for text in found), found


def test_a_lost_or_renamed_enum_value_is_a_break() -> None:
    for change in ("pop", "rename"):
        files = files_of_the_tree()
        before = promises(files)
        job = next(file for file in files if file.name.endswith("/job.proto"))
        state = _message(job, "Job").enum_type[0]
        if change == "pop":
            state.value.pop()
        else:
            state.value[-1].name = "STATE_OTHER"
        assert any(
            "value flopmarket.v1.Job.State" in text for text in breaks(before, promises(files))
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda file: _message(file, "Trade").field.add(name="new", number=500, type=9, label=1),
        lambda file: file.message_type.add(name="New"),
        lambda file: file.enum_type.add(name="New").value.add(name="NEW_UNSPECIFIED", number=0),
        lambda file: file.service[0].method.add(name="New", input_type=".a", output_type=".b"),
        lambda file: file.service.add(name="NewService"),
        lambda file: file.message_type.sort(key=lambda message: message.name),
    ],
)
def test_additions_and_order_are_no_break(
    change: Callable[[descriptor_pb2.FileDescriptorProto], object],
) -> None:
    assert _changed(change) == []
