"""Single changes of a problem that give it a layout: each is solved, and comes with the layout that was found."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from moeopt.accounting.ledger import Ledger
from moeopt.explain.conflict import Conflict
from moeopt.explain.degrees import Undecided
from moeopt.explain.members import MEMORY, PEAK_LIMIT, members, variant
from moeopt.explain.placing import Clock, Light, find
from moeopt.explain.sentences import layout_text
from moeopt.freedom import freed
from moeopt.parallel import side_by_side
from moeopt.problem.loading import load_cluster, presets
from moeopt.problem.problem import GpuRange, Problem
from moeopt.solving.incumbent import Found
from moeopt.units import format_bytes, format_ns

Change = dict[str, Any]
_SECONDS_EACH = 3.0
_SECONDS_A_WISH = 6.0
_MOST_DOUBLINGS = 12
_OFFLOADS = (0.25, 0.5, 0.75, 1.0)
_HALVINGS = 5
_CLUSTERS_TRIED = 3
_ROUNDS_OF_RESERVE = 50


def relaxations(problem: Problem, found: Conflict, light: Light | None, clock: Clock) -> list[Change]:
    """The changes that work, cheapest training (GPU time a token) first."""
    return sorted(_Trials(problem, found, light, clock).all(), key=lambda change: change.pop("_cost"))


class _Trials:
    """One attempt at relaxing one problem."""

    def __init__(self, problem: Problem, found: Conflict, light: Light | None, clock: Clock) -> None:
        self.problem, self.found, self.light, self.clock = problem, found, light, clock

    def all(self) -> list[Change]:
        """Every kind of change side by side, those that ask least of the user first; which take longest is a guess."""
        for_memory = (self._memory, self._offload, self._sequence, self._cluster)
        kinds = [self._wishes, *(for_memory if MEMORY in self.found.names else ()), self._batch, self._gpus]
        longest = (self._gpus, self._cluster, self._wishes)
        found = side_by_side(lambda kind: list(kind()), kinds, lambda kind: int(kind in longest))
        return [change for changes in found for change in changes]

    # One kind of change each --------------------------------------------------------------------------------------

    def _wishes(self) -> Iterator[Change]:
        """Each fixed decision, limit or constraint given up alone; all of them where none alone is enough."""
        everything = members(self.problem)
        wishes = [member for member in everything if member.kind in ("fix", "limit", "constraint")]
        names = {member.name for member in everything}
        worked = False
        for member in sorted(wishes, key=lambda wish: wish.name not in self.found.names):
            if member.name == PEAK_LIMIT or (self.found.minimal and member.name not in self.found.names):
                continue  # what is no part of a conflict does not resolve it
            layout = self._try(variant(self.problem, names - {member.name}), _SECONDS_A_WISH)
            if layout is not None:
                worked = True
                yield self._change(
                    f"drop {member.name}", _value_of(member.name, layout), layout, f"without {member.name}"
                )
        if not worked and len(wishes) > 1:
            layout = self._try(variant(self.problem, names - {member.name for member in wishes}), _SECONDS_A_WISH)
            if layout is not None:
                yield self._change("drop fix, limits and constraints", None, layout, "without any of them")

    def _gpus(self) -> Iterator[Change]:
        """The smallest GPU count found with a layout: whole nodes, doubled, then halving the step down to an eighth."""
        node, now = self.problem.cluster.gpus_per_node, self.problem.gpu_range.max
        low, layout, high = now, None, now
        for candidate in self._growing(now, node):
            layout = self._try(self._with_gpus(candidate))
            if layout is not None:
                high = candidate
                break
            low = candidate
        if layout is None:
            return
        finest = max((high - low) // 8, 1)
        while high - low > finest:
            middle = -(-(low + high) // 2 // node) * node
            if not low < middle < high:
                break
            smaller = self._try(self._with_gpus(middle))
            if smaller is None:
                low = middle
            else:
                high, layout = middle, smaller
        yield self._change("gpus", high, layout, f"{high} GPUs instead of {now}")

    def _growing(self, now: int, node: int) -> Iterator[int]:
        whole = -(-now // node) * node
        power = 1 << (now - 1).bit_length()
        yield from sorted({count for count in (whole, power) if count > now})
        for doubling in range(1, _MOST_DOUBLINGS):
            if self.clock.expired:
                return
            yield power << doubling

    def _with_gpus(self, count: int) -> Problem:
        reach = self.problem.gpu_range
        gpus = count if reach.min == reach.max else GpuRange(min=reach.min, max=count)
        return self.problem.model_copy(update={"gpus": gpus})

    def _memory(self) -> Iterator[Change]:
        """The smallest peak: what a GPU would have to hold."""
        if self.light is None:
            return
        layout, least = self.light.found, self.light.least_bytes
        what = "limits.peak_memory"
        if layout.peak_bytes > self.problem.cluster.memory:
            what, layout = "cluster.memory", replace(layout, peak_bytes=_with_reserve(layout))
        need = layout.peak_bytes
        text = f"{what} {need} bytes ({format_bytes(need)}), at least {least} for any layout"
        yield self._change(what, need, layout, text)

    def _offload(self) -> Iterator[Change]:
        """The smallest part of the optimizer's state in host memory."""
        fixed = self.problem.fix.get("optimizer")
        if (isinstance(fixed, dict) and "offload_fraction" in fixed) or "optimizer.offload_fraction" in freed(
            self.problem
        ):
            return
        for part in _OFFLOADS:
            optimizer = {**(fixed or {}), "precision_aware": True, "offload_fraction": part}
            fix = {**self.problem.fix, "optimizer": optimizer}
            layout = self._try(self.problem.model_copy(update={"fix": fix}))
            if layout is not None:
                name = "optimizer.offload_fraction"
                yield self._change(name, part, layout, f"{name} {part:g}")
                return

    def _sequence(self) -> Iterator[Change]:
        """The longest of the halved sequences."""
        length = self.problem.workload.sequence_length
        for halving in range(1, _HALVINGS + 1):
            shorter = length >> halving
            if length % (1 << halving) or not shorter:
                return
            layout = self._try(self._with_workload(sequence_length=shorter))
            if layout is not None:
                yield self._change("sequence_length", shorter, layout, f"sequence_length {shorter} instead of {length}")
                return

    def _batch(self) -> Iterator[Change]:
        """The nearest batch of a few: multiples of the GPUs, powers of two, doubled and halved."""
        batch, gpus = self.problem.workload.batch, self.problem.gpu_range.max
        up, down = -(-batch // gpus) * gpus, batch // gpus * gpus
        power = 1 << batch.bit_length()
        options = {up, down, power, power // 2, 2 * batch, batch // 2, batch // 4} - {0, batch}
        for option in sorted(options, key=lambda size: abs(size - batch)):
            layout = self._try(self._with_workload(global_batch_size=option))
            if layout is not None:
                yield self._change(
                    "global_batch_size", option, layout, f"global_batch_size {option} instead of {batch}"
                )
                return

    def _cluster(self) -> Iterator[Change]:
        """The shipped cluster with the least memory above this one's that has a layout."""
        now = self.problem.cluster
        larger = sorted(
            (cluster for cluster in map(load_cluster, presets("clusters")) if cluster.memory > now.memory),
            key=lambda cluster: (cluster.memory, cluster.name),
        )
        for cluster in larger[:_CLUSTERS_TRIED] + larger[_CLUSTERS_TRIED:][-1:]:
            layout = self._try(self.problem.model_copy(update={"cluster": cluster}))
            if layout is not None:
                text = f"cluster {cluster.name} ({format_bytes(cluster.memory)} a GPU)"
                yield self._change("cluster", cluster.name, layout, text)
                return

    # Asking -------------------------------------------------------------------------------------------------------

    def _with_workload(self, **fields: int) -> Problem:
        return self.problem.model_copy(update={"workload": self.problem.workload.model_copy(update=fields)})

    def _try(self, problem: Problem, seconds: float = _SECONDS_EACH) -> Found | None:
        found: Found | None = self._asked(lambda clock: find(problem, clock), seconds)
        return found

    def _asked(self, question: Callable[[Clock], Any], seconds: float = _SECONDS_EACH) -> Any:
        try:
            return question(self.clock.within(seconds))
        except Undecided:
            return None

    def _change(self, change: str, to: Any, layout: Found, text: str) -> Change:
        candidate, gpus = layout.candidate, int(layout.candidate.degrees.gpus)
        workload = candidate.problem.workload
        return {
            "change": change,
            "to": to,
            "gpus": gpus,
            "text": f"{text}: {layout_text(layout)}, {format_ns(layout.time_ns)} a step",
            "layout": candidate.layout(layout.pipeline).model_dump(mode="json"),
            "step_time_ns": layout.time_ns,
            "peak_bytes": layout.peak_bytes,
            "_cost": gpus * layout.time_ns / (workload.batch * workload.sequence_length),
        }


def _with_reserve(found: Found) -> int:
    """Bytes of a GPU that holds the layout: the reserve against fragmentation is a share of the GPU's own memory."""
    candidate, need = found.candidate, found.peak_bytes
    for _ in range(_ROUNDS_OF_RESERVE):
        cluster = candidate.problem.cluster.model_copy(update={"memory": need})
        ledger = Ledger(candidate.problem.model_copy(update={"cluster": cluster}), candidate.degrees, candidate.choices)
        peak = max(stage.total_bytes for stage in ledger.memory(found.pipeline))
        if peak <= need:
            break
        need = peak
    return need


def _value_of(name: str, found: Found) -> Any:
    """What the layout decides where a wish was given up."""
    decided = found.candidate.layout(found.pipeline).model_dump(mode="json")
    return decided.get(name.partition("_")[2])
