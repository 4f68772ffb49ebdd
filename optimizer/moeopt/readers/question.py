"""From a reading to the fields of a problem and of a layout: gaps are filled from shipped architectures, or named."""

from collections.abc import Mapping
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.architecture import Architecture
from moeopt.problem.huggingface import is_huggingface
from moeopt.problem.loading import load_architecture, presets
from moeopt.readers.reading import Reading, short

_COMPARED = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "kv_lora_rank",
    "q_lora_rank",
    "index_topk",
    "hybrid_pattern",
    "num_layers_at_start_in_bf16",
    "num_layers_at_end_in_bf16",
    "mtp_hybrid_pattern",
    "mtp_use_repeated_layer",
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "moe_latent_size",
    "shared_expert_intermediate_size",
    "gated",
    "tie_word_embeddings",
    "norm",
    "attention_bias",
    "mlp_bias",
    "router_correction_bias",
    "qk_norm",
)
"""Fields that tell one transformer from another; an unused feed-forward width and the longest sequence do not."""


def problem_fields(reading: Reading, architecture_given: bool = False, vocab_size: int | None = None) -> dict[str, Any]:
    """Fields of a problem file that the reading gives. Raises InputError for a dimension that nothing gives."""
    fields: dict[str, Any] = {}
    if not architecture_given:
        architecture = _architecture(reading, vocab_size)
        if architecture is not None:
            fields["architecture"] = architecture
    if reading.gpus is not None:
        fields["gpus"] = reading.gpus
    if reading.workload:
        fields["workload"] = dict(reading.workload)
    for name in ("sequence_length", "global_batch_size"):
        if name not in reading.workload:
            reading.note(f"the file gives no {name}: the problem's, or moeopt's default, is taken")
    return fields


def _architecture(reading: Reading, vocab_size: int | None) -> Architecture | None:
    if reading.preset:
        return changed(load_architecture(reading.preset), reading)
    fields = dict(reading.architecture)
    if not fields:
        return None
    if is_huggingface(fields):
        return load_architecture(fields)
    if vocab_size is not None:
        fields["vocab_size"] = vocab_size
    known = fields.get("vocab_size")
    match = _same_dimensions(load_architecture({**fields, "vocab_size": known or 1}), known)
    if known is None:
        if match is None:
            raise InputError("vocab_size: the file gives none (--vocab-size is absent); give it with --vocab-size N")
        fields["vocab_size"] = match.vocab_size
        reading.note(f"--vocab-size is absent: {match.vocab_size}, because the dimensions are those of {match.name}")
    if match is not None and match.position_embedding == fields.get("position_embedding", "rope"):
        fields["name"] = match.name
    return load_architecture(fields)


def changed(architecture: Architecture, reading: Reading) -> Architecture:
    """An architecture that is named elsewhere, with the dimensions that the file itself gives."""
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in reading.changes.items()}
    own = {name: value for name, value in given.items() if value != getattr(architecture, name)}
    if not own:
        return architecture
    said = ", ".join(f"{name} {short(value)}" for name, value in own.items())
    reading.note(f"of {architecture.name} the file changes {said}")
    base = architecture.model_dump(exclude_none=True)
    return load_architecture({"base": base, "name": f"{architecture.name} changed", **own})


def _same_dimensions(own: Architecture, vocab_size: int | None) -> Architecture | None:
    """The shipped architecture with the same dimensions; with the same vocabulary too, where that is known."""
    for name in presets("architectures"):
        other = load_architecture(name)
        heads = (own.num_key_value_heads, own.head_dim) == (other.num_key_value_heads, other.head_dim)
        if (
            all(getattr(own, field) == getattr(other, field) for field in _COMPARED)
            and (own.is_mla or heads)
            and [(kind.ffn, kind.mixer) for kind in own.layers] == [(kind.ffn, kind.mixer) for kind in other.layers]
            and vocab_size in (None, other.vocab_size)
        ):
            return other
    return None


def layout_fields(reading: Reading, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the layout: the file's, and what is given beside it."""
    return {**reading.layout, **overrides}
