"""Token dispatchers and the overlap of expert-parallel communication. Sources: Megatron-LM d98e8a6."""

from moeopt.arithmetic import either
from moeopt.frameworks.megatron_core.precision import compute_capability
from moeopt.frameworks.rules import Applies, Rule
from moeopt.layout import FLEX_DISPATCHERS, Choices, Degrees
from moeopt.problem.problem import Problem

_CONFIG = "megatron/core/transformer/transformer_config.py"


def _supports_gpu(problem: Problem, _degrees: Degrees, choices: Choices) -> bool:
    capability = compute_capability(problem)
    if capability is None:
        return True
    if choices.dispatcher == "hybridep":
        return capability[0] in (8, 9, 10)
    return capability[0] in (8, 9) or (capability[0] == 10 and problem.cluster.host != "grace")


def _overlaps(_problem: Problem, choices: Choices) -> bool:
    return choices.overlap.ep_all_to_all


def _attention_biases(problem: Problem) -> bool:
    architecture = problem.architecture
    return architecture.attention_bias or architecture.attention_output_bias or architecture.mlp_bias


def _overlap_refuses(name: str, meaning: str, says: str, lines: str, when: Applies) -> Rule:
    """A rule that breaks wherever `when` is true under EP overlap; it reads no degree."""
    return Rule(
        name,
        meaning,
        (),
        lambda problem, _d, choices: not when(problem, choices),
        lambda problem, _d, choices: (
            f"overlap.ep_all_to_all with {says}: refused" if when(problem, choices) else f"no {says}"
        ),
        f"{_CONFIG}:{lines}",
        "launch",
        _overlaps,
    )


EXPERTS = (
    Rule(
        "deepep_needs_expert_group",
        "DeepEP exchanges tokens among etp * ep ranks and needs more than one",
        ("ep", "etp"),
        lambda _problem, d, _: d.etp * d.ep > 1,
        lambda _problem, d, _: (
            f"dispatcher deepep with etp {d.etp} * ep {d.ep} = {d.etp * d.ep}"
            + (", must be above 1" if d.etp * d.ep == 1 else "")
        ),
        "megatron/core/transformer/moe/token_dispatcher.py:1835-1836",
        "launch",
        lambda problem, choices: problem.architecture.is_moe and choices.dispatcher == "deepep",
    ),
    Rule(
        "deepep_without_capacity",
        "DeepEP does not pad experts to a capacity",
        (),
        lambda problem, _d, _: problem.workload.routing.capacity_factor is None,
        lambda problem, _d, _: (
            f"dispatcher deepep with routing.capacity_factor {problem.workload.routing.capacity_factor}"
        ),
        f"{_CONFIG}:1754-1761",
        "launch",
        lambda problem, choices: problem.architecture.is_moe and choices.dispatcher == "deepep",
    ),
    Rule(
        "dispatcher_sms_needs_flex",
        "only deepep and hybridep can be told how many SMs to use",
        (),
        lambda _problem, _d, choices: choices.dispatcher in FLEX_DISPATCHERS,
        lambda _problem, _d, choices: f"dispatcher_sms {choices.dispatcher_sms} with dispatcher {choices.dispatcher}",
        "megatron/core/transformer/moe/token_dispatcher.py:1157-1158, 1288-1290 (the other dispatchers do not read it)",
        "never",
        lambda problem, choices: problem.architecture.is_moe and choices.dispatcher_sms is not None,
    ),
    Rule(
        "deepep_even_sms",
        "DeepEP shares its SMs out in pairs",
        (),
        lambda _problem, _d, choices: (choices.dispatcher_sms or 0) % 2 == 0,
        lambda _problem, _d, choices: f"dispatcher deepep with dispatcher_sms {choices.dispatcher_sms}, must be even",
        "deepseek-ai/DeepEP, deep_ep/buffer.py: Buffer.set_num_sms",
        "run",
        lambda problem, choices: (
            problem.architecture.is_moe and choices.dispatcher == "deepep" and choices.dispatcher_sms is not None
        ),
    ),
    Rule(
        "dispatcher_supports_gpu",
        "DeepEP runs on Ampere, Hopper, B200 and B300; HybridEP on those and on GB200 and GB300",
        (),
        _supports_gpu,
        lambda problem, _d, choices: (
            f"dispatcher {choices.dispatcher} on {problem.cluster.gpu}, compute capability "
            f"{problem.cluster.compute_capability}, host {problem.cluster.host}"
        ),
        "NVIDIA-NeMo/Megatron-Bridge, src/megatron/bridge/training/flex_dispatcher_backend.py: "
        "validate_flex_dispatcher_backend (Megatron-LM itself does not ask)",
        "run",
        lambda problem, choices: problem.architecture.is_moe and choices.dispatcher in FLEX_DISPATCHERS,
    ),
    Rule(
        "ep_overlap_needs_ep",
        "overlapping the expert all-to-all needs expert parallelism",
        ("ep",),
        lambda _problem, d, _: d.ep > 1,
        lambda _problem, d, _: f"overlap.ep_all_to_all with ep {d.ep}" + (", must be above 1" if d.ep == 1 else ""),
        f"{_CONFIG}:3013-3015",
        "launch",
        _overlaps,
    ),
    Rule(
        "ep_overlap_needs_vpp",
        "overlapping the expert all-to-all in a pipeline needs virtual stages",
        ("pp", "vpp"),
        lambda _problem, d, _: either(d.pp == 1, d.vpp > 1),
        lambda _problem, d, _: (
            f"overlap.ep_all_to_all with pp {d.pp} and vpp {d.vpp}"
            + (", vpp must be above 1" if d.pp > 1 and d.vpp == 1 else "")
        ),
        f"{_CONFIG}:3007-3011",
        "launch",
        _overlaps,
    ),
    Rule(
        "delay_wgrad_needs_ep_overlap",
        "delaying weight gradients needs the overlapped expert all-to-all",
        (),
        lambda _problem, _d, choices: choices.overlap.ep_all_to_all,
        lambda _problem, _d, choices: (
            f"overlap.delay_wgrad with overlap.ep_all_to_all {str(choices.overlap.ep_all_to_all).lower()}"
        ),
        f"{_CONFIG}:3074-3077",
        "launch",
        lambda _problem, choices: choices.overlap.delay_wgrad,
    ),
    Rule(
        "delay_wgrad_graph_without_biases",
        "delayed weight gradients under a graph of attention and overlapped reduction allow no biases there",
        (),
        lambda problem, _d, _: not _attention_biases(problem),
        lambda problem, _d, choices: (
            f"overlap.delay_wgrad and overlap.grad_reduce with cuda_graphs {choices.cuda_graphs}: "
            + ("biases of attention: refused" if _attention_biases(problem) else "no biases of attention")
        ),
        "megatron/training/arguments.py:1906-1927",
        "launch",
        lambda _problem, choices: (
            choices.overlap.delay_wgrad and choices.overlap.grad_reduce and choices.cuda_graphs == "attention"
        ),
    ),
    _overlap_refuses(
        "ep_overlap_dispatcher",
        "only the alltoall and flex dispatchers (deepep, hybridep) can be overlapped",
        "dispatcher allgather",
        "3016-3019",
        lambda _problem, choices: choices.dispatcher == "allgather",
    ),
    _overlap_refuses(
        "ep_overlap_without_full_recompute",
        "overlapping the expert all-to-all excludes full recompute",
        "recompute full",
        "3021-3029",
        lambda _problem, choices: choices.recompute.granularity == "full",
    ),
    _overlap_refuses(
        "ep_overlap_without_moe_recompute",
        "overlapping the expert all-to-all excludes recomputing whole MoE blocks",
        "recompute module moe",
        "3030-3032",
        lambda _problem, choices: choices.recompute.drops("moe"),
    ),
    _overlap_refuses(
        "ep_overlap_one_mtp",
        "overlapping the expert all-to-all allows one MTP module at most",
        "more than 1 MTP module",
        "3042-3046",
        lambda problem, _choices: problem.mtp_layers > 1,
    ),
)
