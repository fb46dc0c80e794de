"""What is refused of IR text before it is parsed, because the parser would take for ever or leave by a traceback."""

from __future__ import annotations

import re

from pmc.dialects.errors import PmcError

MAX_DIGITS = 19
"""Of an integer: enough for every 64-bit number; Python does not even print one of 5000 digits."""

MAX_DEPTH = 100
"""Brackets inside each other; a dump has under 20, and the parser calls itself for each."""

# Possessive quantifiers, which never look back: a string that is not closed is found in one go over it.
_TOKEN = re.compile(
    r"//[^\n]*+"
    r'|(?P<string>"(?:[^"\\\n\v\f]|\\(?:["nt\\]|[0-9A-Fa-f]{2}))*+"?+)'
    r"|[A-Za-z_%#!@^][\w.$-]*+"
    r"|(?P<integer>\d++)(?:\.\d*+(?:[eE][+-]?+\d++)?+)?+"
    r"|(?P<open>[(\[{])"
    r"|(?P<close>[)\]}])"
    r"|[^\"/A-Za-z_%#!@^\d()\[\]{}]++",
    re.ASCII,
)


def check_source(text: str, source: str, lines_before: int = 0) -> None:
    """Raise PmcError, with `source:line:column`, for a string that does not end, a huge integer, or deep nesting.

    `lines_before` are those of the file before `text`.
    """
    depth = 0

    def error(position: int, message: str) -> PmcError:
        line = lines_before + text.count("\n", 0, position) + 1
        column = position - text.rfind("\n", 0, position)
        return PmcError(f"{source}:{line}:{column}: {message}")

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
            case "open":
                depth += 1
                if depth > MAX_DEPTH:
                    raise error(match.start(), f"more than {MAX_DEPTH} brackets inside each other")
            case "close":
                depth -= 1
            case _:
                pass


def _is_closed(literal: str) -> bool:
    """Whether the last quote ends the string and is not an escaped one."""
    body = literal[:-1]
    return (len(body) - len(body.rstrip("\\"))) % 2 == 0
