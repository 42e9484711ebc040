"""The committed protobuf code is what the committed .proto files generate, and nothing else."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from flopmarket.v1 import (
    artifact_pb2,
    common_pb2,
    identity_pb2,
    job_pb2,
    ledger_pb2,
    market_pb2,
    worker_pb2,
)
from tests.tools.generate_protobuf import PROTO, ROOT, generate

MODULES = (
    artifact_pb2,
    common_pb2,
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
