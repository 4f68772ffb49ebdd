"""Which layers each pipeline stage may hold: Megatron's layout string. Sources: Megatron-LM d98e8a6.

Empty stages (`E||t|L`) and stages with nothing but `E`, `m` or `L` are legal: nothing in validate_layer_layout forbids
them, and no rule here does.
"""

from moeopt.frameworks.rules import PipelineRule, Stages, remainder
from moeopt.layout import Choices
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem

_LAYOUT = "megatron/core/transformer/pipeline_parallel_layer_layout.py"


def _even_sentence(problem: Problem, stages: Stages, _choices: Choices) -> str:
    layers = problem.architecture.num_hidden_layers
    of = f"(pp {stages.pp} * vpp {stages.vpp})"
    text = remainder(f"num_hidden_layers {layers}", layers, of, stages.pp * stages.vpp)
    if layers % (stages.pp * stages.vpp) == 0:
        return text
    uneven = PipelineLayout.nearly_even(layers, stages.pp, stages.vpp, problem.mtp_layers)
    return text if uneven is None else f"{text} without a pipeline_layout, like {uneven}"


def _stage_sentence(_problem: Problem, stages: Stages, _choices: Choices) -> str:
    count, wanted = len(stages.stages or ()), stages.pp * stages.vpp
    text = f"{count} stages, pp {stages.pp} * vpp {stages.vpp} = {wanted}"
    return text if count == wanted else f"{text}: must be the same"


def _once_first(_problem: Problem, stages: Stages, _choices: Choices) -> bool:
    return stages.flat.count("E") == 1 and (stages.stages or ("",))[0].startswith("E")


def _once_last(_problem: Problem, stages: Stages, _choices: Choices) -> bool:
    return stages.flat.count("L") == 1 and (stages.stages or ("",))[-1].endswith("L")


def _mtp_stages(stages: Stages) -> list[int]:
    return [index for index, letters in enumerate(stages.stages or ()) if "m" in letters]


def _mtp_last_chunk(_problem: Problem, stages: Stages, _choices: Choices) -> bool:
    first_of_last_chunk = len(stages.stages or ()) - stages.pp
    return all(index >= first_of_last_chunk for index in _mtp_stages(stages))


def _mtp_not_first(_problem: Problem, stages: Stages, _choices: Choices) -> bool:
    return all(index % stages.pp for index in _mtp_stages(stages))


def _mtp_kind_holds(_problem: Problem, stages: Stages, _choices: Choices) -> bool:
    letters = stages.stages or ()
    return all("t" in letters[index] for index in _mtp_stages(stages))


def _mtp_kind_sentence(problem: Problem, stages: Stages, _choices: Choices) -> str:
    stage = _mtp_stages(stages)[0]
    count = (stages.stages or ())[stage].count("t")
    sparse = problem.architecture.has_indexer
    what = "attention is sparse" if sparse else "the last decoder layer is dense"
    text = f"{what}, and {count} decoder layers are with the m of stage {stage} (from 0)"
    built = "plain attention is" if sparse else "experts are"
    return text if count else f"{text}: {built} built into the MTP modules, at least 1 must be there"


def _mtp_kind_open(problem: Problem, stages: Stages, choices: Choices) -> bool:
    return _with_mtp(problem, stages, choices) and problem.architecture.mtp_kind_by_stage


def _count_sentence(letter: str, what: str, wanted: int, stages: Stages) -> str:
    count = stages.flat.count(letter)
    text = f"{count} {letter} in the layout, {what} {wanted}"
    return text if count == wanted else f"{text}: must be the same"


def _with_mtp(_problem: Problem, stages: Stages, _choices: Choices) -> bool:
    return "m" in stages.flat


def _chunk_layers(problem: Problem, stages: Stages) -> int:
    """Decoder layers of the largest chunk."""
    if stages.stages is None:
        return problem.architecture.num_hidden_layers // (stages.pp * stages.vpp)
    return max(letters.count("t") for letters in stages.stages)


PIPELINE = (
    PipelineRule(
        "pipeline_even_split",
        "without a layout string every virtual stage gets the same number of layers",
        lambda problem, stages, _: problem.architecture.num_hidden_layers % (stages.pp * stages.vpp) == 0,
        _even_sentence,
        "megatron/training/arguments.py:985-998, megatron/core/transformer/transformer_block.py:147-179",
        "launch",
        lambda _problem, stages, _: stages.stages is None,
    ),
    PipelineRule(
        "pipeline_stages",
        "the layout string lists vpp stages for each of the pp ranks",
        lambda _problem, stages, _: len(stages.stages or ()) == stages.pp * stages.vpp,
        _stage_sentence,
        f"{_LAYOUT}:41-46, megatron/core/transformer/transformer_config.py:2276-2288",
        "launch",
    ),
    PipelineRule(
        "pipeline_embedding",
        "exactly one E, at the very start",
        _once_first,
        lambda _problem, stages, _: (
            f"{stages.flat.count('E')} E in the layout, which starts with {(stages.stages or ('',))[0][:1]!r}"
        ),
        f"{_LAYOUT}:95-105 (the first letter only: an empty first stage passes there, not here)",
        "launch",
    ),
    PipelineRule(
        "pipeline_loss",
        "exactly one L, at the very end",
        _once_last,
        lambda _problem, stages, _: (
            f"{stages.flat.count('L')} L in the layout, which ends with {(stages.stages or ('',))[-1][-1:]!r}"
        ),
        f"{_LAYOUT}:98-106 (the last letter only: an empty last stage passes there, not here)",
        "launch",
    ),
    PipelineRule(
        "pipeline_layers",
        "the layout string names every decoder layer once",
        lambda problem, stages, _: stages.flat.count("t") == problem.architecture.num_hidden_layers,
        lambda problem, stages, _: _count_sentence(
            "t", "num_hidden_layers", problem.architecture.num_hidden_layers, stages
        ),
        f"{_LAYOUT}:107-110",
        "launch",
    ),
    PipelineRule(
        "pipeline_mtp_count",
        "the layout string names every MTP module that is trained once",
        lambda problem, stages, _: stages.flat.count("m") == problem.mtp_layers,
        lambda problem, stages, _: _count_sentence("m", "MTP modules", problem.mtp_layers, stages),
        f"{_LAYOUT}:111-114",
        "launch",
    ),
    PipelineRule(
        "pipeline_mtp_after_layers",
        "MTP modules come after the last decoder layer",
        lambda _problem, stages, _: "t" not in stages.flat[stages.flat.index("m") :],
        lambda _problem, stages, _: (
            f"{stages.flat[stages.flat.index('m') :].count('t')} decoder layers after the first m, must be 0"
        ),
        f"{_LAYOUT}:115-120",
        "launch",
        _with_mtp,
    ),
    PipelineRule(
        "pipeline_mtp_one_stage",
        "all MTP modules sit in one stage",
        lambda _problem, stages, _: len(_mtp_stages(stages)) == 1,
        lambda _problem, stages, _: f"m in {len(_mtp_stages(stages))} stages, must be 1",
        f"{_LAYOUT}:127-131",
        "launch",
        _with_mtp,
    ),
    PipelineRule(
        "pipeline_mtp_last_chunk",
        "MTP modules sit in the last virtual chunk of their rank",
        _mtp_last_chunk,
        lambda _problem, stages, _: (
            f"m in chunk {_mtp_stages(stages)[0] // stages.pp} of {len(stages.stages or ()) // stages.pp} (from 0), "
            "must be the last"
        ),
        f"{_LAYOUT}:121-126",
        "launch",
        _with_mtp,
    ),
    PipelineRule(
        "pipeline_mtp_first_rank",
        "MTP modules do not sit on the first rank of a pipeline",
        _mtp_not_first,
        lambda _problem, stages, _: (
            f"m in stage {_mtp_stages(stages)[0]} (from 0), on rank {_mtp_stages(stages)[0] % stages.pp} of pp "
            f"{stages.pp}" + ("" if _mtp_not_first(_problem, stages, _) else ", must not be rank 0")
        ),
        f"{_LAYOUT}:132-136 says so and misses the last chunk; the copy of the embedding that another chunk of rank 0 "
        "holds would never be filled nor reduced (distributed/finalize_model_grads.py:232-239)",
        "never",
        lambda problem, stages, choices: _with_mtp(problem, stages, choices) and stages.pp > 1,
    ),
    PipelineRule(
        "pipeline_mtp_of_hybrid",
        "MTP modules of a hybrid sit in the last stage, with the loss",
        lambda _problem, stages, _: _mtp_stages(stages) == [len(stages.stages or ()) - 1],
        lambda _problem, stages, _: (
            f"m in stage {_mtp_stages(stages)[0]} (from 0) of {len(stages.stages or ())}, must be the last"
        ),
        "megatron/core/models/hybrid/hybrid_model.py:219-232 (forced there, whatever is asked for)",
        "never",
        lambda problem, stages, choices: _with_mtp(problem, stages, choices) and problem.architecture.is_hybrid,
    ),
    PipelineRule(
        "pipeline_mtp_kind",
        "MTP modules copy sparse attention, or a dense last layer beside experts, only on a stage with decoder layers",
        _mtp_kind_holds,
        _mtp_kind_sentence,
        "gpt_builders.py:59-67",
        "never",
        _mtp_kind_open,
    ),
    PipelineRule(
        "recompute_layers_in_chunk",
        "full recompute counts no more layers than the largest chunk holds",
        lambda problem, stages, choices: (choices.recompute.num_layers or 0) <= max(1, _chunk_layers(problem, stages)),
        lambda problem, stages, choices: (
            f"recompute.num_layers {choices.recompute.num_layers} <= {_chunk_layers(problem, stages)} layers of the "
            "largest chunk"
        ),
        "megatron/core/transformer/transformer_config.py:1919-1926 says so in its message; no line checks it",
        "never",
        lambda _problem, _stages, choices: choices.recompute.granularity == "full",
    ),
)
