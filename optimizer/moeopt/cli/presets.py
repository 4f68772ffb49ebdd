"""`moeopt presets`."""

from typing import Any

import click

from moeopt.cli.completing import words
from moeopt.cli.options import output_options
from moeopt.cli.output import Output
from moeopt.errors import InputError
from moeopt.problem.base import nearest


def _names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Presets of the kind that stands before."""
    from moeopt.problem import loading

    kind = context.params.get("kind")
    return [name for name in loading.presets(kind) if name.startswith(incomplete)] if kind in loading.KINDS else []


@click.command()
@click.argument(
    "kind", required=False, metavar="[architectures|clusters]", shell_complete=words("architectures", "clusters")
)
@click.argument("name", required=False, shell_complete=_names)
@output_options
def presets(kind: str | None, name: str | None, **options: Any) -> int:
    """Architectures and clusters that ship; with NAME, all fields of one."""
    output = Output(options)
    from moeopt.problem import loading
    from moeopt.report.presets import render_preset, render_presets

    if kind is not None and kind not in loading.KINDS:
        known = {each: one for one in loading.KINDS for each in loading.presets(one)}
        if kind not in known or name is not None:
            raise InputError(
                f"presets: {kind!r} is neither architectures nor clusters{nearest(kind, list(loading.KINDS))}"
            )
        kind, name = known[kind], kind
    if kind is None or name is None:
        chosen = loading.KINDS if kind is None else (kind,)
        answer: dict[str, Any] = {"schema": "moeopt/1"}
        answer.update({each: [_summary(each, one) for one in loading.presets(each)] for each in chosen})
        output.emit(answer, render_presets)
    else:
        load = loading.load_architecture if kind == "architectures" else loading.load_cluster
        fields = load(name).model_dump(mode="json")
        output.emit({"schema": "moeopt/1", "kind": kind, "name": name, "fields": fields}, render_preset)
    return 0


def _summary(kind: str, name: str) -> dict[str, Any]:
    from moeopt.problem import loading

    if kind == "clusters":
        cluster = loading.load_cluster(name)
        return {
            "name": name,
            "gpu": cluster.gpu,
            "memory_bytes": cluster.memory,
            "nvlink_domain_size": cluster.nvlink_domain_size,
        }
    architecture = loading.load_architecture(name)
    return {
        "name": name,
        "layers": architecture.num_hidden_layers,
        "hidden_size": architecture.hidden_size,
        "experts": architecture.num_experts,
        "experts_per_token": architecture.num_experts_per_tok,
        "attention": "MLA"
        if architecture.is_mla
        else f"{architecture.num_attention_heads}/{architecture.num_key_value_heads}",
        "source": architecture.source,
    }
