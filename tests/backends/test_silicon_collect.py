"""`pmc collect`: what is measured, what is kept, and that `pmc calibrate` fits it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pmc.backends.silicon import torch_device
from pmc.backends.silicon.attention import ContextAttention, GenerationAttention
from pmc.backends.silicon.collect import GRIDS, Collection
from pmc.backends.silicon.database import PerfDatabase, Source
from pmc.backends.silicon.gemm import Gemm
from pmc.backends.silicon.library import Library
from pmc.backends.silicon.mla import MlaBmm
from pmc.backends.silicon.moe import Moe
from pmc.backends.silicon.rows import Elementwise, Norm
from pmc.backends.silicon.system import SystemFile
from pmc.backends.silicon.work import Workload
from pmc.backends.silicon.workloads import WORKLOADS
from pmc.compiler.main import main
from pmc.dialects.errors import PmcError

from .silicon_library import toy_system


class FakeDevice:
    """Takes twice the least time and a launch of 2 us, and can be broken off."""

    framework, version, lane = "fake", "1.0", "made_up"

    def __init__(self, root: Path) -> None:
        self.system = toy_system(root)
        self.left = 10**9
        self.ran: list[Workload] = []

    def specification(self) -> SystemFile:
        return self.system.spec

    def milliseconds(self, workload: Workload) -> float:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.ran.append(workload)
        return float(2 * type(workload).work(workload.points, self.system).sol_ms[0] + 0.002)


@pytest.fixture
def device(tmp_path: Path) -> FakeDevice:
    return FakeDevice(tmp_path)


def test_two_commands_make_a_model_of_a_device(
    device: FakeDevice, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    collection = Collection.open(out, "mine", device)
    tasks = collection.plan(["gemm", "norm"], 60, 5.0)
    assert [len(task.missing) for task in tasks] == [60, 60]
    assert len(list(collection.run(tasks))) == 120
    assert main(["calibrate", "--perf-dir", str(out), "-o", str(tmp_path / "fits.json")]) == 0
    assert "fake    norm     2    60" in capsys.readouterr().out
    database = PerfDatabase.open("mine", "fake", library=Library.folder(out))
    assert (database.version, database.system.spec.gpu) == ("1.0", device.system.spec.gpu)
    measured = device.ran[0]
    found = database.query(measured)
    # A row has six digits.
    assert found == pytest.approx(device.milliseconds(measured), rel=1e-5) and found.source is Source.MEASURED
    between = Gemm(300, 3000, 3000, "bfloat16")
    assert database.query(between) == pytest.approx(device.milliseconds(between), rel=0.1)


def test_what_was_broken_off_goes_on(device: FakeDevice, tmp_path: Path) -> None:
    collection = Collection.open(tmp_path / "out", "mine", device)
    device.left = 7
    with pytest.raises(KeyboardInterrupt):
        list(collection.run(collection.plan(["moe"], 20, 50.0)))
    path = collection.path("moe")
    # As if the machine had stopped within a line.
    path.write_text(path.read_text()[:-3])
    device.left = 10**9
    (task,) = Collection.open(tmp_path / "out", "mine", device).plan(["moe"], 20, 50.0)
    assert (task.standing, len(task.missing)) == (6, 14)
    list(collection.run([task]))
    assert len(path.read_text().splitlines()) == 21 and len(set(device.ran)) == 20
    (task,) = collection.plan(["moe"], 20, 50.0)
    assert (task.standing, task.missing) == (20, ())
    # More points later: those that stand are among them, or stay in the table.
    (task,) = collection.plan(["moe"], None, 50.0)
    assert task.standing == 20 and len(task.missing) + 20 + task.too_long == len(list(GRIDS["moe"]()))
    path.write_text(path.read_text().replace("latency", "latency_us"))
    with pytest.raises(PmcError, match=r"moe_perf\.csv: column 'latency_us' is in us"):
        collection.plan(["moe"], None, 50.0)


def test_a_table_with_nothing_but_a_header_is_begun_again(device: FakeDevice, tmp_path: Path) -> None:
    collection = Collection.open(tmp_path / "out", "mine", device)
    list(collection.run(collection.plan(["norm"], 1, 50.0)))
    for text in ("", "framework,ver", collection.path("norm").read_text().splitlines()[0] + "\n"):
        collection.path("norm").write_text(text)
        (task,) = collection.plan(["norm"], 1, 50.0)
        assert (task.standing, len(task.missing)) == (0, 1)
    list(collection.run([task]))
    assert collection.plan(["norm"], 1, 50.0)[0].standing == 1


def test_what_takes_too_long_or_too_much_memory_is_left_out(device: FakeDevice, tmp_path: Path) -> None:
    """At 1e14 operations and 1e12 bytes per second, of 80 GB of which half may be taken."""
    collection = Collection.open(tmp_path / "out", "mine", device)
    for task in collection.plan([], None, 0.1):
        for workload in task.missing:
            assert type(workload).work(workload.points, device.system).sol_ms[0] <= 0.1
        assert task.too_long > 0 and task.missing and task.kind in WORKLOADS
    small = device.system.spec.gpu.model_copy(update={"mem_capacity": 2**24})
    tight = device.system.model_copy(update={"spec": device.system.spec.model_copy(update={"gpu": small})})
    (task,) = Collection(tmp_path / "out", tight, device).plan(["gemm"], None, 50.0)
    assert max(2 * (w.m * w.k + w.k * w.n + w.m * w.n) for w in task.missing if isinstance(w, Gemm)) <= 2**23


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "tpu"], "device 'tpu': measured are cpu and cuda"),
        (["--device", "cpu", "--kinds", "gem"], "kind 'gem' cannot be collected; did you mean 'gemm'?; known: gemm, "),
        (["--device", "cpu", "--name", "a/b"], "--name 'a/b': a name has letters, digits, - and _"),
    ],
)
def test_what_cannot_be_collected_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["collect", "--out", str(tmp_path), *options]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1


def test_without_pytorch_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(torch_device, "import_module", missing)
    assert main(["collect", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip().endswith("pmc collect runs kernels with PyTorch: pip install 'pmc[collect]'")


def needs_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("kernels are run with PyTorch, the extra pmc[collect]")


@pytest.mark.parametrize("kind", GRIDS)
def test_kernels_of_pytorch_run_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    needs_torch()
    command = ["collect", "--device", "cpu", "--out", str(tmp_path), "--kinds", kind, "--points", "4"]
    for measured, stood in ((4, 0), (0, 4)):
        assert main([*command, "--most-ms", "5"]) == 0
        words = capsys.readouterr().out.splitlines()[2].split()
        assert words[:3] == [kind, str(measured), str(stood)]
    workload = WORKLOADS[kind]
    database = PerfDatabase.open("cpu", "torch", library=Library.folder(tmp_path))
    table = database.table(workload.table_kind())
    assert sum(len(table.rows(words)) for words in table.category_sets) == 4


def test_pytorch_computes_what_the_work_is_counted_of() -> None:
    """Results of every kernel, by their sizes."""
    needs_torch()
    device = torch_device.TorchDevice("cpu")
    results = {
        Gemm(3, 5, 7, "bfloat16"): (3, 5),
        ContextAttention(2, 6, 4, 2, 16, 1, 0, 0, "bfloat16", "bfloat16"): (2, 4, 6, 16),
        GenerationAttention(2, 1, 4, 2, 16, 1, 9, 0, "bfloat16", "bfloat16"): (2, 4, 1, 16),
        Norm(3, 8, "rms_norm", "bfloat16"): (3, 8),
        Norm(3, 8, "layer_norm", "bfloat16"): (3, 8),
        Elementwise(3, 8, "add", "bfloat16"): (3, 8),
        Elementwise(3, 8, "silu_and_mul", "bfloat16"): (3, 8),
    }
    for workload, shape in results.items():
        assert tuple(device.kernel(workload)().shape) == shape
    # 5 tokens x 2 of 4 experts: 3 + 3 + 2 + 2 rows; with one token two experts have none.
    experts = {5: [(3, 8), (3, 8), (2, 8), (2, 8)], 1: [(1, 8), (1, 8)]}
    for tokens, expected in experts.items():
        ran = device.kernel(Moe(tokens, 8, 16, 2, 4, 1, 1, "bfloat16", "balanced"))()
        assert [tuple(rows.shape) for rows in ran] == expected
    refused = [
        Gemm(1, 2, 3, "fp8"),
        ContextAttention(2, 6, 4, 2, 16, 1, 3, 0, "bfloat16", "bfloat16"),
        Moe(5, 8, 16, 2, 4, 2, 1, "bfloat16", "balanced"),
        MlaBmm(1, 2, "mla_gen_pre", "bfloat16"),
    ]
    for workload in refused:
        with pytest.raises(PmcError, match="PyTorch measures no such kernel here"):
            device.kernel(workload)
