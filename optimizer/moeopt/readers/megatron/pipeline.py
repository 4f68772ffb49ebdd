"""Megatron-LM's arguments of pipelines -> vpp, the interleaved group and the layout string.

Source: Megatron-LM d98e8a6, megatron/training/arguments.py:920-1018 (virtual stages).
"""

from collections.abc import Sequence

from moeopt.errors import InputError
from moeopt.pipeline import PipelineLayout
from moeopt.readers.flags import Flags
from moeopt.readers.megatron.hybrid import hybrid_segments
from moeopt.readers.reading import Reading


def read_pipeline(flags: Flags, reading: Reading) -> None:
    """Virtual stages and the layout string. What Megatron would refuse raises InputError with its equation."""
    layout, pp = reading.layout, reading.layout["pp"]
    string = flags.joined("pipeline-model-parallel-layout")
    given = [
        name
        for name in (
            "num-layers-per-virtual-pipeline-stage",
            "num-virtual-stages-per-pipeline-rank",
            "pipeline-model-parallel-layout",
        )
        if flags.given(name)
    ]
    if len(given) > 1:
        raise InputError(f"--{given[0]}: given together with --{given[1]}, and Megatron takes one of them")
    group = flags.integer("microbatch-group-size-per-virtual-pipeline-stage")
    if group is not None:
        layout["interleave_group"] = group
    if string is not None:
        layout["pipeline_layout"] = string
        layout["vpp"] = PipelineLayout.parse(string, pp).vpp
        return
    ends = {name: flags.integer(f"decoder-{name}-pipeline-num-layers") for name in ("first", "last")}
    embedding = flags.on("account-for-embedding-in-pipeline-split")
    loss = flags.on("account-for-loss-in-pipeline-split")
    layers, modules = _layers(reading)
    segments = hybrid_segments(flags)
    if len(segments) > 1:
        pipeline = _cut_by_bars(segments, pp, modules)
        layout["vpp"], layout["pipeline_layout"] = pipeline.vpp, str(pipeline)
        return
    layout["vpp"] = _virtual_stages(flags, layers, pp)
    if layers is None:
        if any(ends.values()) or embedding or loss:
            reading.note("the split of layers over stages is not read: the file gives no --num-layers")
        return
    uneven = any(ends.values()) or embedding or loss
    if not uneven and layers % (pp * layout["vpp"]):
        return  # no even split: the rule about it says so, with its equation
    pipeline = PipelineLayout.from_megatron_options(
        layers,
        pp,
        layout["vpp"],
        mtp=modules,
        first=ends["first"],
        last=ends["last"],
        account_for_embedding=embedding,
        account_for_loss=loss,
    )
    layout["pipeline_layout"] = str(pipeline)


def _layers(reading: Reading) -> tuple[int | None, int]:
    """Decoder layers and MTP modules: those that the file gives, or those of the architecture that it names."""
    fields = reading.architecture
    if not fields and reading.preset is not None:
        from moeopt.problem.loading import preset_fields

        fields = {**preset_fields("architectures", reading.preset), **reading.changes}
    modules = fields.get("num_nextn_predict_layers") or 0
    return fields.get("num_hidden_layers"), modules if reading.workload.get("mtp", True) else 0


def _cut_by_bars(segments: Sequence[str], pp: int, mtp: int) -> PipelineLayout:
    """A hybrid's chunks; its MTP modules are in the last. Raises InputError where they do not divide by the stages."""
    if len(segments) % pp:
        raise InputError(
            f"--hybrid-layer-pattern: {len(segments)} segments % pp {pp} = {len(segments) % pp}, must be 0"
        )
    return PipelineLayout.from_counts(pp, [len(segment) for segment in segments], mtp)


def _virtual_stages(flags: Flags, layers: int | None, pp: int) -> int:
    stages = flags.integer("num-virtual-stages-per-pipeline-rank")
    if stages is not None:
        return stages
    each = flags.integer("num-layers-per-virtual-pipeline-stage")
    if each is None or pp == 1:
        return 1
    if layers is None:
        raise InputError(
            "--num-layers-per-virtual-pipeline-stage: without --num-layers the number of stages is not known"
        )
    if each < 1 or layers % (pp * each):
        raise InputError(
            f"--num-layers-per-virtual-pipeline-stage: --num-layers {layers} % (pp {pp} * {each}) = "
            f"{layers % (pp * each) if each > 0 else layers}, must be 0"
        )
    return layers // (pp * each)
