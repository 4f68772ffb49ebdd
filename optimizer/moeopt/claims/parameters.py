"""Parameter counts beside a claimed one, component by component."""

from fractions import Fraction

from moeopt.claims.quantities import Answer, Quantity, Setting, count_quantity, holds
from moeopt.problem.architecture import Architecture
from moeopt.units import format_count


def parameters_answer(name: str, text: str, setting: Setting) -> Answer:
    """Judge a claim about total parameters (`params`) or those that one token uses (`active_params`)."""
    from moeopt.accounting.parameters import count

    architecture = setting.problem.architecture
    counted = count(architecture)
    quantity = count_quantity(name, text)
    value = counted.total if name == "params" else counted.active
    held = holds(quantity, value)
    parts = ", ".join(
        f"{part.replace('_', ' ')} {size:,}" for part, size in counted.components.items() if size and part != "mtp"
    )
    word = "total" if name == "params" else "active for a token"
    sentences = [f"{architecture.name} has {value:,} parameters {word} ({format_count(value)})."]
    if name == "params":
        sentences.append(f"They are: {parts}.")
    sentences += _experts(architecture, active=name == "active_params")
    if name == "params" and counted.mtp:
        sentences.append(f"Its MTP modules, {counted.mtp:,}, are not in this total.")
    if not held:
        sentences += _distance(architecture, quantity, value, {kind.total: kind.count for kind in counted.layers}, name)
    return Answer(value, held, " ".join(sentences), format_count(value))


def _experts(architecture: Architecture, active: bool) -> list[str]:
    """The product behind the routed experts, which are nearly everything in most of these architectures."""
    layers = sum(kind.ffn == "moe" for kind in architecture.layers)
    if not layers:
        return []
    experts = architecture.num_experts_per_tok if active else architecture.num_experts
    matrices = 3 if architecture.gated else 2
    seen = "moe_latent_size" if architecture.moe_latent_size else "hidden_size"
    size = layers * experts * matrices * architecture.expert_hidden_size * architecture.moe_intermediate_size
    return [
        f"Routed experts' matrices: {layers} layers * {experts} experts * {matrices} matrices * {seen} "
        f"{architecture.expert_hidden_size} * moe_intermediate_size {architecture.moe_intermediate_size} = {size:,}."
    ]


def _distance(
    architecture: Architecture, quantity: Quantity, value: int, layers: dict[int, int], name: str
) -> list[str]:
    """How far the claim is, and how many layers of this kind it would take."""
    claimed = quantity.value
    sentences = [f"The claim is {float(claimed / value):.3g} times that."]
    per_layer = Fraction(sum(size * times for size, times in layers.items()), architecture.num_hidden_layers)
    if name == "params" and claimed > value:
        rest = value - per_layer * architecture.num_hidden_layers
        needed = round((claimed - rest) / per_layer)
        sentences.append(
            f"With these dimensions it would take about {needed} layers instead of {architecture.num_hidden_layers}."
        )
    return sentences
