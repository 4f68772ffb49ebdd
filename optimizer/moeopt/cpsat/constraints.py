"""The problem's constraints on the placement of layers, as rows that hold while a candidate is the chosen one.

Degrees and choices of a candidate are numbers here, so comparisons of those are decided before the model is built; what
is left is linear (`moeopt.constraints.linear`). An alternative of an `or` has a literal of its own.
"""

from typing import TYPE_CHECKING

from ortools.sat.python import cp_model

from moeopt.candidate import Candidate
from moeopt.constraints.evaluate import Reader, calculated, pick
from moeopt.constraints.rules import trees
from moeopt.constraints.tree import Arithmetic, Comparison, Every, Item, Numeric, Some, Truth, items, names
from moeopt.cpsat.expressions import Expression
from moeopt.cpsat.placement import Placement
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem
from moeopt.schedule.in_flight import in_flight_vectors

if TYPE_CHECKING:
    from moeopt.cpsat.encode import Encoding

_MOST_PIECES = 10**6
"""More layers than any architecture has."""
_POSSIBLE: dict[tuple[object, ...], bool] = {}
"""Whether a grid has a placement, by everything that this depends on ..."""
_MOST_KNOWN = 4096
"""... for so many at most."""


def add_constraints(encoding: "Encoding", candidate: Candidate, literal: cp_model.IntVar) -> None:
    """Every constraint of the problem that reads the placement, and a unit of full recompute in some chunk."""
    placement = encoding.grids[candidate.grid].placement
    if candidate.unit_layers > 1:
        holds = [encoding.cp.new_bool_var("") for _ in placement.layers]
        for layers, there in zip(placement.layers, holds, strict=True):
            encoding.cp.add(layers >= candidate.unit_layers).only_enforce_if(there)
        encoding.cp.add_bool_or([*holds, literal.negated()])
    if not encoding.problem.constraints:
        return
    rows = _Rows(encoding.cp, placement, Reader(candidate.degrees, candidate.choices), (encoding, candidate))
    for tree in trees(encoding.problem).values():
        if items(tree):
            rows.require(tree, literal)


def grid_possible(problem: Problem, pp: int, vpp: int) -> bool:
    """Whether layers can be placed on a grid under those constraints that read nothing but layers and the grid itself;
    True also where a short solve does not tell."""
    key = problem.constraints, problem.architecture.layers, problem.mtp_layers, pp, vpp
    if key not in _POSSIBLE:
        if len(_POSSIBLE) > _MOST_KNOWN:
            _POSSIBLE.clear()
        _POSSIBLE[key] = _solve_grid(problem, pp, vpp)
    return _POSSIBLE[key]


def on_layers_alone(problem: Problem) -> list[Truth]:
    """The constraints that read layers, MTP modules, pp and vpp, and nothing else."""
    found = [tree for tree in trees(problem).values() if items(tree) and set(names(tree)) <= {"pp", "vpp"}]
    return [tree for tree in found if all(item.name in ("layers", "mtp") for item in items(tree))]


def _solve_grid(problem: Problem, pp: int, vpp: int) -> bool:
    cp = cp_model.CpModel()
    nothing = dict.fromkeys(Degrees.__dataclass_fields__)
    reader = Reader(Degrees(**{**nothing, "pp": pp, "vpp": vpp}), Choices())
    rows = _Rows(cp, Placement(cp, problem, pp, vpp), reader, None)
    always = cp.new_constant(1)
    for tree in on_layers_alone(problem):
        rows.require(tree, always)
    solver = cp_model.CpSolver()
    solver.parameters.catch_sigint_signal = False
    solver.parameters.num_workers = 1
    solver.parameters.max_deterministic_time = 0.2
    return bool(solver.solve(cp) != cp_model.INFEASIBLE)


class _Rows:
    """The constraints of one candidate, or of a grid alone (`whole` None: no memory and no time)."""

    def __init__(
        self,
        cp: cp_model.CpModel,
        placement: Placement,
        reader: Reader,
        whole: "tuple[Encoding, Candidate] | None",
    ) -> None:
        self.cp, self.placement, self.reader, self._whole = cp, placement, reader, whole
        self._items: dict[Item, Expression] = {}

    @property
    def whole(self) -> "tuple[Encoding, Candidate]":
        """The model and the candidate that bytes and time are of."""
        assert self._whole is not None
        return self._whole

    def require(self, node: Truth, literal: cp_model.IntVar) -> None:
        """The tree holds while the literal does."""
        if isinstance(node, Every):
            for part in node.parts:
                self.require(part, literal)
        elif isinstance(node, Some):
            self._some(node, literal)
        elif isinstance(node, Comparison) and items(node):
            self._compare(node, literal)
        elif not self.reader.holds(node):
            self.cp.add_bool_and([literal.negated()])

    def _some(self, node: Some, literal: cp_model.IntVar) -> None:
        open_parts = []
        for part in node.parts:
            if items(part):
                open_parts.append(part)
            elif self.reader.holds(part):
                return
        chosen = [self.cp.new_bool_var("") for _ in open_parts]
        self.cp.add_bool_or([*chosen, literal.negated()])
        for part, choice in zip(open_parts, chosen, strict=True):
            self.require(part, choice)

    def _compare(self, node: Comparison, literal: cp_model.IntVar) -> None:
        left, right = self._number(node.left), self._number(node.right)
        relation = {
            "<=": lambda: left <= right,
            "<": lambda: left < right,
            ">=": lambda: left >= right,
            ">": lambda: left > right,
            "==": lambda: left == right,
            "!=": lambda: left != right,
        }[node.operator]()
        if isinstance(relation, bool):
            if not relation:
                self.cp.add_bool_and([literal.negated()])
            return
        self.cp.add(relation).only_enforce_if(literal)

    # Numbers ------------------------------------------------------------------------------------------------------

    def _number(self, node: Numeric) -> Expression:
        if isinstance(node, Item):
            if node not in self._items:
                self._items[node] = self._item(node)
            return self._items[node]
        if not isinstance(node, Arithmetic) or not items(node):
            return self.reader.number(node)
        left, right = self._number(node.left), self._number(node.right)
        if node.operator in ("//", "%") and not isinstance(left, int):
            return self._divided(node.operator, left, int(right))
        return calculated(node.operator, left, right)

    def _divided(self, operator: str, value: Expression, divisor: int) -> Expression:
        """Quotient (rounded down) or remainder of layers by a number; see `moeopt.constraints.evaluate` for zero."""
        if divisor == 0:
            return 0 if operator == "//" else value
        most = 2**40
        quotient = self.cp.new_int_var(-most, most, "")
        low, high = (0, divisor - 1) if divisor > 0 else (divisor + 1, 0)
        rest = self.cp.new_int_var(low, high, "")
        self.cp.add(value == divisor * quotient + rest)
        return quotient if operator == "//" else rest

    def _item(self, item: Item) -> Expression:
        if item.name == "step_time":
            return self.whole[0].time
        if item.name == "peak_memory":
            if item.stage in ("all", "max"):
                return self.whole[0].peak
            assert isinstance(item.stage, int)
            pp = self.placement.pp
            return self._peak(item.stage % pp) if -pp <= item.stage < pp else 0
        by_stage = [self._held(item, rank) for rank in range(self.placement.pp)]
        if isinstance(item.stage, int):
            return pick(by_stage, item.stage)
        value = self.cp.new_int_var(0, _MOST_PIECES, "")
        if item.stage == "min":
            self.cp.add_min_equality(value, by_stage)
        else:
            self.cp.add_max_equality(value, by_stage)
        return value

    def _held(self, item: Item, rank: int) -> Expression:
        """Layers or MTP modules of one stage, or of one chunk of it."""
        placement = self.placement
        by_chunk = (placement.layers if item.name == "layers" else placement.counts["mtp"])[rank :: placement.pp]
        return sum(by_chunk) if item.chunk is None else pick(by_chunk, item.chunk)

    def _peak(self, rank: int) -> cp_model.IntVar:
        """Bytes of one stage's fullest GPU, bounded from below by the rows that bound the whole peak."""
        encoding, candidate = self.whole
        grid, schedule = encoding.grids[candidate.grid], candidate.schedule
        peak = self.cp.new_int_var(0, encoding.limit_bytes, f"peak_{rank}")
        kept, passing = grid.kept[rank :: schedule[0]], grid.passing[rank :: schedule[0]]
        for vector in in_flight_vectors(*schedule[:4], rank, schedule[4]):
            flight = cp_model.LinearExpr.weighted_sum(kept, vector)
            for chunk, count in enumerate(vector):
                if count:
                    self.cp.add(peak >= grid.static[rank] + flight + passing[chunk])
        return peak
