"""Pipeline layouts: which layers each stage and chunk holds, in Megatron's string grammar.

`E` embedding, `t` decoder layer, `m` MTP module, `L` loss (with the output head), `|` stage break, `,` cosmetic;
`(xyz)*n` and `x*n` repeat. Stages are listed chunk by chunk: stage index i sits on pipeline rank i % pp as that
rank's chunk i // pp. Source: megatron/core/transformer/pipeline_parallel_layer_layout.py.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from moeopt.errors import InputError

_GROUP = re.compile(r"\(([^()]*)\)\*(\d+)")
_SINGLE = re.compile(r"([EtmL|])\*(\d+)")
_LONGEST = 100_000
"""Characters of an unrolled layout: far above any model, far below what would exhaust memory."""


@dataclass(frozen=True)
class Chunk:
    """What one (rank, chunk) holds: decoder layers `first` to `first + layers - 1`, and the special pieces."""

    first: int
    layers: int
    embedding: bool = False
    mtp: int = 0
    loss: bool = False

    @property
    def last(self) -> int:
        """One past the last decoder layer."""
        return self.first + self.layers


@dataclass(frozen=True)
class PipelineLayout:
    """Chunks in model order (chunk by chunk, rank by rank): `chunks[c * pp + r]` is rank r's chunk c."""

    pp: int
    chunks: tuple[Chunk, ...]

    @property
    def vpp(self) -> int:
        """Chunks a rank."""
        return len(self.chunks) // self.pp

    @property
    def mtp(self) -> int:
        """MTP modules in all."""
        return sum(chunk.mtp for chunk in self.chunks)

    def of_rank(self, rank: int) -> tuple[Chunk, ...]:
        """The chunks of one pipeline rank, first chunk first."""
        return self.chunks[rank :: self.pp]

    @classmethod
    def from_counts(
        cls, pp: int, counts: Sequence[int], mtp: int = 0, mtp_stage: int | None = None
    ) -> "PipelineLayout":
        """From decoder layers a stage; the embedding sits on the first stage, the loss on the last.

        `mtp_stage` is the stage index of the MTP modules (default: the last).
        """
        starts = [0, *accumulate(counts)]
        last = len(counts) - 1
        mtp_stage = last if mtp_stage is None else mtp_stage
        return cls(
            pp,
            tuple(
                Chunk(starts[i], n, embedding=i == 0, mtp=mtp if i == mtp_stage else 0, loss=i == last)
                for i, n in enumerate(counts)
            ),
        )

    @classmethod
    def even(cls, layers: int, pp: int, vpp: int = 1, mtp: int = 0) -> "PipelineLayout | None":
        """The split that Megatron makes when told nothing: equal stages; None where pp * vpp does not divide."""
        if layers % (pp * vpp):
            return None
        return cls.from_counts(pp, [layers // (pp * vpp)] * (pp * vpp), mtp)

    @classmethod
    def nearly_even(cls, layers: int, pp: int, vpp: int = 1, mtp: int = 0) -> "PipelineLayout | None":
        """Stages that differ by at most one layer, the shorter ones at both ends, where loss and embedding are; None
        where there are more stages than layers."""
        stages = pp * vpp
        base, longer = divmod(layers, stages)
        if not base:
            return None
        at_end, at_start = -(-(stages - longer) // 2), (stages - longer) // 2
        counts = [base] * at_start + [base + 1] * longer + [base] * at_end
        return cls.from_counts(pp, counts, mtp)

    @classmethod
    def parse(cls, text: str, pp: int) -> "PipelineLayout":
        """Read Megatron's string. Raises InputError with the part that is wrong; counts are checked by the rules."""
        flat = unroll(text)
        parts = flat.split("|")
        if len(parts) % pp:
            raise InputError(f"pipeline_layout: {len(parts)} stages is not a multiple of pp {pp}: {text!r}")
        if flat.replace("|", "")[:1] != "E" or flat.count("E") != 1 or not parts[0].startswith("E"):
            raise InputError(f"pipeline_layout: needs exactly one E, at the very start: {text!r}")
        if not flat.endswith("L") or flat.count("L") != 1:
            raise InputError(f"pipeline_layout: needs exactly one L, at the very end: {text!r}")
        if "m" in flat and "t" in flat[flat.index("m") :]:
            raise InputError(f"pipeline_layout: every m must come after the last t: {text!r}")
        if sum("m" in part for part in parts) > 1:
            raise InputError(f"pipeline_layout: all m must be in one stage: {text!r}")
        counts = [part.count("t") for part in parts]
        mtp_stage = next((i for i, part in enumerate(parts) if "m" in part), None)
        return cls.from_counts(pp, counts, flat.count("m"), mtp_stage)

    @classmethod
    def from_megatron_options(
        cls,
        layers: int,
        pp: int,
        vpp: int = 1,
        *,
        mtp: int = 0,
        first: int | None = None,
        last: int | None = None,
        account_for_embedding: bool = False,
        account_for_loss: bool = False,
        layout: str | None = None,
    ) -> "PipelineLayout":
        """The layout that Megatron-LM's command-line options describe; InputError for what Megatron refuses.

        `first` and `last` are --decoder-first/last-pipeline-num-layers, `account_for_*` the options of that name,
        `layout` --pipeline-model-parallel-layout. Refused too, though Megatron does not ask: options that leave stages
        a negative number of layers. Sources (Megatron-LM d98e8a6): transformer_config.py:2229-2415,
        transformer_block.py:99-205.
        """
        uneven = first is not None or last is not None
        accounted = account_for_embedding or account_for_loss
        if uneven and accounted:
            raise InputError("pipeline options: first and last exclude account_for_embedding and account_for_loss")
        if layout is not None and (uneven or accounted):
            raise InputError("pipeline options: a layout string excludes first, last and account_for_*")
        if vpp > 1 and pp == 1:
            raise InputError(f"pipeline options: vpp {vpp} needs pp above 1, got pp {pp}")
        if layout is not None:
            return cls.parse(layout, pp)
        ranks = (
            uneven_ranks(layers, pp, first, last)
            if uneven
            else even_ranks(layers + account_for_embedding + account_for_loss, pp)
        )
        counts = _chunks(ranks, vpp) * vpp
        counts[0] -= account_for_embedding
        counts[-1] -= account_for_loss
        if min(counts) < 0:
            raise InputError(f"pipeline options: a stage is left with {min(counts)} layers")
        return cls.from_counts(pp, counts, mtp)

    def __str__(self) -> str:
        """Megatron's string, shortened by runs: `Et*4|(t*4|)*14tmL`."""
        stages = [
            "E" * chunk.embedding + _run("t", chunk.layers) + _run("m", chunk.mtp) + "L" * chunk.loss
            for chunk in self.chunks
        ]
        text = ""
        for stage, group in groupby(stages[:-1]):
            times = len(list(group))
            text += f"({stage}|)*{times}" if times > 1 and stage else f"{stage}|" * times
        return text + stages[-1]


def even_ranks(layers: int, pp: int) -> list[int]:
    """Layers of each rank in an even split. Raises InputError where pp does not divide."""
    if layers % pp:
        raise InputError(f"pipeline options: layers {layers} % pp {pp} = {layers % pp}, must be 0")
    return [layers // pp] * pp


def uneven_ranks(layers: int, pp: int, first: int | None, last: int | None) -> list[int]:
    """Layers of each rank where the first or last rank's are given and the ranks between share the rest evenly."""
    ends = [given for given in (first, last) if given is not None]
    if any(given <= 0 for given in ends):
        raise InputError(f"pipeline options: first and last must be above 0, got {min(ends)}")
    rest, ranks = layers - sum(ends), pp - len(ends)
    if ranks < 0 or rest < 0 or bool(rest) != bool(ranks):
        raise InputError(
            f"pipeline options: {layers} layers - {' - '.join(map(str, ends))} = {rest} for {ranks} ranks between"
        )
    if ranks and rest % ranks:
        raise InputError(f"pipeline options: {rest} layers % {ranks} ranks between = {rest % ranks}, must be 0")
    middle = [rest // ranks] * ranks if ranks else []
    return [*([first] if first is not None else []), *middle, *([last] if last is not None else [])]


def _chunks(ranks: list[int], vpp: int) -> list[int]:
    """Layers of one chunk of each rank."""
    for layers in ranks:
        if layers % vpp:
            raise InputError(f"pipeline options: layers per rank {layers} % vpp {vpp} = {layers % vpp}, must be 0")
    return [layers // vpp for layers in ranks]


def unroll(text: str) -> str:
    """The string with every repetition written out. Raises InputError on anything outside the grammar."""
    if not isinstance(text, str):
        raise InputError(f"pipeline_layout: {text!r} is not a string")
    compact = re.sub(r"[\s,]", "", text)
    if any(int(times) > _LONGEST for times in re.findall(r"\*(\d{1,30})", compact)) or len(compact) > _LONGEST:
        raise InputError(f"pipeline_layout: longer than {_LONGEST} pieces")
    flat = _GROUP.sub(lambda match: match[1] * min(int(match[2]), _LONGEST), compact)
    if len(flat) > 10 * _LONGEST:
        raise InputError(f"pipeline_layout: longer than {_LONGEST} pieces")
    flat = _SINGLE.sub(lambda match: match[1] * int(match[2]), flat)
    wrong = sorted(set(flat) - set("EtmL|"), key=lambda letter: (letter in "*()0123456789", letter))
    if wrong:
        raise InputError(f"pipeline_layout: {wrong[0]!r} is outside the grammar (E t m L | and *n): {text!r}")
    return flat


def _run(letter: str, times: int) -> str:
    if times <= 2:
        return letter * times
    return f"{letter}*{times}"
