"""The tokens, brackets and top-level functions of an OpenCL C source, for the lint.

Not a parser: just enough structure to say which function a token stands in and where its bracket
closes. Generated code only; what is not understood is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from flopmarket.engine.errors import EngineError

_TOKEN = re.compile(
    r"""(?P<pragma>\#[^\n]*)
      | (?P<space>\s+)
      | (?P<string>"(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*')
      | (?P<number>(?:0[xX][0-9a-fA-F]+(?:\.[0-9a-fA-F]*)?(?:[pP][+-]?\d+)?
            | (?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)[uUlLfFhH]*)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<sign><<=|>>=|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|\#\#|.)""",
    re.VERBOSE,
)
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Token:
    """One token; ``kind`` is pragma, string, number, name or sign; lines count from 1."""

    kind: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Function:
    """A top-level function: token indices of its first word, its name, ``{`` and ``}``."""

    name: str
    start: int
    opening: int
    closing: int


def refuse(code: str, construct: str, token: Token) -> NoReturn:
    """Raise the lint's error, which names the construct and its line."""
    raise EngineError(
        f"line {token.line}: {construct} is not allowed in exact mode",
        code=code,
        hint="see docs/numerics.md section 3",
    )


def tokenize(source: str) -> list[Token]:
    """Tokens without spaces and comments. A comment keeps its line breaks, so lines stay true."""
    for text in ("\\\n", "??", "%:", "<:"):
        if text in source:  # spliced lines, trigraphs, digraphs: nothing here needs them
            line = source[: source.index(text)].count("\n") + 1
            refuse("LINT_DIRECTIVE", repr(text), Token("sign", text, line))
    source = _COMMENT.sub(lambda match: "\n" * match[0].count("\n") or " ", source)
    tokens, line = [], 1
    for match in _TOKEN.finditer(source):
        kind = match.lastgroup or "sign"
        text = " ".join(match[0].split()) if kind == "pragma" else match[0]
        if kind != "space":
            tokens.append(Token(kind, text, line))
        line += match[0].count("\n")
    return tokens


def top_level_functions(tokens: Sequence[Token]) -> list[Function]:
    """Top-level function definitions, in order."""
    found: list[Function] = []
    start = index = 0
    while index < len(tokens):
        text = tokens[index].text
        if tokens[index].kind == "pragma" or text == ";":
            start = index + 1
        elif text == "__attribute__" and index + 1 < len(tokens):
            index = matching(tokens, index + 1)
        elif text == "(":
            name = tokens[index - 1]
            closing = matching(tokens, index)
            after = closing + 1
            if name.kind == "name" and after < len(tokens) and tokens[after].text == "{":
                end = matching(tokens, after)
                found.append(Function(name.text, start, after, end))
                index, start = end, end + 1
            else:
                index = closing
        elif text == "{":
            index = matching(tokens, index)
        index += 1
    return found


def matching(tokens: Sequence[Token], index: int) -> int:
    """Index of the bracket that closes the one at ``index``."""
    depth = 0
    for position in range(index, len(tokens)):
        if tokens[position].text in ("(", "[", "{"):
            depth += 1
        elif tokens[position].text in (")", "]", "}"):
            depth -= 1
            if depth == 0:
                return position
    refuse("LINT_TYPE", f"unbalanced {tokens[index].text!r}", tokens[index])


def matching_back(tokens: Sequence[Token], index: int) -> int:
    """Index of the bracket that opens the one at ``index``."""
    depth = 0
    for position in range(index, -1, -1):
        if tokens[position].text in (")", "]", "}"):
            depth += 1
        elif tokens[position].text in ("(", "[", "{"):
            depth -= 1
            if depth == 0:
                return position
    return 0


def owners_of(tokens: Sequence[Token], functions: Sequence[Function]) -> list[Function | None]:
    """For each token the top-level function that it belongs to."""
    owners: list[Function | None] = [None] * len(tokens)
    for function in functions:
        for index in range(function.start, function.closing + 1):
            owners[index] = function
    return owners
