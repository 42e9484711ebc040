"""What the protocol promises, as text, and what a change of the .proto files would break.

``make proto-baseline`` writes ``proto/baseline.txt``: one line for each field, enum value and
method. A release's clients rely on every line of it, so the test suite refuses a tree in which one
is gone or says something else. New lines are no break; writing the file anew accepts whatever
changed, which is for releases that mean to.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

from tests.tools.generate_protobuf import PROTO

BASELINE = PROTO / "baseline.txt"
_HEADER = (
    "# What clients rely on, written by `make proto-baseline` (tests/tools/protobuf_baseline.py)\n"
)

Promises = Mapping[str, str]
"""What is promised: the name of a thing, and what it says about it."""


def files_of_the_tree() -> list[descriptor_pb2.FileDescriptorProto]:
    """Descriptors of all committed generated modules."""
    found = []
    for path in sorted(PROTO.rglob("*.proto")):
        module = ".".join(path.relative_to(PROTO).with_suffix("").parts) + "_pb2"
        file = descriptor_pb2.FileDescriptorProto()
        importlib.import_module(module).DESCRIPTOR.CopyToProto(file)
        found.append(file)
    return found


def promises(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> Promises:
    """Everything that clients of these files rely on."""
    found: dict[str, str] = {}
    for file in files:
        found[f"file {file.name}"] = f"package {file.package}, {file.syntax}"
        for message in file.message_type:
            found |= _of_message(message, file.package)
        for enum in file.enum_type:
            found |= _of_enum(enum, file.package)
        for service in file.service:
            name = f"{file.package}.{service.name}"
            found[f"service {name}"] = ""
            for method in service.method:
                found[f"method {name}.{method.name}"] = (
                    f"{'stream ' if method.client_streaming else ''}{method.input_type} -> "
                    f"{'stream ' if method.server_streaming else ''}{method.output_type}"
                )
    return found


def breaks(before: Promises, after: Promises) -> list[str]:
    """What was promised before and no longer holds, one sentence each; empty when nothing is."""
    found = []
    for name, said in before.items():
        if name not in after:
            found.append(f"{name} ({said}) is gone" if said else f"{name} is gone")
        elif after[name] != said:
            found.append(f"{name} was {said!r}, is {after[name]!r}")
    return found


def to_text(promised: Promises) -> str:
    """The file form, in order of name."""
    lines = (
        f"{name} = {said}\n" if said else f"{name}\n" for name, said in sorted(promised.items())
    )
    return _HEADER + "".join(lines)


def from_text(text: str) -> Promises:
    """What :func:`to_text` wrote."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    split = (line.partition(" =") for line in lines)
    return {name: said.strip() for name, _, said in split}


def _of_message(message: descriptor_pb2.DescriptorProto, scope: str) -> dict[str, str]:
    name = f"{scope}.{message.name}"
    found = {f"message {name}": ""}
    for field in message.field:
        found[f"field {name} {field.number}"] = _says(field, message)
    for enum in message.enum_type:
        found |= _of_enum(enum, name)
    for nested in message.nested_type:
        found |= _of_message(nested, name)
    return found


def _says(field: Field, message: descriptor_pb2.DescriptorProto) -> str:
    kind = Field.Type.Name(field.type).removeprefix("TYPE_").lower()
    label = "repeated " if field.label == Field.LABEL_REPEATED else ""
    if field.proto3_optional:
        label = "optional "
    elif field.HasField("oneof_index"):
        label = f"oneof {message.oneof_decl[field.oneof_index].name} "
    return f"{field.name}: {label}{kind} {field.type_name}".rstrip()


def _of_enum(enum: descriptor_pb2.EnumDescriptorProto, scope: str) -> dict[str, str]:
    name = f"{scope}.{enum.name}"
    return {f"enum {name}": ""} | {
        f"value {name} {value.number}": value.name for value in enum.value
    }


if __name__ == "__main__":
    BASELINE.write_text(to_text(promises(files_of_the_tree())))
    sys.stdout.write(f"{BASELINE.name}\n")
