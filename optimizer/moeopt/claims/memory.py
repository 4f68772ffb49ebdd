"""What a claim about "memory" can mean, all of it computed: one copy of the training state, one GPU, all GPUs."""

from dataclasses import dataclass

from moeopt.arithmetic import ceil_div
from moeopt.claims.quantities import Answer, Quantity, Setting, bytes_quantity, holds, not_priced
from moeopt.layout import Layout
from moeopt.problem.problem import Problem
from moeopt.units import format_bytes, format_count


@dataclass(frozen=True)
class _Sense:
    """One thing that "memory" may mean."""

    name: str
    bytes: int
    arithmetic: str


def memory_answer(name: str, text: str, setting: Setting) -> Answer:
    """Judge a claim about memory.

    It is compared with the training state counted once (weights, gradients and optimizer state of every parameter),
    which is what a single total without a GPU count most plausibly means; it also holds where it matches the peak of
    one GPU or the sum over all GPUs, and the explanation says which. All three are always given.
    """
    quantity = bytes_quantity(name, text)
    if "memory" not in setting.evaluation:
        return not_priced(name, setting)
    senses = _senses(setting)
    matched = next((sense for sense in senses if holds(quantity, sense.bytes)), None)
    chosen = matched or senses[0]
    lines = [f"{sense.name}: {_both_units(sense.bytes)} ({sense.arithmetic})." for sense in senses]
    if setting.reading.note:
        lines.insert(0, f"Memory is that of the layout {setting.reading.note}.")
    if matched:
        lines.append(f"The claim is the {matched.name.lower()}.")
    else:
        lines.append(f"The claimed {_both_units(int(quantity.value))} is none of them. {_share(quantity, setting)}")
    return Answer(chosen.bytes, matched is not None, " ".join(lines), _both_units(chosen.bytes))


def _senses(setting: Setting) -> list[_Sense]:
    evaluation = setting.evaluation
    memory, gpus, stages = evaluation["memory"], evaluation["gpus"]["total"], evaluation["memory"]["per_stage"]
    each = gpus // len(stages)
    everywhere = each * sum(stage["total_bytes"] for stage in stages)
    state, arithmetic = state_bytes(setting.problem, setting.reading.layout, evaluation["parameters"]["total"])
    peak = next(stage for stage in stages if stage["stage"] == memory["peak_stage"])
    parts = ", ".join(
        f"{name} {format_bytes(peak[f'{name}_bytes'])}"
        for name in ("weights", "gradients", "optimizer", "activations", "buffers", "overhead")
    )
    return [
        _Sense("Training state, each parameter once", state, arithmetic),
        _Sense("Peak of one GPU", memory["peak_bytes"], f"stage {memory['peak_stage']}: {parts}"),
        _Sense("Sum over all GPUs", everywhere, f"{len(stages)} stages of {each} GPUs"),
    ]


def state_bytes(problem: Problem, layout: Layout, parameters: int) -> tuple[int, str]:
    """Bytes of weights, gradients and optimizer state of every parameter, each counted once, and the arithmetic.

    Ignores padding, replicas, activations and 8-bit copies of weights. Prices: `moeopt.accounting.memory.states`.
    """
    from moeopt.accounting.memory.recipe import DEFAULT_RECIPE
    from moeopt.accounting.memory.states import state_prices

    prices = state_prices(problem, layout.choices, DEFAULT_RECIPE)
    each = prices.weight + prices.gradient + prices.optimizer
    arithmetic = (
        f"{parameters:,} parameters * {float(each):g} bytes: weight {prices.weight}, gradient {prices.gradient}, "
        f"optimizer {float(prices.optimizer):g}"
    )
    return ceil_div(parameters * each.numerator, each.denominator), arithmetic


def _both_units(count: int) -> str:
    return f"{count / 1e9:,.1f} GB ({format_bytes(count)})"


def _share(quantity: Quantity, setting: Setting) -> str:
    parameters = setting.evaluation["parameters"]["total"]
    each = float(quantity.value / parameters)
    return f"It would be {each:.3g} bytes for each of {format_count(parameters)} parameters."
