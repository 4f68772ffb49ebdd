"""Verdicts of Megatron-LM's own configuration against moeopt's rules, on random layouts.

    python benchmarks/legality.py --megatron CHECKOUT [--seed 1] [--count 2000]

Needs a checkout of Megatron-LM (d98e8a6) and torch (`pip install .[torch]`, no GPU). Each layout is put to
TransformerConfig with the fields that its launch sets; a disagreement is printed with both reasons. Triton is stood in
for, and Transformer Engine counts as recent enough.
"""

import argparse
import random
import sys
import types
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from moeopt.errors import InputError
from moeopt.frameworks import megatron_core
from moeopt.layout import FLEX_DISPATCHERS, Layout
from moeopt.problem.base import read_fields
from moeopt.problem.problem import Problem
from moeopt.resolve import complete

ROOT = Path(__file__).parent.parent
DECIDED = ("transformer_config.py", "model_parallel_config.py")
"""Files of Megatron whose checks are put to the test: rules that name another source are not its to find."""
MODULES = ["attn_norm", "attn_proj", "core_attn", "expert_fc1", "mlp_norm", "moe_act", "qkv_linear"]
RECOMPUTES: list[Any] = [
    "none",
    "none",
    "full",
    {"granularity": "full", "method": "block", "num_layers": 2},
    *({"modules": modules} for modules in (["moe_act"], ["moe"], ["layernorm", "mla_up_proj"], ["mlp"], ["core_attn"])),
]


class _Absent(MetaPathFinder, Loader):
    """Stands in for Triton, whose kernels are never run here."""

    def find_spec(self, fullname: str, _path: Any, _target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] == "triton" else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        module = MagicMock(name=spec.name, __path__=[], __spec__=spec, __version__="3")
        module.jit = lambda function=None, **_: function or (lambda given: given)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def load(checkout: str) -> Any:
    """Megatron's configuration module."""
    torch: Any = import_module("torch")
    for name in ("torch._dynamo", "torch.utils.flop_counter"):  # before Triton is stood in for
        import_module(name)
    torch.compile = lambda function=None, *_, **__: function or (lambda given: given)
    sys.meta_path.insert(0, _Absent())
    sys.path.insert(0, checkout)
    found: Any = import_module("megatron.core.transformer.transformer_config")
    found.is_te_min_version = lambda *_, **__: True
    return found


def fields(problem: Problem, layout: Layout) -> dict[str, Any]:
    """The configuration's fields that the launch of a layout sets."""
    a, work, torch = problem.architecture, problem.workload, import_module("torch")
    given: dict[str, Any] = {
        "num_layers": a.num_hidden_layers,
        "hidden_size": a.hidden_size,
        "num_attention_heads": a.num_attention_heads,
        "kv_channels": a.head_dim or 64,
        "ffn_hidden_size": a.intermediate_size or 4096,
        "add_bias_linear": a.mlp_bias,
        "gated_linear_unit": a.gated,
        "tensor_model_parallel_size": layout.tp,
        "pipeline_model_parallel_size": layout.pp,
        "context_parallel_size": layout.cp,
        "expert_model_parallel_size": layout.ep,
        "expert_tensor_parallel_size": layout.etp,
        "sequence_parallel": layout.sequence_parallel and layout.tp > 1,
        "bf16": True,
        "params_dtype": torch.bfloat16,
        "pipeline_dtype": torch.bfloat16,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "mtp_num_layers": problem.mtp_layers or None,
        "overlap_moe_expert_parallel_comm": layout.overlap.ep_all_to_all,
        "virtual_pipeline_model_parallel_size": layout.vpp if layout.vpp > 1 else None,
    }
    if a.is_mla:
        given |= {"multi_latent_attention": True, "q_lora_rank": a.q_lora_rank, "kv_lora_rank": a.kv_lora_rank}
        given |= {
            "qk_head_dim": a.qk_nope_head_dim,
            "qk_pos_emb_head_dim": a.qk_rope_head_dim,
            "v_head_dim": a.v_head_dim,
        }
    else:
        given["num_query_groups"] = a.num_key_value_heads
    if work.precision == "nvfp4":
        given |= {"fp4": "e2m1", "fp4_recipe": "nvfp4", "fp4_param": True}
    elif work.precision != "bf16":
        given |= {"fp8": "e4m3", "fp8_recipe": "mxfp8" if work.precision == "mxfp8" else "tensorwise"}
    return given | _experts(problem, layout) | _passes(problem, layout)


def _experts(problem: Problem, layout: Layout) -> dict[str, Any]:
    a, work = problem.architecture, problem.workload
    if not a.is_moe:
        return {}
    flex = layout.dispatcher in FLEX_DISPATCHERS
    given: dict[str, Any] = {
        "num_moe_experts": a.num_experts,
        "moe_router_topk": a.num_experts_per_tok,
        "moe_ffn_hidden_size": a.moe_intermediate_size,
        "moe_grouped_gemm": True,
        "moe_shared_expert_intermediate_size": a.shared_expert_intermediate_size or None,
        "moe_router_load_balancing_type": "aux_loss",
        "moe_router_num_groups": a.n_group if a.topk_group else None,
        "moe_router_group_topk": a.topk_group if a.n_group else None,
        "moe_token_dispatcher_type": "flex" if flex else layout.dispatcher,
        "moe_router_padding_for_quantization": work.precision != "bf16" and layout.dispatcher != "allgather",
    }
    if flex:
        given["moe_flex_dispatcher_backend"] = layout.dispatcher
    if work.routing.capacity_factor:
        given |= {"moe_expert_capacity_factor": 1.0, "moe_pad_expert_input_to_capacity": True}
    return given


def _passes(problem: Problem, layout: Layout) -> dict[str, Any]:
    """Recompute, CUDA graphs and offloading."""
    chosen, graphs = layout.recompute, layout.cuda_graphs
    given: dict[str, Any] = {}
    if chosen.granularity == "full":
        given |= {"recompute_method": chosen.method, "recompute_num_layers": chosen.num_layers}
    if chosen.granularity != "none":
        given |= {"recompute_granularity": chosen.granularity, "recompute_modules": list(chosen.modules) or None}
    if graphs == "full_iteration":
        given |= {"cuda_graph_impl": graphs, "fine_grained_offloading_max_inflight_offloads": 1}
    elif graphs != "none":
        router = problem.architecture.is_moe and not chosen.drops("moe")
        modules = ["attn"] * (graphs == "attention")
        modules += ["moe_router", "moe_preprocess"] * (router or graphs == "router")
        given |= {"cuda_graph_impl": "transformer_engine", "cuda_graph_modules": modules}
    if layout.offload:
        given |= {"fine_grained_activation_offloading": True, "offload_modules": list(layout.offload)}
    return given


def drawn(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """An architecture, a workload and a layout with a few unusual decisions."""
    bases = import_module("rule_problems")
    architecture: dict[str, Any] = dict(bases.DENSE) if rng.random() < 0.2 else {}
    if rng.random() < 0.3:
        architecture |= bases.MLA
    else:
        architecture |= rng.choice(
            [{"num_attention_heads": n, "num_key_value_heads": g} for n, g in ((16, 4), (12, 4), (24, 1), (24, 12))]
        )
    unusual = (
        {"num_nextn_predict_layers": rng.choice([1, 2])},
        {"mlp_bias": True},
        {"hidden_size": 1020},
        {} if "num_experts" in architecture else {"shared_expert_intermediate_size": rng.choice([512, 2820])},
        {} if "num_experts" in architecture else {"n_group": 8, "topk_group": rng.choice([4, 9])},
    )
    for changes in unusual:
        architecture |= changes if rng.random() < 0.15 else {}
    workload: dict[str, Any] = {"precision": rng.choice(["bf16", "bf16", "bf16", "fp8", "mxfp8"])}
    if rng.random() < 0.1:
        workload["routing"] = {"capacity_factor": 1.0}
    return architecture, workload, _layout(rng)


def _layout(rng: random.Random) -> dict[str, Any]:
    usual: dict[str, Any] = {"tp": 1, "pp": 1, "cp": 1, "ep": 2, "etp": 1, "vpp": 1, "dispatcher": "alltoall"}
    other: dict[str, Any] = {
        "tp": rng.choice([2, 4, 8]),
        "pp": rng.choice([2, 4]),
        "cp": 2,
        "ep": rng.choice([1, 4, 8]),
        "etp": 2,
        "dispatcher": rng.choice(["deepep", "hybridep", "allgather"]),
        "recompute": rng.choice(RECOMPUTES),
        "cuda_graphs": rng.choice(["router", "attention", "full_iteration"]),
        "overlap": {"ep_all_to_all": True},
        "offload": rng.sample(MODULES, rng.randint(1, 3)),
        "sequence_parallel": False,
    }
    chosen = rng.sample(sorted(other), rng.choice([1, 2, 2, 3, 4, 6]))
    found = {**usual, **{name: other[name] for name in chosen}}
    return {**found, "vpp": 2 if found["pp"] > 1 and rng.random() < 0.5 else 1}


def configurations(module: Any, rng: random.Random, count: int) -> Iterator[tuple[str, str]]:
    """Verdict and, where the two disagree, what each says."""
    problem = import_module("rule_problems").problem
    for _ in range(count):
        architecture, workload, chosen = drawn(rng)
        try:
            asked = problem(architecture, {"compute_capability": "10.0"}, workload)
            full = complete(asked, read_fields(Layout, chosen, "layout"))
        except InputError:
            continue
        broken = [v for v in megatron_core.check(asked, full) if v.holds is False]
        ours = [v.rule for v in broken if v.checked == "launch" and any(name in v.source for name in DECIDED)]
        kind = module.MLATransformerConfig if asked.architecture.is_mla else module.TransformerConfig
        try:
            kind(**fields(asked, full))
            theirs = ""
        except (ValueError, AssertionError) as error:
            theirs = str(error)[:150] or "refused"
        if bool(theirs) == bool(ours) or (theirs and broken):
            yield "refused by both" if theirs else "accepted by both", ""
        else:
            yield "DISAGREE", f"{chosen} {architecture} {workload}: Megatron {theirs or 'accepts'}; rules {ours}"


def main() -> None:
    """Print the counts and every disagreement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megatron", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    module = load(options.megatron)
    found = list(configurations(module, random.Random(options.seed), options.count))
    print(dict(Counter(verdict for verdict, _ in found)))
    print("\n".join(text for verdict, text in found if verdict == "DISAGREE"))


if __name__ == "__main__":
    main()
