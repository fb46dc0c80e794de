"""The Python API: loading, compiling, resuming, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.arg_spec import ArgSpec

from pmc.compiler.api import evaluate
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.driver import (
    Observer,
    compile_model,
    load_model,
    module_text,
    parse_module,
    resume,
    run_pipeline,
)
from pmc.compiler.pipelines import default_pipeline, unroll_specs
from pmc.dialects import g5
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import LEVELS, Level, level_of

from .tiny import LLAMA, MIXTRAL, write_config

CHIP = load_chip("sg2262")
TOPOLOGY = load_topology("p1-r1-b1-c8")

VARIANTS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "decode": (LLAMA, {}),
    "prefill": (LLAMA, {"phase": "prefill", "q_len": 32, "weights": "f8E4M3FN", "activations": "f8E4M3FN"}),
    "tp-pp": (LLAMA, {"tp": 2, "pp": 2, "sp": True}),
    "experts": (MIXTRAL, {"tp": 2, "dp": 4, "ep": 4, "moe_tp": 2}),
}


def deployment(changes: dict[str, object]) -> Deployment:
    changes = {"batch": 8, "kv_len": 64, **changes}
    types = {name: changes.pop(name) for name in ("weights", "activations") if name in changes}
    return load_deployment("llama-8b-decode", {**changes, **{f"quantization.{k}": v for k, v in types.items()}})


class Dumps(Observer):
    def __init__(self) -> None:
        self.names: list[str] = []
        self.texts: list[str] = []

    def after(self, step: int, name: str, module: ModuleOp) -> None:
        assert step == len(self.names)
        self.names.append(name)
        self.texts.append(module_text(module))


def compile_tiny(folder: Path, variant: str, emit: Level, *observers: Observer) -> ModuleOp:
    config, changes = VARIANTS[variant]
    model = load_model(write_config(folder, config))
    return compile_model(model, CHIP, TOPOLOGY, deployment(changes), emit, observers)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_dump_resumes_to_the_bytes_of_the_straight_run(tmp_path: Path, variant: str) -> None:
    dumps = Dumps()
    straight = module_text(compile_tiny(tmp_path, variant, "commands", dumps))
    expected = default_pipeline(deployment(VARIANTS[variant][1]), "commands")
    assert dumps.names == ["import", *(spec.name for spec in expected)]
    for name, text in zip(dumps.names, dumps.texts, strict=True):
        resumed = resume(parse_module(text, name), "commands")
        assert module_text(resumed) == straight, f"resumed after {name}"


@pytest.mark.parametrize("variant", ["tp-pp", "experts"])
def test_every_dump_reads_back_in_both_forms(tmp_path: Path, variant: str) -> None:
    dumps = Dumps()
    compile_tiny(tmp_path, variant, "commands", dumps)
    for name, text in zip(dumps.names, dumps.texts, strict=True):
        module = parse_module(text, name)
        assert module_text(module) == text, name
        assert module_text(parse_module(module_text(module, generic=True), name)) == text, f"{name}, generic"


@pytest.mark.parametrize("level", LEVELS)
def test_emit_stops_at_its_level(tmp_path: Path, level: Level) -> None:
    assert level_of(compile_tiny(tmp_path, "decode", level)) == level


def test_compiling_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    texts = {module_text(compile_tiny(tmp_path, "experts", "commands")) for _ in range(2)}
    assert len(texts) == 1


def test_names_of_models(tmp_path: Path) -> None:
    def name(module: ModuleOp) -> str:
        return next(iter(module.ops)).properties["sym_name"].data  # type: ignore[attr-defined,no-any-return] # pyright: ignore

    folder = tmp_path / "Tiny-1B"
    folder.mkdir()
    config = write_config(folder, LLAMA, "config.json")
    assert name(load_model(config)) == name(load_model(folder)) == "Tiny-1B"
    assert name(load_model(write_config(tmp_path, LLAMA, "other.json"))) == "other"
    assert name(load_model("llama-3.1-8b")) == "llama-3.1-8b"


def test_a_model_in_mlir_compiles_like_its_config(tmp_path: Path) -> None:
    config = write_config(tmp_path, LLAMA)
    mlir = tmp_path / "model.mlir"
    mlir.write_text(module_text(load_model(config)))
    compiled = [
        module_text(compile_model(load_model(path), CHIP, TOPOLOGY, deployment({}), "dist")) for path in (config, mlir)
    ]
    assert compiled[0] == compiled[1]


def test_too_many_ranks_names_both_numbers(tmp_path: Path) -> None:
    model = load_model(write_config(tmp_path, LLAMA))
    before = dict(model.attributes)
    with pytest.raises(PmcError, match=r"tp\*cp\*dp\*pp = 2\*1\*3\*2 = 12 chips, topology p1-r1-b1-c8 has 8"):
        compile_model(model, CHIP, TOPOLOGY, deployment({"tp": 2, "dp": 3, "pp": 2}), "dist")
    assert model.attributes == before, "nothing has been done"


def test_compile_takes_the_model_level_only(tmp_path: Path) -> None:
    module = compile_tiny(tmp_path, "decode", "layer")
    with pytest.raises(PmcError, match="takes a module of the model level, this one is at the layer level"):
        compile_model(module, CHIP, TOPOLOGY, deployment({}), "dist")


def test_a_bad_option_fails_before_anything_runs(tmp_path: Path) -> None:
    module = load_model(write_config(tmp_path, LLAMA))
    text = module_text(module)
    with pytest.raises(PmcError, match="quantize"):
        run_pipeline(module, [ArgSpec("expand-blocks", {"phase": ("decode",)}), ArgSpec("quantize", {"no": (1,)})])
    assert module_text(module) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("builtin.module {\n  %0 = model.nothing()\n}", r"^m\.mlir:2:\d+: .*model\.nothing"),
        ("builtin.module {\n  layer.program(", r"^m\.mlir:2:\d+: .*the end of the file"),
        ("builtin.module {\n  = }", r"^m\.mlir:2:3: unexpected text .*\(at '='\)"),
        ("builtin.module attributes {arch.chip = #arch.chip<{}>} {}", r"^m\.mlir:1:\d+: .*missing field"),
        (
            'builtin.module {\n  %0 = layer.weight() {axes = [""]} at "w" : !layer.tensor<[2, 2], bf16>\n}',
            r"^m\.mlir: layer\.weight at 'w'",
        ),
    ],
)
def test_malformed_ir_is_one_line_with_its_place(text: str, message: str) -> None:
    with pytest.raises(PmcError, match=message) as error:
        parse_module(text, "m.mlir")
    assert "\n" not in str(error.value)


def test_a_cut_dump_is_an_error_wherever_it_is_cut(tmp_path: Path) -> None:
    text = module_text(compile_tiny(tmp_path, "tp-pp", "dist"))
    last = text.rindex("}")
    for end in range(1, last, 331):
        with pytest.raises(PmcError):
            parse_module(text[:end], "cut.mlir")


def test_unrolled_commands_are_those_of_one_core(tmp_path: Path) -> None:
    looped = compile_tiny(tmp_path, "decode", "commands")
    cores = [op.cores.value.data for op in looped.walk() if isinstance(op, g5.ProgramOp)]
    core = max(cores) - 1
    assert min(cores) <= core, "some program leaves the core idle"
    unrolled = compile_model(
        load_model(write_config(tmp_path, LLAMA)),
        CHIP,
        TOPOLOGY,
        deployment({}),
        "commands",
        extra=unroll_specs(core, False),
    )
    programs = [op for op in unrolled.walk() if isinstance(op, g5.ProgramOp)]
    for program in programs:
        queues = [op for op in program.body.block.ops if isinstance(op, g5.QueueOp)]
        assert {queue.core.value.data for queue in queues} == ({core} if core < program.cores.value.data else set())
    with pytest.raises(PmcError, match=rf"core {core + 1} is outside 0\.\.{core} of"):
        run_pipeline(looped, unroll_specs(core + 1, False))


def test_a_dump_evaluates_like_its_model(tmp_path: Path) -> None:
    dumps = Dumps()
    compile_tiny(tmp_path, "tp-pp", "dist", dumps)
    config, changes = VARIANTS["tp-pp"]
    straight = evaluate(load_model(write_config(tmp_path, config)), CHIP, TOPOLOGY, deployment(changes))
    assert straight.total_us > 0
    for name, text in zip(dumps.names, dumps.texts, strict=True):
        assert evaluate(parse_module(text, name)) == straight, name


def test_symbols_of_a_dump_can_be_replaced_until_they_are_bound(tmp_path: Path) -> None:
    dist = module_text(compile_tiny(tmp_path, "decode", "dist"))
    longer = evaluate(parse_module(dist, "dist"), bindings={"kv_len": 4096})
    assert longer.step.ops.bindings["kv_len"] == 4096
    assert longer.total_us > evaluate(parse_module(dist, "dist")).total_us
    bound = parse_module(module_text(compile_tiny(tmp_path, "decode", "tile")), "tile")
    with pytest.raises(PmcError, match="bound already"):
        evaluate(bound, bindings={"kv_len": 4096})
