"""What a constraint may say about the placement of layers, so that CP-SAT can hold it exactly.

Layers enter linearly. Bytes and nanoseconds are held from below by the model's rows, so they can only be bounded from
above; then a placement satisfies the rows exactly where its own bytes and time satisfy the constraint.
"""

from moeopt.constraints.tokens import refusal
from moeopt.constraints.tree import Arithmetic, Comparison, Item, Name, Number, Numeric, Truth, items, walk

HELD_FROM_BELOW = ("peak_memory", "step_time")


def check_placement(text: str, node: Truth) -> None:
    """Raise InputError where a comparison asks of the placement what the model cannot hold."""
    for part in walk(node):
        if isinstance(part, Comparison) and items(part):
            _check(text, part)


def _check(text: str, comparison: Comparison) -> None:
    for side in (comparison.left, comparison.right):
        for part in walk(side):
            if isinstance(part, Arithmetic) and items(part):
                _check_arithmetic(text, comparison, part)
    signs = _signs(comparison.left) | {-sign for sign in _signs(comparison.right)}
    if not signs:
        return
    allowed = {"<": {1}, "<=": {1}, ">": {-1}, ">=": {-1}}.get(comparison.operator, set())
    if signs != allowed:
        raise refusal(
            text,
            comparison.column,
            "memory and time can only be bounded from above, like peak_memory[0] <= 60GiB "
            "(beside degrees, and multiplied by nothing that may be negative)",
        )


def _check_arithmetic(text: str, comparison: Comparison, node: Arithmetic) -> None:
    left, right = bool(items(node.left)), bool(items(node.right))
    if node.operator == "*" and left and right:
        raise refusal(text, comparison.column, "a product of two numbers of the placement is not linear")
    if node.operator in ("//", "%") and (right or any(item.name in HELD_FROM_BELOW for item in items(node.left))):
        raise refusal(
            text, comparison.column, f"{node.operator!r} takes degrees and layers, and divides by numbers or degrees"
        )


def _signs(node: Numeric) -> set[int]:
    """Directions in which the node grows with bytes or time: 1, -1, or 0 for unknown."""
    if isinstance(node, Item):
        below = node.name in HELD_FROM_BELOW
        return ({0} if node.stage == "min" else {1}) if below else set()
    if not isinstance(node, Arithmetic):
        return set()
    left, right = _signs(node.left), _signs(node.right)
    if node.operator == "+":
        return left | right
    if node.operator == "-":
        return left | {-sign for sign in right}
    factor = node.right if left else node.left
    return {sign * sign_of(factor) for sign in left | right}


def sign_of(node: Numeric) -> int:
    """1 where the number is above zero for every layout, -1 where it is below, 0 where that is not plain."""
    if isinstance(node, Number):
        return (node.value > 0) - (node.value < 0)
    if isinstance(node, Name):
        return 1 if node.kind == "integer" else 0
    if not isinstance(node, Arithmetic):
        return 0
    left, right = sign_of(node.left), sign_of(node.right)
    if node.operator == "*":
        return left * right
    if node.operator == "+":
        return left if left == right else 0
    if node.operator == "-" and isinstance(node.left, Number) and node.left.value == 0:
        return -right
    return 0
