"""Variables of one pipeline grid (pp, vpp): how many decoder layers each stage holds, and where the MTP modules sit.

Stage index = chunk * pp + rank, in model order. A stage without a decoder layer is allowed only at the ends: the
first stage (embedding alone), the last, and the stages from the MTP modules' on (Megatron allows empty stages anywhere,
but interior ones have deadlocked: Megatron-LM issue 1852).
"""

from collections.abc import Sequence
from itertools import accumulate

from ortools.sat.python import cp_model

from moeopt.accounting.pieces import Piece, Recomputed
from moeopt.cpsat.expressions import Expression
from moeopt.pipeline import PipelineLayout
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem


class Placement:
    """Decision variables of one grid inside a CP-SAT model, with each piece's count a stage as an expression."""

    def __init__(self, cp: cp_model.CpModel, problem: Problem, pp: int, vpp: int) -> None:
        self.cp, self.pp, self.vpp = cp, pp, vpp
        self.stages = pp * vpp
        self._architecture = problem.architecture
        self._mtp_layers, self._mtp_stages = problem.mtp_layers, problem.mtp_stages(pp, vpp)
        self._name = f"pp{pp}v{vpp}"
        total = problem.architecture.num_hidden_layers
        last = self.stages - 1
        self.layers = [cp.new_int_var(0, total, f"{self._name}_layers_{s}") for s in range(self.stages)]
        self.mtp = self._mtp_variables()
        self._prefixes: dict[LayerKind, list[Expression]] = {}
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
        self._present: dict[tuple[Piece, int, int], cp_model.IntVar] = {}
        self._by_block: dict[int, dict[Piece, list[Expression]]] = {}

    def _mtp_variables(self) -> dict[int, cp_model.IntVar]:
        """One literal a stage that may hold the MTP modules."""
        if not self._mtp_layers:
            return {}
        literals = {stage: self.cp.new_bool_var(f"{self._name}_mtp_{stage}") for stage in self._mtp_stages}
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
        """Layers of a kind before each stage, and all of them."""
        if kind not in self._prefixes:
            before = [self._before(kind, self.starts[stage], f"before_{stage}") for stage in range(1, self.stages)]
            self._prefixes[kind] = [0, *before, self._architecture.layers.count(kind)]
        return self._prefixes[kind]

    def _before(self, kind: LayerKind, place: Expression, name: str) -> cp_model.IntVar:
        """Layers of a kind among the first so many layers."""
        table = [0, *accumulate(int(layer == kind) for layer in self._architecture.layers)]
        leading = table[-1]
        value = self.cp.new_int_var(0, leading, f"{self._name}_{kind}_{name}")
        if table == [min(i, leading) for i in range(len(table))]:
            self.cp.add_min_equality(value, [place, leading])
        else:
            self.cp.add_element(place, table, value)
            self._near_mean(place, value, table)
        return value

    def _near_mean(self, place: Expression, value: cp_model.IntVar, table: Sequence[int]) -> None:
        """What an element constraint does not tell a linear relaxation: where kinds alternate, layers of one kind among
        the first ones are as good as their share of all."""
        total, leading = len(table) - 1, table[-1]
        excess = [total * before - leading * count for count, before in enumerate(table)]
        self.cp.add_linear_constraint(total * value - leading * place, min(excess), max(excess))

    def pieces(self, block_layers: int) -> dict[Piece, list[Expression]]:
        """Count of each piece a stage, when so many of its first layers are recomputed by block (0: none)."""
        if not block_layers:
            return self.counts
        if block_layers not in self._by_block:
            columns = dict(self.counts)
            for kind, parts in self._recomputed(block_layers).items():
                columns[kind] = [held - part for held, part in zip(columns[kind], parts, strict=True)]
                columns[Recomputed.of(kind)] = parts
            self._by_block[block_layers] = columns
        return self._by_block[block_layers]

    def _recomputed(self, block_layers: int) -> dict[LayerKind, list[Expression]]:
        """How many of each kind the first layers of every stage are: of all kinds but the last those before the place
        where they end, less those before the stage."""
        kinds, name = self._architecture.kinds, f"first_{block_layers}"
        rest: list[Expression] = []
        for stage, layers in enumerate(self.layers):
            first = self.cp.new_int_var(0, block_layers, f"{self._name}_{name}_{stage}")
            self.cp.add_min_equality(first, [layers, block_layers])
            rest.append(first)
        ends = [start + first for start, first in zip(self.starts[:-1], rest, strict=True)]
        found: dict[LayerKind, list[Expression]] = {}
        for kind in kinds[:-1]:
            until = [self._before(kind, end, f"{name}_{stage}") for stage, end in enumerate(ends)]
            found[kind] = [end - start for end, start in zip(until, self._prefix(kind)[:-1], strict=True)]
            rest = [left - part for left, part in zip(rest, found[kind], strict=True)]
        found[kinds[-1]] = rest
        return found

    def present(self, piece: Piece, stage: int, block_layers: int = 0) -> cp_model.IntVar | bool:
        """A literal that is true where the stage holds the piece (it may be true where it does not)."""
        count = self.pieces(block_layers)[piece][stage]
        if isinstance(count, int):
            return count > 0
        if piece == "mtp":
            return self.mtp[stage]
        key = piece, stage, block_layers
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

    def precede(self, layout: PipelineLayout) -> None:
        """Only placements before this one: fewer layers on the first stage where they differ; where none does, MTP
        modules on a later stage."""
        held = [chunk.layers for chunk in layout.chunks]
        differs = [self.cp.new_bool_var(f"{self._name}_first_at_{stage}") for stage in range(self.stages)]
        later = [self.mtp[at] for at in self.mtp if not any(chunk.mtp for chunk in layout.chunks[at:])]
        same = self.cp.new_bool_var(f"{self._name}_same_layers")
        self.cp.add_exactly_one([*differs, same])
        self.cp.add_bool_or(later).only_enforce_if(same)
        for stage, literal in enumerate(differs):
            after = self.cp.new_bool_var(f"{self._name}_first_after_{stage}")
            self.cp.add(sum(differs[stage + 1 :]) + same == after)
            self.cp.add(self.layers[stage] < held[stage]).only_enforce_if(literal)
            self.cp.add(self.layers[stage] == held[stage]).only_enforce_if(after)

    def read(self, value: "cp_model.CpSolver | cp_model.CpSolverSolutionCallback") -> PipelineLayout:
        """The layout of the current solution."""
        counts = [value.value(variable) for variable in self.layers]
        stage = next((s for s, literal in self.mtp.items() if value.value(literal)), None)
        return PipelineLayout.from_counts(self.pp, counts, self._mtp_layers, stage)
