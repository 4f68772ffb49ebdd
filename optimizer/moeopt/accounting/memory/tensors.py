"""One kept tensor: its bytes as a product of named sizes, who drops it, and where that is known from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moeopt.accounting.memory.symbols import Symbols
from moeopt.arithmetic import Number, times, where
from moeopt.layout import Choices, OffloadModule, RecomputeModule

MIN_OFFLOADED_ELEMENTS = 2**20
"""Smaller tensors stay on the GPU (transformer_config.py:1343, --min-offloaded-tensor-size)."""


@dataclass(frozen=True)
class TensorBytes:
    """One tensor that the forward pass keeps for the backward pass."""

    name: str
    bytes: Number
    arithmetic: str
    """The product in the letters of `Symbols`; a factor 33/32 or 9/16 is a quantised element with its scales."""
    dropped_by: tuple[RecomputeModule, ...]
    """Selective recomputation of any of these modules drops the tensor."""
    source: str
    offloaded_by: OffloadModule | None = None
    """Offloading this module's saved inputs moves the tensor to the host, if it is large enough."""
    width: int = 2
    """Bytes of one element."""

    def kept_under(self, choices: Choices) -> bool:
        """Whether no chosen module drops the tensor."""
        return not any(choices.recompute.drops(module) for module in self.dropped_by)

    def host_bytes(self, choices: Choices) -> Number:
        """Bytes that wait in host memory between the passes, where the tensor is kept at all."""
        if self.offloaded_by not in choices.offload:
            return 0 * self.bytes
        return where(self.bytes >= self.width * MIN_OFFLOADED_ELEMENTS, self.bytes, 0)


def tensor(
    sizes: Symbols,
    name: str,
    factors: str,
    dropped_by: tuple[RecomputeModule, ...] = (),
    source: str = "",
    *,
    quantized: bool = False,
    offload: OffloadModule | None = None,
    width: int = 2,
) -> TensorBytes:
    """A tensor of `factors` bytes, such as "2*T*h": literals and names of `Symbols`, multiplied.

    `quantized` says that the factors count elements, each of which takes its bits and its share of a scale.
    """
    product: Number = 1
    for factor in factors.split("*"):
        product = product * (int(factor) if factor.isdigit() else getattr(sizes, factor))
    if quantized:
        product = times(product, sizes.element_bytes)
        factors = f"{factors}*{sizes.element_bytes}"
    return TensorBytes(name, product, factors, dropped_by, source, offload, 1 if quantized else width)


def with_numbers(sizes: Symbols, item: TensorBytes) -> TensorBytes:
    """The tensor with its arithmetic in letters and in numbers: `2*T*h = 2*512*7168`. For one layout, not a column."""
    factors = (part.partition("/") for part in item.arithmetic.split("*"))
    numbers = "*".join(
        (head if head.isdigit() else str(int(getattr(sizes, head)))) + slash + tail for head, slash, tail in factors
    )
    return replace(item, arithmetic=f"{item.arithmetic} = {numbers}")


def on_gpu(tensors: Sequence[TensorBytes], choices: Choices) -> list[TensorBytes]:
    """The tensors without what is offloaded to the host."""
    if not choices.offload:
        return list(tensors)
    return [replace(item, bytes=item.bytes - item.host_bytes(choices)) for item in tensors]


def total(tensors: Sequence[TensorBytes]) -> Number:
    """Bytes of all of them."""
    result: Number = 0
    for item in tensors:
        result = result + item.bytes
    return result
