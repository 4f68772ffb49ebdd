"""Variables of one pipeline grid (pp, vpp): how many decoder layers each stage holds, and where the MTP modules sit.

Stage index = chunk * pp + rank, in model order. A stage without a decoder layer is allowed only at the ends: the
first stage (embedding alone), the last, and the stages from the MTP modules' on (Megatron allows empty stages anywhere,
but interior ones have deadlocked: Megatron-LM issue 1852).
"""

from collections.abc import Sequence
from itertools import accumulate

from ortools.sat.python import cp_model

from moeopt.accounting.pieces import Piece
from moeopt.cpsat.expressions import Expression
from moeopt.pipeline import PipelineLayout
from moeopt.problem.architecture import LayerKind
from moeopt.problem.problem import Problem


class Placement:
    """Decision variables of one grid inside a CP-SAT model, with each piece's count a stage as an expression."""

    def __init__(self, cp: cp_model.CpModel, problem: Problem, pp: int, vpp: int) -> None:
        self.cp, self.pp, self.vpp = cp, pp, vpp
        self.stages = pp * vpp
        self._architecture = problem.architecture
        self._mtp_layers = problem.mtp_layers
        self._name = f"pp{pp}v{vpp}"
        total = problem.architecture.num_hidden_layers
        last = self.stages - 1
        self.layers = [cp.new_int_var(0, total, f"{self._name}_layers_{s}") for s in range(self.stages)]
        self.mtp = self._mtp_variables()
        self.starts = self._starts(total)
        for stage in range(1, self.stages):
            if stage < last:
                before = [self.mtp[q] for q in self.mtp if q <= stage]
                cp.add(self.layers[stage] >= 1).only_enforce_if([literal.negated() for literal in before])
        for stage, literal in self.mtp.items():
            for later in range(stage + 1, self.stages):
                cp.add(self.layers[later] == 0).only_enforce_if(literal)
        self.counts: dict[Piece, list[Expression]] = self._layer_counts()
        self.counts["embedding"] = [int(stage == 0) for stage in range(self.stages)]
        self.counts["loss"] = [int(stage == last) for stage in range(self.stages)]
        self.counts["mtp"] = [
            self._mtp_layers * self.mtp[stage] if stage in self.mtp else 0 for stage in range(self.stages)
        ]
        self._present: dict[tuple[Piece, int], cp_model.IntVar] = {}

    def _mtp_variables(self) -> dict[int, cp_model.IntVar]:
        """One literal a stage that may hold the MTP modules: the last chunk of any rank but the first."""
        if not self._mtp_layers:
            return {}
        first = (self.vpp - 1) * self.pp
        candidates = [stage for stage in range(first, self.stages) if stage % self.pp or self.pp == 1]
        literals = {stage: self.cp.new_bool_var(f"{self._name}_mtp_{stage}") for stage in candidates}
        self.cp.add_exactly_one(literals.values())
        return literals

    def _starts(self, total: int) -> list[Expression]:
        starts: list[Expression] = [0]
        for stage in range(1, self.stages):
            start = self.cp.new_int_var(0, total, f"{self._name}_start_{stage}")
            self.cp.add(start == starts[-1] + self.layers[stage - 1])
            starts.append(start)
        self.cp.add(starts[-1] + self.layers[-1] == total)
        return [*starts, total]

    def _layer_counts(self) -> dict[Piece, list[Expression]]:
        """Layers of each kind a stage; all kinds but the last are read off the prefix counts of the architecture."""
        kinds = self._architecture.kinds
        counts: dict[Piece, list[Expression]] = {}
        rest: list[Expression] = list(self.layers)
        for kind in kinds[:-1]:
            prefix = self._prefix(kind)
            counts[kind] = [prefix[stage + 1] - prefix[stage] for stage in range(self.stages)]
            rest = [rest[stage] - counts[kind][stage] for stage in range(self.stages)]
        counts[kinds[-1]] = rest
        return counts

    def _prefix(self, kind: LayerKind) -> list[Expression]:
        layers = self._architecture.layers
        table = [0, *accumulate(int(layer == kind) for layer in layers)]
        leading = table[-1]
        head_only = table == [min(i, leading) for i in range(len(table))]
        result: list[Expression] = [0]
        for stage in range(1, self.stages):
            value = self.cp.new_int_var(0, leading, f"{self._name}_{kind}_before_{stage}")
            if head_only:
                self.cp.add_min_equality(value, [self.starts[stage], leading])
            else:
                self.cp.add_element(self.starts[stage], table, value)
            result.append(value)
        return [*result, table[-1]]

    def present(self, piece: Piece, stage: int) -> cp_model.IntVar | bool:
        """A literal that is true where the stage holds the piece (it may be true where it does not)."""
        count = self.counts[piece][stage]
        if isinstance(count, int):
            return count > 0
        if piece == "mtp":
            return self.mtp[stage]
        key = piece, stage
        if key not in self._present:
            literal = self.cp.new_bool_var(f"{self._name}_{piece}_on_{stage}")
            self.cp.add(count <= len(self._architecture.layers) * literal)
            self._present[key] = literal
        return self._present[key]

    def any_present(self, pieces: Sequence[Piece], stages: Sequence[int]) -> Expression:
        """1 where any of the stages holds any of the pieces."""
        literals = [self.present(piece, stage) for piece in pieces for stage in stages]
        if any(literal is True for literal in literals):
            return 1
        variables = [literal for literal in literals if not isinstance(literal, bool)]
        if not variables:
            return 0
        if len(variables) == 1:
            return variables[0]
        either = self.cp.new_bool_var("")
        for literal in variables:
            self.cp.add_implication(literal, either)
        return either

    def hint(self, layout: PipelineLayout) -> None:
        """Start the search at a layout."""
        for stage, chunk in enumerate(layout.chunks):
            self.cp.add_hint(self.layers[stage], chunk.layers)
        for stage, mtp in self.mtp.items():
            self.cp.add_hint(mtp, int(bool(layout.chunks[stage].mtp)))

    def read(self, value: "cp_model.CpSolver | cp_model.CpSolverSolutionCallback") -> PipelineLayout:
        """The layout of the current solution."""
        counts = [value.value(variable) for variable in self.layers]
        stage = next((s for s, literal in self.mtp.items() if value.value(literal)), None)
        return PipelineLayout.from_counts(self.pp, counts, self._mtp_layers, stage)
