"""Collectives that become one, pipeline stages of equal time, vocabularies and experts split as serving engines do."""

from __future__ import annotations

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate import evaluate_module
from pmc.backends.numeric.dist import run_dist
from pmc.backends.numeric.layer import run_layer, seeded_layer_environment
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.context import make_context
from pmc.compiler.driver import compile_model, load_model, module_text, parse_module, resume
from pmc.compiler.evaluation import request_deployments, with_stages_of_request
from pmc.compiler.frontend import import_hf
from pmc.dialects import dist, layer, tile
from pmc.dialects.collective import AllGatherAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.tensor import tensor
from pmc.passes.annotate_shardings import AnnotateShardingsPass
from pmc.passes.expand_blocks import ExpandBlocksPass
from pmc.passes.insert_collectives import InsertCollectivesPass
from pmc.passes.localize import LocalizePass
from pmc.passes.partition_stages import lengths_of

D32 = ("deepseek-v3", "sg2262", "p1-r1-b4-c32", "dsv3-decode-ep32")


def compiled(
    model: str, chip: str, topology: str, deployment: str, accounting: str = "physical", **changes: object
) -> ModuleOp:
    """A model at the dist level."""
    target = load_chip(chip), load_topology(topology), load_deployment(deployment, changes)
    return compile_model(load_model(model), *target, "dist", accounting=load_accounting(accounting))


# -- combine-collectives ----------------------------------------------------------------------------------------


def test_n11_the_latents_of_mla_are_gathered_at_once() -> None:
    """One all-gather a layer for q_a, k_pe and kv_a in place of three: two times 7 latencies saved in 61 layers.

    Counted by the published protocol, in which an all-gather goes around a ring.  A latency is 2 links + memory read +
    memory write + NoC + 2 die crossings + sync of the topology.
    """
    module = compiled(*D32, "ds-tpu", tp=8, dp=4, ep=32, sp=True)
    groups = [op for op in module.walk() if isinstance(op, dist.CollectiveGroupOp)]
    assert [(op.path.data, len(op.y)) for op in groups] == [("blocks.dense.mla", 3), ("blocks.moe.mla", 3)]
    rows = {(row.path, row.op): row for row in evaluate_module(module, "core").steps}
    row = rows["blocks.moe.mla", "dist.all_gather"]
    t = load_topology("p1-r1-b4-c32")
    latency_us = 7 * (
        2 * t.links.c2c.latency_us + t.memory_read_us + t.memory_write_us + t.noc_us + 2 * t.die_to_die_us
    )
    latency_us += 7 * t.sync_us
    # 64 tokens a rank: 1536 + 512 bytes of FP8 and 64 of BF16 each go to 7 others.
    sent = 7 * 64 * (1536 + 512 + 2 * 64)
    transfer_us = sent / (t.links.c2c.gb_per_s * 1e3 * t.bandwidth_utilisation)
    assert row.link_bytes == 58 * sent
    assert row.time_us / 58 == pytest.approx(latency_us + transfer_us)
    saved = 2 * 61 * latency_us
    assert saved == pytest.approx(589.3, abs=0.1)


def test_n11_the_group_reaches_commands() -> None:
    """Below the dist level the group is one command with as many operands as values."""
    target = load_chip("sg2262"), load_topology("p1-r1-b4-c32")
    deployment = load_deployment("dsv3-decode-ep32", {"tp": 8, "dp": 4, "ep": 32, "sp": True, "batch": 32})
    module = compile_model(load_model("deepseek-v3"), *target, deployment, "tile")
    found = [
        len(op.ins) for op in module.walk() if isinstance(op, tile.CollectiveOp) and op.path.data == "blocks.moe.mla"
    ]
    assert found == [3]


def test_n11_keys_and_values_go_around_together() -> None:
    """A step of ring attention sends keys and values in one message."""
    module = compiled("llama-3.1-70b", "sg2262", "p1-r1-b4-c32", "llama-70b-prefill-tp8-cp4", ring_exchange="expanded")
    groups = [op for op in module.walk() if isinstance(op, dist.CollectiveGroupOp)]
    assert [(op.collective.name, len(op.x)) for op in groups] == [("dist.ring_exchange", 2)]
    assert not [op for op in module.walk() if isinstance(op, dist.RingExchangeOp)]
    assert AllGatherAttr not in {type(op.collective) for op in groups}


# -- stages -----------------------------------------------------------------------------------------------------


def test_n19_stages_are_balanced_by_time() -> None:
    """DeepSeek-V3 on two stages: the LM head is worth a layer, so the last stage has one layer less, not one more.

    A layer less in stage 1 must not make stage 0 slower than stage 1 is now: no other split has a shorter maximum.
    """
    module = compiled(*D32, dp=16, ep=16, pp=2)
    stages = [op for op in module.walk() if isinstance(op, dist.StageOp)]
    layers = [sum(op.trip_count for op in s.body.block.ops if isinstance(op, layer.RepeatOp)) for s in stages]
    assert layers == [31, 30]
    result = evaluate_module(module, "core")
    first, last = (stage.time_us for stage in result.stages)
    moe_us = sum(s.time_us for s in result.steps if s.path.startswith("blocks.moe") and s.op != "dist.send") / 58
    assert max(first, last) < min(max(first - moe_us, last + moe_us), max(first + moe_us, last - moe_us))
    assert last / first == pytest.approx(1, abs=0.005)  # 30 and 31 layers: 1.07


def test_n19_a_dump_keeps_its_stages() -> None:
    """The split stands in the IR: a module that is resumed has the same stages, at whatever length it is evaluated."""
    module = compiled(*D32, dp=16, ep=16, pp=2)
    again = parse_module(module_text(module), "dump")
    assert module_text(resume(again, "dist")) == module_text(module)
    assert [s.stage for s in evaluate_module(again, "core", {"kv_len": 8}).stages] == [0, 1]


def test_n19_both_phases_of_a_request_have_the_same_stages() -> None:
    """Prefill computes logits of one token a sequence, so alone it is balanced elsewhere; the weights stay."""
    target = load_chip("sg2262"), load_topology("p1-r1-b4-c32")
    deployment = load_deployment("dsv3-decode-ep32", {"dp": 16, "ep": 16, "pp": 2, "absorb_mla": False, "batch": 2048})
    staged = with_stages_of_request(load_model("deepseek-v3"), *target, deployment, 512, 512)
    assert staged.pp_layers == "31,30"
    lengths = [
        lengths_of(compile_model(load_model("deepseek-v3"), *target, phase, "dist"))
        for phase in request_deployments(staged, 512, 512)
    ]
    assert lengths == [[31, 30], [31, 30]]


def test_n19_stages_as_the_deployment_says() -> None:
    module = compiled("llama-3.1-8b", "sg2262", "p1-r1-b1-c8", "llama-8b-decode", pp=2, pp_layers="20,12")
    assert lengths_of(module) == [20, 12]
    with pytest.raises(PmcError, match=r"layers = 20,13 gives 2 stages 33 layers, must give pp = 2 stages 32 layers"):
        compiled("llama-3.1-8b", "sg2262", "p1-r1-b1-c8", "llama-8b-decode", pp=2, pp_layers="20,13")


# -- vocabularies -----------------------------------------------------------------------------------------------

LLAMA = ("sg2262", "p1-r1-b1-c8", "llama-8b-decode")


def with_vocabulary(size: int, **changes: object) -> ModuleOp:
    """Llama 3.1 8B with another vocabulary, at the dist level."""
    config, source = load_model_config("llama-3.1-8b")
    target = load_chip(LLAMA[0]), load_topology(LLAMA[1]), load_deployment(LLAMA[2], changes)
    model = import_hf({**config, "vocab_size": size}, source, "odd")
    return compile_model(model, *target, "dist", accounting=load_accounting("physical"))


def test_issue9_6_a_vocabulary_that_tp_does_not_divide_is_padded() -> None:
    """128,257 = 8 * 16,033 - 7: every rank has 16,033 rows and columns, the logits are the true ones."""
    module = with_vocabulary(128_257, tp=8)
    held = {op.path.data: tensor(op.result).dims for op in module.walk() if isinstance(op, layer.WeightOp)}
    assert [d.constant for d in held["embed.weight"]] == [16_033, 4096]
    assert [d.constant for d in held["lm_head.proj.weight"]] == [4096, 16_033]
    (logits,) = [op for op in module.walk() if isinstance(op, layer.ReturnOp)]
    assert tensor(logits.values[0]).dims[-1].constant == 128_257


def test_issue9_6_padding_takes_time_and_is_no_useful_work() -> None:
    """The LM head of 32 tokens: 2 * 32 * 4096 * V FLOPs over all ranks, the time of 8 * 16,033 columns."""
    odd, even = (
        next(
            s
            for s in evaluate_module(with_vocabulary(size, tp=8), "chip").steps
            if s.op == "layer.matmul" and s.path == "lm_head.proj"
        )
        for size in (128_257, 8 * 16_033)
    )
    assert odd.flops == round(2 * 32 * 4096 * 128_257 / 8)
    assert even.flops == 2 * 32 * 4096 * 16_033
    assert (odd.time_us, odd.bytes_read, odd.compute_us) == (even.time_us, even.bytes_read, even.compute_us)
    assert odd.peak_us == pytest.approx(even.peak_us * 128_257 / (8 * 16_033))


@pytest.mark.parametrize(
    "changes",
    [
        {"tp": 2},
        {"tp": 2, "dp": 2, "lm_head": "stage"},
        {"tp": 2, "dp": 2, "embedding": "stage", "lm_head": "replicated"},
        {"tp": 2, "cp": 2, "embedding": "replicated", "lm_head": "stage"},
        {"tp": 3, "sp": True},
    ],
)
def test_issue9_6_split_vocabularies_compute_what_one_rank_does(changes: dict[str, object]) -> None:
    """The logits of all tokens, by ranks of which the last has padding, are those of the layer program."""
    config, source = load_model_config("llama-3.1-8b")
    small = dict(
        hidden_size=12, num_attention_heads=6, num_key_value_heads=6, vocab_size=31, intermediate_size=24, head_dim=2,
        num_hidden_layers=1,
    )  # fmt: skip
    module = import_hf({**config, **small}, source, "small")
    context = make_context()
    ExpandBlocksPass(phase="decode").apply(context, module)
    environment = seeded_layer_environment(module, {"batch": 5, "q_len": 2, "kv_len": 6}, 0)
    expected = run_layer(module, environment)
    for module_pass in (AnnotateShardingsPass(**changes), InsertCollectivesPass(), LocalizePass()):  # type: ignore[arg-type]
        module_pass.apply(context, module)
        module.verify()
        result = run_dist(module, environment)
        np.testing.assert_allclose(result.outputs[0], expected.outputs[0], rtol=1e-9, atol=1e-12)


def test_issue9_6_dp_attention_with_a_tensor_parallel_lm_head() -> None:
    """32 ranks of dp: each holds 1/32 of the LM head and multiplies it with the tokens of all: equal FLOPs."""
    steps = {
        split: {s.path: s for s in evaluate_module(compiled(*D32, lm_head=split), "chip").steps if s.flops}
        for split in ("replicated", "stage")
    }
    one, all_ranks = (steps[split]["lm_head.proj"] for split in ("replicated", "stage"))
    assert one.flops == all_ranks.flops == 2 * 64 * 7168 * 129_280
    weights = 7168 * 129_280
    assert one.bytes_read - all_ranks.bytes_read == weights - weights // 32 - 31 * 64 * 7168


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pp": 2, "dp": 2, "lm_head": "stage"}, "lm_head = stage needs the ranks of a stage side by side"),
        ({"moe_dp": 2, "dp": 2}, "moe_dp = 2, but the model has no experts"),
    ],
)
def test_issue9_6_what_cannot_be_split(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PmcError, match=message):
        with_vocabulary(128_256, **changes)


def test_issue9_6_a_tied_table_is_split_once() -> None:
    config, source = load_model_config("llama-3.1-8b")
    target = load_chip(LLAMA[0]), load_topology(LLAMA[1]), load_deployment(LLAMA[2], {"tp": 2, "lm_head": "replicated"})
    with pytest.raises(PmcError, match="both are one table in this model"):
        compile_model(import_hf({**config, "tie_word_embeddings": True}, source, "tied"), *target, "dist")


# -- replicated experts -----------------------------------------------------------------------------------------


def test_issue9_6_experts_may_be_replicated() -> None:
    """ep 8 four times on 32 ranks: four times the experts a rank, and the same useful FLOPs."""
    once, four = (compiled(*D32, ep=ep, moe_dp=32 // ep) for ep in (32, 8))
    local = [
        next(tensor(op.y).dims[0].constant for op in m.walk() if isinstance(op, dist.DispatchOp)) for m in (once, four)
    ]
    assert local == [8, 32]
    flops = [evaluate_module(m, "chip").total_flops for m in (once, four)]
    assert flops[0] == flops[1]
    with pytest.raises(PmcError, match=r"must equal moe_tp\*ep\*moe_dp = 1\*8\*1 = 8: attention and experts share"):
        compiled(*D32, ep=8)


def test_issue9_6_replicas_on_every_rank_exchange_nothing() -> None:
    """ep 1 under tp: each rank has all experts and works on its part of the tokens."""
    module = compiled(*D32, tp=8, dp=4, ep=1, moe_dp=32)
    assert not [op for op in module.walk() if isinstance(op, dist.DispatchOp | dist.CombineOp)]
    (dispatch,) = [op for op in module.walk() if isinstance(op, layer.DispatchOp)]
    tokens = tensor(dispatch.x).dims[0].evaluate({"batch": 2048, "q_len": 1})
    assert (tokens, tensor(dispatch.y).dims[0].constant) == (64, 256)
