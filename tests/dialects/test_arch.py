"""The arch dialect: peaks, spans, validation, and attributes that print and parse back exactly."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin
from xdsl.ir import Attribute
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError

from pmc.compiler.config import list_presets, load_chip, load_deployment, load_topology
from pmc.dialects.arch import Arch, Chip, ChipAttr, CommandLevel, DeploymentAttr, DramChannels, Topology, TopologyAttr
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError


def parse(text: str) -> Attribute:
    context = Context()
    context.load_dialect(Builtin)
    context.load_dialect(Arch)
    return Parser(context, text).parse_attribute()


def presets() -> list[ChipAttr | TopologyAttr | DeploymentAttr]:
    names = list_presets()
    return [
        *(ChipAttr(load_chip(n)) for n in names["chip"]),
        *(TopologyAttr(load_topology(n)) for n in names["topology"]),
        *(DeploymentAttr(load_deployment(n)) for n in names["deployment"]),
    ]


@pytest.mark.parametrize("attribute", presets(), ids=lambda a: f"{a.name}-{getattr(a.data, 'name', a.data)}"[:40])
def test_every_preset_survives_print_and_parse(attribute: ChipAttr | TopologyAttr | DeploymentAttr) -> None:
    again = parse(str(attribute))
    assert again == attribute
    assert hash(again) == hash(attribute)
    assert str(again) == str(attribute)


def test_printed_form_is_a_readable_dictionary() -> None:
    text = str(ChipAttr(load_chip("sg2262")))
    assert text.startswith('#arch.chip<{name = "sg2262", unvalidated = ["gdma_multicast", ')
    assert "clocks = {chip_ghz = 1.5, tiu_ghz = 1.5}" in text
    assert "capacity_gib = 128.0" in text
    assert "f32 = none" in text
    assert "gdma_multicast = true" in text
    drawn = DeploymentAttr(load_deployment("dsv3-decode-ep32", {"routing": {"histogram": [3, 1.5]}}))
    assert "routing = {histogram = [3.0, 1.5]}" in str(drawn)
    assert "routing = {zipf = 1.2}" in str(
        DeploymentAttr(load_deployment("dsv3-decode-ep32", {"routing": {"zipf": 1.2}}))
    )


@given(st.sampled_from([0.0, -0.0]) | st.floats(1e-12, 1e15))
def test_any_number_that_is_allowed_survives_exactly(sync_us: float) -> None:
    topology = load_topology("p1-r1-b1-c8")
    attribute = TopologyAttr(Topology.model_validate(topology.model_dump() | {"sync_us": sync_us}))
    again = parse(str(attribute))
    assert isinstance(again, TopologyAttr)
    assert math.copysign(1, again.data.sync_us) == math.copysign(1, sync_us)
    assert again.data.sync_us == sync_us


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("cores = 64", "cores = 64.5", ["cores: expected integer > 0", "found 64.5"]),
        ("cores = 64", "coers = 64", ["unknown field coers", "did you mean 'cores'?"]),
        ("chip_ghz = 1.5, ", "", ["missing field clocks.chip_ghz", "number > 0 in GHz"]),
        (
            "bandwidth_gb_per_s = 8601.6",
            "bandwidth_gb_per_s = -1.0",
            ["dram.bandwidth_gb_per_s", "in GB/s", "-1.0"],
        ),
        (
            "gdma_multicast = true",
            "gdma_multicast = 1",
            ["gdma_multicast: expected true or false", "found 1 (integer)"],
        ),
        ("cores = 64", "cores = i32", ["cores: expected integer > 0"]),
        (
            "bandwidth_gb_per_s = 8601.6",
            "bandwidth_gb_per_s = 1.0e-320",
            ["dram.bandwidth_gb_per_s", "a number other than 0 must be between 1e-12 and 1e+15"],
        ),
        ("mesh_rows = 8", "mesh_rows = 4", ["command_level.noc: 8 x 4 is not 64 cores"]),
    ],
)
def test_a_bad_attribute_is_a_parse_error_that_names_the_field(old: str, new: str, parts: list[str]) -> None:
    text = str(ChipAttr(load_chip("sg2262")))
    assert old in text
    with pytest.raises(ParseError) as error:
        parse(text.replace(old, new))
    for part in parts:
        assert part in str(error.value)


def test_an_attribute_that_is_no_dictionary_is_a_parse_error() -> None:
    with pytest.raises(ParseError, match="expected mapping with the fields name, unvalidated"):
        parse("#arch.topology<3>")


@pytest.mark.parametrize(
    ("chip", "dtype", "tera"),
    [
        ("sg2262", "f8E4M3FN", 786.432),
        ("sg2262", "bf16", 393.216),
        ("sg2262", "i4", 1572.864),
        ("sg2262", "tf32", 196.608),
        ("h100-sxm", "bf16", 989.4),
        ("h100-sxm", "f8E4M3FN", 1978.9),
        ("h100-sxm", "tf32", 494.7),
    ],
)
def test_peaks_are_the_published_ones(chip: str, dtype: str, tera: float) -> None:
    assert load_chip(chip).peak_flops_per_s(dtype) == pytest.approx(tera * 1e12, rel=1e-4)


def test_the_matrix_peak_follows_the_matrix_clock_only() -> None:
    chip = load_chip("sg2262")
    slow = Chip.model_validate(chip.model_dump() | {"clocks": {"chip_ghz": 1.5, "tiu_ghz": 0.75}})
    assert slow.peak_flops_per_s("bf16") == chip.peak_flops_per_s("bf16") / 2
    assert slow.vector_ops_per_s("bf16") == chip.vector_ops_per_s("bf16")


@pytest.mark.parametrize("dtype", ["f32", "fp8", "get", ""])
def test_a_type_without_matrix_rate_is_an_error(dtype: str) -> None:
    with pytest.raises(PmcError, match=f"sg2262: .* no rate for element type '{dtype}'; it has i4, i8, f8E4M3FN"):
        load_chip("sg2262").peak_flops_per_s(dtype)


def test_other_rates_and_capacities() -> None:
    chip = load_chip("sg2262")
    assert chip.lmem_tile_budget_bytes == 943_718
    assert chip.dram_bytes_per_s == 8601.6e9
    assert chip.dram_bytes == 128 * 2**30
    assert chip.c2c.gb_per_s == 448
    assert chip.vector_ops_per_s("bf16") == 64 * 16 * 32 * 1.5e9
    assert chip.vector_ops_per_s("i4") == chip.vector_ops_per_s("i8") == 64 * 16 * 64 * 1.5e9
    h100 = load_chip("h100-sxm")
    assert 2 * h100.vector_ops_per_s("f32") == pytest.approx(66.9e12, rel=1e-3)
    assert h100.c2c.gb_per_s == 450
    with pytest.raises(PmcError, match="unknown element type 'fp8'"):
        chip.vector_ops_per_s("fp8")


def test_all_gdma_engines_feed_the_dram_in_one_preset_only() -> None:
    gdma = {n: load_chip(n).commands.gdma for n in ("sg2262", "sg2262-tpuperf")}
    rate = {n: 64 * g.gb_per_s * g.efficiency for n, g in gdma.items()}
    assert rate["sg2262"] == pytest.approx(8601.6, rel=1e-3)
    assert rate["sg2262-tpuperf"] == pytest.approx(3917, rel=1e-3)


def test_a_gpu_has_no_command_level() -> None:
    with pytest.raises(PmcError, match="h100-sxm has no command level"):
        _ = load_chip("h100-sxm").lmem_tile_budget_bytes


def test_core_positions_follow_the_published_tables() -> None:
    x0, y0 = (0, 4, 0, 4, 0, 4, 0, 4), (0, 0, 2, 2, 4, 4, 6, 6)
    noc = load_chip("sg2262").commands.noc
    for i in range(64):
        assert noc.position(i) == (x0[i // 8] + i % 4, y0[i // 8] + (i % 8) // 4)
    assert noc.hops(0, 63) == 14
    assert noc.hops(3, 8) == 1


def test_unvalidated_covers_blocks() -> None:
    chip = load_chip("sg2262")
    assert chip.is_unvalidated("command_level.gdma.efficiency")
    assert chip.is_unvalidated("gdma_multicast")
    assert not chip.is_unvalidated("command_level.sdma.efficiency")
    assert not chip.is_unvalidated("command_level.gdmax")


def edited(schema: Chip | Topology | Deployment | DramChannels, **fields: object) -> dict[str, object]:
    return schema.model_dump() | fields


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"unvalidated": ["dram.latency"]}, "'dram.latency' names no field"),
        ({"dies": 3}, r"cores \(64\) must be a multiple of dies \(3\)"),
        ({"dies": 1}, "die_to_die must be given exactly where dies > 1"),
        ({"die_to_die": None}, "die_to_die must be given exactly where dies > 1"),
        ({"name": 'a"b'}, "pattern"),
    ],
)
def test_chip_fields_must_fit_together(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Chip.model_validate(edited(load_chip("sg2262"), **fields))


def test_an_installation_has_at_most_a_million_chips() -> None:
    topology = load_topology("p1-r1-b4-c32")
    most = Topology.model_validate(edited(topology, boards_per_rack=2**17))
    assert most.chips == 2**20
    with pytest.raises(ValidationError, match=r"the chips \(.*\) must be at most 1048576, found 1048584"):
        Topology.model_validate(edited(topology, boards_per_rack=2**17 + 1))


@pytest.mark.parametrize(("field", "most"), [("count", 4096), ("interleave_bytes", 2**24)])
def test_channels_of_dram_are_few_enough_to_count(field: str, most: int) -> None:
    channels = load_chip("sg2262").commands.dram_channels
    DramChannels.model_validate(edited(channels, **{field: most}))
    with pytest.raises(ValidationError, match=f"{field} must be at most {most}, found {most + 1}"):
        DramChannels.model_validate(edited(channels, **{field: most + 1}))


def test_cdma_engines_are_few_enough_to_simulate() -> None:
    chip = load_chip("sg2262")
    content = chip.model_dump(mode="json")
    content["command_level"]["cdma"]["engines_per_die"] = 2048
    assert Chip.model_validate(content).dies == 2
    content["command_level"]["cdma"]["engines_per_die"] = 2049
    with pytest.raises(ValidationError, match=r"the CDMA engines \(.*\) must be at most 4096, found 4098"):
        Chip.model_validate(content)


def test_schemas_have_no_defaults_and_no_mutation() -> None:
    for schema in (Chip, CommandLevel, Topology, Deployment):
        assert [n for n, f in schema.model_fields.items() if not f.is_required()] == []
        assert all(f.description for f in schema.model_fields.values())
    with pytest.raises(ValidationError, match="frozen"):
        load_chip("sg2262").cores = 1  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]


def test_span_is_the_slowest_level() -> None:
    small = load_topology("p1-r1-b4-c32")
    big = Topology.model_validate(edited(small, pods=2, racks_per_pod=2))
    assert (small.chips, big.chips) == (32, 128)
    assert small.link_of_span([5]) == small.link_of_span(range(8)) == small.link_of_span([15, 8]) == "c2c"
    assert small.link_of_span([7, 8]) == small.link_of_span(range(32)) == "b2b"
    assert big.link_of_span([31, 32]) == "r2r"
    assert big.link_of_span([0, 1, 127]) == "p2p"
    assert (big.link("r2r").gb_per_s, big.link("r2r").latency_us) == (200.0, 2.0)
    for bad in ([], [32], [-1, 3]):
        with pytest.raises(PmcError, match=r"ranks must be in 0\.\.31"):
            small.link_of_span(bad)


def test_a_level_that_is_needed_must_be_given() -> None:
    with pytest.raises(ValidationError, match=r"links.b2b must be given .* boards_per_rack is 2"):
        Topology.model_validate(edited(load_topology("p1-r1-b1-c8"), boards_per_rack=2))
    with pytest.raises(PmcError, match="nvlink-8 has no b2b link"):
        load_topology("nvlink-8").link("b2b")


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([{"ranks": 8, "inner": 3}], "inner (3) must divide ranks (8) and be neither 1 nor all of them"),
        ([{"ranks": 8, "inner": 8}], "inner (8) must divide ranks (8)"),
        ([{"ranks": 8, "inner": 1}], "inner (1) must divide ranks (8)"),
        ([{"ranks": 8, "inner": 4}, {"ranks": 8, "inner": 2}], "groups of 8 ranks are given twice"),
    ],
)
def test_two_levels_that_cannot_be_are_refused(levels: list[dict[str, int]], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        Topology.model_validate(edited(load_topology("p1-r1-b1-c8"), two_level_all_reduce=levels))
    assert message in str(error.value)


def test_a_group_all_reduces_in_the_levels_that_its_topology_says() -> None:
    rack, nvlink = load_topology("p1-r1-b4-c32"), load_topology("nvlink-8")
    assert [rack.inner_ring(ranks) for ranks in (4, 8, 12, 16, 32)] == [None, 4, None, 2, 4]
    assert nvlink.inner_ring(8) is None
