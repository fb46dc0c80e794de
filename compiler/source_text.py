"""From IR text to a module, with one line of error for whatever the text may be.

xDSL's parser takes for ever on a string that does not end, calls itself for every bracket, leaves some text by an
exception of its own, and lets the generic form use values that are defined later or elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Set

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError, VerifyException

from pmc.dialects.assembly import PmcOp
from pmc.dialects.errors import PmcError, excerpt

MAX_DIGITS = 19
"""Of an integer: enough for every 64-bit number; Python does not even print one of 5000 digits."""

MAX_DEPTH = 100
"""Brackets inside each other; a dump has under 20, and the parser calls itself for each."""

MAX_MESSAGE = 500
"""Characters of a message: it may quote the text, of which a token can be as long as the file."""

# Possessive quantifiers, which never look back: a string that is not closed is found in one go over it.
_TOKEN = re.compile(
    r"//[^\n]*+"
    r'|(?P<string>"(?:[^"\\\n\v\f]|\\(?:["nt\\]|[0-9A-Fa-f]{2}))*+"?+)'
    r"|[su]?i(?P<width>\d{4,}+)(?![\w.$-])"
    r"|[A-Za-z_%#!@^][\w.$-]*+"
    r"|(?P<integer>\d++)(?:\.\d*+(?:[eE][+-]?+\d++)?+)?+"
    r"|(?P<open>[(\[{])"
    r"|(?P<close>[)\]}])"
    r"|(?P<foreign>[^\x00-\x7f])"
    r"|[^\"/A-Za-z_%#!@^\d()\[\]{}\x80-\U0010ffff]++",
    re.ASCII,
)


def check_source(text: str, source: str, lines_before: int = 0) -> None:
    """Raise PmcError, with `source:line:column`, for a string that does not end, a huge integer or type, deep nesting.

    `lines_before` are those of the file before `text`.
    """
    depth = 0

    def error(position: int, message: str) -> PmcError:
        return PmcError(f"{source}:{_place(text, position, lines_before)}: {message}")

    for match in _TOKEN.finditer(text):
        match match.lastgroup:
            case "string":
                literal = match.group()
                if len(literal) < 2 or not literal.endswith('"') or not _is_closed(literal):
                    raise error(match.start(), "the string does not end on its line, or escapes badly")
            case "integer":
                if match.end("integer") - match.start() > MAX_DIGITS:
                    digits = match.end("integer") - match.start()
                    message = f"an integer of {digits} digits; {MAX_DIGITS} are the most"
                    raise error(match.start(), message)
            case "width":
                # xDSL computes the range of a type, of as many bits.
                raise error(match.start(), f"an integer type of {excerpt(match.group('width'))} bits; 64 are the most")
            case "open":
                depth += 1
                if depth > MAX_DEPTH:
                    raise error(match.start(), f"more than {MAX_DEPTH} brackets inside each other")
            case "foreign":
                raise error(match.start(), f"{match.group()!r} can stand in strings only")
            case "close":
                depth -= 1
            case _:
                pass


def _is_closed(literal: str) -> bool:
    """Whether the last quote ends the string and is not an escaped one."""
    body = literal[:-1]
    return (len(body) - len(body.rstrip("\\"))) % 2 == 0


def parse_text(context: Context, text: str, source: str, lines_before: int = 0) -> ModuleOp:
    """The module of `text`, not verified but with every value defined where it is used.

    Raises PmcError, mostly with `source:line:column`.
    """
    check_source(text, source, lines_before)
    parser = Parser(context, text, source)
    try:
        module = parser.parse_module()
    except ParseError as error:
        raise PmcError(f"{source}:{_parse_error_line(error, text, lines_before)}") from None
    except RecursionError:
        raise PmcError(f"{source}: nested too deeply") from None
    except (VerifyException, *_OF_THE_PARSER) as error:
        # An attribute that does not verify, or text that xDSL does not expect.
        where = _place(text, parser.pos, lines_before)
        raise PmcError(f"{source}:{where}: {one_line(str(error)) or type(error).__name__}") from None
    _check_values(module, frozenset(), source)
    return module


_OF_THE_PARSER = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)


def _check_values(op: Operation, outer: Set[SSAValue], source: str) -> None:
    """Raise PmcError unless the values that the ops inside `op` use are defined before them, in blocks around them."""
    for region in op.regions:
        for block in region.blocks:
            known = {*outer, *block.args}
            for inner in block.ops:
                for index, operand in enumerate(inner.operands):
                    if operand not in known:
                        path = inner.path.data if isinstance(inner, PmcOp) and "path" in inner.properties else ""
                        raise PmcError(f"{source}: {inner.name} at '{path}': operand {index} is not defined before it")
                if inner.regions:
                    _check_values(inner, known, source)
                known.update(inner.results)


def _parse_error_line(error: ParseError, text: str, lines_before: int) -> str:
    """`line:column: message (at token)` in one line."""
    message, token = one_line(error.msg), one_line(error.span.text)[:40]
    if message.startswith("in "):  # what xDSL says of a token that fits nowhere
        message = f"unexpected text {message}"
    where = _place(text, error.span.start, lines_before)
    return f"{where}: {message} (at {repr(token) if token else 'the end of the file'})"


def _place(text: str, position: int, lines_before: int) -> str:
    """`line:column` of a position."""
    return f"{lines_before + text.count(chr(10), 0, position) + 1}:{position - text.rfind(chr(10), 0, position)}"


def one_line(text: str) -> str:
    """The text without line breaks, cut where nobody would read on."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_MESSAGE else f"{line[:MAX_MESSAGE]} .."
