"""The help of a command: the docstring of its function as paragraphs, and its examples as commands that fit."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable

WIDTH = 78
"""An example is broken before an option where it is longer: help is read at 80 columns."""

KEPT = "\b\n"
"""Says to the help that the lines of a paragraph stay as they are."""


def help_text(function: Callable[..., None]) -> str:
    """The paragraphs of the docstring, each one line that the terminal wraps, and the `EXAMPLES` of the module."""
    paragraphs = [" ".join(text.split()) for text in inspect.cleandoc(function.__doc__ or "").split("\n\n")]
    examples: str = getattr(sys.modules[function.__module__], "EXAMPLES", "")
    if examples:
        paragraphs.append(f"{KEPT}Examples:\n" + "\n".join(_lines(examples)))
    return "\n\n".join(paragraphs)


def _lines(examples: str) -> list[str]:
    """The commands, which stand one a line in the source."""
    lines: list[str] = []
    for command in filter(None, map(str.strip, examples.splitlines())):
        line = " "
        words = _words(command)
        for index, word in enumerate(words):
            room = WIDTH - (0 if index == len(words) - 1 else 2)
            if len(line) + 1 + len(word) > room and line.strip():
                lines.append(f"{line} \\")
                line = "     "
            line += f" {word}"
        lines.append(line)
    return lines


def _words(command: str) -> list[str]:
    """An option stays with its value."""
    words: list[str] = []
    for word in command.split():
        if words and words[-1].startswith("-") and " " not in words[-1] and not word.startswith("-"):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words
