"""How much to spend on the bound on replays."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Effort:
    """How much to spend: rows of the screening's first level that are looked at closer at first, those of the
    lowest bounds; rounds of a schedule's linear program, at most, and operations that they replay (None: any); rounds
    of duality each time that bounds are raised; and how many candidates may hold the bound down for CP-SAT to be asked
    about them, once each (None: any number, until they are settled)."""

    rows: int | None
    rounds: int
    operations: int | None
    dual_rounds: int
    few: int | None
    gap: Fraction = Fraction(0)
    """Steps that are better by no more than this are not looked for ..."""
    near: Fraction = Fraction(0)
    """... and bounds that are within this of the best step are not raised further."""

    @property
    def enough(self) -> Fraction:
        """The gap at which a bound is left as it is."""
        return max(self.gap, self.near)

    @property
    def is_full(self) -> bool:
        """Whether to go on until everything is settled."""
        return self.few is None


FEW = 128
"""Candidates left that a plain solve goes on with at length."""
CHEAP = Effort(1000, 16, 2_000_000, 2, FEW, near=Fraction(1, 100))
"""What a solve does: first little for every schedule, then more for those that the bound hangs on. (At the linear
program's weights, further rounds of duality raise hardly any bound.)"""
FULL = Effort(None, 80, None, 12, None)
"""`--certify`; with `--gap` that gap is enough. (Placements that few critical paths leave are many to replay, and 100
rounds more raise a schedule's bound by some 0.03 % of the step.)"""
