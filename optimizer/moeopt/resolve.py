"""From a layout as given to a complete one: derived degrees, interleave group and pipeline layout filled in.

A derived degree that is given and contradicts the others is bad input (InputError). A grid that does not divide is not:
the layout is illegal, the degree stays None, and the framework's rules say which equation is broken.
"""

from moeopt.errors import InputError
from moeopt.layout import Degrees, Layout
from moeopt.pipeline import PipelineLayout, unroll
from moeopt.problem.base import read_fields
from moeopt.problem.problem import Problem


def complete(problem: Problem, layout: Layout, strict: bool = True) -> Layout:
    """The layout with dp, edp, num_microbatches, etp, vpp, interleave_group and pipeline_layout filled in.

    What cannot be derived (a grid or a batch that does not divide) stays None. With `strict` a given dp that
    contradicts the problem's exact GPU count raises InputError; without, the layout's own degrees give the GPU total
    (`own_gpus`) and the rule `gpu_total_dense` is broken instead. Where the GPU count is a range, a given dp settles it
    (and the rule says whether it lies inside), and where the global batch is, num_microbatches does; a given edp or
    num_microbatches that contradicts always raises. What the layout does not say is taken from the problem's `fix`
    first.
    """
    layout = _with_defaults(_with_fixed(problem, layout))
    layout = layout.model_copy(update={"dp": _data_parallel(problem, layout, strict)})
    layout = layout.model_copy(update={"edp": _expert_data_parallel(problem, layout)})
    layout = layout.model_copy(update={"num_microbatches": _microbatches(problem, layout)})
    if layout.pipeline_layout is None:
        even = PipelineLayout.even(
            problem.architecture.num_hidden_layers, layout.pp, layout.vpp, mtp=problem.mtp_layers
        )
        layout = layout.model_copy(update={"pipeline_layout": None if even is None else str(even)})
    return layout


def degrees_of(layout: Layout) -> Degrees:
    """The degrees of a completed layout; what could not be derived is None."""
    return Degrees(**{name: getattr(layout, name) for name in Degrees.__dataclass_fields__})


def pipeline_of(layout: Layout) -> PipelineLayout | None:
    """The pipeline layout of a completed layout; None where there is none or its string breaks a pipeline rule."""
    if layout.pipeline_layout is None:
        return None
    try:
        pipeline = PipelineLayout.parse(layout.pipeline_layout, layout.pp)
    except InputError:
        return None
    return pipeline if pipeline.vpp == layout.vpp else None


def is_complete(layout: Layout) -> bool:
    """Whether every degree and the pipeline layout are known, so that the layout can be priced."""
    return layout.pipeline_layout is not None and None not in vars(degrees_of(layout)).values()


def own_gpus(layout: Layout) -> int | None:
    """GPU total of the layout's own degrees, by the dense grid; None while dp is unknown."""
    return None if layout.dp is None else layout.tp * layout.cp * layout.dp * layout.pp


def _with_fixed(problem: Problem, layout: Layout) -> Layout:
    """The problem's decisions, wherever the layout makes none of its own."""
    open_fields = [name for name in problem.fix if name in Layout.model_fields and name not in layout.model_fields_set]
    if not open_fields:
        return layout
    fixed = read_fields(Layout, {name: problem.fix[name] for name in open_fields}, "fix")
    return layout.model_copy(update={name: getattr(fixed, name) for name in open_fields})


def _with_defaults(layout: Layout) -> Layout:
    """etp as Megatron defaults it (tp), vpp from the layout string where only that is given, group pp."""
    update: dict[str, int] = {}
    if layout.etp is None:
        update["etp"] = layout.tp
    if layout.pipeline_layout is not None and "vpp" not in layout.model_fields_set:
        stages = unroll(layout.pipeline_layout).count("|") + 1
        if stages % layout.pp == 0:
            update["vpp"] = stages // layout.pp
    if layout.interleave_group is None:
        update["interleave_group"] = layout.pp
    return layout.model_copy(update=update)


def _data_parallel(problem: Problem, layout: Layout, strict: bool) -> int | None:
    reach = problem.gpu_range
    if reach.min != reach.max:
        return _from_batch(problem, layout) if layout.dp is None else layout.dp
    gpus, unit = reach.max, layout.tp * layout.cp * layout.pp
    if gpus % unit:
        return layout.dp
    if layout.dp not in (None, gpus // unit) and strict:
        raise InputError(
            f"dp: {layout.dp} given, but {gpus} / (tp {layout.tp} * cp {layout.cp} * pp {layout.pp}) = {gpus // unit}"
        )
    return gpus // unit if layout.dp is None else layout.dp


def _from_batch(problem: Problem, layout: Layout) -> int:
    """Where the GPU count is a range: dp from the number of micro-batches, the only other field that settles it."""
    batches, reach = problem.workload.batches, problem.gpu_range
    if layout.num_microbatches is None or not batches.exact:
        raise InputError(
            f"dp: not given, and the problem's gpus are {reach.min} to {reach.max}: give dp (gpus = tp * cp * dp * pp)"
        )
    batch, per_rank = problem.workload.batch, layout.micro_batch_size * layout.num_microbatches
    if batch % per_rank:
        raise InputError(
            f"num_microbatches: {layout.num_microbatches} given, but global_batch_size {batch} % (micro_batch_size "
            f"{layout.micro_batch_size} * num_microbatches {layout.num_microbatches}) = {batch % per_rank}"
        )
    return batch // per_rank


def _expert_data_parallel(problem: Problem, layout: Layout) -> int | None:
    assert layout.etp is not None
    gpus = own_gpus(layout)
    if gpus is None:
        gpus = problem.gpu_range.max
    unit = layout.etp * layout.ep * layout.pp
    if gpus % unit:
        return None
    edp = gpus // unit
    if layout.edp not in (None, edp):
        raise InputError(
            f"edp: {layout.edp} given, but {gpus} / (etp {layout.etp} * ep {layout.ep} * pp {layout.pp}) = {edp}"
        )
    return edp


def _microbatches(problem: Problem, layout: Layout) -> int | None:
    if layout.dp is None:
        return None
    batches, per_step = problem.workload.batches, layout.micro_batch_size * layout.dp
    if not batches.exact:
        return _given_microbatches(problem, layout)
    batch = batches.most
    if batch % per_step:
        return None
    if layout.num_microbatches not in (None, batch // per_step):
        raise InputError(
            f"num_microbatches: {layout.num_microbatches} given, but {batch} / (micro_batch_size "
            f"{layout.micro_batch_size} * dp {layout.dp}) = {batch // per_step}"
        )
    return batch // per_step


def _given_microbatches(problem: Problem, layout: Layout) -> int:
    """Where the global batch is open: the layout's own number, which settles it."""
    if layout.num_microbatches is None:
        raise InputError(
            f"num_microbatches: not given, and the problem's global_batch_size is {problem.workload.batches}: give it "
            "(global_batch_size = micro_batch_size * dp * num_microbatches), or one global_batch_size"
        )
    return layout.num_microbatches
