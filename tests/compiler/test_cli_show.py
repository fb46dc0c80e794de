"""`pmc show` of a model: layers, sizes, parameters, what is kept of a sequence, and the picture."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.frontend import import_hf
from pmc.compiler.frontend.blocks import FFN, GQA
from pmc.compiler.frontend.families import FAMILIES
from pmc.compiler.frontend.family import Family
from pmc.compiler.frontend.readings import rope, window
from pmc.compiler.main import main
from pmc.compiler.model_picture import model_svg
from pmc.compiler.model_summary import block_rows, cache_bytes, summary_of
from pmc.dialects import model
from pmc.dialects.model import parameter_count
from tests.reference.configs import COMMON, CONFIGS

TINY_GQA = GQA.with_rope(rope(theta=10000.0))
LOCAL, GLOBAL, REST = ["local"] * 5, ["global"], ["local"] * 2
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def hybrid(monkeypatch: pytest.MonkeyPatch) -> ModuleOp:
    """Three times five layers with a window and one without, then two more with it."""
    family = Family(
        {"local": (TINY_GQA.with_rows(window=window()), FFN), "global": (TINY_GQA, FFN)},
        lambda fields: ((LOCAL + GLOBAL) * 3 + REST)[: fields.integer("num_hidden_layers")],
        norms="around",
    )
    monkeypatch.setattr("pmc.compiler.frontend.FAMILIES", {**FAMILIES, "HybridForCausalLM": family})
    config = {**COMMON, "architectures": ["HybridForCausalLM"], "num_hidden_layers": 20, "sliding_window": 16}
    return import_hf(config, "config.json", "hybrid")


def test_layers_are_told_in_groups_and_those_left_over_have_the_name_of_their_kind(hybrid: ModuleOp) -> None:
    summary = summary_of(hybrid)
    assert (summary.layers, summary.order) == (20, "3 x (5 local, 1 global), 2 local")
    assert [(kind.name, kind.layers, kind.sizes.get("window")) for kind in summary.blocks] == [
        ("model.gqa", ("local",), 16),
        ("model.ffn", ("local", "global"), None),
        ("model.gqa", ("global",), None),
    ]
    assert summary.norms == "kind rms, eps 1e-05: before blocks, behind blocks and before the head"


def test_layers_of_one_kind_are_one_row_wherever_they_stand(hybrid: ModuleOp) -> None:
    rows = {row.path: row.layers for row in block_rows(hybrid) if row.name == "model.gqa"}
    assert rows == {"blocks.local.gqa": 17, "blocks.global.gqa": 3}
    assert sum(row.parameters for row in block_rows(hybrid)) == parameter_count(hybrid)


def test_layers_that_share_keys_count_each_by_itself() -> None:
    assert summary_of(import_hf(CONFIGS["glm-5.2"], "config.json", "glm")).layers == 7


def test_states_of_a_fixed_size_are_counted_by_hand() -> None:
    config = CONFIGS["qwen3.5"]
    module = import_hf(config, "config.json", "hybrid")
    (net,) = {op.path.data: op for op in module.walk() if isinstance(op, model.GatedDeltaNetOp)}.values()
    keys, values = net.num_key_heads.value.data, net.num_value_heads.value.data
    k, v = net.key_head_dim.value.data, net.value_head_dim.value.data
    state = values * k * v * 4  # in FP32
    conv = (2 * keys * k + values * v) * (net.conv_kernel.value.data - 1) * 4
    layers = sum(count for op, count in model.model_blocks(module) if isinstance(op, model.GatedDeltaNetOp))
    assert cache_bytes(module).states == layers * (state + conv)


def test_what_is_kept_of_a_sequence_is_counted_by_hand(hybrid: ModuleOp) -> None:
    row = 2 * 2 * 8 * 4  # keys and values of two heads of 8 columns in FP32
    assert cache_bytes(hybrid) == (3 * row, 17 * 16 * row, 0)


def test_the_screen_of_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "deepseek-v3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "deepseek-v3: parameters 671.03 billion, a token uses 36.63 billion of them"
    assert "layers        61: 3 dense, 58 moe" in lines
    # A latent of 512 columns and 64 rotated ones in BF16.
    assert f"cache         {61 * (512 + 64) * 2:,} bytes per token, in the types of the model" in lines
    stored = "weights are stored as f8E4M3FN/128x128:f32, for activations in f8E4M3FN"
    assert (
        f"checkpoint    {stored}, but mtp.eh_proj.*=none, *.moe.router.weight=none, lm_head.proj.weight=none" in lines
    )
    # By hand: MLA and experts as in a layer of the model (11 507 286 016), eh_proj of 2 x 7168 x 7168, four more norms.
    assert "draft layer   11.61 billion parameters of its own, 682.64 billion with those of the model" in lines
    assert "not counted   1 multi-token-prediction layer" in lines
    assert "model.ffn     intermediate_size 18432, activation silu, gated (in dense)" in lines
    assert [line.split()[0] for line in lines if line.startswith("blocks.dense")] == [
        "blocks.dense.mla.norm", "blocks.dense.mla", "blocks.dense.ffn.norm", "blocks.dense.ffn",
    ]  # fmt: skip
    assert lines[-1].split() == ["total", "671,026,419,200"]


def test_the_screen_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["show", "deepseek-v3.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 45


def test_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "llama-3.1-8b", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["layers"], document["order"]) == (32, "32 dense")
    assert document["cache_bytes"] == {"per_token": 32 * 2 * 8 * 128 * 2, "in_windows": 0, "states": 0}
    (attention,) = (block for block in document["blocks"] if block["block"] == "model.gqa")
    assert attention["sizes"]["num_key_value_heads"] == 8 and attention["count"] == 32


def test_the_picture_has_a_frame_for_every_repeat_and_a_box_for_every_block(hybrid: ModuleOp) -> None:
    picture = ElementTree.fromstring(model_svg(hybrid, "a <hybrid> & more"))
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert texts[:4] == ["HybridForCausalLM", "a <hybrid> & more", "embedding", "vocab_size 61"]
    assert [text for text in texts if text and " x" in text] == [
        "3 x (5 local, 1 global), 2 local",
        "17 x local",
        "3 x global",
    ]
    frames = [rect for rect in picture.iter(f"{SVG}rect") if rect.get("fill") == "none"]
    # Three repeats; in two kinds of layers two blocks and four norms; embedding, last norm and head.
    assert len(frames) == 3 + 2 * 6 + 3
    height = int(picture.get("height", 0))
    assert max(int(rect.get("y", 0)) + int(rect.get("height", 0)) for rect in frames) < height


def test_only_models_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "model.svg"
    assert main(["show", "llama-3.1-8b", "--svg", str(picture)]) == 0
    assert ElementTree.fromstring(picture.read_text()).tag == f"{SVG}svg"
    capsys.readouterr()
    for name in ("sg2262", "select-tiles", "decode"):
        assert main(["show", name, "--svg", str(picture)]) == 2
        assert capsys.readouterr().err == "pmc: error: --svg: only models are drawn\n"
