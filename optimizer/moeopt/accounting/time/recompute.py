"""What recompute adds to the backward pass: additive over modules by construction.

The time of a set is the time of nothing recomputed plus one price for each module of the set, so a search evaluates the
prices once and every set is a sum. Each price is a module's forward time on the GPU combined with the host time of its
own launches; combined with the whole layer's instead, a set would cost at most this sum.
"""

from moeopt.accounting.launches import (
    DENSE_LAUNCHES,
    MLA_LAUNCHES,
    ROUTER_LAUNCHES,
    SPARSE_LAUNCHES,
    captures_attention,
    captures_router,
    moe_launches,
)
from moeopt.accounting.time.host import exposed_host_ns, launched_ns
from moeopt.accounting.time.scene import Scene, Timed
from moeopt.arithmetic import Number, ceil_div, maximum
from moeopt.layout import Recompute, RecomputeModule

PARTS_OF_MOE: frozenset[RecomputeModule] = frozenset({"moe_act", "shared_experts"})
"""Modules inside `moe`: chosen beside it they repeat nothing more."""
REPEATED_LAUNCHES: dict[RecomputeModule, int] = {
    "core_attn": 2,
    "layernorm": 4,
    "mla_up_proj": MLA_LAUNCHES // 2,
    "mlp": ceil_div(DENSE_LAUNCHES, 2),
    "moe_act": 2,
    "shared_experts": ceil_div(DENSE_LAUNCHES, 2),
}
"""Launch-equivalents of a module's forward: half of what `launches` counts for both passes where it counts the
module, else its kernels (two norms; the core; the activation), twice: the checkpoint saves and restores state too."""


_WITH_ATTENTION: frozenset[RecomputeModule] = frozenset({"core_attn", "layernorm", "mla_up_proj"})
"""Modules that graphs of attention hold, routers' norms with them."""


def effective(recompute: Recompute) -> tuple[RecomputeModule, ...]:
    """The modules of a selective setting that repeat something of their own."""
    if "moe" in recompute.modules:
        return tuple(module for module in recompute.modules if module not in PARTS_OF_MOE)
    return recompute.modules


def repeat_launches(scene: Scene, module: RecomputeModule) -> Number:
    """Launch-equivalents of repeating a module's forward that no CUDA graph holds; of `moe` also those that graphs
    would hold without it."""
    choices = scene.choices
    if choices.cuda_graphs == "full_iteration" or (module in _WITH_ATTENTION and captures_attention(choices)):
        return 0
    if module == "moe":
        both = moe_launches(scene.problem, scene.degrees, choices, scene.rates.format.quantized)
        # Beside it no router may be captured (frameworks: cuda_graphs router without recompute module moe).
        return ceil_div(both, 2) + (ROUTER_LAUNCHES if captures_router(choices) else 0)
    if module == "core_attn" and scene.problem.architecture.has_indexer:
        return ceil_div(SPARSE_LAUNCHES, 2)
    return REPEATED_LAUNCHES[module]


def finish_repeats(scene: Scene, timed: Timed, moe: bool, forward_ns: Number, host_ns: Number) -> None:
    """Add host time to what each module of a layer repeats, and price full recompute: the whole forward
    (communication included, half of the launches of both passes), and no less than all modules."""
    for module, gpu in timed.repeats.items():
        launched = launched_ns(repeat_launches(scene, module), scene.problem, scene.rates, moe)
        timed.repeats[module] = gpu + exposed_host_ns(gpu, launched)
    modules = sum(time for module, time in timed.repeats.items() if module not in PARTS_OF_MOE)
    timed.full_repeat = maximum(forward_ns + exposed_host_ns(forward_ns, ceil_div(host_ns, 2)), modules)
