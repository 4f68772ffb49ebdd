"""Constants that cost nothing -> arguments of Megatron-LM: rotary base and scaling, norm epsilon, routing weights.

Source: Megatron-LM d98e8a6, megatron/training/arguments.py:2397-2437, 3558-3563; training/argument_utils.py:384-412
(YaRN without MLA); core/transformer/transformer_config.py:201, 799-808, 3306-3331; core/transformer/moe/moe_utils.py
(:766; softmax weights of the chosen add up to 1 unless the softmax comes first; sigmoid ones do for top-k above 1).
A constant that an architecture does not give is left to Megatron's default.
"""

from moeopt.problem.architecture import Architecture
from moeopt.problem.rope import YARN_DEFAULTS, RopeScaling
from moeopt.writers.refusals import Refusal
from moeopt.writers.shell import flag

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The constants behind --use-rope-scaling (core/models/common/embeddings/rotary_pos_embedding.py:92-98)."""

Flag = tuple[str, ...]


def norm_flags(a: Architecture) -> list[Flag]:
    """The norms' epsilon, and whether they multiply by one plus their weight."""
    epsilon = [] if a.rms_norm_eps is None else [flag("--norm-epsilon", a.rms_norm_eps)]
    return [*epsilon, flag("--apply-layernorm-1p")] if a.zero_centered_norm else epsilon


def rotary_flags(a: Architecture) -> list[Flag]:
    """Base, rotated part and scaling of the rotary embedding."""
    if a.position_embedding != "rope" and not a.is_mla:
        return []
    flags = [] if a.rope_theta is None else [flag("--rotary-base", int(a.rope_theta))]
    if a.partial_rotary_factor is not None and not a.is_mla:
        flags.append(flag("--rotary-percent", a.partial_rotary_factor))
    if a.is_mla:
        return [*flags, *_latent_scaling(a)]
    return [*flags, *(_scaling(a.rope_scaling) if a.rope_scaling is not None else [])]


def _latent_scaling(a: Architecture) -> list[Flag]:
    """MLA. YaRN at factor 1 is plain rotary embedding, and the only kind that Megatron's fused kernel takes
    (transformer_config.py:3345)."""
    scaling = a.rope_scaling or RopeScaling(rope_type="yarn", factor=1.0, mscale=1.0, mscale_all_dim=1.0)
    return [
        flag("--rope-type", "yarn"),
        flag("--rotary-scaling-factor", scaling.factor or 1.0),
        flag("--mscale", scaling.mscale or 1.0),
        flag("--mscale-all-dim", scaling.mscale_all_dim or 0.0),
    ]


def _scaling(scaling: RopeScaling) -> list[Flag]:
    if scaling.rope_type == "llama3":
        return [flag("--use-rope-scaling"), flag("--rope-scaling-factor", scaling.factor or 8.0)]
    if scaling.rope_type == "linear":
        return [flag("--rotary-seq-len-interpolation-factor", int(scaling.factor or 1))]
    if scaling.rope_type != "yarn":
        return []
    given = {name: getattr(scaling, name) or default for name, default in YARN_DEFAULTS.items()}
    rounded = "--no-yarn-correction-range-round-to-int" if scaling.truncate is False else None
    return [
        flag("--rotary-scaling-factor", scaling.factor or 1.0),
        flag("--yarn-original-max-position-embeddings", given["original_max_position_embeddings"]),
        flag("--yarn-beta-fast", float(given["beta_fast"])),
        flag("--yarn-beta-slow", float(given["beta_slow"])),
        flag("--mscale", scaling.mscale or 1.0),
        flag("--mscale-all-dim", scaling.mscale_all_dim or 0.0),
        *([flag(rounded)] if rounded else []),
    ]


def routing_flags(a: Architecture) -> list[Flag]:
    """How the chosen experts are weighed."""
    flags = []
    first = a.norm_topk_prob is False or a.num_experts_per_tok == 1
    if a.router_score_function == "softmax" and first:
        flags.append(flag("--moe-router-pre-softmax"))
    if a.routed_scaling_factor is not None:
        flags.append(flag("--moe-router-topk-scaling-factor", a.routed_scaling_factor))
    return flags


def refusals(a: Architecture) -> list[Refusal]:
    """Constants given that no argument expresses, and whose absence would train another transformer."""
    sigmoid = a.is_moe and a.router_score_function == "sigmoid" and a.num_experts_per_tok > 1
    scaling = a.rope_scaling if a.position_embedding == "rope" else None
    kind = scaling.rope_type if scaling is not None else "none"
    known = {"yarn"} if a.is_mla else {"yarn", "llama3", "linear"}
    factor = (scaling.factor or 1.0) if scaling is not None else 1.0
    return [
        (
            "rope_theta",
            a.position_embedding == "rope" and (a.rope_theta or 1) % 1 != 0,
            "--rotary-base takes whole numbers",
        ),
        ("rope_scaling", kind not in {"none", *known}, f"{kind}: it scales by {', '.join(sorted(known))}"),
        ("rope_scaling", kind == "linear" and factor % 1 != 0, "its linear interpolation takes whole factors"),
        ("rope_scaling", kind == "llama3" and not _is_llama3(scaling), f"llama3: its constants are fixed to {LLAMA3}"),
        (
            "norm_topk_prob",
            sigmoid and a.norm_topk_prob is False,
            "weights of a sigmoid router are scaled to add up to 1",
        ),
    ]


def _is_llama3(scaling: RopeScaling | None) -> bool:
    return scaling is not None and all(getattr(scaling, name) in (None, value) for name, value in LLAMA3.items())


def left_out(a: Architecture) -> list[str]:
    """Constants that the arguments do not say, as a README's reader must know them."""
    notes = []
    scaling = a.rope_scaling
    if a.is_mla and scaling is not None and a.position_embedding == "rope":
        other = {
            name: getattr(scaling, name)
            for name, default in YARN_DEFAULTS.items()
            if getattr(scaling, name) not in (None, default)
        }
        if other:
            shown = ", ".join(f"{name} {value:g}" for name, value in other.items())
            notes.append(f"pretrain_gpt.py has no argument for MLA's YaRN constants {shown}: it takes {YARN_DEFAULTS}.")
    absent = [name for name in ("rms_norm_eps", "rope_theta") if getattr(a, name) is None]
    if absent:
        notes.append(f"The architecture does not give {' and '.join(absent)}: Megatron's default is taken.")
    return notes
