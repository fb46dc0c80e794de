"""A model as a picture: its blocks stacked from the embedding to the head, repeats as frames around them (SVG)."""

from __future__ import annotations

import textwrap
from xml.sax.saxutils import escape

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block

from pmc.compiler.model_summary import LayerNames, sizes_of, words
from pmc.dialects import model

WIDTH, MARGIN, INSET, GAP = 640, 16, 18, 12
LINE, TITLE = 15, 18
CHARACTER = 7
"""Pixels of a character of the small text, of the wider of the usual fonts."""


def model_svg(module: ModuleOp, title: str) -> str:
    """The picture of a module of the model level."""
    (llm,) = (op for op in module.ops if isinstance(op, model.LlmOp))
    picture = _Picture()
    picture.text(WIDTH / 2, llm.architecture.data, bold=True)
    picture.text(WIDTH / 2, title)
    picture.stack(llm.body.block, MARGIN)
    height = picture.y + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"\n'
        '     font-family="Helvetica, Arial, sans-serif" font-size="12" text-anchor="middle">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n'
        f"{''.join(f'{shape}{chr(10)}' for shape in picture.shapes)}</svg>\n"
    )


class _Picture:
    """The shapes so far, and how far down they reach."""

    def __init__(self) -> None:
        self.shapes: list[str] = []
        self.y = MARGIN
        self.names = LayerNames()

    def text(self, x: float, text: str, bold: bool = False, anchor: str = "middle") -> None:
        """A line of text; the next one stands below."""
        self.y += TITLE if bold else LINE
        weight = ' font-weight="bold" font-size="14"' if bold else ""
        self.shapes.append(f'<text x="{x:g}" y="{self.y - 4}" text-anchor="{anchor}"{weight}>{escape(text)}</text>')

    def frame(self, top: int, inset: int, stroke: float, radius: int) -> None:
        """A frame from `top` down to here."""
        self.shapes.append(
            f'<rect x="{inset}" y="{top}" width="{WIDTH - 2 * inset}" height="{self.y - top}" rx="{radius}" '
            f'fill="none" stroke="black" stroke-width="{stroke:g}"/>'
        )

    def stack(self, block: Block, inset: int) -> None:
        """The blocks of a model or repeat below each other, joined by lines; residual paths are not drawn."""
        for op in block.ops:
            if isinstance(op, model.YieldOp | model.AddOp):
                continue
            top = self.y
            self.y += GAP
            self.shapes.append(f'<path d="M{WIDTH / 2:g} {top}v{GAP}" stroke="black"/>')
            if isinstance(op, model.RepeatOp):
                self.repeat(op, inset)
            elif isinstance(op, model.BlockOp):
                self.block(op, inset)

    def repeat(self, op: model.RepeatOp, inset: int) -> None:
        """A frame around the layers, which says how often they come."""
        top = self.y
        layers = [inner for inner in op.body.block.ops if isinstance(inner, model.RepeatOp)]
        label = f"{op.trip_count} x" if layers else f"{op.trip_count} x {self.names.name(op)}"
        if any(inner.shares is not None for inner in layers):
            label = self.names.turns(op.body.block)
        self.y += 4
        for line in textwrap.wrap(label, int((WIDTH - 2 * inset - 2 * INSET) / CHARACTER)):
            self.text(inset + INSET, line, bold=True, anchor="start")
        self.stack(op.body.block, inset + INSET)
        self.y += GAP
        self.frame(top, inset, 2, 10)

    def block(self, op: model.BlockOp, inset: int) -> None:
        """A box with the op and its sizes; a norm is one line."""
        top = self.y
        self.y += 2
        sizes = words(sizes_of(op))
        name = op.name.removeprefix("model.")
        if isinstance(op, model.NormOp):
            self.text(WIDTH / 2, f"{name}: {sizes}")
        else:
            self.text(WIDTH / 2, name, bold=True)
            for line in textwrap.wrap(sizes, int((WIDTH - 2 * inset - 2 * INSET) / CHARACTER)):
                self.text(WIDTH / 2, line)
        self.y += 4
        self.frame(top, inset + INSET, 1, 4)
