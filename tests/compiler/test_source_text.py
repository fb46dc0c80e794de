"""Text that xDSL's parser cannot stand is refused in one line, at once."""

from __future__ import annotations

from time import process_time

import pytest

from pmc.compiler.driver import parse_module
from pmc.compiler.source_text import MAX_DEPTH, MAX_DIGITS, MAX_MESSAGE
from pmc.dialects.errors import PmcError

T = "!layer.tensor<[4], f32>"
ODD_STRING = "m:1:24: the string does not end on its line, or escapes badly"
NO_ELEMENT = "elements are integers or floats of at most 64 bits"
WEIGHT = '%w = layer.weight() {axes = [""]} at "w" : '


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('module attributes {a = "b\n', ODD_STRING),
        ('module attributes {a = "' + "x" * 5000, ODD_STRING),
        ('module attributes {a = "\\q"}', ODD_STRING),
        ('module attributes {a = "\\"}', ODD_STRING),
        ("\n{a = " + "9" * (MAX_DIGITS + 1), f"m:2:6: an integer of {MAX_DIGITS + 1} digits; {MAX_DIGITS} are"),
        ("\n{a = 8 : i" + "5" * 13, f"m:2:10: an integer type of {'5' * 13} bits; 64 are the most"),
        ("[" * 3000, f"m:1:{MAX_DEPTH + 1}: more than {MAX_DEPTH} brackets inside each other"),
        ("module {\n\u0d70 }", "m:2:1: '\u0d70' can stand in strings only"),
        (WEIGHT + "!layer.tensor<[4], complex<f32>>", f"{NO_ELEMENT}, not complex<f32>"),
        (WEIGHT + "!layer.tensor<[4], !layer.tensor<[4], f32>>", NO_ELEMENT),
        (WEIGHT + "!layer.tensor<[-4], f32>", "[-4] has a negative dim"),
        (WEIGHT + "!layer.tensor<[4], f32, 7 : i64>", "7 : i64 is no sharding and no partial sum"),
        (WEIGHT + "!layer.tensor<[mod(batch, 0)], f32>", "mod(batch, 0): the divisor must be positive"),
        (
            f'%b = "layer.add"(%a, %a) <{{path = "p"}}> : ({T}, {T}) -> {T}\n{WEIGHT.replace("w", "a", 1)}{T}',
            "m: layer.add at 'p': operand 0 is not defined before it",
        ),
        ("%" + "a" * 9000, "m:1:"),
    ],
    ids=lambda text: str(text)[:30],
)  # fmt: skip
def test_odd_text_is_one_line(text: str, message: str) -> None:
    start = process_time()
    with pytest.raises(PmcError) as error:
        parse_module(text, "m")
    said = str(error.value)
    assert process_time() - start < 1.0
    assert "\n" not in said and len(said) < 2 * MAX_MESSAGE
    assert message in said


def test_what_looks_odd_may_be_right() -> None:
    text = f'module attributes {{a = "\\"{{[(" , b = {"9" * 18}, c = "{chr(0xD70)}"}} {{}} // "[[{{ {"9" * 50}\n'
    assert "b = " in str(parse_module(text, "m"))


def test_a_verifier_of_xdsl_is_given_the_place() -> None:
    with pytest.raises(PmcError, match=r"^m: layer.matmul at 'mm': property 'nonsense' is not defined by"):
        parse_module(
            '%x = layer.weight() {axes = ["", ""]} at "x" : !layer.tensor<[4, 4], f32>\n'
            '%y = layer.matmul(%x, %x) {nonsense = 1} at "mm" : !layer.tensor<[4, 4], f32>',
            "m",
        )
