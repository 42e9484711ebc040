"""What the lint can see of types: declarations, pointers, and whether an operand is an integer.

Not a type checker. Where something is not visibly harmless, it is not called so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from flopmarket.engine.codegen.tokens import Token, matching, matching_back

INTEGERS = "char|uchar|short|ushort|int|uint|long|ulong"
TYPE = re.compile(rf"^(?:{INTEGERS}|float|double|half)(?:2|3|4|8|16)?$")
INTEGER_TYPE = re.compile(
    rf"^(?:(?:{INTEGERS})(?:2|3|4|8|16)?|bool|size_t|ptrdiff_t|intptr_t|uintptr_t|unsigned|signed)$"
)
_FLOAT_TYPE = re.compile(r"^(?:float|double|half)(?:2|3|4|8|16)?$")
# fmt: off
QUALIFIERS = frozenset([
    "const", "volatile", "restrict", "static", "inline", "__global", "global", "__local", "local",
    "__private", "private", "__constant", "constant", "__kernel", "kernel",
])
# fmt: on
_INTEGER_RESULT = re.compile(
    rf"^(?:get_\w+|(?:as|convert)_(?:{INTEGERS})\w*|min|max|clamp|abs|abs_diff|mul_hi|rotate"
    r"|popcount|clz|isnan|add_sat|sub_sat|sizeof|atom(?:ic)?_\w+)$"
)


def typedefs_of(tokens: Sequence[Token]) -> dict[str, bool]:
    """Names that ``typedef`` introduces -> whether they are float types."""
    found: dict[str, bool] = {}
    for index, token in enumerate(tokens):
        if token.text != "typedef":
            continue
        words = []
        for later in tokens[index + 1 :]:
            if later.text == ";":
                break
            words.append(later.text)
        if words:
            integer = all(INTEGER_TYPE.match(word) or word in QUALIFIERS for word in words[:-1])
            found[words[-1]] = not integer
    return found


def declared(
    tokens: Sequence[Token], typedefs: dict[str, bool], span: Sequence[int]
) -> dict[str, bool]:
    """Variables declared in a span -> True where one of that name is (a pointer to) a float."""
    names: dict[str, bool] = {}
    current: bool | None = None  # class of the declaration we are in
    depth = 0
    for index in span:
        text, kind = tokens[index].text, tokens[index].kind
        before = tokens[index - 1].text if index else ""
        is_float = bool(_FLOAT_TYPE.match(text)) or typedefs.get(text, False)
        if is_float or INTEGER_TYPE.match(text) or text in typedefs:
            after = tokens[index + 1].text if index + 1 < len(tokens) else ""
            cast = before == "(" and after in (")", "*") and not _declares(tokens, index)
            if not cast:
                current, depth = is_float, 0
        elif kind == "name" and text not in QUALIFIERS:
            declares = before in ("*", ",") or is_type(before, typedefs) or before in QUALIFIERS
            if current is not None and depth == 0 and declares:
                names[text] = names.get(text, False) or current
        elif text in ("(", "[", "{"):
            depth += 1
            if text == "{":
                current, depth = None, 0
        elif text in (")", "]", "}"):
            depth -= 1
            if depth < 0:
                current, depth = None, 0
        elif text == ";":
            current, depth = None, 0
    return names


def _declares(tokens: Sequence[Token], index: int) -> bool:
    """Whether ``( type *`` goes on with a name, i.e. is a parameter and no cast."""
    position = index + 1
    while tokens[position].text in ("*", *QUALIFIERS):
        position += 1
    return tokens[position].kind == "name"


def is_type(text: str, typedefs: dict[str, bool]) -> bool:
    return bool(TYPE.match(text) or INTEGER_TYPE.match(text)) or text in typedefs or text == "void"


def pointees_of(tokens: Sequence[Token], span: range) -> dict[str, str]:
    """Pointers and arrays declared in a span -> their element type, vectors counting as scalars."""
    found: dict[str, str] = {}
    current = ""
    for index in span:
        text, kind = tokens[index].text, tokens[index].kind
        before = tokens[index - 1].text if index else ""
        if TYPE.match(text) or INTEGER_TYPE.match(text):
            current = element_type([tokens[index]])
        elif kind == "name" and current:
            after = tokens[index + 1].text if index + 1 < len(tokens) else ""
            pointer = before == "*" or (before in QUALIFIERS and tokens[index - 2].text == "*")
            array = after == "[" and (before == "," or bool(TYPE.match(before)))
            if (pointer or array) and text not in QUALIFIERS:
                found.setdefault(text, current)
        elif text in (";", "=", "{", "}"):
            current = ""
    return found


def element_type(words: Sequence[Token]) -> str:
    """The scalar that a type is made of: ``const float8*`` -> ``float``."""
    for word in words:
        if TYPE.match(word.text) or INTEGER_TYPE.match(word.text):
            return re.sub(r"(?:2|3|4|8|16)$", "", word.text)
    return ""


def left_operand(tokens: Sequence[Token], index: int) -> Sequence[Token]:
    """Tokens of the multiplicative expression that ends before the operator at ``index``."""
    position = index
    if tokens[index].text == "/=":
        while tokens[position - 1].text not in (";", "{", "}", "(", ","):
            position -= 1
        return tokens[position:index]
    while True:
        position -= 1
        while tokens[position].text in (")", "]"):
            position = matching_back(tokens, position) - 1
            if tokens[position].kind not in ("name",) and tokens[position].text not in (")", "]"):
                position += 1
                break
        while tokens[position - 1].text in (".", "->"):
            position -= 2
            while tokens[position].text in (")", "]"):
                position = matching_back(tokens, position) - 1
        while tokens[position - 1].text == ")" and is_cast(tokens, position - 1):
            position = matching_back(tokens, position - 1)
        if tokens[position - 1].text not in ("*", "/", "%"):
            return tokens[position:index]
        position -= 1


def right_operand(tokens: Sequence[Token], index: int) -> Sequence[Token]:
    """Tokens of the unary expression that begins behind the operator at ``index``."""
    position = index + 1
    while tokens[position].text in ("-", "+", "~", "!", "*") or (
        tokens[position].text == "(" and is_cast(tokens, matching(tokens, position))
    ):
        opens = tokens[position].text == "("
        position = (matching(tokens, position) if opens else position) + 1
    if tokens[position].text == "(":
        position = matching(tokens, position)
    while tokens[position + 1].text in ("(", "[", ".", "->"):
        opens = tokens[position + 1].text in ("(", "[")
        position = matching(tokens, position + 1) if opens else position + 2
    if tokens[index].text == "/=":
        while tokens[position + 1].text not in (";", ")", ","):
            position += 1
    return tokens[index + 1 : position + 1]


def is_cast(tokens: Sequence[Token], closing: int) -> bool:
    """Whether the parenthesis that closes here holds a type and nothing else."""
    inner = tokens[matching_back(tokens, closing) + 1 : closing]
    return bool(inner) and all(
        is_type(token.text, {}) or token.text in QUALIFIERS or token.text == "*" for token in inner
    )


def are_integers(
    operand: Sequence[Token], names: dict[str, bool], defined: set[str], typedefs: dict[str, bool]
) -> bool:
    """Whether an operand is visibly an integer. An integer cast proves what follows it."""
    index = 0
    if not operand:
        return False
    while index < len(operand):
        token = operand[index]
        text = token.text
        if text == "(" and index + 1 < len(operand) and INTEGER_TYPE.match(operand[index + 1].text):
            closing = matching(operand, index)
            if is_cast(operand, closing):
                # (int)(...) or (int)name: skip what is cast, whatever it is
                index = closing + 1
                if index < len(operand) and operand[index].text == "(":
                    index = matching(operand, index) + 1
                elif index < len(operand):
                    index += 1
                    while index < len(operand) and operand[index].text in ("(", "["):
                        index = matching(operand, index) + 1
                continue
        if token.kind == "number":
            is_hex = text[:2].lower() == "0x"
            if "." in text or (is_hex and "p" in text.lower()):
                return False
            if not is_hex and ("e" in text.lower() or text[-1] in "fFhH"):
                return False
        elif token.kind == "string":
            return False
        elif token.kind == "name":
            called = index + 1 < len(operand) and operand[index + 1].text == "("
            if called:
                if not _INTEGER_RESULT.match(text):
                    return False
                if text not in ("min", "max", "clamp", "abs"):  # arguments may be anything
                    index = matching(operand, index + 1) + 1
                    continue
            elif index and operand[index - 1].text in (".", "->"):
                pass
            elif names.get(text, True) and not _is_integer_word(text):
                return False
        index += 1
    return True


def _is_integer_word(text: str) -> bool:
    return INTEGER_TYPE.match(text) is not None or text in QUALIFIERS
