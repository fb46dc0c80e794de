"""Collectives that become one, pipeline stages of equal time, vocabularies and experts split as serving engines do."""

from __future__ import annotations

import pytest

from pmc.backends.evaluate import evaluate_module
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model, module_text, parse_module, resume
from pmc.dialects import dist, layer, tile
from pmc.dialects.collective import AllGatherAttr

D32 = ("deepseek-v3", "sg2262", "p1-r1-b4-c32", "dsv3-decode-ep32")


def compiled(model: str, chip: str, topology: str, deployment: str, **changes: object):  # type: ignore[no-untyped-def]
    """A model at the dist level."""
    target = load_chip(chip), load_topology(topology), load_deployment(deployment, changes)
    return compile_model(load_model(model), *target, "dist", accounting=load_accounting("physical"))


# -- combine-collectives ----------------------------------------------------------------------------------------


def test_n11_the_latents_of_mla_are_gathered_at_once() -> None:
    """One all-gather a layer for q_a, k_pe and kv_a in place of three: two times 7 latencies saved in 61 layers.

    A latency is 2 links + memory read + memory write + NoC + 2 die crossings + sync of the topology.
    """
    module = compiled(*D32, tp=8, dp=4, ep=32, sp=True)
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
