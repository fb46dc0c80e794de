"""Faults as they slip into sources: a text of a pass replaced by another, in memory, while a check runs.

Functions keep their identity and get the code of the changed text, so that whoever imported them runs it too; text
outside of functions cannot be changed so.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, cast

from pmc.compiler.check import CheckResult, check_small
from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.dialects.errors import PmcError
from tests.reference.configs import CONFIGS
from tests.reference.recurrent_configs import KIMI_LINEAR, NEMOTRON_H, QWEN3_5

KDA = cast("dict[str, Any]", KIMI_LINEAR["linear_attn_config"])

RECURRENT_MODELS: Mapping[str, dict[str, Any]] = {
    "kda": {
        **KIMI_LINEAR,
        "num_hidden_layers": 1,
        "linear_attn_config": {**KDA, "kda_layers": [1], "full_attn_layers": []},
    },
    "gated_delta": {**QWEN3_5, "num_hidden_layers": 1, "full_attention_interval": 2},
    "mamba": {**NEMOTRON_H, "hybrid_override_pattern": "M"},
}
"""One layer of each mixer."""

MODELS = {
    **{name: ({**config, "torch_dtype": "bfloat16"}, "decode") for name, config in RECURRENT_MODELS.items()},
    "llama": ("llama-3.1-8b", "llama-8b-decode"),
    "deepseek": ("deepseek-v3", "dsv3-decode-ep32"),
    "dsa": ("deepseek-v3.2", "dsv32-decode-ep32"),
    "compressed": (CONFIGS["deepseek-v4"], "decode-moe"),
    "blocks": (CONFIGS["minimax-m3"], "decode-moe"),
}
"""Presets or tiny configs, and deployments."""


@dataclass(frozen=True)
class Fault:
    """`old` in `file`, which has it once, is written `new`; the check is that of `model` with `options`.

    Files are those of passes, or of analyses in `dialects/` on which passes rest.
    """

    file: str
    old: str
    new: str
    model: str = "llama"
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    equivalent: str = ""
    """Why no program can tell, where that is so."""

    @property
    def name(self) -> str:
        """File and text, for the list of tests."""
        return f"{self.file}: {self.old.strip().splitlines()[0]}"


def codes(code: CodeType) -> Iterator[tuple[str, CodeType]]:
    """All functions in a code object, by qualified name, in the order of the text."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant.co_qualname, constant
            yield from codes(constant)


@contextmanager
def planted(fault: Fault) -> Generator[None]:
    """The functions of the file run the changed text inside."""
    place = fault.file if fault.file.startswith("dialects/") else f"passes/{fault.file}"
    module = import_module("pmc." + place.removesuffix("/__init__.py").removesuffix(".py").replace("/", "."))
    path = Path(str(module.__file__))
    text = path.read_text()
    assert text.count(fault.old) == 1, f"{fault.name}: {text.count(fault.old)} places"
    right = list(codes(compile(text, str(path), "exec")))
    wrong = list(codes(compile(text.replace(fault.old, fault.new), str(path), "exec")))
    assert [name for name, _ in right] == [name for name, _ in wrong], fault.name
    changed = {
        (name, a.co_firstlineno): b
        for (name, a), (_, b) in zip(right, wrong, strict=True)
        if "<locals>" not in name
        and not name.endswith(">")
        and a.replace(co_linetable=b"") != b.replace(co_linetable=b"")
    }
    functions = [f for f in gc.get_objects() if isinstance(f, FunctionType) and f.__code__.co_filename == str(path)]
    before = [(f, f.__code__) for f in functions if (f.__code__.co_qualname, f.__code__.co_firstlineno) in changed]
    assert before, f"{fault.name}: no function has this text"
    for function, code in before:
        function.__code__ = changed[code.co_qualname, code.co_firstlineno]
    forget()
    try:
        yield
    finally:
        for function, code in before:
            function.__code__ = code
        forget()


def forget() -> None:
    """Empty the caches of passes, analyses and the plan search: what they hold was computed by other text."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("pmc.passes.", "pmc.dialects.analyses.", "pmc.backends.cost.", "pmc.compiler.tile_")):
            for cached in list(vars(module).values()):
                if hasattr(cached, "cache_clear"):
                    cached.cache_clear()


def checked(fault: Fault) -> str | None:
    """What `pmc check` with its default options says of the planted fault; None if nothing."""
    model, deployment = MODELS[fault.model]
    config, source = (model, fault.model) if isinstance(model, dict) else load_model_config(model)
    # The presets of recurrent models are small: fewer tokens than a deployment begins with, on two ranks.
    small = {"kv_len": 41, "tp": 2} if isinstance(model, dict) else {}
    target = load_deployment(deployment, {**small, **fault.options})
    chip, topology = load_chip("sg2262"), load_topology("p1-r1-b4-c32")
    with planted(fault):
        try:
            results: tuple[CheckResult, ...] = check_small(config, source, chip, topology, target)
        except PmcError as error:
            return f"refused: {error}"
    guilty = next((result for result in results if not result.passed), None)
    if guilty is None or guilty.guilty is None:
        return None
    where = guilty.guilty.difference or guilty.guilty.failure
    return f"{guilty.phase} {guilty.types} {guilty.plans}: {guilty.guilty.name}: {where}"
