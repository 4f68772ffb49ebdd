"""Sizes of an architecture, by component and by kind of layer."""

from dataclasses import dataclass
from typing import Any

from moeopt.accounting.parameters.pieces import piece_parameters
from moeopt.accounting.parameters.tensor import COMPONENTS, Component, Parameter
from moeopt.accounting.pieces import Piece
from moeopt.problem.architecture import Architecture
from moeopt.problem.layer_kind import LayerKind


@dataclass(frozen=True)
class LayerCount:
    """The decoder layers of one kind: how many, and the elements of one by component."""

    kind: LayerKind
    count: int
    total: int
    active: int
    components: dict[Component, int]


@dataclass(frozen=True)
class ParameterCount:
    """Sizes of an architecture. `total` leaves MTP modules out (`mtp` holds them); correction biases are counted."""

    total: int
    active: int
    """Per token: k of E routed experts and everything else, the embedding and the head with them."""
    active_without_embeddings: int
    """`active` less the embedding table (the head stays: each token is multiplied by it)."""
    mtp: int
    components: dict[Component, int]
    layers: tuple[LayerCount, ...]

    def to_json(self, architecture: Architecture) -> dict[str, Any]:
        """What `moeopt params` prints."""
        return {
            "schema": "moeopt/1",
            "architecture": architecture.name,
            "total": self.total,
            "active": self.active,
            "active_without_embeddings": self.active_without_embeddings,
            "active_without_embeddings_and_head": self.active_without_embeddings - self.components["output_head"],
            "mtp": self.mtp,
            "total_with_mtp": self.total + self.mtp,
            "note": "total leaves the MTP modules out; router correction biases are counted",
            "components": dict(self.components),
            "layers": [
                {
                    "kind": str(layer.kind),
                    "count": layer.count,
                    "total": layer.total,
                    "active": layer.active,
                    **{name: size for name, size in layer.components.items() if size},
                }
                for layer in self.layers
            ],
        }


def count(architecture: Architecture) -> ParameterCount:
    """Exact sizes: what Hugging Face's modules hold, by component and by kind of layer."""
    layers = tuple(_layer_count(architecture, kind) for kind in architecture.kinds)
    components: dict[Component, int] = dict.fromkeys(COMPONENTS, 0)
    active = 0
    for layer in layers:
        active += layer.count * layer.active
        for name, size in layer.components.items():
            components[name] += layer.count * size
    for piece in ("embedding", "loss"):
        for parameter in _own(architecture, piece):
            components[parameter.component] += parameter.total
            active += parameter.total
    total = sum(components.values())
    mtp = sum(parameter.total for parameter in _own(architecture, "mtp")) * architecture.mtp_copies
    components["mtp"] = mtp
    return ParameterCount(total, active, active - components["embedding"], mtp, components, layers)


def _layer_count(architecture: Architecture, kind: LayerKind) -> LayerCount:
    sizes: dict[Component, int] = dict.fromkeys(COMPONENTS, 0)
    active = 0
    for parameter in _own(architecture, kind):
        sizes[parameter.component] += parameter.total
        visited = architecture.num_experts_per_tok if parameter.sharding == "expert" else parameter.copies
        active += parameter.numel * visited
    return LayerCount(kind, architecture.layers.count(kind), sum(sizes.values()), active, sizes)


def _own(architecture: Architecture, piece: Piece) -> list[Parameter]:
    return [parameter for parameter in piece_parameters(architecture, piece) if parameter.origin == "architecture"]
