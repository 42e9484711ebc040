"""What generated OpenCL C may contain in exact mode: docs/numerics.md §3, as a check on the source.

``Device.compile`` runs it on every kernel before the driver sees it. It is the second fence: the
renderer is written not to emit what is forbidden, and this refuses it if it does. Calls are judged
by a list of what is allowed, so that a builtin nobody thought of is refused. The check reads
tokens, not C: where it cannot see that something is harmless (a ``/`` whose operands it cannot
prove to be integers) it refuses.

Some functions defined in the source have special names: ``fx1_fma*`` is the contracted FMA helper
and must have exactly its one body; ``fx1_div*`` and ``fx1_sqrt*`` may use float ``/`` and ``sqrt``;
all others may not. Those two, helpers called ``fx1_*_double`` and kernels whose name ends in
``_f64`` (which the code generator gives to those that compute float64 tensors) may say ``double``.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Sequence
from functools import cache

from flopmarket.engine.codegen.lint_types import (
    INTEGER_TYPE,
    INTEGERS,
    QUALIFIERS,
    TYPE,
    are_integers,
    declared,
    element_type,
    is_cast,
    left_operand,
    pointees_of,
    right_operand,
    typedefs_of,
)
from flopmarket.engine.codegen.tokens import (
    Function,
    Token,
    matching,
    matching_back,
    owners_of,
    refuse,
    tokenize,
    top_level_functions,
)
from flopmarket.engine.errors import EngineError

# fmt: off
_WORDS_BEFORE_PARENTHESIS = frozenset([
    "if", "for", "while", "switch", "return", "sizeof", "do", "else", "case",
])
# fmt: on
_FORBIDDEN_WORDS = {
    "asm": "LINT_ASM",
    "__asm__": "LINT_ASM",
    "__asm": "LINT_ASM",
    "union": "LINT_TYPE",
    "struct": "LINT_TYPE",
    "goto": "LINT_CALL",
    "NAN": "LINT_LITERAL",
    "INFINITY": "LINT_LITERAL",
    "HUGE_VAL": "LINT_LITERAL",
    "HUGE_VALF": "LINT_LITERAL",
}
# fmt: off
_ATTRIBUTES = frozenset([
    "reqd_work_group_size", "work_group_size_hint", "vec_type_hint", "aligned", "always_inline",
    "noinline",
])
# fmt: on
# fmt: off
_KEYWORDS = frozenset([
    *_WORDS_BEFORE_PARENTHESIS, "break", "continue", "default", "typedef", "void", "true", "false",
    "CLK_LOCAL_MEM_FENCE", "CLK_GLOBAL_MEM_FENCE", "__attribute__",
])
# fmt: on
_PRAGMAS = re.compile(
    r"^#\s*pragma\s+(?:OPENCL\s+EXTENSION\s+\w+\s*:\s*enable|unroll(?:\s*\(?\s*\d+\s*\)?)?|nounroll)$"
)
_CONTRACT_OFF = re.compile(r"^#\s*pragma\s+OPENCL\s+FP_CONTRACT\s+OFF$")
_CONTRACT_ON = re.compile(r"^#\s*pragma\s+OPENCL\s+FP_CONTRACT\s+ON$")
_OPTIONS = re.compile(
    r"^(?:-cl-std=CL(?:1\.[12]|2\.0|3\.0)|-cl-fp32-correctly-rounded-divide-sqrt|-cl-opt-disable"
    r"|-cl-kernel-arg-info|-w|-Werror)$"
)

# fmt: off
_CALLS = frozenset([
    "get_global_id", "get_local_id", "get_group_id", "get_global_size", "get_local_size",
    "get_num_groups", "get_global_offset", "get_work_dim", "barrier", "mem_fence", "read_mem_fence",
    "write_mem_fence", "work_group_barrier", "fma", "select", "isnan", "mul_hi", "add_sat",
    "sub_sat", "abs_diff", "rotate", "popcount", "clz", "vload_half", "vstore_half_rte", "prefetch",
])
# fmt: on
_CALL_FAMILIES = re.compile(
    rf"^(?:as_(?:{INTEGERS}|float|double)(?:2|3|4|8|16)?"
    rf"|convert_(?:{INTEGERS})(?:2|3|4|8|16)?(?:_sat)?(?:_rtz)?"
    r"|convert_(?:float|double)(?:2|3|4|8|16)?(?:_rte)?"
    r"|vload(?:2|3|4|8|16)|vstore(?:2|3|4|8|16)"
    r"|vloada?_half(?:2|3|4|8|16)|vstorea?_half(?:2|3|4|8|16)_rte)$"
)
_INTEGER_CALLS = frozenset(["min", "max", "clamp", "abs"])
"""Allowed where every argument is visibly an integer: on floats they differ between drivers."""
_ATOMIC = re.compile(r"^atom(?:ic)?_(?:add|sub|inc|dec|min|max|and|or|xor|xchg|cmpxchg)$")
_DOUBLE = re.compile(r"^(?:as_|convert_)?double")
_USES_DOUBLE = re.compile(r"^(?:fx1_(?:div|sqrt)\w*|fx1_\w+_double|\w+_f64)$")
_PARTS = tuple(f"flopmarket.engine.codegen.{name}" for name in ("lint_types", "tokens"))
_CONTRACTED = re.compile(
    r"^static inline (?P<t>(?P<base>float|double)(?:2|3|4|8|16)?) \w+ "
    r"\( (?:(?P=t)|(?P=base)) (?P<a>\w+) , (?:(?P=t)|(?P=base)) (?P<b>\w+) , (?P=t) (?P<c>\w+) \) "
    r"\{ \#pragma OPENCL FP_CONTRACT ON return (?P=a) \* (?P=b) \+ (?P=c) ; \}$"
)


@cache
def rules_digest() -> str:
    """64 hex digits that change with this check: what passed it once need not pass it again."""
    rules = (inspect.getsource(sys.modules[name]) for name in (__name__, *_PARTS))
    return hashlib.sha256("\0".join(rules).encode()).hexdigest()


def check(source: str, options: tuple[str, ...] = ()) -> None:
    """Raise :class:`EngineError` with a ``LINT_...`` code where the source is not exact-mode C.

    The message names the construct and its line. ``LINT_OPTION``: a compiler option;
    ``LINT_DIRECTIVE``: ``#include``, ``#define``, an unknown pragma; ``LINT_CONTRACT``: contraction
    not off at file level, or on outside the one helper; ``LINT_CALL``: a call not on the list;
    ``LINT_NAME``: a name that the source does not declare, or a builtin that is not called;
    ``LINT_MINMAX``, ``LINT_ATOMIC``, ``LINT_DIVIDE``: used on what is not visibly an integer;
    ``LINT_POINTER``: a pointer cast to another element type, or of what is no declared pointer;
    ``LINT_DOUBLE``: float64 where the names do not say that float64 is computed;
    ``LINT_TYPE``, ``LINT_LITERAL``, ``LINT_ASM``: half variables, NAN, INFINITY and subnormal
    literals (compilers fold them), assembler.
    """
    for option in options:
        if not _OPTIONS.match(option):
            raise EngineError(
                f"compiler option {option!r} is not allowed in exact mode", code="LINT_OPTION"
            )
    tokens = tokenize(source)
    functions = top_level_functions(tokens)
    _check_directives(tokens, functions)
    defined = {function.name for function in functions}
    for function in functions:
        if _is_builtin(function.name):
            refuse("LINT_CALL", f"redefinition of {function.name}", tokens[function.start])
    typedefs = typedefs_of(tokens)
    inside = owners_of(tokens, functions)
    outside = [i for i, owner in enumerate(inside) if owner is None]
    floats_at_top = declared(tokens, typedefs, outside)
    for function in functions:
        span = range(function.start, function.closing + 1)
        names = floats_at_top | declared(tokens, typedefs, span)
        known = frozenset([*names, *defined, *typedefs])
        _check_body(tokens, function, names, defined, typedefs)
        _check_names(tokens, span, known)
        _check_pointer_casts(tokens, span)
    for index in outside:
        _check_word(tokens, index, defined, "")
    _check_names(tokens, outside, frozenset([*floats_at_top, *defined, *typedefs]))


def _check_directives(tokens: Sequence[Token], functions: Sequence[Function]) -> None:
    helpers = {
        index: function
        for function in functions
        if function.name.startswith("fx1_fma")
        for index in range(function.start, function.closing + 1)
    }
    off = False
    for index, token in enumerate(tokens):
        if token.kind != "pragma":
            if not off:
                refuse("LINT_CONTRACT", "code before '#pragma OPENCL FP_CONTRACT OFF'", token)
        elif _CONTRACT_OFF.match(token.text):
            if index in helpers or any(f.start < index < f.closing for f in functions):
                refuse("LINT_CONTRACT", "FP_CONTRACT inside a function", token)
            off = True
        elif _CONTRACT_ON.match(token.text):
            helper = helpers.get(index)
            if helper is None or not _is_contracted_helper(tokens, helper):
                refuse("LINT_CONTRACT", "FP_CONTRACT ON outside the fx1_fma helper", token)
        elif not _PRAGMAS.match(token.text):
            refuse("LINT_DIRECTIVE", token.text, token)
    if not off:
        raise EngineError(
            "the source has no '#pragma OPENCL FP_CONTRACT OFF' at file level", code="LINT_CONTRACT"
        )


def _is_contracted_helper(tokens: Sequence[Token], function: Function) -> bool:
    """Whether a function is exactly ``static inline T f(T a, T b, T c) {ON return a * b + c;}``."""
    text = " ".join(token.text for token in tokens[function.start : function.closing + 1])
    return _CONTRACTED.match(text) is not None


def _check_body(
    tokens: Sequence[Token],
    function: Function,
    names: dict[str, bool],
    defined: set[str],
    typedefs: dict[str, bool],
) -> None:
    divides = function.name.startswith(("fx1_div", "fx1_sqrt"))
    for index in range(function.start, function.closing + 1):
        token = tokens[index]
        if token.text in ("/", "/=") and not divides:
            left, right = left_operand(tokens, index), right_operand(tokens, index)
            if not (
                are_integers(left, names, defined, typedefs)
                and are_integers(right, names, defined, typedefs)
            ):
                refuse("LINT_DIVIDE", f"'{token.text}' on what may be a float", token)
        elif token.kind != "pragma" and index != function.opening:
            _check_word(tokens, index, defined, function.name)
            following = tokens[index + 1].text if index + 1 < len(tokens) else ""
            if following == "(" and token.text in _INTEGER_CALLS:
                arguments = tokens[index + 2 : matching(tokens, index + 1)]
                if not are_integers(arguments, names, defined, typedefs):
                    refuse("LINT_MINMAX", f"{token.text} on what may be a float", token)
            elif following == "(" and _ATOMIC.match(token.text):
                arguments = tokens[index + 2 : matching(tokens, index + 1)]
                if not are_integers(arguments, names, defined, typedefs):
                    refuse("LINT_ATOMIC", f"{token.text} on what may be a float", token)


def _check_word(tokens: Sequence[Token], index: int, defined: set[str], function: str) -> None:
    """Judge one token by itself and by whether it is called."""
    token = tokens[index]
    text = token.text
    following = tokens[index + 1].text if index + 1 < len(tokens) else ""
    if token.kind == "string" or text == "##":
        refuse("LINT_TYPE", text, token)
    if token.kind == "number":
        _check_number(token, function)
    if token.kind != "name":
        return
    if text in _FORBIDDEN_WORDS:
        refuse(_FORBIDDEN_WORDS[text], text, token)
    if _DOUBLE.match(text) and not _USES_DOUBLE.match(function):
        refuse("LINT_DOUBLE", f"{text} where nothing is float64", token)
    if text.startswith("__builtin"):
        refuse("LINT_CALL", text, token)
    if re.match(r"^half(?:2|3|4|8|16)?$", text) and (text != "half" or following != "*"):
        refuse("LINT_TYPE", f"a {text} variable (half lives in memory only)", token)
    if re.match(r"^M_\w+$", text):
        refuse("LINT_LITERAL", text, token)
    if text == "__attribute__":
        return
    if following != "(" or text in _WORDS_BEFORE_PARENTHESIS or text in _ATTRIBUTES:
        return
    if text in defined or text in QUALIFIERS:
        return
    root = text in ("sqrt", "fabs") and function.startswith(("fx1_sqrt", "fx1_div"))
    if not (root or _is_builtin(text)):
        refuse("LINT_CALL", f"{text}()", token)


def _check_number(token: Token, function: str) -> None:
    """A literal that is subnormal or overflows reaches a kernel as bits (docs/numerics.md §3).

    One without a suffix is a double, and so is what it is combined with.
    """
    text = token.text.lower()
    is_hex = text.startswith("0x")
    if text.endswith("h"):
        refuse("LINT_TYPE", f"the half literal {token.text}", token)
    if "p" not in text if is_hex else not ("." in text or "e" in text or text.endswith("f")):
        return
    digits = text.rstrip("fl") if not is_hex else text.rstrip("l").removesuffix("f")
    value = abs(float.fromhex(digits) if is_hex else float(digits))
    smallest, largest = (2.0**-126, 2.0**128) if text.endswith("f") else (2.0**-1022, float("inf"))
    if 0 < value < smallest or value >= largest:
        refuse("LINT_LITERAL", token.text, token)
    if not text.endswith("f") and not _USES_DOUBLE.match(function):
        refuse("LINT_DOUBLE", f"the double literal {token.text}", token)


def _check_names(tokens: Sequence[Token], span: Sequence[int], known: frozenset[str]) -> None:
    """Every name is a word of C that is on the list, or declared here, or a builtin being called.

    So a function reaches no call by another way than by its name before a parenthesis.
    """
    for index in span:
        token = tokens[index]
        text = token.text
        if token.kind != "name" or text in known or text in _KEYWORDS or text in QUALIFIERS:
            continue
        if TYPE.match(text) or INTEGER_TYPE.match(text) or text in _ATTRIBUTES:
            continue
        if index and tokens[index - 1].text in (".", "->"):  # a part of a vector
            continue
        called = index + 1 < len(tokens) and tokens[index + 1].text == "("
        if not called:
            refuse("LINT_NAME", f"the undeclared name {text}", token)


def _check_pointer_casts(tokens: Sequence[Token], span: range) -> None:
    """A pointer may be cast between widths of its own element type; ``half`` only exists so."""
    pointees = pointees_of(tokens, span)
    for index in span:
        if tokens[index].text != ")" or tokens[index - 1].text != "*" or not is_cast(tokens, index):
            continue
        target = element_type(tokens[matching_back(tokens, index) + 1 : index])
        if target == "half":
            continue
        operand = right_operand(tokens, index)
        found = [pointees[token.text] for token in operand if token.text in pointees]
        if not found or found[0] != target:
            what = f"of a pointer to {found[0]}" if found else "of what is no declared pointer"
            refuse("LINT_POINTER", f"a cast to {target}* {what}", tokens[index])


def _is_builtin(name: str) -> bool:
    return (
        name in _CALLS
        or name in _INTEGER_CALLS
        or _CALL_FAMILIES.match(name) is not None
        or _ATOMIC.match(name) is not None
    )
