"""What fixes the order of operations of a pipeline, as one value."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Symbols in documents: p, v, M, G; `ep_overlap` is the overlap of the expert all-to-all (joint blocks)."""

    pp: int
    vpp: int
    num_microbatches: int
    group: int
    ep_overlap: bool = False

    @property
    def stages(self) -> int:
        """Chunks of all ranks; stage = chunk * pp + rank."""
        return self.pp * self.vpp

    @property
    def operations(self) -> int:
        """Forwards and backwards of all ranks in one step."""
        return 2 * self.stages * self.num_microbatches

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Without the overlap: pp, vpp, micro-batches, group."""
        return self.pp, self.vpp, self.num_microbatches, self.group
