"""Megatron-LM scripts and argument lists, written here in the styles that people use, come in as fields."""

import json
from pathlib import Path
from typing import Any

import pytest

from moeopt.__main__ import run
from moeopt.errors import InputError
from moeopt.readers import Reading, read
from moeopt.readers.question import problem_fields

BASE = {
    "num-layers": "48",
    "hidden-size": "2048",
    "num-attention-heads": "32",
    "ffn-hidden-size": "6144",
    "group-query-attention": "",
    "num-query-groups": "4",
    "kv-channels": "128",
    "qk-layernorm": "",
    "normalization": "RMSNorm",
    "swiglu": "",
    "disable-bias-linear": "",
    "untie-embeddings-and-output-weights": "",
    "position-embedding-type": "rope",
    "max-position-embeddings": "40960",
    "seq-length": "4096",
    "vocab-size": "151936",
    "num-experts": "128",
    "moe-router-topk": "8",
    "moe-ffn-hidden-size": "768",
    "moe-token-dispatcher-type": "alltoall",
    "tensor-model-parallel-size": "2",
    "pipeline-model-parallel-size": "4",
    "expert-model-parallel-size": "8",
    "expert-tensor-parallel-size": "1",
    "sequence-parallel": "",
    "micro-batch-size": "1",
    "global-batch-size": "512",
    "bf16": "",
    "use-distributed-optimizer": "",
    "overlap-grad-reduce": "",
}


def reading(tmp_path: Path, text: str, name: str = "run.sh", *arguments: str, **given: str) -> Reading:
    path = tmp_path / name
    path.write_text(text)
    return read(path, arguments, given)


def listed(**changes: str | None) -> str:
    """An argument file: BASE with other values; None leaves an argument out."""
    values: dict[str, str | None] = {**BASE, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return "\n".join(f"--{name} {value}" for name, value in values.items() if value is not None)


def changed(tmp_path: Path, **changes: str | None) -> Reading:
    return reading(tmp_path, listed(**changes), "arguments.txt")


ARRAYS = """#!/bin/bash
GPUS_PER_NODE=8
NNODES=${{SLURM_NNODES:-"4"}}
WORLD_SIZE=$(($GPUS_PER_NODE*$NNODES))
DISTRIBUTED_ARGS=(--nproc_per_node $GPUS_PER_NODE --nnodes $NNODES --node_rank ${{RANK:-0}})
MODEL_ARGS=(
    # dimensions
    {lines}
)
if [ -n "${{WANDB_API_KEY}}" ]; then
    MODEL_ARGS+=(--wandb-project x)
fi
torchrun ${{DISTRIBUTED_ARGS[@]}} pretrain_gpt.py ${{MODEL_ARGS[@]}} --save $(pwd)/out
"""
STRINGS = """
ENV=$1
TP=$2
if [ $ENV = one ]; then
    NNODES=1
elif [ $ENV = many ]; then
    NNODES=${{WORLD_SIZE}}
fi
tp_option=" \\
    --tensor-model-parallel-size ${{TP}}"
options=" \\
    {joined} \\
    ${{tp_option}} \\
    --moe-layer-freq '([1]*48)'
    "
run_cmd="torchrun --nproc_per_node 8 --nnodes $NNODES pretrain_qwen.py ${{options}} ${{never_set}}"
echo ${{run_cmd}}
eval ${{run_cmd}}
"""
SLURM = """#!/bin/bash
#SBATCH --nodes=4 --exclusive
#SBATCH --ntasks-per-node=8
options=" {joined} "
run_cmd="python -u ${{DIR}}/pretrain_gpt.py $@ ${{options}}"
srun -l --output=$DIR/x_%j.log sh -c "${{run_cmd}}"
"""
HEREDOC = """
ARGS=({joined})
CMD="export PYTHONPATH=/x; python pretrain_gpt.py ${{ARGS[@]}}"
sbatch <<EOF
#!/bin/bash
#SBATCH --nodes=4
#SBATCH --gpus-per-node=h100:8
srun --mpi=pmix bash -x -c "${{CMD}}" 2>&1 | tee log
EOF
"""


def test_every_style_of_script_gives_the_same_fields(tmp_path: Path) -> None:
    """Arrays, option strings under eval, srun and a here-document say the same as the plain list of arguments."""
    lines = listed().splitlines()
    joined = " ".join(lines)
    plain = reading(tmp_path, listed(), "arguments.txt")
    scripts = {
        "arrays": reading(tmp_path, ARRAYS.format(lines="\n    ".join(lines))),
        "strings": reading(tmp_path, STRINGS.format(joined=joined), "s.sh", "many", "2", WORLD_SIZE="4"),
        "slurm": reading(tmp_path, SLURM.format(joined=joined)),
        "heredoc": reading(tmp_path, HEREDOC.format(joined=joined)),
    }
    for name, found in scripts.items():
        assert (name, found.gpus) == (name, 32)
        assert found.layout == plain.layout, name
        assert found.workload == plain.workload, name
        own = {**found.architecture, "first_k_dense_replace": 0}  # "strings" also says that no layer is dense
        assert own == {**plain.architecture, "first_k_dense_replace": 0}, name


def test_dimensions_of_a_shipped_architecture_are_recognised(tmp_path: Path) -> None:
    """The arguments of Qwen3-30B-A3B give its exact parameter count and its name; its vocabulary may be absent."""
    from moeopt.accounting.parameters import count
    from moeopt.problem.loading import load_architecture

    for found in (changed(tmp_path), changed(tmp_path, vocab_size=None)):
        architecture = problem_fields(found)["architecture"]
        assert architecture.name == "qwen3-30b-a3b"
        assert count(architecture).total == count(load_architecture("qwen3-30b-a3b")).total
    with pytest.raises(InputError, match="--vocab-size N"):
        problem_fields(changed(tmp_path, vocab_size=None, hidden_size="1920"))


FLEX = {"moe_token_dispatcher_type": "flex"}


def test_two_numbers_of_sms_are_refused(tmp_path: Path) -> None:
    """Megatron takes the older names of one number only where they agree."""
    given = {**FLEX, "moe_deepep_num_sms": "24", "moe_hybridep_num_sms": "16"}
    with pytest.raises(InputError, match="--moe-hybridep-num-sms: 16 beside --moe-deepep-num-sms 24"):
        changed(tmp_path, **given)
    assert changed(tmp_path, **{**given, "moe_deepep_num_sms": "16"}).layout["dispatcher_sms"] == 16


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"expert_tensor_parallel_size": None}, "etp", 2),
        ({"moe_token_dispatcher_type": None}, "dispatcher", "allgather"),
        (FLEX, "dispatcher", "deepep"),
        ({**FLEX, "moe_flex_dispatcher_backend": "hybridep"}, "dispatcher", "hybridep"),
        ({**FLEX, "moe_enable_deepep": ""}, "dispatcher", "deepep"),
        ({**FLEX, "moe_deepep_num_sms": "24"}, "dispatcher_sms", 24),
        ({**FLEX, "moe_hybridep_num_sms": "16"}, "dispatcher_sms", 16),
        ({**FLEX, "moe_hybridep_num_sms": "16", "moe_flex_dispatcher_num_sms": "32"}, "dispatcher_sms", 32),
        ({"moe_hybridep_num_sms": "16"}, "dispatcher_sms", None),
        ({"recompute_activations": ""}, "recompute", {"granularity": "selective", "modules": ["core_attn"]}),
        (
            {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": "3"},
            "recompute",
            {"granularity": "full", "method": "block", "num_layers": 3},
        ),
        (
            {"recompute_granularity": "selective", "recompute_modules": "moe_act layernorm"},
            "recompute",
            {"granularity": "selective", "modules": ["layernorm", "moe_act"]},
        ),
        ({"num_virtual_stages_per_pipeline_rank": "3"}, "vpp", 3),
        ({"num_layers_per_virtual_pipeline_stage": "4"}, "vpp", 3),
        ({"pipeline_model_parallel_layout": "'Et*11|(t*12|)*2t*13L'"}, "pipeline_layout", "Et*11|(t*12|)*2t*13L"),
        ({"decoder_first_pipeline_num_layers": "9"}, "pipeline_layout", "Et*9|(t*13|)*2t*13L"),
        ({"use_distributed_optimizer": None}, "distributed_optimizer", False),
        ({"cuda_graph_impl": "transformer_engine", "cuda_graph_modules": "moe_router"}, "cuda_graphs", "router"),
        ({"enable_cuda_graph": ""}, "cuda_graphs", "attention"),
    ],
)
def test_arguments_become_the_layout_that_megatron_would_run(
    tmp_path: Path, changes: dict[str, str | None], field: str, value: Any
) -> None:
    """Megatron's own defaults hold where an argument is absent, not moeopt's."""
    assert changed(tmp_path, **changes).layout[field] == value


@pytest.mark.parametrize(
    ("changes", "optimizer", "distributed"),
    [
        ({}, None, True),
        ({"optimizer": "adam"}, None, True),
        ({"optimizer": "muon"}, "muon", True),
        ({"optimizer": "muon", "use_distributed_optimizer": None}, "muon", False),
        ({"optimizer": "dist_muon", "use_distributed_optimizer": None}, "muon", True),
        ({"optimizer": "muon", "no_use_layer_wise_param_layout": "", "muon_num_ns_steps": "6"}, "muon", True),
    ],
)
def test_muon_is_read_with_its_sharding(
    tmp_path: Path, changes: dict[str, str | None], optimizer: str | None, distributed: bool
) -> None:
    """The optimizer by its name, dist_muon as Muon whose tensors are shared out; other steps than priced are noted."""
    found = changed(tmp_path, **changes)
    assert found.workload.get("optimizer") == optimizer
    assert found.layout["distributed_optimizer"] is distributed
    noted = [note for note in found.notes if "muon-num-ns-steps" in note]
    assert len(noted) == ("muon_num_ns_steps" in changes)


@pytest.mark.parametrize(
    ("changes", "name", "fix"),
    [
        ({"expert_tensor_parallel_size": None}, "--expert-tensor-parallel-size", "--expert-tensor-parallel-size 1"),
        ({"moe_token_dispatcher_type": None}, "--moe-token-dispatcher-type", "alltoall"),
        ({"moe_enable_deepep": ""}, "--moe-enable-deepep", "--moe-flex-dispatcher-backend deepep"),
        ({"recompute_activations": ""}, "--recompute-activations", "--recompute-granularity selective"),
        ({"moe_layer_recompute": ""}, "--moe-layer-recompute", "--recompute-modules moe"),
        ({"moe_ffn_hidden_size": None}, "--moe-ffn-hidden-size", "6144"),
        ({"external_cuda_graph": ""}, "--external-cuda-graph", "--cuda-graph-impl transformer_engine"),
        (
            {"cuda_graph_impl": "transformer_engine", "cuda_graph_modules": "attn"},
            "--cuda-graph-modules",
            "add moe_router moe_preprocess",
        ),
        ({"moe_router_padding_for_fp8": ""}, "--moe-router-padding-for-fp8", "for-quantization"),
        ({"fp4_format": "e2m1"}, "--fp4-param-gather", "add --fp4-param-gather"),
        ({"fp8_format": "e4m3", "fp8_recipe": "mxfp8"}, "--fp8-param-gather", "add --fp8-param-gather"),
        ({"sequence_parallel": None}, "--sequence-parallel", "--sequence-parallel"),
        ({"optimizer": "muon"}, "--no-use-layer-wise-param-layout", "add it"),
        ({"optimizer": "lion"}, "--optimizer", "memory differs"),
        ({"bf16": None}, "--bf16", "--bf16"),
    ],
)
def test_surprising_defaults_and_renamed_arguments_warn_with_the_fix(
    tmp_path: Path, changes: dict[str, str | None], name: str, fix: str
) -> None:
    """A warning names the argument and says what to write; the plain list has none of it."""
    warnings = {each["name"]: each["fix"] for each in changed(tmp_path, **changes).warnings}
    assert fix in warnings[name]
    assert name not in {each["name"] for each in changed(tmp_path).warnings}


def test_no_router_is_missed_where_none_is_captured(tmp_path: Path) -> None:
    """Beside recomputed experts Megatron captures no router: attention's graphs alone are what is priced."""
    graphs: dict[str, str | None] = {"cuda_graph_impl": "transformer_engine", "cuda_graph_modules": "attn"}
    found = changed(tmp_path, **graphs, recompute_granularity="selective", recompute_modules="moe")
    assert found.layout["cuda_graphs"] == "attention"
    assert "--cuda-graph-modules" not in {each["name"] for each in found.warnings}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"use_torch_fsdp2": ""}, "FSDP"),
        ({"hybrid_layer_pattern": "M*/M/*"}, "MTP modules that differ"),
        ({"num_layers": "forty"}, "--num-layers: 'forty' is not a whole number"),
        ({"num_layers_per_virtual_pipeline_stage": "5"}, r"48 % \(pp 4 \* 5\)"),
        ({"moe_layer_freq": "([1]*47)"}, "47 entries"),
        (
            {"pipeline_model_parallel_layout": "'Et|t'", "num_virtual_stages_per_pipeline_rank": "2"},
            "together with",
        ),
        ({"recompute_granularity": "selective", "recompute_modules": "everything"}, "everything"),
        ({"position_embedding_type": "alibi"}, "alibi"),
        ({"fp4_format": "e2m1", "fp4_recipe": "custom"}, "--fp4-recipe: 'custom' is not priced"),
        ({"fp4_format": "e2m1", "fp8_format": "e4m3"}, "takes one of them"),
        ({"micro_batch_size": ""}, "--micro-batch-size: the value is missing"),
        ({"model_parallel_size": "8"}, "--tensor-model-parallel-size"),
    ],
)
def test_what_cannot_be_priced_is_refused_with_its_argument(
    tmp_path: Path, changes: dict[str, str | None], match: str
) -> None:
    """A setting that changes what is trained, or that Megatron would refuse, is never read as something else."""
    with pytest.raises(InputError, match=match):
        changed(tmp_path, **changes)


def test_other_programs_and_missing_values_are_refused(tmp_path: Path) -> None:
    """BERT scripts are no decoder-only transformers; a degree that the script lacks is asked for."""
    arguments = listed().replace("\n", " ")
    with pytest.raises(InputError, match=r"pretrain_bert\.py"):
        reading(tmp_path, f"torchrun --nproc_per_node 8 pretrain_bert.py {arguments}")
    with pytest.raises(InputError, match=r"\$TP is not known: TP is not set in the script; give it with --set"):
        reading(tmp_path, f"torchrun pretrain_gpt.py {arguments} --tensor-model-parallel-size $TP")
    with pytest.raises(InputError, match="no command with Megatron's arguments"):
        reading(tmp_path, "echo hello\npython train.py --lr 3")


def test_every_argument_is_accounted_for(tmp_path: Path) -> None:
    """Each argument is either understood or ignored with a reason; nothing vanishes."""
    found = changed(tmp_path, lr="1e-4", tensorboard_dir="/x", cp_comm_type="p2p", made_up_flag="3")
    understood = {each["name"] for each in found.understood}
    ignored = {each["name"]: each["why"] for each in found.ignored}
    assert {f"--{name}" for name in BASE} <= understood | ignored.keys()
    assert ignored["--made-up-flag"] == "not known to moeopt"
    assert "priced as if absent" in ignored["--cp-comm-type"]
    assert not understood & ignored.keys()


def test_the_command_prints_reading_legality_and_claims(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`evaluate --from` says what it understood, judges the layout and checks claims; options override the file."""
    path = tmp_path / "run.sh"
    path.write_text(ARRAYS.format(lines="\n    ".join(listed().splitlines())))
    code = run(
        ["evaluate", "--from", str(path), "--set", "SLURM_NNODES=8", "--claim", "dp=8", "--format", "json", "-q"]
    )
    answer = json.loads(capsys.readouterr().out)
    assert (code, answer["gpus"]["total"], answer["layout"]["dp"]) == (0, 64, 8)
    assert answer["read_from"]["format"] == "Megatron-LM launch script"
    assert answer["claims"][0]["holds"]
    assert run(["evaluate", "--from", str(path), "--layout", "tp=4", "--gpus", "64", "-q"]) == 0
    text = capsys.readouterr().out
    assert "understood (" in text
    assert "tp 4 tensor" in text


def test_a_file_without_gpus_needs_them_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An argument list says nothing about nodes."""
    path = tmp_path / "arguments.txt"
    path.write_text(listed())
    assert run(["evaluate", "--from", str(path)]) == 2
    assert "gpus" in capsys.readouterr().err
    assert run(["evaluate", "--from", str(path), "--gpus", "64", "-q"]) == 0


def test_suggest_shows_what_the_optimum_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The optimum is never slower than a legal layout, every changed decision is named, and of the optimum itself
    nothing is left to change."""
    path = tmp_path / "arguments.txt"
    path.write_text(listed(pipeline_model_parallel_size="1", num_layers="4", recompute_activations=""))
    command = ["evaluate", "--from", str(path), "--gpus", "8", "--suggest", "--format", "json", "-q"]
    assert run([*command, "--time-limit", "60"]) == 0
    answer = json.loads(capsys.readouterr().out)
    suggestion = answer["suggestion"]
    assert suggestion["status"] == "optimal"
    assert suggestion["objective"]["value"] <= answer["step_time"]["total_ns"]
    changes = {change["decision"]: change for change in suggestion["changes"]}
    for name in ("tp", "pp", "ep", "etp", "vpp"):
        assert (name in changes) == (answer["layout"][name] != suggestion["layout"][name])
    best = tmp_path / "best.yaml"
    best.write_text(json.dumps(suggestion["layout"]))
    assert run([*command, "--time-limit", "60", "--layout", str(best)]) == 0
    assert json.loads(capsys.readouterr().out)["suggestion"]["changes"] == []


@pytest.mark.parametrize("changes", [{"add_qkv_bias": ""}, {"disable_bias_linear": None}])
def test_latent_projections_have_no_bias(changes: dict[str, str | None], tmp_path: Path) -> None:
    """MLA's down-projections have none whatever the arguments say; ordinary queries, keys and values have one then."""
    latent = {"multi_latent_attention": "", "group_query_attention": None, "num_query_groups": None}
    for more, expected in (({}, True), (latent, False)):
        architecture = problem_fields(changed(tmp_path, **changes, **more))["architecture"]
        assert architecture.attention_bias is expected
        assert architecture.mlp_bias is ("disable_bias_linear" in changes)


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"rotary_base": "1000000"}, "rope_theta", 1e6),
        ({"rotary_percent": "0.5"}, "partial_rotary_factor", 0.5),
        ({"rotary_percent": "1.0"}, "partial_rotary_factor", None),
        ({"norm_epsilon": "1e-06"}, "rms_norm_eps", 1e-6),
        ({"moe_router_topk_scaling_factor": "2.5"}, "routed_scaling_factor", 2.5),
        ({}, "norm_topk_prob", True),
        ({"moe_router_pre_softmax": ""}, "norm_topk_prob", False),
        ({"moe_router_pre_softmax": "", "moe_router_topk": "1"}, "norm_topk_prob", None),
        ({"moe_router_pre_softmax": "", "moe_router_score_function": "sigmoid"}, "norm_topk_prob", True),
    ],
)
def test_constants_that_cost_nothing_are_read(
    changes: dict[str, str | None], field: str, value: object, tmp_path: Path
) -> None:
    """Rotary base, norm epsilon and routing weights become fields; what a file does not say stays absent."""
    architecture = problem_fields(changed(tmp_path, **changes))["architecture"]
    assert getattr(architecture, field) == value


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"use_rope_scaling": "", "rope_scaling_factor": "32"}, ("llama3", 32.0, 8192)),
        ({"rotary_seq_len_interpolation_factor": "4"}, ("linear", 4.0, None)),
        ({"position_embedding_type": "yarn", "rotary_scaling_factor": "32"}, ("yarn", 32.0, 4096)),
        ({"rotary_scaling_factor": "32"}, None),  # without yarn positions it does nothing
    ],
)
def test_rotary_scaling_is_read(changes: dict[str, str | None], expected: object, tmp_path: Path) -> None:
    """The kind of scaling, its factor and the length that it starts from."""
    scaling = problem_fields(changed(tmp_path, **changes))["architecture"].rope_scaling
    found = scaling and (scaling.rope_type, scaling.factor, scaling.original_max_position_embeddings)
    assert found == expected


def test_a_constant_that_is_not_known_is_ignored(tmp_path: Path) -> None:
    """A rotary base that comes from outside changes no byte, so it refuses nothing and is listed as ignored."""
    script = f"torchrun --nproc_per_node 8 --nnodes 8 pretrain_gpt.py --rotary-base $BASE {' '.join(listed().split())}"
    found = reading(tmp_path, script)
    assert problem_fields(found)["architecture"].rope_theta is None
    assert "--rotary-base" in {each["name"] for each in found.ignored}


def test_rotary_arguments_without_rotary_positions(tmp_path: Path) -> None:
    """A rotary base does not make positions rotary: Megatron's default is a learned table, and the reading warns."""
    found = changed(tmp_path, position_embedding_type=None, rotary_base="10000")
    assert found.architecture["position_embedding"] == "learned"
    assert "--position-embedding-type" in {warning["name"] for warning in found.warnings}


def test_expert_tensor_parallelism_of_a_dense_transformer_has_no_effect(tmp_path: Path) -> None:
    """Megatron-LM's own dense test cases ask for it: groups are built that nothing uses. It is read as absent."""
    text = (
        "--num-layers 4 --hidden-size 256 --num-attention-heads 4 --vocab-size 1000 --position-embedding-type rope "
        "--tensor-model-parallel-size 2 --expert-tensor-parallel-size 4"
    )
    found = reading(tmp_path, text, "arguments.txt")
    assert found.layout["etp"] == 2
    assert any("has no effect" in note for note in found.notes)


MEGATRON_ARGUMENTS = [
    line
    for line in (Path(__file__).parent / "data" / "megatron_arguments.txt").read_text().splitlines()
    if not line.startswith("#")
]


@pytest.mark.parametrize("first", range(0, len(MEGATRON_ARGUMENTS), 100))
def test_every_argument_of_megatron_is_read_refused_or_ignored_with_a_reason(first: int, tmp_path: Path) -> None:
    """No argument that Megatron-LM takes is unknown to moeopt: each is understood, is refused, or says why it changes
    nothing that is priced (or that it would)."""
    path = tmp_path / "arguments.txt"
    for name in MEGATRON_ARGUMENTS[first : first + 100]:
        path.write_text(
            f"--num-layers 4 --hidden-size 256 --num-attention-heads 4 --vocab-size 1000 --num-experts 4 --{name} 1\n"
        )
        try:
            reading = read(path)
        except InputError:
            continue
        assert not [each["name"] for each in reading.ignored if "not known" in each["why"]]
