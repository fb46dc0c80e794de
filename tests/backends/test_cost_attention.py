"""The attention of the calibration case, term by term."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pmc.backends.cost.attention_tiles import AttentionTiles
from pmc.backends.cost.rates import CoreRates
from pmc.compiler.config import load_accounting, load_chip
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import AttentionShape

CHIP = load_chip("sg2262")
MLA = AttentionShape(64, 1, 128, 1, 4096, (512, 64), 512, True, False, 8, 8, 16, 16, 0, "f8E4M3FN")
PEAK, VECTOR, DRAM = 786.432e12, 32 * 16 * 64 * 1.5e9, 8601.6e9


def tiles(preset: str) -> AttentionTiles:
    return AttentionTiles(CoreRates(CHIP, load_accounting(preset)))


def test_the_latent_is_read_once_and_softmax_pays_every_step() -> None:
    found = tiles("physical").best(MLA)
    assert (found.tile_q, found.tile_g, found.units) == (1, 128, 64)
    steps = -(-4096 // found.tile_s)
    gemm = 2 * 64 * 128 * 4096 * (576 + 512) / PEAK
    softmax = 64 * 128 * (37 * 4096 + 41 * steps) / VECTOR
    traffic = 64 * (4096 * 576 + 128 * 576 + 128 * 512 * 2)
    assert found.traffic_bytes == traffic
    assert found.compute_s == pytest.approx(gemm + softmax, rel=1e-12)
    assert found.seconds == pytest.approx(gemm + softmax + 0.2 * traffic / DRAM, rel=1e-12)


def test_the_accounting_of_the_target_reads_v_apart_and_stores_one_byte() -> None:
    found = tiles("ds-tpu").best(MLA)
    assert found.traffic_bytes == 64 * (4096 * (576 + 512) + 128 * 576 + 128 * 512)
    assert found.seconds * 1e6 == pytest.approx(112.4, rel=0.02)


def test_lmem_holds_all_tiles() -> None:
    model = tiles("ds-tpu")
    found = model.best(MLA)
    rows, keys = 128, found.tile_s
    need = rows * 576 + keys * (576 + 512) + 2 * rows * keys * 2 + 4 * rows * 512 * 2
    assert need <= model.budget < need + 32 * (1088 + 512)


def test_causal_prefill_is_about_half_and_loads_what_it_sees() -> None:
    prefill = AttentionShape(1, 8, 4, 4096, 4096, (128,), 128, False, True, 16, 16, 16, 16, 0, "bf16")
    causal = tiles("physical").best(prefill)
    full = tiles("physical").best(replace(prefill, causal=False))
    assert 0.5 < causal.seconds / full.seconds < 0.56
    # Blocks of tile_q queries see 1, 2, .. of these blocks of keys; 64 units at a time share what they read.
    seen = (causal.tile_q + 4096) / 2
    passes = causal.units // 64
    assert causal.traffic_bytes == 8 * passes * seen * 2 * 128 * 2 + 2 * 8 * 4 * 4096 * 128 * 2


def test_what_does_not_fit_is_named() -> None:
    wide = AttentionShape(1, 1, 1, 1, 64, (2**17,), 2**17, False, False, 8, 8, 16, 16, 0, "f8E4M3FN")
    with pytest.raises(PmcError, match=r"^no tile of attention fits: the smallest needs \d+ bytes of LMEM"):
        tiles("physical").best(wide)
