"""Texts of every pass, changed to see whether `pmc check` finds it: bounds, strides, slots, waits, types, .."""

from __future__ import annotations

from .source_faults import Fault

TP = {"tp": 2}
MESH = {"tp": 2, "dp": 4, "ep": 8}
STAGES = {"pp": 2}
RING = {"cp": 2, "tp": 2, "q_len": 2}

_STAGES = "dialects/analyses/pipeline_stages.py"

_EXPAND = [
    Fault("expand_blocks/attention.py", "1 / math.sqrt(d) if", "1 / d if"),
    Fault("expand_blocks/attention.py", '(q, "q_rope"), (k, "k_rope")', '(q, "q_rope"), (q, "k_rope")'),
    Fault("expand_blocks/attention.py", '"k_pe", rank + rope, rank, rope', '"k_pe", rank + rope, 0, rope', "deepseek"),
    Fault("expand_blocks/attention.py", "scale *= mscale * mscale", "scale *= mscale", "deepseek"),
    Fault("expand_blocks/feed_forward.py", "layer.SiluMulOp, [gate, up]", "layer.SiluMulOp, [up, gate]"),
    Fault("expand_blocks/program.py", 'and step.phase == "prefill":', 'and step.phase == "decode":'),
]

_QUANTIZE = [
    Fault("quantize.py", "converter.convert_operand(append, append.new, cache)", "pass", "deepseek"),
    Fault(
        "quantize.py", "_retype(append.cache, cache)\n", "_retype(append.cache, cache) if False else None\n", "deepseek"
    ),
    Fault(
        "quantize.py",
        "_retype_parameter(product.w, weights)",
        "_retype_parameter(product.w, activations)",
        "deepseek",
        {"quantization.activations": "bf16"},
    ),
    Fault("quantize.py", "if weights is not None and activations is not None:", "if activations is None:", "deepseek"),
    Fault(
        "quantize.py",
        "wanted[product] = activations",
        "wanted[product] = weights",
        "deepseek",
        {"quantization.activations": "f8E5M2"},
    ),
    Fault("quantize.py", "converter.convert_operand(product, product.x, element_type)", "pass", "deepseek"),
    Fault(
        "quantize.py",
        "dict.fromkeys((*attention.q, *attention.k, attention.v))",
        "dict.fromkeys((*attention.k, attention.v))",
        "deepseek",
    ),
    Fault(
        "dialects/type_rules.py",
        "for rule in self.rules:\n            if",
        "for rule in self.rules[:-1]:\n            if",
        "deepseek",
        {"quantization.keep": ["*.o_proj.weight", "*.router.weight"]},
    ),
    Fault(
        "dialects/type_rules.py",
        "return rule.weights, self.activations if rule.activations is None else rule.activations",
        "return rule.weights, self.activations",
        "deepseek",
        {"quantization.types": ["*.experts.*=f8E5M2+bf16"]},
    ),
    Fault(
        "quantize.py",
        "if parameter is None or parameter.transpose_of is not None:",
        "if parameter is None:",
        equivalent="neither preset ties its embedding table",
    ),
    Fault(
        "quantize.py",
        "element_bits(tensor(value).element_type) > element_bits(element_type)",
        "element_bits(tensor(value).element_type) >= element_bits(element_type)",
        "deepseek",
        {"quantization.kv_cache": "f8E5M2", "quantization.attention": "bf16", "absorb_mla": False},
    ),
    Fault(
        "quantize.py",
        "key = (value, element_type)\n        if key",
        "key = (value, value.type)\n        if key",
        "deepseek",
        {"quantization.kv_cache": "f8E5M2", "quantization.attention": "bf16", "quantization.activations": "f8E4M3FN"},
        equivalent="in these models no value is converted to two formats",
    ),
]

_SHARD = [
    Fault("annotate_shardings.py", '"expert": self.ep,', '"expert": (),', "deepseek"),
    Fault("annotate_shardings.py", '"ffn": self.tp,', '"ffn": (),', "llama", TP),
    Fault(
        "annotate_shardings.py",
        "if f not in surviving for a in names)",
        "if f in surviving for a in names)",
        "llama",
        TP,
    ),
    Fault(
        "annotate_shardings.py",
        "key=lambda i: i not in rule.stationary",
        "key=lambda i: i in rule.stationary",
        "llama",
        {"tp": 2, "sp": True},
    ),
    Fault(
        "annotate_shardings.py",
        'new.properties["first"] = ExprAttr.of(rank_symbol(axis))',
        'new.properties["first"] = ExprAttr.of(0)',
        "llama",
        RING,
    ),
    Fault(
        "annotate_shardings.py",
        "rows = self.tokens if len(sharding.dims) == 2",
        "rows = self.rows if len(sharding.dims) == 2",
        "llama",
        {"tp": 2, "sp": True},
        equivalent="sums are whole on every rank: right, and more bytes than with sp",
    ),
    Fault(
        "annotate_shardings.py",
        'Axis("pp", self.pp, pp_stride)',
        'Axis("pp", self.pp, dp_stride)',
        "llama",
        {"pp": 2, "dp": 2, "tp": 2},
    ),
    Fault(
        "insert_collectives/__init__.py",
        "for axis in [a for a in chain.sharding.partial if a not in target.partial]:",
        "for axis in [a for a in chain.sharding.partial if a in target.partial]:",
        "llama",
        TP,
    ),
    Fault(
        "insert_collectives/__init__.py",
        "for axis in axes[len(chain.sharding.dims[dim]) :]:",
        "for axis in axes:",
        "llama",
        {"tp": 2, "sp": True, "dp": 2},
    ),
    Fault(
        "insert_collectives/__init__.py",
        "if axes[: len(now) + 1] == (*now, axis):",
        "if axes[: len(now)] == now:",
        "llama",
        TP,
    ),
    Fault(
        "insert_collectives/__init__.py",
        "*kept, axis = self.sharding.dims[dim]",
        "axis, *kept = self.sharding.dims[dim]",
        "llama",
        {"tp": 2, "sp": True, "dp": 2},
    ),
    Fault("insert_collectives/__init__.py", "return of[: len(axes)] == axes", "return of == axes", "deepseek", MESH),
    Fault("insert_collectives/ring_attention.py", "first=1, total", "first=0, total", "llama", RING),
    Fault(
        "insert_collectives/ring_attention.py",
        "axis.size - 1, inits,",
        "axis.size - 2, inits,",
        "llama",
        {"cp": 4, "q_len": 4},
    ),
    Fault(
        "insert_collectives/ring_attention.py",
        "floordiv(ahead + (axis.size - 1), axis.size)",
        "floordiv(ahead + axis.size, axis.size)",
        "llama",
        RING,
    ),
    Fault(
        "insert_collectives/ring_attention.py",
        "handed_on = [*received.values()]",
        "handed_on = [*blocks]",
        "llama",
        {"cp": 4, "q_len": 4},
    ),
    Fault(
        "localize.py",
        "encoding = PartialAttr(self.sharding.partial) if self.sharding.partial else None",
        "encoding = None",
        "llama",
        TP,
    ),
    Fault(
        "localize.py",
        "op.attributes[SHARDING] = _sharding(op.result, op.path.data)",
        "op.attributes.setdefault(SHARDING, _sharding(op.result, op.path.data))",
        "llama",
        TP,
        equivalent="no source has a sharding before",
    ),
    Fault("localize.py", "StringAttr(axes[0])", 'StringAttr("dp")', "llama", TP),
    Fault(
        "combine_collectives.py",
        "[*first.results, *last.results]",
        "[*last.results, *first.results]",
        "deepseek",
        {"tp": 2, "dp": 2, "ep": 4, "sp": True},
    ),
    Fault(
        "combine_collectives.py",
        "{effect.kind for op in others for effect in op.EFFECTS}",
        "{effect.kind for op in others for effect in op.EFFECTS if effect is None}",
        "deepseek",
        {"tp": 2, "dp": 2, "ep": 4, "sp": True},
        equivalent="no two caches of one path are used between two collectives",
    ),
    Fault(
        "annotate_shardings.py",
        "axes = self.embedding\n",
        "axes = ()\n",
        "llama",
        {"tp": 2, "dp": 2, "embedding": "stage", "lm_head": "replicated"},
    ),
    Fault(
        "annotate_shardings.py",
        "self.slots = moe_dp if self.expert_plane",
        "self.slots = () if self.expert_plane",
        "deepseek",
        {"dp": 4, "ep": 2, "moe_dp": 2},
    ),
    Fault(
        "partition_stages.py",
        "layers - np.argmin(sums[::-1], axis=0)",
        "layers - 1 - np.argmin(sums[::-1], axis=0)",
        "llama",
        STAGES,
    ),
    Fault(_STAGES, "op.first.value.data + part.first,", "op.first.value.data,", "llama", STAGES),
    Fault(_STAGES, "self.used += count", "self.used += 1", "llama", {"pp": 2}),
    Fault(
        _STAGES,
        "Handover(value, False, stage - 1, self.channel)",
        "Handover(value, False, stage, self.channel)",
        "llama",
        {"pp": 2, "tp": 2},
    ),
    Fault(_STAGES, "        self.channel += 1\n", "        pass\n", "llama", {"pp": 3}),
    Fault(
        _STAGES,
        "            self.there[self.stage].add(value)\n        elif",
        "            pass\n        elif",
        "llama",
        STAGES,
        equivalent="a weight is named again for each use; the lowering stores it once",
    ),
    Fault(
        "bind_symbols.py", '"q_len": self.q_len, "kv_len": self.kv_len}', '"q_len": self.q_len, "kv_len": self.q_len}'
    ),
    Fault(
        "symbol_substitution.py",
        "DictionaryAttr({name: self.of(a) for",
        "DictionaryAttr({name: a for",
        equivalent="dictionaries of these models hold numbers only",
    ),
]

_MATMUL = "tiling/matmul.py"
_ATTENTION = "tiling/attention.py"
_ROWS = "tiling/rowwise.py"
_PLACEMENT = "dialects/analyses/dram_placement.py"
_ARRAYS = "dialects/analyses/value_arrays.py"
_LIVENESS = "dialects/analyses/liveness.py"

_TILES = [
    Fault(_MATMUL, "accumulate=ki,", "accumulate=1,"),
    Fault(
        _MATMUL,
        "rank, group = (mm.n, mm.k) if mm.transpose_b else (mm.k, mm.n)",
        "rank, group = (mm.k, mm.n) if mm.transpose_b else (mm.n, mm.k)",
        "deepseek",
    ),
    Fault(
        _ATTENTION,
        "s.positions - s.q_len + unit.query + unit.queries",
        "unit.query + unit.queries",
    ),
    Fault(
        _ATTENTION,
        "s.positions - s.q_len + unit.query + unit.queries",
        "s.positions - s.q_len + unit.query + 1",
    ),
    Fault(_ATTENTION, "accumulate=int(piece > 0)", "accumulate=0", "deepseek"),
    Fault(
        _ATTENTION,
        "code.vector(FillAttr.of(0.0), rows, s.v_dim, outs=[acc])",
        "code.vector(FillAttr.of(0.0), 1, s.v_dim, outs=[acc])",
    ),
    Fault(
        _ATTENTION,
        "floordiv(unit.kv_head * heads, s.kv_heads)",
        "floordiv(unit.kv_head, s.kv_heads)",
        equivalent="key pieces of these models have all heads, or one",
    ),
    Fault(
        _ROWS,
        "rows_each = self.inner_total if self.capacity >= self.inner_total else self.capacity",
        "rows_each = self.capacity",
        "deepseek",
    ),
    Fault(_ROWS, ".rows_from(1, q_len - 1, 1)", ".rows_from(1, 0, 1)"),
    Fault(_ROWS, ".rows_from(1, kv_len - rows.inner, rows.inner)", ".rows_from(1, 0, rows.inner)"),
    Fault(_ROWS, "split_i.size(core_i, i),", "expr(tile_i),"),
    Fault(
        "tiling/embedding.py",
        "code.store(y, rows, (start, column), (size, width_here))",
        "code.store(y, rows, (start, columns.start(core_t, ni)), (size, width_here))",
    ),
    Fault("tiling/embedding.py", "code.load(ids, index, (start,), (size,))", "code.load(ids, index, (0,), (size,))"),
    Fault("tiling/embedding.py", "op.vocab_axis)", "None)", "llama", TP),
    Fault(
        "tiling/arrays.py",
        "offset=split.offset + offset * last",
        "offset=split.offset + offset",
        "deepseek",
        equivalent="the last dim of a split array is dense",
    ),
    Fault(
        "tiling/arrays.py",
        "offset=self.offset + start * self.steps[dim]",
        "offset=start * self.steps[dim]",
        equivalent="parts of parts do not occur in these models",
    ),
    Fault("tiling/arrays.py", "if merged and merged[-1][1] == dim * step:", "if merged:", "deepseek"),
    Fault("lower_to_tiles.py", "self.layer - stored.layers.start", "self.layer", "llama", STAGES),
    Fault(
        "lower_to_tiles.py",
        "part.update(first=stored.layers.start, total=stored.layer_counts[0])",
        "part.update(first=0, total=stored.layer_counts[0])",
        "llama",
        STAGES,
    ),
    Fault(
        _ARRAYS,
        "if array_of[value] is not array or value in self.views",
        "if value in self.views",
        "llama",
        RING,
        equivalent="every carried value of these models is made where the next iteration expects it",
    ),
    Fault(
        _ARRAYS,
        "if value not in self.found.array_of and self._may_yield_into(value, argument, array):",
        "if value not in self.found.array_of:",
        "llama",
        RING,
        equivalent="in these models the op that makes the next value is the last to read the old one",
    ),
    Fault(
        _ARRAYS,
        "if array is None or array in carried:",
        "if array is None:",
        "llama",
        RING,
        equivalent="no repeat of these models starts twice from one value",
    ),
]

_MEMORY = [
    Fault(
        "allocate_lmem.py",
        "sizes = [round_up(_bytes(op), step) for op in allocs]",
        "sizes = [_bytes(op) for op in allocs]",
    ),
    Fault(
        "allocate_lmem.py",
        "return (op.slots.value.data - without) * buffer_type(op.result).bytes",
        "return buffer_type(op.result).bytes",
    ),
    Fault("allocate_lmem.py", "if planned > budget:", "if planned > 2 * budget:"),
    Fault(
        "allocate_lmem.py",
        "        address += size\n        remaining -= size",
        "        address = size\n        remaining -= size",
    ),
    Fault("allocate_dram.py", "if need > chip.dram_bytes:", "if need > 2 * chip.dram_bytes:"),
    Fault(_PLACEMENT, "addresses.append(round_up(end, alignment))", "addresses.append(end)"),
    Fault(_PLACEMENT, "padded = [round_up(size, alignment) for size in sizes]", "padded = [size for size in sizes]"),
    Fault(_PLACEMENT, "if other_first > last or first > other_last:", "if other_first >= last or first >= other_last:"),
    Fault(_PLACEMENT, "if address + size <= begin:", "if address <= begin:"),
    Fault(_PLACEMENT, "start = round_up(base, alignment)", "start = 0"),
    Fault(_LIVENESS, "first, last = uses[0].step, uses[-1].step", "first, last = uses[0].step, uses[0].step"),
    Fault(
        _LIVENESS,
        "if len(inside) < len(uses) or read_first:",
        "if read_first:",
        equivalent="nothing but what they carry enters or leaves the repeats of these models",
    ),
    Fault(
        _LIVENESS,
        "if len(inside) < len(uses) or read_first:",
        "if len(inside) < len(uses):",
        equivalent="what a repeat reads first is what it carries, which is written before it",
    ),
    Fault(
        _LIVENESS,
        "max(last, self.spans[repeat].last)",
        "last",
        equivalent="what a repeat of these models carries is written by its last kernel",
    ),
    Fault(
        "dialects/analyses/kernel_liveness.py",
        "                    base[op.result] = base[op.source]",
        "                    pass",
    ),
    Fault(
        "dialects/analyses/kernel_liveness.py",
        'timeline.add([op for op in base.values() if op.kind.data == "output"], [], ())',
        'timeline.add([op for op in base.values() if op.kind.data == "none"], [], ())',
        equivalent="the outputs of these models are written by the last kernel",
    ),
    Fault(
        "allocate_dram.py",
        "_allocate(op, shared, alignment)) for op in stages",
        "_allocate(op, 0, alignment)) for op in stages",
        "llama",
        STAGES,
    ),
]

_EMIT = [
    Fault(
        "emit_g5.py",
        "turn = expr(tile.running_count(loops[-1]))",
        "turn = expr(tile.running_count(loops[0]))",
    ),
    Fault(
        "emit_g5.py",
        "turn = expr(tile.running_count(loops[-1]))",
        "turn = expr(loops[-1])",
    ),
    Fault(
        "emit_g5.py",
        "buffer = Buffer(start, start + slots * size, slots, len(loops))",
        "buffer = Buffer(start, start + slots * size, slots + 1, len(loops))",
    ),
    Fault(
        "emit_g5.py",
        "buffer = Buffer(start, start + slots * size, slots, len(loops))",
        "buffer = Buffer(start, start + size, slots, len(loops))",
        equivalent="buffers of one kernel share no bytes, so the end of one does not matter",
    ),
    Fault(
        "emit_g5.py",
        "max(count.constant, 0) if count.is_constant else 0",
        "max(count.constant, 0) if count.is_constant else 1",
        equivalent="loops with a trip count of their own run at least once",
    ),
    Fault(
        "emit_g5.py",
        "(op.row.data * allocation.pitch + op.column.data) * size",
        "(op.row.data + op.column.data) * size",
        equivalent="no lowering places a block inside of a buffer",
    ),
    Fault("emit_g5.py", "            row = row * rows\n", "            row = row\n"),
    Fault(
        "emit_g5.py",
        "kept = [i for i, s in enumerate(sizes) if s != 1]",
        "kept = [i for i, s in enumerate(sizes) if s != 2]",
    ),
    Fault(
        "emit_g5.py",
        'tile.LoadOp)),\n            "dram": ExprAttr(self.stream.base(op.memref, op) + element * size),',
        'tile.LoadOp)),\n            "dram": ExprAttr(self.stream.base(op.memref, op) + element),',
    ),
    Fault("emit_g5.py", "element = element + offset.data * stride", "element = offset.data * stride"),
    Fault(
        "emit_g5.py",
        "address = self.base(value, op) + type_.offset.data * element_bytes(type_.element_type, op)",
        "address = self.base(value, op) + type_.offset.data",
        "llama",
        RING,
        equivalent="what collectives move are whole arrays",
    ),
    Fault("emit_g5.py", '"rows": IntegerAttr(rows, i64),', '"rows": IntegerAttr(rows + 1, i64),', "llama", TP),
    Fault(
        "dialects/analyses/hazards.py",
        "if x.command.engine == engine or not (x_writes or y_writes):",
        "if x.command.engine == engine or not y_writes:",
    ),
    Fault(
        "dialects/analyses/hazards.py",
        "if x.command.engine == engine or not (x_writes or y_writes):",
        "if x.command.engine == engine or not x_writes:",
    ),
    Fault("dialects/analyses/hazards.py", "waits[engine] = min(lag, waits.get(engine, lag))", "waits[engine] = lag"),
    Fault(
        "dialects/analyses/hazards.py",
        "    if level == 0:\n        return None",
        "    if level <= 1:\n        return None",
    ),
    Fault(
        "dialects/analyses/hazards.py",
        "buffer is not None and buffer.depth == level",
        "buffer is not None and buffer.depth <= level",
        equivalent="no buffer of several slots is used by two engines in a loop inside of its own",
    ),
    Fault("dialects/analyses/hazards.py", "whole_bodies = (distance - 1) *", "whole_bodies = distance *"),
    Fault(
        "dialects/analyses/hazards.py",
        "return between + y.after(level + 1, engine) + x.before(level + 1, engine)",
        "return between + y.after(level, engine) + x.before(level + 1, engine)",
    ),
    Fault(
        "dialects/analyses/hazards.py",
        "total[engine] = total.get(engine, 0) + times * count",
        "total[engine] = total.get(engine, 0) + count",
        equivalent="commands wait for more than they must: slower, never wrong",
    ),
]

_SPLIT = "dialects/analyses/split.py"
_MATMUL_TILING = "dialects/analyses/matmul_tiling.py"
_ATTENTION_TILING = "dialects/analyses/attention_tiling.py"
_HAZARDS = "dialects/analyses/hazards.py"
_BEHIND = "what writes the slot again waits for loads of its own iteration, which GDMA does after the late store"

_PLANS = [
    Fault(_MATMUL, "return self.depth.start(self.core_k, ki), self", "return self.depth.start(expr(0), ki), self"),
    Fault(_MATMUL, "return [self.core_k, g, m, n], ", "return [expr(0), g, m, n], "),
    Fault(_MATMUL, "buffer, (0, g, row, column), (parts", "buffer, (0, g, row, 0), (parts"),
    Fault(_MATMUL, "code.fetch(acc, buffer, expr(CORE) - self.core_k + p,", "code.fetch(acc, buffer, p,"),
    Fault(_MATMUL, "+ p, first, p * height,", "+ p, 0, p * height,"),
    Fault(
        _MATMUL,
        "self.rows.length(self.core_m) - self.core_k * share), 0)",
        "self.rows.length(self.core_m)), 0)",
    ),
    Fault(_MATMUL, "self.core_k * share + ri * tile", "self.core_k * share"),
    Fault(_MATMUL, "        code.barrier()\n", ""),
    Fault(_MATMUL, "SumPartsAttr(IntegerAttr(parts, i64))", "SumPartsAttr(IntegerAttr(parts - 1, i64))"),
    Fault(_MATMUL, 'self.serves("a", 2))', 'self.serves("a", 1))'),
    Fault(_MATMUL, 'self.serves("b", 1))', 'self.serves("b", 2))'),
    Fault(_MATMUL, 'code.loop("again", min_of(ki, 1))', 'code.loop("again", expr(0))'),
    Fault(_ATTENTION, "(self.core_s, *at), (1, *size, width)", "(0, *at), (1, *size, width)"),
    Fault(_ATTENTION, "core = expr(CORE) - self.core_s + o", "core = o", "deepseek"),
    Fault(_ATTENTION, "ExprAttr(position), ExprAttr(key)", "ExprAttr(position), ExprAttr(offset)"),
    Fault(
        _ATTENTION, "floordiv(expr(ROW), self.tile_g) - self.hidden", "floordiv(expr(ROW), self.tile_g)", "llama", RING
    ),
    Fault(_ATTENTION, "        code.barrier()\n", ""),
    Fault(
        _ATTENTION,
        "start = self.core_s * (share_g if by_heads else share_q)",
        "start = self.core_s * (share_q if by_heads else share_g)",
        "deepseek",
    ),
    Fault(_ATTENTION, "cores_along(self.parts, 1) if", "cores_along(self.parts, 0) if", "deepseek"),
    Fault(_ATTENTION, "cores_along(self.parts, 2) if", "cores_along(self.parts, 1) if"),
    Fault(
        _ATTENTION,
        "index = self.shape, ui * self.parts[1] + self.core_u",
        "index = self.shape, ui + self.core_u",
    ),
    Fault("tiling/code.py", "        if count == 1:", "        if count.is_constant:"),
    Fault("tiling/code.py", 'expr(from_row), "row": expr(row)', 'expr(0), "row": expr(row)'),
    Fault(
        "tiling/code.py",
        "self.rotates_with.get(buffer) == len(self.loops)",
        "buffer in self.rotates_with",
        equivalent="every store that may be late stands in the loop that turns its buffer",
    ),
    Fault("emit_g5.py", "rows_from(op.source, op.from_row.data)", "rows_from(op.source, op.row.data)"),
    Fault("emit_g5.py", '"serves": op.serves if isinstance(op, tile.LoadOp) else None', '"serves": None'),
    Fault("emit_g5.py", "out.append(g5.BarrierOp.make([], [], op.path.data, {}, like=op))", "pass"),
    Fault("emit_g5.py", "        block.add_op(g5.BarrierOp.make([], [], op.path.data, {}, like=op))\n", ""),
    Fault(
        "emit_g5.py",
        "late = isinstance(op, tile.StoreOp) and op.late is not None",
        "late = False",
        equivalent=_BEHIND,
    ),
    Fault(_HAZARDS, "    distance -= _is_late(y, level)\n", "", equivalent=_BEHIND),
    Fault("dialects/analyses/scratch.py", "for sizes in dims]", "for sizes in dims[:1]]"),
    Fault("dialects/analyses/scratch.py", "matmuls.plan_fault(matmul_shape(op), plan, chip) is None", "False"),
    Fault(_SPLIT, "floordiv(core, count * stride) * (count * stride)", "floordiv(core, stride) * stride"),
    Fault(_SPLIT, "first = first + mod(core, stride)", "first = first + mod(core, count)"),
    Fault(_SPLIT, "CoresAttr.of(first, count, stride)", "CoresAttr.of(first, count, 1)"),
    Fault(_SPLIT, "if self.parts > 1 and self.chunk % self.tile:", "if self.parts > 1 and self.total % self.tile:"),
    Fault(_SPLIT, "            index = mod(index, count)", "            index = index"),
    Fault(
        _MATMUL_TILING,
        "int(parts.groups[0] * parts.trips_m[0] * parts.trips_n[0]) > 1",
        "int(parts.groups[0] * parts.trips_m[0]) > 1",
    ),
    Fault(_MATMUL_TILING, "if need > chip.lmem_tile_budget_bytes:", "if need > 2 * chip.lmem_tile_budget_bytes:"),
    Fault(_MATMUL_TILING, "np.where(merges, merged, 0), np.int64)", "np.where(merges, 0, 0), np.int64)"),
    Fault(
        _ATTENTION_TILING,
        "np.where(by_heads, 1, ceil_div(queries, parts))",
        "np.where(by_heads, 1, queries // parts)",
    ),
    Fault(_ATTENTION_TILING, "int(grid.problems[0] * grid.units[0]) > 1", "int(grid.problems[0]) > 1", "deepseek"),
    Fault(_ATTENTION_TILING, "if need > chip.lmem_tile_budget_bytes:", "if need > 2 * chip.lmem_tile_budget_bytes:"),
]

_UNROLL = [
    Fault("unroll_commands.py", 'columns["op"] = number', 'columns["op"] = 0'),
    Fault(
        "unroll_commands.py", 'place = np.asarray(columns["id"]) - 1', 'place = np.asarray(columns["order"]) % count'
    ),
    Fault("unroll_commands.py", "layer = first if self.layer < 0", "layer = first + 1 if self.layer < 0"),
    Fault("unroll_commands.py", "columns[name] = _code(name, value, op)", "columns[name] = 0"),
    Fault("unroll_commands.py", "kinds.setdefault(op.kind, len(kinds))", "kinds.setdefault(op.kind, 0)"),
    Fault(
        "unroll_commands.py",
        "waits[:, index] for index, engine in enumerate(g5.ENGINES)",
        "waits[:, 0] for index, engine in enumerate(g5.ENGINES)",
    ),
    Fault("unroll_commands.py", "runs = expand(program, [self.core], symbols)", "runs = expand(program, [0], symbols)"),
    Fault(
        "unroll_commands.py",
        "value if isinstance(value, int) else runs.value(value)",
        "0 if isinstance(value, int) else runs.value(value)",
    ),
]

_SPARSE = [
    Fault("expand_blocks/sparse_attention.py", "d, rope, d - rope)", "d, 0, d - rope)", "dsa"),
    Fault("expand_blocks/sparse_attention.py", "bool(op.index_rope_interleave)", "not op.index_rope_interleave", "dsa"),
    Fault("expand_blocks/sparse_attention.py", 'for n in ("weight", "bias")', 'for n in ("bias", "weight")', "dsa"),
    Fault("expand_blocks/sparse_attention.py", '"scale": mla_softmax_scale(op.head_dims[0] + rope, op.rope_scaling)',
          '"scale": mla_softmax_scale(rank + rope, op.rope_scaling)', "dsa"),
    Fault("expand_blocks/sparse_attention.py", "[[q_latent, found.q_rope], [latents, rotary_keys], latents]",
          "[[q_latent, found.q_rope], [found.latents, found.rotary_keys], found.latents]", "dsa"),
    Fault("quantize.py", "converter.convert_operand(op, query, tensor(key).element_type)", "pass", "dsa"),
    Fault("tiling/index_scores.py", "accumulate=int(piece > 0)", "accumulate=0", "dsa"),
    Fault("tiling/index_scores.py", "mod(unit, cuts.blocks) * tile_q", "mod(unit, cuts.blocks)", "dsa"),
    Fault("tiling/index_scores.py", "code.load(array, buffer, (sequence, key, 0), (1, keys, d))",
          "code.load(array, buffer, (0, key, 0), (1, keys, d))", "dsa"),
    Fault("tiling/index_scores.py", "floordiv(key, s.block)]", "0]", "dsa"),
    Fault("tiling/index_scores.py", "s.kind, queries * s.scores, keys,", "s.kind, queries, keys,", "blocks"),
    Fault("tiling/index_scores.py", "*of_heads, ceildiv(keys, s.block)))", "*of_heads, 1))", "blocks"),
    Fault("tiling/topk.py", "ExprAttr(key),", "ExprAttr(si),", "dsa"),
    Fault("tiling/topk.py", "code.load(scores, tile, (row, key), (count, columns))",
          "code.load(scores, tile, (row, 0), (count, columns))", "dsa"),
    Fault("tiling/gather.py", "floordiv(token, op.q_len.data)", "token", "dsa"),
    Fault("tiling/gather.py", "(unit, floordiv(row, block)), (1,", "(unit, 0), (1,", "dsa"),
    Fault("tiling/gather.py", "gather.kind.last, ExprAttr(head))", "gather.kind.last, ExprAttr(expr(0)))", "blocks"),
    Fault("tiling/gather.py", "[token, row, *(head for", "[token, row, *(0 for", "blocks"),
    Fault("tiling/attention.py", "return self.op.hides, self.op.last_slot(unit.sequence)",
          "return False, self.op.last_slot(unit.sequence)", "dsa"),
    Fault("emit_g5.py", "element = element + at.data * step", "element = element + at.data", "dsa"),
    Fault("emit_g5.py", '"stride": type_.steps[-2]', '"stride": type_.steps[-1]', "dsa"),
    Fault("dialects/analyses/index_tiling.py", "granule = int(np.lcm(chip.cube.m, chip.cube.n)) if cores_s > 1 else 1",
          "granule = 1", "dsa", equivalent="blocks of other sizes cost steps, not values"),
]  # fmt: skip

LATE = {"pipeline_loops": True}
FUSED = {"fuse_rows": True}
_PIPELINED = [
    Fault("pipeline_loops.py", "{symbol: expr(symbol) - 1}", "{symbol: expr(symbol)}", "llama", LATE),
    Fault("pipeline_loops.py", "expr(symbol) - count + 2", "expr(symbol) - count + 3", "llama", LATE),
    Fault("pipeline_loops.py", "in_last = min_of(max_of(expr(symbol) - count + 2",
          "in_last = min_of(max_of(expr(symbol) - count + 1", "llama", LATE),
    Fault("pipeline_loops.py", "before.get(value, value)", "value", "llama", LATE),
    Fault("pipeline_loops.py", "before[allocation.result] = previous.result",
          "before[allocation.result] = allocation.result", "llama", LATE),
    Fault("pipeline_loops.py", "min_of(expr(symbol), 1)", "expr(1)", "llama", LATE),
    Fault("pipeline_loops.py", "loop.body.block.detach_op(op)\n        last.add_op(op)", "last.add_op(op.clone())",
          "llama", LATE),
    Fault("emit_g5.py", "turn=self.turn - 1", "turn=self.turn", "llama", LATE),
    # Seen where values have one slot of their own and a loop has three trips: a plan drawn for DeepSeek has that.
    # With two slots the late half, which waits count as no trip, hides the wrong distance: those of Llama have two.
    Fault("emit_g5.py", "isinstance(a.value.owner, tile.PreviousOp)]", "False]", "deepseek", LATE),
    Fault(_HAZARDS, "return ((buffer in x.command.behind) - (buffer in y.command.behind)) % buffer.slots", "return 0",
          "deepseek", LATE),
    Fault(_HAZARDS, "distance = _iterations_apart(y, x, buffer, level) or (", "distance = (", "deepseek", LATE),
    Fault("emit_g5.py", "once=min_of(count, 1) == count", "once=True", "llama", LATE),
    Fault("allocate_lmem.py", "(op.slots.value.data - without) * buffer_type",
          "(op.slots.value.data - op.extra_slots) * buffer_type", "llama", LATE),
    Fault("fuse_rows.py", "rewriter.replace(add, [], [both.total])", "rewriter.replace(add, [], [both.y])",
          "deepseek", FUSED),
    Fault("fuse_rows.py", "[add.a, add.b, op.w]", "[add.a, add.a, op.w]", "deepseek", FUSED),
    Fault("fuse_rows.py", "rewriter.replace(op, [], [Rewriter.replace_value_with_new_type(value, op.y.type)])",
          "rewriter.replace(op, [], [value])", "deepseek", FUSED),
    Fault("fuse_rows.py", "not value.has_one_use() or ", "", "deepseek",
          {**FUSED, "quantization.keep": ["*.router.weight"]}),
]  # fmt: skip

GATED = {"fuse_rows": True, "fuse_gates": True}
_GATES = [
    Fault("fuse_gates.py", "[gate.x, gate.w, up.w]", "[gate.x, up.w, gate.w]", "llama", GATED),
    Fault("fuse_gates.py", "[op.y.type]", "[gate.y.type]", "deepseek", GATED),
    Fault("fuse_gates.py", "gate.w.type != up.w.type", "False", "deepseek",
          {**GATED, "quantization.activations": "bf16", "quantization.keep": ["*.up_proj.weight"]}),
    Fault("tiling/matmul.py", "self.code.mma(acc, a, block, size", "self.code.mma(acc, a, b[0], size", "llama", GATED),
    Fault("tiling/matmul.py", "width, added, [out])", "width, added[::-1], [out])", "llama", GATED),
    Fault("tiling/matmul.py", "strict=False):\n                code.load(array, buffer",
          "strict=False):\n                code.load(self.scratch[0], buffer", "llama", GATED),
    Fault("tiling/matmul.py", "code.fetch(acc, buffer,", "code.fetch(sums[0], buffer,", "llama", GATED),
    Fault("dialects/analyses/matmul_tiling.py", "need + shape.products * slots(acc_loops)", "need + slots(acc_loops)",
          "llama", GATED),
    Fault("dialects/analyses/matmul_tiling.py", "need + shape.products * slots(b_loops)", "need + slots(b_loops)",
          "llama", GATED),
]  # fmt: skip

AHEAD = {"prefetch_weights": True}
_AHEAD = [
    Fault("prefetch_weights.py", "{symbol: expr(0) for symbol in symbols}", "{symbol: expr(1) for symbol in symbols}",
          "llama", AHEAD),
    Fault("prefetch_weights.py", "for symbol in symbols), expr(0)), 1)",
          "for symbol in symbols[-1:]), expr(0)), 1)", "llama", AHEAD),
    Fault("prefetch_weights.py", "loop.count.data + 2, 0)", "loop.count.data + 1, 0)", "llama", AHEAD),
    Fault("prefetch_weights.py", "loop.count.data + 2, 0)", "loop.count.data + 3, 0)", "llama", AHEAD),
    Fault("prefetch_weights.py", "taker.cores.value.data < giver.cores.value.data", "False", "llama", AHEAD),
    Fault("prefetch_weights.py", "if kernel.cores.value.data > cores:", "if False:", "llama", AHEAD),
    Fault("prefetch_weights.py", "if not isinstance(op, LoadOp) or not _is_weight(op.memref)",
          "if not isinstance(op, LoadOp)", "llama", AHEAD),
    Fault("prefetch_weights.py", "h.span.start < span.stop and span.start < h.span.stop", "False", "llama", AHEAD),
    Fault("prefetch_weights.py", "min_of(expr(repeat.symbol.data) + 1, last)", "expr(repeat.symbol.data)", "llama",
          AHEAD),
    Fault("prefetch_weights.py", "min_of(expr(repeat.symbol.data) + 1, last)", "expr(repeat.symbol.data) + 1", "llama",
          AHEAD),
    Fault("prefetch_weights.py", "expr(repeat.first.value.data)}", "expr(repeat.first.value.data) + 1}", "llama",
          AHEAD),
    Fault("prefetch_weights.py", "if repeat is None else range(len(self.kernels))", "", "llama", AHEAD),
    Fault("allocate_lmem.py", "min(budget, free)", "budget", "llama", AHEAD,
          equivalent="what plans leave free is more than what is handed over"),
    Fault("emit_g5.py", "self.held * (1 - self.later)", "self.held", "llama", AHEAD),
    Fault("emit_g5.py", "own * self.later", "own", "llama", AHEAD),
    Fault("emit_g5.py", "if value not in loaded]", "if value in loaded]", "llama", AHEAD),
]  # fmt: skip

_RECURRENT = [
    Fault("expand_blocks/recurrent.py", "operands = [inputs, b, c, dt", "operands = [inputs, c, b, dt", "mamba"),
    Fault("expand_blocks/recurrent.py", '"silu", gate_first=True)', '"silu", gate_first=False)', "mamba"),
    Fault("expand_blocks/recurrent.py", '((q, "q"), (k, "k")))', '((q, "q"), (q, "k")))', "kda"),
    Fault("expand_blocks/recurrent.py", '{"activation": "silu"}', '{"activation": "none"}', "kda"),
    Fault("expand_blocks/recurrent.py", 'f"{name}_conv_state"', '"q_conv_state"', "kda"),
    Fault("expand_blocks/recurrent.py", 'op.head_dim, "sigmoid")', 'op.head_dim, "silu")', "kda"),
    Fault("expand_blocks/recurrent.py", 'build.matmul(x, "g_a_proj")', 'build.matmul(x, "f_a_proj")', "kda"),
    Fault("expand_blocks/recurrent.py", "1 / math.sqrt(key_dim.value.data)", "1 / key_dim.value.data", "gated_delta"),
    Fault("tiling/recurrence.py", "code.store(new_state, held, place, size)",
          "code.store(new_state, held, (0, head * state_rows, 0), size)", "mamba"),
    Fault("tiling/recurrence.py", "(sequence, head * state_rows, 0), (1", "(sequence, head, 0), (1", "kda"),
    Fault("tiling/recurrence.py", "(sequence, token, head * wide)", "(sequence, token, head)", "kda"),
    Fault("tiling/recurrence.py", "op.number_columns, strict=True)", "(1,) * op.NUMBERS, strict=True)", "kda"),
    Fault("tiling/recurrence.py", "(sequence, token, group * widths[1])", "(sequence, token, head * widths[1])",
          "gated_delta"),
    Fault("tiling/recurrence.py", "head = group * r.group_heads + s", "head = group + s", "gated_delta"),
    Fault("dialects/analyses/recurrence_tiling.py", "tuple(columns * b for", "tuple(b for", "kda"),
    Fault("dialects/analyses/recurrence_tiling.py", "total += size(heads * r.state_bits, many)",
          "total += size(r.state_bits, many)", "kda"),
    Fault("dialects/analyses/recurrence_tiling.py", "        op.heads // op.groups,", "        op.heads,",
          "gated_delta"),
    Fault("dialects/analyses/recurrence_tiling.py", "Split.over(r.q_len, 1, tokens)", "Split.over(r.q_len, 1, 1)",
          "kda", equivalent="tokens one by one cost commands, not values"),
    Fault("tiling/causal_conv.py", "code.store(after, history, (sequence, 0, channel), (1, conv.taps - 1, wide))",
          "code.store(after, history, (sequence, 0, channel), (1, 1, wide))", "mamba"),
    Fault("tiling/causal_conv.py", "code.load(state, history, (sequence, 0, channel)",
          "code.load(state, history, (0, 0, channel)", "kda"),
    Fault("tiling/causal_conv.py", "code.load(taps, weight, (0, channel)", "code.load(taps, weight, (0, 0)", "kda"),
    Fault("dialects/analyses/conv_tiling.py", "for bits in (conv.x_bits, conv.y_bits))", "for bits in (conv.x_bits,))",
          "mamba"),
]  # fmt: skip
ONE_RANK = {"tp": 1}
_COMPRESSED = [
    Fault("expand_blocks/compressed_attention.py", '"stride": ratio}', '"stride": 1}', "compressed", ONE_RANK),
    Fault("expand_blocks/compressed_attention.py", ", inverse=UnitAttr())", ")", "compressed", ONE_RANK),
    Fault("expand_blocks/compressed_attention.py", '"tokens": KV_LEN}', '"tokens": KV_LEN - Q_LEN + 1}', "compressed",
          ONE_RANK),
    Fault("tiling/compress.py", "(first_row - back * work.ratio)", "first_row", "compressed", ONE_RANK),
    Fault("tiling/compress.py", "column + series * work.columns), (work.ratio", "column), (work.ratio", "compressed",
          ONE_RANK),
    Fault("tiling/attention.py", "unit.query + unit.queries, s.ratio)", "unit.query, s.ratio)", "compressed", ONE_RANK),
]  # fmt: skip

FAULTS: tuple[Fault, ...] = (
    *_EXPAND, *_QUANTIZE, *_SHARD, *_TILES, *_MEMORY, *_EMIT, *_PLANS, *_SPARSE, *_UNROLL, *_PIPELINED, *_GATES,
    *_AHEAD, *_RECURRENT, *_COMPRESSED,
)  # fmt: skip
