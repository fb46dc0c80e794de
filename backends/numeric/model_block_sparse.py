"""Which keys attention to selected blocks reads, as the published code of MiniMax-M3 has it: a mask for every head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pmc.backends.numeric.errors import Array


def chosen_keys(queries: Sequence[Array], keys: Array, sizes: tuple[int, int, int]) -> list[list[list[int]]]:
    """For every index head and query of one sequence the keys that are read (MiniMaxM3VLIndexer of transformers).

    queries [q_len, d] of each head are the last positions of keys [kv_len, d]; `sizes` are the keys of a block, the
    blocks that are taken, and how many, from that of the query back, are taken in any case.
    """
    size, top, local = sizes
    past = len(keys) - len(queries[0])
    chosen: list[list[list[int]]] = []
    for head in queries:
        of_head: list[list[int]] = []
        for i, query in enumerate(head):
            position = past + i
            own = position // size
            worth: list[tuple[float, int]] = []
            for block in range(own + 1):
                seen = keys[block * size : min((block + 1) * size, position + 1)]
                best = np.inf if block > own - local else float(np.max(seen @ query))
                worth.append((-best, block))
            taken = sorted(block for _, block in sorted(worth)[:top])
            of_head.append([s for block in taken for s in range(block * size, (block + 1) * size) if s <= position])
        chosen.append(of_head)
    return chosen
