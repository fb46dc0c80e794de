"""Hugging Face configurations to the `model` dialect.

The families stand in `families.py`, in the words of `readings.py`.  A missing or mistyped field is an error, and so is
one that nothing here reads and that is not known to be harmless (`fields.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import cast

from xdsl.dialects.builtin import (
    BFloat16Type,
    FileLineColLoc,
    Float16Type,
    Float32Type,
    IntAttr,
    ModuleOp,
    StringAttr,
    i32,
)
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.utils.exceptions import VerifyException

from pmc.compiler.config import ConfigError
from pmc.compiler.frontend import family as parts
from pmc.compiler.frontend.families import FAMILIES, WRAPPERS
from pmc.compiler.frontend.family import Family, layer_kinds
from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.layer_groups import Group, Period, Run, Turns, layer_groups
from pmc.compiler.frontend.readings import Properties, properties
from pmc.compiler.frontend.stored_types import StoredLayers, stored_layers
from pmc.compiler.frontend.wrapper import encoders, language_model
from pmc.dialects import model
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.checkpoint import CHECKPOINT, Checkpoint, CheckpointAttr, StoredTypes
from pmc.dialects.drafting import DRAFT
from pmc.dialects.expr import expr
from pmc.dialects.schema import did_you_mean
from pmc.dialects.structure import shares_attr
from pmc.dialects.tensor import TensorType

DTYPES: dict[str, Attribute] = {
    "bfloat16": BFloat16Type(),
    "float16": Float16Type(),
    "float32": Float32Type(),
}
"""The element types of `torch_dtype`."""

LISTED = "that `pmc list architectures` shows"


def import_hf(config: Mapping[str, object], source: str, name: str) -> ModuleOp:
    """The `model` dialect module of a Hugging Face config.

    `source` is the file or preset that error messages name; `name` becomes the symbol of the model.  Raises
    ConfigError for an unknown architecture and for missing, mistyped, unsupported or unknown fields.
    """
    whole = Fields(config, source)
    architecture = _architecture(whole)
    wrapped = WRAPPERS.get(architecture)
    family = FAMILIES[wrapped or architecture]
    fields = Fields(config, source, names=family.names) if wrapped is None else language_model(whole, architecture)
    fields.value("architectures")
    for feature in ("is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder"):
        fields.unsupported_unless(feature, False)
    fields.unsupported_unless("pruned_heads", {})
    fields.refuse(family.unsupported)
    for field, allowed in family.only.items():
        fields.unsupported_unless(field, allowed(fields) if callable(allowed) else allowed)
    for field in family.unused:
        fields.value(field)
    for field, types in family.lists.items():
        layer_kinds(fields, field, dict.fromkeys(types, ""))
    layers = stored_layers(fields, family)
    module = _Import(fields, family, layers, architecture, name).module()
    _read_other_layers(fields, family)
    beside = () if wrapped is None else encoders(whole)
    module.attributes[CHECKPOINT] = CheckpointAttr(_checkpoint(fields, family, beside, layers.stored(module)))
    fields.refuse_unread(architecture)
    return module


def _architecture(fields: Fields) -> str:
    """The architecture of a config.  Raises ConfigError unless it is one that is known."""
    known = [*FAMILIES, *WRAPPERS]
    names = fields.value("architectures")
    if not isinstance(names, list) or len(cast(list[object], names)) != 1:
        raise fields.fail("architectures", f"expected a list of one of those {LISTED}, found {names!r}")
    found = cast(list[object], names)[0]
    if isinstance(found, str) and found in known:
        return found
    nested = fields.config.get("text_config")
    language = fields.block("text_config") if isinstance(nested, Mapping) else None
    inner = None if language is None else language.value("architectures")
    known_inner = [name for name in cast(list[object], inner) if name in FAMILIES] if isinstance(inner, list) else []
    if language is not None and known_inner:
        language.refuse(FAMILIES[cast(str, known_inner[0])].unsupported)
        raise fields.fail(
            "text_config",
            f"the language model inside of {found!r} is not read; to look at it alone, save this block as a "
            "config.json of its own",
        )
    near = did_you_mean(found, known) if isinstance(found, str) else ""
    raise fields.fail("architectures", f"{found!r} is not one of those {LISTED}{near}")


def architectures() -> dict[str, str]:
    """What is known, and the kinds of layers of each."""
    described = {
        name: "layers as the file says"
        if callable(family.layers)
        else "; ".join(f"{kind}: {', '.join(b.name for b in blocks)}" for kind, blocks in family.layers.items())
        for name, family in FAMILIES.items()
    }
    return {**described, **{name: f"the language model is as {inner}" for name, inner in WRAPPERS.items()}}


def _checkpoint(fields: Fields, family: Family, beside: tuple[str, ...], stored: StoredTypes | None) -> Checkpoint:
    """What the file says besides the blocks."""
    positions = fields.integer("max_position_embeddings") if fields.present("max_position_embeddings") else None
    return Checkpoint(
        longest_context=family.full_rope(fields).longest_context(positions),
        mtp_layers=_mtp_layers(fields, family),
        encoders=beside,
        stored=stored,
    )


def _mtp_layers(fields: Fields, family: Family) -> int:
    """The layers of multi-token prediction that the file counts."""
    return fields.integer(family.mtp_layers, 0) if fields.present(family.mtp_layers) else 0


def _read_other_layers(fields: Fields, family: Family) -> None:
    """Note as read what only layers of a kind would read that this model has none of."""
    kinds = family.kinds(fields)
    for kind in set(kinds) - set(family.order(fields)):
        blocks = [inner for block in kinds[kind] for inner in (block, *block.beside)]
        for reading in (reading for block in blocks for reading in (*block.rows.values(), block.rope)):
            with suppress(ConfigError):
                reading(fields)


def _dtype(fields: Fields, family: Family) -> str:
    """The element type of the model: `dtype`, which newer versions of transformers write for `torch_dtype`."""
    given = [name for name in ("dtype", "torch_dtype") if fields.present(name)]
    found = {fields.choice(name, DTYPES) for name in given}
    if len(found) > 1:
        raise fields.fail("dtype", f"{fields.value('dtype')!r} is not the torch_dtype {fields.value('torch_dtype')!r}")
    return found.pop() if found else family.dtype or fields.choice("torch_dtype", DTYPES)


class _Import:
    """One import: the ops at the current insertion block, and the row type that flows between blocks."""

    def __init__(self, fields: Fields, family: Family, layers: StoredLayers, architecture: str, name: str) -> None:
        self.fields = fields
        self.family = family
        self.architecture = architecture
        self.name = name
        self.hidden = fields.integer("hidden_size")
        self.vocab = fields.integer("vocab_size")
        self.dtype = DTYPES[_dtype(fields, family)]
        self.layers = layers
        self.selected: SSAValue | None = None
        """The keys that a block of the current layer has selected."""
        self.tokens_here: list[SSAValue] = []
        """The ids of the tokens, as the body that is being built has them."""
        self.kinds = Counter[str]()
        """How many repeats of each kind there are so far."""
        self.tokens = expr("batch") * expr("q_len")
        # The base name only: a dump must not depend on where the file lies.
        self.location = FileLineColLoc(StringAttr(PurePath(fields.source).name), IntAttr(1), IntAttr(1))

    def rows(self, width: int) -> TensorType:
        return TensorType.of([self.tokens, width], self.dtype)

    def add(self, block: Block, op: Operation) -> Operation:
        """Append a block op; sizes that do not fit together are an error of the file."""
        try:
            op.verify_()
        except VerifyException as error:
            raise ConfigError(self.fields.source, str(error)) from None
        op.location = self.location
        block.add_op(op)
        return op

    def module(self) -> ModuleOp:
        fields, family = self.fields, self.family
        body = Block(arg_types=[TensorType.of([self.tokens], i32)])
        self.tokens_here = list(body.args)
        embedding = model.EmbeddingOp.make(
            [body.args[0]], [self.rows(self.hidden)], "embed", {"vocab_size": self.vocab}
        )
        x: SSAValue = self.add(body, embedding).results[0]
        x = self.rows_of(body, x, family.embedding, "embed")
        if family.streams:
            x = self.streams(body, model.CopyStreamsOp, [x], "embed.streams")
        for group in layer_groups(self.layers.order):
            x = self.group(body, x, group)
        tied = fields.boolean("tie_word_embeddings") if fields.present("tie_word_embeddings") else family.tied
        if family.streams:
            x, _ = self.collapsed(body, x, "lm_head.streams", before_head=True)
        x = self.norm(body, x, "lm_head.norm")
        head = model.LmHeadOp.make([x], [self.rows(self.vocab)], "lm_head", {"tied": "embed.weight" if tied else None})
        logits = self.rows_of(body, self.add(body, head).results[0], family.logits, "lm_head")
        self.add(body, model.YieldOp.make([[logits]], [], self.name))
        llm = model.LlmOp.make(
            [],
            [],
            self.name,
            {
                "sym_name": self.name,
                "architecture": self.architecture,
                "hidden_size": self.hidden,
                "vocab_size": self.vocab,
                "dtype": self.dtype,
            },
            [Region(body)],
        )
        llm.location = self.location
        drafts = family.drafts and _mtp_layers(fields, family) == 1
        return ModuleOp([llm, self.draft(tied)] if drafts else [llm])

    def draft(self, tied: bool) -> model.DraftOp:
        """The layer that drafts tokens (DeepSeek-V3 report, section 2.2; deepseek_mtp.py of vLLM)."""
        rows = self.rows(self.hidden)
        body = Block(arg_types=[TensorType.of([self.tokens], i32), rows])
        given: dict[str, PropertyValue] = {"vocab_size": self.vocab, "shared": "embed.weight"}
        e: SSAValue = self.add(body, model.EmbeddingOp.make([body.args[0]], [rows], f"{DRAFT}.embed", given)).results[0]
        e = self.norm(body, self.rows_of(body, e, self.family.embedding, f"{DRAFT}.embed"), f"{DRAFT}.enorm")
        h = self.norm(body, body.args[1], f"{DRAFT}.hnorm")
        x: SSAValue = self.add(body, model.EhProjOp.make([e, h], [rows], f"{DRAFT}.eh_proj")).results[0]
        self.selected = None
        for block in self.layers.kinds[self.layers.order[-1]]:
            x = self.sublayer(body, x, block, f"{DRAFT}.{block.name}")
        x = self.norm(body, self.rows_of(body, x, self.family.behind_layer, DRAFT), f"{DRAFT}.head.norm")
        shared = {"tied": "embed.weight"} if tied else {"shared": "lm_head.proj.weight"}
        head = model.LmHeadOp.make([x], [self.rows(self.vocab)], f"{DRAFT}.head", shared)
        logits = self.rows_of(body, self.add(body, head).results[0], self.family.logits, f"{DRAFT}.head")
        self.add(body, model.YieldOp.make([[logits, x]], [], DRAFT))
        op = model.DraftOp.make([], [], DRAFT, {}, [Region(body)])
        op.location = self.location
        return op

    def rows_of(self, body: Block, x: SSAValue, blocks: tuple[parts.Block, ...], path: str) -> SSAValue:
        """One op on rows after the other; a factor of 1 is none."""
        for block in blocks:
            given = block.properties(self.fields)
            if given.get("factor") != 1.0:
                x = self.add(body, block.op.make([x], [x.type], f"{path}.{block.name}", given)).results[0]
        return x

    def group(self, body: Block, x: SSAValue, group: Group) -> SSAValue:
        """Layers as they are grouped."""
        match group:
            case Run():
                return self.run(body, x, group)
            case Period():
                return self.period(body, x, group)
            case Turns():
                return self.turns(body, x, group)

    def run(self, body: Block, x: SSAValue, run: Run, shares: Sequence[int] | None = None) -> SSAValue:
        """Layers of one kind, each of which maps rows of the hidden size to the same."""
        path = self.path(run.kind)

        def layer(inner: Block, value: SSAValue) -> SSAValue:
            self.selected = None
            for block in self.layers.kinds[run.kind]:
                value = self.sublayer(inner, value, block, f"{path}.{block.name}")
            return self.rows_of(inner, value, self.family.behind_layer, path)

        return self.repeat(body, x, path, run.count, layer, self.reads_tokens(run.kind), shares)

    def period(self, body: Block, x: SSAValue, period: Period) -> SSAValue:
        """A group of layers that recurs."""

        def group(inner: Block, value: SSAValue) -> SSAValue:
            for run in period.runs:
                value = self.run(inner, value, run)
            return value

        reads_tokens = any(self.reads_tokens(run.kind) for run in period.runs)
        return self.repeat(body, x, self.path("period"), period.count, group, reads_tokens)

    def turns(self, body: Block, x: SSAValue, turns: Turns) -> SSAValue:
        """Kinds of layers that take turns."""

        def turn(inner: Block, value: SSAValue) -> SSAValue:
            for kind, shares in zip(turns.kinds, turns.shares, strict=True):
                value = self.run(inner, value, Run(kind, sum(shares)), shares)
            return value

        reads_tokens = any(self.reads_tokens(kind) for kind in turns.kinds)
        return self.repeat(body, x, self.path("turns"), turns.count, turn, reads_tokens)

    def reads_tokens(self, kind: str) -> bool:
        """Whether a block of layers of a kind takes the ids of the tokens."""
        return any(block.reads_tokens for block in self.layers.kinds[kind])

    def path(self, kind: str) -> str:
        """`blocks.KIND` for the first repeat of a kind, numbered from 2 on for the next ones."""
        self.kinds[kind] += 1
        return f"blocks.{kind}{self.kinds[kind] if self.kinds[kind] > 1 else ''}"

    def repeat(
        self,
        body: Block,
        x: SSAValue,
        path: str,
        count: int,
        build: Callable[[Block, SSAValue], SSAValue],
        reads_tokens: bool,
        shares: Sequence[int] | None = None,
    ) -> SSAValue:
        """A repeat whose body is built on the rows of an iteration, and takes the ids of the tokens along."""
        carried = [x, *(self.tokens_here if reads_tokens else ())]
        inner = Block(arg_types=[value.type for value in carried])
        outside = self.tokens_here
        self.tokens_here = [*inner.args[1:]]
        yielded = [build(inner, inner.args[0]), *self.tokens_here]
        self.tokens_here = outside
        self.add(inner, model.YieldOp.make([yielded], [], path))
        properties: dict[str, PropertyValue] = {"count": count, "shares": shares_attr(shares)}
        op = model.RepeatOp.make([carried], [v.type for v in carried], path, properties, [Region(inner)])
        return self.add(body, op).results[0]

    def sublayer(self, block: Block, x: SSAValue, part: parts.Block, path: str) -> SSAValue:
        """x + f(x), f a block with the norms of the family; or its streams with what f of them adds."""
        norms, streams, weights = self.family.norms, x, None
        if self.family.streams:
            x, weights = self.collapsed(block, streams, f"{path}.streams")
        result = self.normed(block, x, part, path)
        if part.beside:
            layer = path.rpartition(".")[0]
            for other in part.beside:
                added = self.normed(block, x, other, f"{layer}.{other.name}")
                result = self.add(
                    block, model.AddOp.make([result, added], [x.type], f"{layer}.{other.name}.add")
                ).results[0]
                path = f"{path}_and_{other.name}"
            if norms != "before":
                result = self.norm(block, result, f"{path}.post_norm")
        factor = 1.0 if self.family.residual is None else self.family.residual(self.fields)
        if factor != 1.0:
            scale = model.ScaleOp.make([result], [x.type], f"{path}.scale", {"factor": factor})
            result = self.add(block, scale).results[0]
        if weights is not None:
            return self.streams(block, model.MixStreamsOp, [streams, result, weights], f"{path}.streams.mix")
        return self.add(block, model.AddOp.make([x, result], [x.type], f"{path}.residual")).results[0]

    def normed(self, block: Block, x: SSAValue, part: parts.Block, path: str) -> SSAValue:
        """f(x), f a block with the norms of the family."""
        norms = self.family.norms
        before = x if norms == "behind" or part.own_norms else self.norm(block, x, f"{path}.norm")
        result = self.block(block, before, part, path)
        return result if norms == "before" else self.norm(block, result, f"{path}.post_norm")

    def collapsed(self, block: Block, x: SSAValue, path: str, before_head: bool = False) -> tuple[SSAValue, SSAValue]:
        """What a block reads of streams, and the weights with which it reads and will write them."""
        given = properties(self.family.streams, self.fields)
        if before_head:
            del given["hc_sinkhorn_iters"]
        weights = self.streams(block, model.StreamWeightsOp, [x], f"{path}.weights", given)
        return self.streams(block, model.CollapseStreamsOp, [x, weights], f"{path}.collapse"), weights

    def streams(
        self,
        block: Block,
        kind: type[model.StreamsOp],
        operands: list[SSAValue],
        path: str,
        given: Properties | None = None,
    ) -> SSAValue:
        """An op on streams, whose result follows from its operands."""
        given = given or {"hc_mult": self.family.streams["hc_mult"](self.fields)}
        return self.add(block, kind.of(operands, path, given)).results[0]

    def block(self, block: Block, x: SSAValue, part: parts.Block, path: str) -> SSAValue:
        """The op of a block; keys that it selects are kept for the blocks behind it."""
        given = part.properties(self.fields)
        operands = [x, self.selected] if part.takes and self.selected is not None else [x]
        operands += self.tokens_here if part.reads_tokens else []
        results = [x.type]
        if part.selects:
            results.append(model.DsaOp.selection(self.tokens, self.fields.integer("index_topk")))
        op = self.add(block, part.op.make(operands, results, path, given))
        if part.selects:
            self.selected = op.results[1]
        return op.results[0]

    def norm(self, block: Block, x: SSAValue, path: str) -> SSAValue:
        """The norm at `path`."""
        norm = model.NormOp.make([x], [x.type], path, properties(self.family.norm, self.fields))
        return self.add(block, norm).results[0]
