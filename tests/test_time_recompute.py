"""Recompute is additive: a search evaluates one price for each module, and every set is a sum."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from moeopt.accounting.launches import ROUTER_LAUNCHES, moe_launches
from moeopt.accounting.memory.terms import memory_terms
from moeopt.accounting.pieces import Recomputed
from moeopt.accounting.time.efficiency import rates
from moeopt.accounting.time.host import exposed_host_ns
from moeopt.accounting.time.recompute import effective
from moeopt.accounting.time.terms import TimeTerms, added_ns, time_terms
from moeopt.layout import RECOMPUTE_MODULES, Choices, Degrees, Recompute
from moeopt.problem.problem import Problem
from time_cases import degrees, problem, some_choices, some_degrees, some_problems

MODULE_SETS = st.sets(st.sampled_from(RECOMPUTE_MODULES)).map(lambda chosen: tuple(sorted(chosen)))


def terms_of(asked: Problem, row: Degrees, choices: Choices, recompute: Recompute) -> TimeTerms:
    return time_terms(asked, row, choices.model_copy(update={"recompute": recompute}))


@settings(max_examples=100, deadline=None)
@given(some_problems(), some_choices(), some_degrees(), MODULE_SETS)
def test_backward_of_a_set_is_a_sum(asked: Problem, choices: Choices, row: Degrees, chosen: tuple[str, ...]) -> None:
    """backward(set) = backward(none) + the sum of each module's price, less what of it fits into time that the backward
    pass waits for Megatron-FSDP or for activations from the host, to the nanosecond, on every piece; `moe_act` and
    `shared_experts` add nothing beside `moe`; forward, the prices and every other part do not depend on the set."""
    none = terms_of(asked, row, choices, Recompute())
    some = terms_of(asked, row, choices, Recompute(modules=chosen) if chosen else Recompute())
    counted = set(chosen) - ({"moe_act", "shared_experts"} if "moe" in chosen else set())
    for piece, alone in none.backward_ns.items():
        again = sum(none.recompute_ns[module][piece] for module in counted)
        hidden = min(again, none.idle_ns[piece])
        assert some.backward_ns[piece] == alone + again - hidden
        assert some.backward_ns[piece] == alone + added_ns(none, Recompute(modules=chosen), piece)
        assert some.backward_parts["recompute"][piece] == again
        waits = [sum(terms.backward_parts[part][piece] for part in ("fsdp_comm", "offload")) for terms in (none, some)]
        assert waits[1] == waits[0] - hidden
        assert hidden == 0 or choices.offload or choices.fsdp in ("optim_grads", "optim_grads_params")
    assert some.forward_ns == none.forward_ns
    assert some.recompute_ns == none.recompute_ns
    for part in set(none.backward_parts) - {"recompute", "fsdp_comm", "offload"}:
        assert some.backward_parts[part] == none.backward_parts[part]


@settings(max_examples=60, deadline=None)
@given(some_problems(), some_choices(), some_degrees())
def test_prices_are_ordered(asked: Problem, choices: Choices, row: Degrees) -> None:
    """No price is negative (so backward grows with the set); the whole MoE block costs at least each of its parts;
    full recompute costs at least every set of modules, and exactly its price, with method block on the layers that it
    covers alone."""
    none = terms_of(asked, row, choices, Recompute())
    for prices in none.recompute_ns.values():
        assert all(price >= 0 for price in prices.values())
    for piece in none.backward_ns:
        prices = {module: none.recompute_ns[module][piece] for module in RECOMPUTE_MODULES}
        assert prices["moe"] >= max(prices["moe_act"], prices["shared_experts"])
        everything = effective(Recompute(modules=RECOMPUTE_MODULES))
        assert none.full_recompute_ns[piece] >= added_ns(none, Recompute(modules=everything), piece)
    full = terms_of(asked, row, choices, Recompute(granularity="full"))
    block = terms_of(asked, row, choices, Recompute(granularity="full", method="block", num_layers=1))
    for piece, alone in none.backward_ns.items():
        assert full.backward_ns[piece] == alone + none.full_recompute_ns[piece]
        assert block.backward_ns[piece] == alone
    for kind in asked.architecture.kinds:
        assert block.backward_ns[Recomputed.of(kind)] == full.backward_ns[kind]
        assert block.forward_ns[Recomputed.of(kind)] == block.forward_ns[kind]


def test_every_pair_of_modules_of_one_layer() -> None:
    """DeepSeek-V3 on H100, each pair of modules alone: two prices that add, and which layers a module exists in."""
    asked, row = problem(cluster="h100-sxm"), degrees(ep=8, pp=8)
    dense, moe = asked.architecture.kinds
    assert (dense.ffn, moe.ffn) == ("dense", "moe")
    prices = time_terms(asked, row, Choices()).recompute_ns
    for module, present in {
        "core_attn": (True, True),
        "layernorm": (True, True),
        "mla_up_proj": (True, True),
        "mlp": (True, False),
        "moe": (False, True),
        "moe_act": (False, True),
        "shared_experts": (False, True),
    }.items():
        assert (prices[module][dense] > 0, prices[module][moe] > 0) == present
        assert prices[module]["embedding"] == prices[module]["loss"] == 0
    plain = time_terms(asked, row, Choices()).backward_ns[moe]
    for first, second in combinations(("core_attn", "layernorm", "mla_up_proj", "moe_act"), 2):
        both = terms_of(asked, row, Choices(), Recompute(modules=(first, second))).backward_ns[moe]
        assert both - plain == prices[first][moe] + prices[second][moe]


def test_recomputing_a_module_takes_about_its_forward() -> None:
    """With graphs of the whole iteration there is no host time, and repeating attention's core takes exactly the
    forward time of that core (no context parallelism); without graphs it takes longer by less than two launches."""
    asked, row = problem("qwen3-30b-a3b", "b200", gpus=8), degrees(gpus=8, ep=8)
    (kind,) = asked.architecture.kinds
    graphed, eager = (time_terms(asked, row, Choices(cuda_graphs=graphs)) for graphs in ("full_iteration", "none"))
    core = graphed.forward_parts["attention"][kind]
    assert graphed.recompute_ns["core_attn"][kind] == core
    assert core < eager.recompute_ns["core_attn"][kind] < core + 2 * 29_000


def test_recomputing_what_graphs_hold_launches_nothing() -> None:
    """Under graphs of attention modules inside it are repeated in the time of the GPU; experts, which no graph holds,
    as without graphs, with all that the router launches besides, as none is captured beside `moe`."""
    asked, row = problem("deepseek-v3", "b200", gpus=64), degrees(gpus=64, ep=8)
    kind = asked.architecture.kinds[-1]
    graphed, held, eager = (
        time_terms(asked, row, Choices(cuda_graphs=graphs)).recompute_ns
        for graphs in ("full_iteration", "attention", "none")
    )
    for module in ("core_attn", "layernorm", "mla_up_proj"):
        assert held[module][kind] == graphed[module][kind] < eager[module][kind]
    for module in ("moe_act", "shared_experts"):
        assert held[module][kind] == eager[module][kind] > graphed[module][kind]
    gpu = graphed["moe"][kind]
    each, fixed = rates(asked).efficiency.launch_ns.x86, moe_launches(asked, row, Choices(), False)
    launched = (-(-fixed // 2) + ROUTER_LAUNCHES) * each
    assert held["moe"][kind] == gpu + exposed_host_ns(gpu, launched) > eager["moe"][kind]


@settings(max_examples=60, deadline=None)
@given(some_problems(), some_choices(), some_degrees(), MODULE_SETS)
def test_kept_bytes_of_a_set_are_a_difference(
    asked: Problem, choices: Choices, row: Degrees, chosen: tuple[str, ...]
) -> None:
    """kept(set) = kept(none) less what each module frees, by the same rule about parts of `moe`, and nothing is freed
    twice: kept bytes are never negative."""
    if not chosen:
        return
    recompute = Recompute(modules=chosen)
    none, some = (
        memory_terms(asked, row, choices.model_copy(update={"recompute": setting}))
        for setting in (Recompute(), recompute)
    )
    assert some.freed_bytes == none.freed_bytes
    for piece, alone in none.kept_bytes.items():
        freed = sum(none.freed_bytes[module][piece] for module in effective(recompute))
        assert some.kept_bytes[piece] == alone - freed >= 0
