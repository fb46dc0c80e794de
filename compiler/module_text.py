"""A module as MLIR text, in the order in which it is read: the program first, the target that it is for last."""

from __future__ import annotations

from io import StringIO

from xdsl.dialects.builtin import ModuleOp
from xdsl.printer import Printer

LONG = 300
"""Attributes of more characters stand at the end; a mesh and the names of a few passes have fewer."""


def module_text(module: ModuleOp, generic: bool = False) -> str:
    """The module as MLIR text that ends with a newline.

    The attributes of a compiled module take thousands of characters.  Its custom form has them on line 1, the generic
    form of MLIR at the end: the module is printed in that form, the ops in it as always.

        "builtin.module"() ({
          layer.program ..
        }) {
          pmc.passes = [..],
          arch.chip = #arch.chip<..>
        } : () -> ()
    """
    stream = StringIO()
    printer = Printer(stream, print_generic_format=generic)
    attributes = [f"{name} = {value}" for name, value in module.attributes.items()]
    if generic or module.properties or not module.body.block.ops or sum(map(len, attributes)) <= LONG:
        printer.print_op(module)
    else:
        printer.print_string('"builtin.module"() (')
        printer.print_region(module.body)
        printer.print_string(") {\n  " + ",\n  ".join(attributes) + "\n} : () -> ()")
    return stream.getvalue() + "\n"
