"""The GPU total of a layout: two grids over the same GPUs, and why the product of all degrees is not it."""

from math import lcm

from moeopt.claims.quantities import Answer, Setting, count_quantity, holds
from moeopt.claims.reading import Grids


def gpus_answer(name: str, text: str, setting: Setting) -> Answer:
    """Judge a claim about the GPU total: what Megatron computes from the degrees, and whether that is legal."""
    quantity = count_quantity(name, text)
    grids, layout = Grids(setting.layout), setting.layout
    reached = setting.evaluation.get("gpus", {}).get("total", grids.smallest)
    total = reached if grids.total is None else grids.total
    claimed = int(quantity.value)
    legal = total % grids.smallest == 0
    held = holds(quantity, total) and legal
    sentences = [*_product(grids, total, claimed), _total(grids, total), _folding(grids, total)]
    if not legal and layout.etp is None and layout.tp > 1:
        sentences.append(_with_etp_one(grids, total))
    if not held:
        sentences.append(_data_parallel(grids, claimed))
    return Answer(total, held, " ".join(sentences), f"{total:,}")


def _product(grids: Grids, total: int, claimed: int) -> list[str]:
    """The common mistake: all degrees multiplied. Silent where it happens to be the total."""
    layout = grids.layout
    degrees = {"tp": layout.tp, "cp": layout.cp, "pp": layout.pp, "ep": layout.ep, "dp": layout.dp}
    shown = {name: value for name, value in degrees.items() if value is not None and (value > 1 or name != "cp")}
    product = layout.tp * layout.cp * layout.pp * layout.ep * (layout.dp or 1)
    if layout.dp is None or product == total:
        return []
    equation = f"{' * '.join(f'{name} {value}' for name, value in shown.items())} = {product}"
    verdict = "which is not the GPU total" if product == claimed else f"neither the claimed {claimed} nor the GPU total"
    return [f"The product of the {_word(len(shown))} degrees is {equation}, {verdict}."]


def _word(number: int) -> str:
    return {4: "four", 5: "five"}.get(number, str(number))


def _total(grids: Grids, total: int) -> str:
    layout = grids.layout
    if layout.dp is None:
        return (
            f"dp is not given: tp {layout.tp} * cp {layout.cp} * dp {total // grids.dense} * pp {layout.pp} = {total}."
        )
    return f"Megatron's GPU total is tp {layout.tp} * cp {layout.cp} * dp {layout.dp} * pp {layout.pp} = {total}."


def _folding(grids: Grids, total: int) -> str:
    """Whether ep folds into that total, and the smallest total where it does not."""
    layout = grids.layout
    default = f" (Megatron's default: etp = tp {layout.tp})" if layout.etp is None and layout.tp > 1 else ""
    block = f"etp {grids.etp} * ep {layout.ep} * pp {layout.pp} = {grids.expert}"
    if total % grids.expert == 0:
        return (
            f"ep {layout.ep} folds into it: the routed experts use the same GPUs as etp {grids.etp} * ep {layout.ep} * "
            f"edp {total // grids.expert} * pp {layout.pp} = {total}{default}."
        )
    return (
        f"ep {layout.ep} does not fold into these {total} GPUs: the routed experts lie on the same GPUs as etp * ep * "
        f"edp * pp, and {block}{default} does not divide {total}. The smallest legal total of these degrees is lcm(tp "
        f"{layout.tp} * cp {layout.cp}, etp {grids.etp} * ep {layout.ep}) * pp {layout.pp} = {grids.smallest}, with dp "
        f"{grids.smallest // grids.dense}."
    )


def _with_etp_one(grids: Grids, total: int) -> str:
    """What would change with etp 1, which Megatron does not assume."""
    layout = grids.layout
    expert = layout.ep * layout.pp
    smallest = lcm(grids.dense, expert)
    if total % smallest == 0:
        grid = f"etp 1 * ep {layout.ep} * edp {total // expert} * pp {layout.pp} = {total}"
        return f"With etp 1, ep {layout.ep} folds into them: {grid} GPUs are legal."
    return f"With etp 1 the smallest legal total is {smallest}, with dp {smallest // grids.dense}."


def _data_parallel(grids: Grids, claimed: int) -> str:
    """Which dp makes the claimed number, if any."""
    layout = grids.layout
    dense = f"(tp {layout.tp} * cp {layout.cp} * pp {layout.pp})"
    if claimed < 1 or claimed % grids.dense:
        return f"No dp makes {claimed}: {claimed} % {dense} = {claimed % grids.dense}."
    dp = claimed // grids.dense
    text = f"dp {dp} makes {claimed}: {claimed} / {dense} = {dp}"
    if claimed % grids.expert:
        expert = f"(etp {grids.etp} * ep {layout.ep} * pp {layout.pp})"
        return f"{text}, but it is not legal: {claimed} % {expert} = {claimed % grids.expert}."
    return f"{text}, and edp is {claimed // grids.expert}."
