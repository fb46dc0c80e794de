"""The events of a model taken apart into what one core does in one go: an expert of a token, or its attention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.table import Table
from pmc.dialects.table_columns import Texts
from pmc.dialects.trace_tables import WEIGHT


@dataclass(frozen=True, eq=False)
class LogicalParts:
    """The parts of a trace in the order of their generation, and the memory rows of each."""

    micro_batch: int
    """Tokens, so sequences, of a micro-batch."""
    experts: tuple[str, ...]
    tensors: tuple[str, ...]
    event: IntArray
    """Of every part its event, and when that is generated, ns."""
    t_gen_ns: IntArray
    mb: IntArray
    token: IntArray
    """Index into `token_ids`."""
    expert: IntArray
    """Index into `experts`; -1 for attention."""
    op: IntArray
    """Code of `trace_tables.OPS`."""
    flops: FloatArray
    sequence: IntArray
    """Number of its sequence: micro-batches take turns between two sets of `micro_batch` sequences."""
    row_starts: IntArray
    """[parts + 1]: the memory rows of part p are those from row_starts[p] on, up to row_starts[p + 1]."""
    row_tensor: IntArray
    row_bytes: IntArray
    row_write: IntArray
    token_ids: IntArray
    token_t_gen_ns: IntArray
    token_parts: IntArray
    """Parts of every token."""

    @classmethod
    def of(cls, compute: Table, memory: Table, micro_batch: int) -> LogicalParts:
        """The parts of whole logical tables, which keep to the verifier of `trace.logical`.

        Raises PmcError for tables of which only the ends are there.
        """
        if not (compute.is_whole and memory.is_whole):
            raise PmcError("the trace has only the first and last rows of its tables")
        counts = compute.lists("flops_json").lengths
        order = np.argsort(np.repeat(compute.ints("t_gen_ns"), counts), kind="stable")
        row = np.repeat(np.arange(compute.count), counts)[order]
        names, expert = _experts(compute, counts)
        tensors = memory.texts("tensor_id")
        event, token_id, mb = (compute.ints(name)[row] for name in ("event_id", "token_id", "mb_id"))
        part_of_row = _parts_of_rows(event, expert[order], memory.ints("event_id"), tensors, names)
        rows = np.argsort(part_of_row, kind="stable")
        token_ids, first, token = np.unique(token_id, return_index=True, return_inverse=True)
        t_gen_ns = compute.ints("t_gen_ns")[row]
        return cls(
            micro_batch, names, tensors.words, event, t_gen_ns, mb, token.reshape(-1), expert[order],
            compute.ints("op_type")[row], compute.lists("flops_json").values_as_numbers()[order],
            token_id % micro_batch + mb % 2 * micro_batch,
            np.searchsorted(part_of_row[rows], np.arange(len(row) + 1)),
            tensors.codes[rows], memory.ints("bytes")[rows], memory.ints("access")[rows],
            token_ids, t_gen_ns[first], np.bincount(token.reshape(-1), minlength=len(token_ids)),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.event)

    def rows_of(self, parts: IntArray) -> tuple[IntArray, IntArray]:
        """The memory rows of some parts one after the other, and for each the place of its part among `parts`."""
        first = self.row_starts[parts]
        counts = self.row_starts[parts + 1] - first
        places = np.repeat(np.arange(len(parts)), counts)
        within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
        return first[places] + within, places


def _experts(compute: Table, counts: IntArray) -> tuple[tuple[str, ...], IntArray]:
    """The names of the experts, and the expert of every part in the order of the table."""
    lists = compute.lists("experts_json")
    assert isinstance(lists.values, Texts)
    found = np.full(int(counts.sum()), -1, np.int64)
    found[np.repeat(lists.lengths > 0, counts)] = lists.values.codes
    return lists.values.words, found


def _parts_of_rows(
    event: IntArray, expert: IntArray, row_event: IntArray, tensors: Texts, experts: tuple[str, ...]
) -> IntArray:
    """The part of every memory row: that of the expert whose weights it reads, else the first of its event."""
    numbers = {name: number for number, name in enumerate(experts)}
    matches = (WEIGHT.fullmatch(word) for word in tensors.words)
    owner = np.array([-1 if match is None else numbers.get(match["expert"], -1) for match in matches], np.int64)
    keys = event * (len(experts) + 1) + expert + 1
    order = np.argsort(keys, kind="stable")
    wanted = row_event * (len(experts) + 1) + (owner[tensors.codes] if len(tensors) else row_event) + 1
    place = np.minimum(np.searchsorted(keys[order], wanted), max(0, len(keys) - 1))
    part = order[place] if len(keys) else place
    missing = np.flatnonzero(keys[part] != wanted) if len(keys) else np.zeros(0, np.int64)
    by_event = np.argsort(event, kind="stable")
    part[missing] = by_event[np.searchsorted(event[by_event], row_event[missing])]
    return np.asarray(part, np.int64)
