"""Seeded changes of IR text, from a flipped byte to the lines of another dump."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

TOKEN = re.compile(r'"[^"\n]*"|[%#!@^]?[A-Za-z_][\w.$-]*|\d+(?:\.\d+(?:e[+-]?\d+)?)?|\s+|.', re.ASCII)
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+(?:e[+-]?\d+)?)?(?![\w.])")
PROPERTY = re.compile(r"(\w+) = ([^,{}\[\]\n]+|\[[^\[\]\n]*\])")

_HUGE = ("2147483648", "9223372036854775808", "1" + "0" * 30, "1" * 5000)

NUMBERS = ("0", "1", "-1", "2", "3", "7", "64", "1000003", "0.0", "-0.5", "1.0e308", "1.0e-320", "0x7FC00000", *_HUGE)

_SCALARS = ("f32", "bf16", "f8E4M3FN", "f64", "i1", "i4", "i32", "si8", "index", "none", "f128", "i999999")
_OTHERS = ("complex<f32>", "vector<4xf32>", "memref<4xf32>", "tensor<4xf32>", "tuple<f32>", "() -> ()", "!foo.bar")
_OURS = ("!tile.buffer<[2, 2], f32>", "!layer.tensor<[2, 2], f32>", "!tile.memref<[2], f32>")

TYPES = (*_SCALARS, *_OTHERS, *_OURS)

_SIGNS = ("<", ">", "[", "]", "{", "}", "(", ")", ",", ":", '"', '"\\ff"', "<[]>", "%0", "%nowhere", "@symbol")
_EXPRESSIONS = ("kv_len", "unbound", "ceildiv(batch, 0)", "mod(core, 0)", "floordiv(q_len, kv_len)", "min()")
_ATTRIBUTES = ("#dist.sharding<[[tp], [tp]]>", "#dist.partial<tp>", "#dist.partial<nonsense>", "unit", "loc(unknown)")

ODD = (*_SIGNS, *_EXPRESSIONS, *_ATTRIBUTES, "dense<1> : tensor<2xi32>")

DEPTH = 3000
"""Brackets inside each other: more than the stack of Python holds calls."""


def mutate(text: str, others: Sequence[str], random: Random) -> str:
    """`text` after one to three changes; some take pieces out of `others`."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        text = random.choice(MUTATIONS)(text, others, random)
    return text


def _byte(text: str, others: Sequence[str], random: Random) -> str:
    at = random.randrange(len(text) + 1)
    new = random.choice((chr(random.randrange(32, 127)), chr(random.randrange(1, 0x2000)), "", "\n"))
    return text[:at] + new + text[at + random.randrange(2) :]


def _cut(text: str, others: Sequence[str], random: Random) -> str:
    start = random.randrange(len(text) + 1)
    end = len(text) if random.random() < 0.2 else start + random.randrange(60)
    return text[:start] + text[end:]


def _token(text: str, others: Sequence[str], random: Random) -> str:
    """A token goes, comes twice, or becomes another one of the same or of another dump, or an odd one."""
    spans = _near(TOKEN, text, random)
    if not spans:
        return text
    match = random.choice(spans)
    source = random.choice((text, random.choice(others)))
    foreign = [m.group() for m in _near(TOKEN, source, random)] or [""]
    new = random.choice(("", match.group() * 2, random.choice(foreign), random.choice(ODD), random.choice(TYPES)))
    return text[: match.start()] + new + text[match.end() :]


def _number(text: str, others: Sequence[str], random: Random) -> str:
    spans = _near(NUMBER, text, random)
    if not spans:
        return text
    match = random.choice(spans)
    near = str(int(match.group()) + random.choice((-1, 1))) if match.group().lstrip("-").isdigit() else "1.5"
    new = random.choice((*NUMBERS, near, near, near))
    return text[: match.start()] + new + text[match.end() :]


def _line(text: str, others: Sequence[str], random: Random) -> str:
    """A line goes, comes twice, changes places with another, or is one of another dump."""
    lines = text.split("\n")
    a, b = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(4):
        case 0:
            del lines[a]
        case 1:
            lines.insert(b, lines[a])
        case 2:
            lines[a], lines[b] = lines[b], lines[a]
        case _:
            lines[a] = random.choice(random.choice(others).split("\n"))
    return "\n".join(lines)


def _property(text: str, others: Sequence[str], random: Random) -> str:
    """A property takes the value of another one, mostly of the same name."""
    spans = _near(PROPERTY, text, random)
    if not spans:
        return text
    match = random.choice(spans)
    values = [m.group(2) for m in PROPERTY.finditer(random.choice((text, *others))) if m.group(1) == match.group(1)]
    if not values or random.random() < 0.3:
        values = [m.group(2) for m in spans]
    start, end = match.span(2)
    return text[:start] + random.choice(values) + text[end:]


def _type(text: str, others: Sequence[str], random: Random) -> str:
    spans = [m for m in re.finditer(r"\b(f32|bf16|f8E4M3FN|i32)\b", text)]
    if not spans:
        return text
    match = random.choice(spans)
    return text[: match.start()] + random.choice(TYPES) + text[match.end() :]


def _nest(text: str, others: Sequence[str], random: Random) -> str:
    """Something inside itself, deeper than a stack."""
    spans = _near(TOKEN, text, random)
    if not spans:
        return text
    match = random.choice(spans)
    opening, closing = random.choice(
        (("(", ")"), ("[", "]"), ("{a = ", "}"), ("tuple<", ">"), ("min(1, ", ")"), ("-", ""))
    )
    depth = random.choice((2, 50, DEPTH))
    return f"{text[: match.start()]}{opening * depth}{match.group()}{closing * depth}{text[match.end() :]}"


def _near(pattern: re.Pattern[str], text: str, random: Random) -> list[re.Match[str]]:
    """The matches in a stretch of the text: to look at all of it for one change would take longer than the run."""
    start = random.randrange(len(text) + 1)
    return list(pattern.finditer(text, start, start + 400))


Mutation = Callable[[str, Sequence[str], Random], str]
MUTATIONS: tuple[Mutation, ...] = (
    *(_number,) * 4,
    *(_property,) * 4,
    *(_line,) * 2,
    *(_token,) * 2,
    *(_type,) * 2,
    _byte,
    _cut,
    _nest,
)
"""Most of them leave text that still parses: what comes after the parser is looked at, too."""
