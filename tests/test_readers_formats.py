"""YAML, TOML and JSON of other frameworks come in as fields; hostile files end with exit code 2."""

import json
from pathlib import Path

import pytest

from moeopt.__main__ import run
from moeopt.accounting.parameters import count
from moeopt.errors import InputError
from moeopt.problem.loading import load_architecture
from moeopt.readers import Reading, read
from moeopt.readers.question import problem_fields

BRIDGE = """
_target_: megatron.bridge.training.config.ConfigContainer
model:
  _target_: megatron.bridge.models.GPTModelProvider
  num_layers: 8
  hidden_size: 1024
  num_attention_heads: 16
  num_query_groups: 4
  ffn_hidden_size: 4096
  gated_linear_unit: true
  add_bias_linear: false
  normalization: RMSNorm
  position_embedding_type: rope
  share_embeddings_and_output_weights: false
  seq_length: 2048
  vocab_size: 32000
  num_moe_experts: 16
  moe_router_topk: 2
  moe_ffn_hidden_size: 2048
  moe_layer_freq: [0, 1, 1, 1, 1, 1, 1, 1]
  moe_token_dispatcher_type: alltoall
  tensor_model_parallel_size: 2
  pipeline_model_parallel_size: 2
  virtual_pipeline_model_parallel_size: 2
  expert_model_parallel_size: 4
  expert_tensor_parallel_size: 1
  sequence_parallel: true
train: {micro_batch_size: 2, global_batch_size: 64}
ddp: {use_distributed_optimizer: true, overlap_grad_reduce: true, grad_reduce_in_fp32: true}
mixed_precision: bf16_mixed
"""
NEMO = """
trainer: {num_nodes: 2, devices: 8, precision: bf16}
model:
  mcore_gpt: true
  micro_batch_size: 1
  global_batch_size: 32
  tensor_model_parallel_size: 2
  pipeline_model_parallel_size: 1
  encoder_seq_length: 1024
  max_position_embeddings: 1024
  num_layers: 4
  hidden_size: 512
  ffn_hidden_size: 2048
  num_attention_heads: 8
  activation: fast-swiglu
  bias: false
  normalization: rmsnorm
  position_embedding_type: rope
  share_embeddings_and_output_weights: false
  vocab_size: 32000
  activations_checkpoint_granularity: full
  activations_checkpoint_method: uniform
  activations_checkpoint_num_layers: 1
  sequence_parallel: true
  optim: {name: distributed_fused_adam, overlap_grad_sync: true}
"""
TITAN = """
[model]
name = "deepseek_v3"
flavor = "671B"
[training]
local_batch_size = 4
seq_len = 4096
steps = 10
[parallelism]
data_parallel_shard_degree = 64
tensor_parallel_degree = 2
pipeline_parallel_degree = 8
pipeline_parallel_schedule = "1F1B"
expert_parallel_degree = 32
expert_tensor_parallel_degree = 1
[activation_checkpoint]
mode = "full"
"""


def written(tmp_path: Path, name: str, text: str) -> Reading:
    path = tmp_path / name
    path.write_text(text)
    return read(path)


def test_bridge_yaml(tmp_path: Path) -> None:
    """Megatron-Bridge's names give the layout, virtual stages and MoE layers; nothing that it names is built."""
    found = written(tmp_path, "config.yaml", BRIDGE)
    assert {name: found.layout[name] for name in ("tp", "pp", "ep", "etp", "vpp", "micro_batch_size")} == {
        "tp": 2, "pp": 2, "ep": 4, "etp": 1, "vpp": 2, "micro_batch_size": 2,
    }  # fmt: skip
    architecture = problem_fields(found)["architecture"]
    assert [kind.ffn for kind in architecture.layers] == ["dense"] + ["moe"] * 7
    assert (architecture.num_key_value_heads, architecture.gated, architecture.tie_word_embeddings) == (4, True, False)
    assert found.layout["overlap"]["grad_reduce"]
    assert found.layout["optimizer"]["main_grads"] == "fp32"


def test_nemo_yaml(tmp_path: Path) -> None:
    """NeMo's trainer gives the GPUs, its own names for recomputation and optimizer are understood."""
    found = written(tmp_path, "nemo.yaml", NEMO)
    assert (found.format, found.gpus) == ("NeMo YAML", 16)
    assert found.layout["recompute"] == {"granularity": "full", "method": "uniform", "num_layers": 1}
    assert found.layout["distributed_optimizer"]
    assert problem_fields(found)["architecture"].gated
    assert not problem_fields(found)["architecture"].mlp_bias


def test_torchtitan_toml(tmp_path: Path) -> None:
    """torchtitan's degrees give the GPU total; its flavour names a shipped architecture."""
    found = written(tmp_path, "job.toml", TITAN)
    assert (found.gpus, found.preset) == (1024, "deepseek-v3")
    assert found.workload["global_batch_size"] == 64 * 4
    assert found.layout["recompute"]["granularity"] == "full"


def test_deepspeed_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DeepSpeed's batch sizes give dp and micro-batches; degrees and dimensions come from the command line."""
    text = json.dumps(
        {
            "train_batch_size": 256,
            "train_micro_batch_size_per_gpu": 2,
            "gradient_accumulation_steps": 8,
            "zero_optimization": {"stage": 1},
            "bf16": {"enabled": True},
        }
    )
    found = written(tmp_path, "ds.json", text)
    assert (found.layout["dp"], found.layout["distributed_optimizer"]) == (16, True)
    options = ["--architecture", "olmoe-1b-7b", "--layout", "tp=1,pp=1,ep=8", "--format", "json", "-q"]
    assert run(["evaluate", "--from", str(tmp_path / "ds.json"), *options]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["gpus"]["total"] == 16
    with pytest.raises(InputError, match="stage: 3"):
        written(tmp_path, "ds3.json", json.dumps({"train_batch_size": 8, "zero_optimization": {"stage": 3}}))


def test_huggingface_config_gives_dimensions_only(capsys: pytest.CaptureFixture[str]) -> None:
    """A config.json needs a layout beside it, and then is judged like a preset."""
    source = Path(__file__).parent / "data" / "hf_configs"
    path = next(iter(sorted(source.rglob("*.json"))))
    assert run(["evaluate", "--from", str(path)]) == 2
    assert "--layout" in capsys.readouterr().err


def test_a_sourced_file_beside_the_script_is_read(tmp_path: Path) -> None:
    """`source "${SCRIPT_DIR}/models/qwen.sh"` is followed, where the file lies by the script."""
    (tmp_path / "scripts" / "models").mkdir(parents=True)
    script = tmp_path / "scripts" / "run.sh"
    (tmp_path / "scripts" / "models" / "qwen.sh").write_text(
        'LAYERS="${LAYERS:-4}"\nMODEL_ARGS=(--num-layers $LAYERS --hidden-size 256 --num-attention-heads 4)\n'
    )
    script.write_text(
        'SCRIPT_DIR=$( cd -- "$( dirname -- "${BASH_SOURCE[0]}" )" &> /dev/null && pwd)\nLAYERS=8\n'
        'source "${SCRIPT_DIR}/models/qwen.sh"\n'
        "torchrun --nproc-per-node 8 train.py ${MODEL_ARGS[@]} --tensor-model-parallel-size 2 --vocab-size 1000\n"
    )
    found = read(script)
    assert found.architecture["num_hidden_layers"] == 8
    assert found.gpus == 8
    assert any("models/qwen.sh is sourced and was read too" in note for note in found.notes)


def test_a_sourced_file_that_cannot_be_followed_changes_nothing(tmp_path: Path) -> None:
    """One that does more than set values is named with the reason; what it set before that is gone."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "env.sh").write_text("TP=8\nKEY=$(curl example.org)\n")
    script = tmp_path / "s" / "run.sh"
    script.write_text(
        "TP=2\nsource env.sh\ntorchrun --nproc-per-node 8 train.py --tensor-model-parallel-size $TP --num-layers 4\n"
    )
    found = read(script)
    assert found.layout["tp"] == 2
    assert any("env.sh is sourced and was not read: " in note and "curl" in note for note in found.notes)


@pytest.mark.parametrize("named", ["/etc/profile", "~/.bashrc", "../../../elsewhere.sh", "$HOME/x.sh", "missing.sh"])
def test_no_other_sourced_file_is_opened(tmp_path: Path, named: str) -> None:
    """A path from the root or from home, and one above the script's neighbourhood, is named and left alone."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    (tmp_path.parent / "elsewhere.sh").write_text("exit 1\n")
    script = folder / "run.sh"
    script.write_text(f"source {named}\ntorchrun --nproc-per-node 8 train.py --tensor-model-parallel-size 2\n")
    notes = read(script).notes
    assert any("is sourced and was not read" in note for note in notes)


def test_a_line_of_arguments_without_a_program_is_named(tmp_path: Path) -> None:
    """Where a backslash is missing, the shell runs what follows as a command of its own: said with its line."""
    path = tmp_path / "run.sh"
    path.write_text("torchrun --nproc-per-node 8 train.py --save x\n  --num-layers 4 --hidden-size 256\n")
    assert read(path).warnings[0] == {
        "name": "line 2",
        "text": "arguments without a program: the shell runs the line before it without them",
        "fix": "end the line before it with a backslash",
    }


def test_slime_sets_two_arguments_itself(tmp_path: Path) -> None:
    """A script that starts slime trains in bf16 with the distributed optimizer, whatever it leaves out."""
    path = tmp_path / "run.sh"
    path.write_text(
        "ray job submit -- python3 train.py --actor-num-nodes 2 --actor-num-gpus-per-node 8 --num-layers 4 "
        "--hidden-size 256 --num-attention-heads 4 --vocab-size 1000 --tensor-model-parallel-size 2\n"
    )
    found = read(path)
    assert (found.gpus, found.layout["distributed_optimizer"], found.workload["precision"]) == (16, True, "bf16")


def test_megatron_test_case_yaml(tmp_path: Path) -> None:
    """Megatron-LM's own test cases are a mapping from arguments to values."""
    text = "MODEL_ARGS:\n  --num-layers: 4\n  --hidden-size: 256\n  --num-attention-heads: 4\n  --bf16: true\n"
    text += "  --swiglu: false\n  --vocab-size: 1000\n  --seq-length: 512\n  --micro-batch-size: 1\n"
    found = written(tmp_path, "model_config.yaml", text)
    assert (found.architecture["num_hidden_layers"], found.architecture["gated"]) == (4, False)


def test_what_a_yaml_gives_twice_is_noted(tmp_path: Path) -> None:
    """Megatron-LM's test cases repeat arguments, and its loader takes the last one; so does the reader, and says so."""
    text = "MODEL_ARGS:\n  --num-layers: 4\n  --tensor-model-parallel-size: 2\n  --tensor-model-parallel-size: 4\n"
    found = written(tmp_path, "model_config.yaml", text)
    assert found.layout["tp"] == 4
    assert "--tensor-model-parallel-size is given more than once; the last one counts" in found.notes


def test_bracketed_lists_of_a_test_case(tmp_path: Path) -> None:
    """The runner of Megatron-LM's test cases makes words of a quoted `[a b]`; a layer pattern stays one word."""
    text = "MODEL_ARGS:\n  --recompute-granularity: selective\n  --recompute-modules: '[layernorm moe_act]'\n"
    text += "  --num-layers: 3\n  --hidden-size: 256\n  --num-attention-heads: 4\n  --vocab-size: 1000\n"
    text += "  --position-embedding-type: rope\n  --num-experts: 4\n  --moe-router-topk: 2\n"
    text += "  --moe-layer-freq: ([0]*1+[1]*2)\n"
    found = written(tmp_path, "model_config.yaml", text)
    assert found.layout["recompute"]["modules"] == ["layernorm", "moe_act"]
    layers = load_architecture(found.architecture).layers
    assert [kind.ffn for kind in layers] == ["dense", "moe", "moe"]


def test_a_file_without_dimensions_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Dimensions that only a sourced file holds are asked for by the option that gives them."""
    path = tmp_path / "run.sh"
    path.write_text("source models/qwen.sh\ntorchrun train.py ${MODEL_ARGS[@]} --tensor-model-parallel-size 2\n")
    assert run(["evaluate", "--from", str(path), "--gpus", "8"]) == 2
    sentence = f"error: architecture: {path} gives no dimensions; a file that it sources was not read; say which with"
    assert capsys.readouterr().err.startswith(sentence)
    assert run(["evaluate", "--from", str(path), "--gpus", "8", "--architecture", "olmoe-1b-7b", "-q"]) in (0, 1)


def test_placeholders_of_a_yaml_are_filled_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`${TP}` in a YAML is what its launcher fills in: --set gives it, `:-` a default; else it is asked for."""
    path = tmp_path / "recipe.yaml"
    text = "model: {tensor_model_parallel_size: '${TP}', pipeline_model_parallel_size: '${PP:-2}', vocab_size: 5000,\n"
    text += (
        "  num_layers: 4, hidden_size: 256, num_attention_heads: 4, seq_length: 512, position_embedding_type: rope,\n"
    )
    path.write_text(text + "  virtual_pipeline_model_parallel_size: '${VPP}'}\ntrain: {global_batch_size: 64}\n")
    found = read(path, (), {"TP": "2", "VPP": "null"})
    assert (found.layout["tp"], found.layout["pp"], found.layout.get("vpp", 1)) == (2, 2, 1)
    assert run(["evaluate", "--from", str(path), "--gpus", "8", "--set", "VPP=null"]) == 2
    assert capsys.readouterr().err.endswith("the value ${TP} is not known; give it with --set NAME=VALUE\n")


def primus(folder: Path, **overrides: object) -> Path:
    """A small tree of Primus's own configurations, and a job in it."""
    files = {
        "modules/megatron/pre_trainer.yaml": {"extends": ["all.yaml"], "use_distributed_optimizer": True},
        "modules/megatron/all.yaml": {
            "bf16": True,
            "img_h": 224,
            "use_distributed_optimizer": False,
            "seq_length": 1024,
        },
        "models/megatron/small.yaml": {"extends": ["base.yaml"], "num_layers": 4, "num_experts": 8, "vocab_size": 1000},
        "models/megatron/base.yaml": {
            "hidden_size": 256,
            "num_attention_heads": 4,
            "num_layers": 24,
            "add_bias_linear": False,
            "swiglu": True,
            "position_embedding_type": "rope",
            "hybrid_attention_ratio": 0.0,
            "moe_router_topk": 2,
        },
    }
    for name, content in files.items():
        path = folder / "primus" / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    job = folder / "examples" / "job.yaml"
    job.parent.mkdir()
    module = {
        "framework": "megatron",
        "config": "pre_trainer.yaml",
        "model": "${MODEL:small}.yaml",
        "overrides": overrides,
    }
    job.write_text(json.dumps({"work_group": "x", "modules": {"pre_trainer": module}}))
    return job


def test_primus_over_the_configurations_that_it_extends(tmp_path: Path) -> None:
    """Overrides count over the model, the model over what it extends; placeholders have Primus's own defaults, and what
    its lists of all arguments merely contain is no part of the launch."""
    job = primus(
        tmp_path, tensor_model_parallel_size="${TP:1}", expert_model_parallel_size=8, stderr_sink_level="DEBUG"
    )
    found = read(job, (), {"TP": "2"})
    assert (found.architecture["num_hidden_layers"], found.architecture["num_experts"]) == (4, 8)
    assert not found.architecture["mlp_bias"]
    assert (found.layout["tp"], found.layout["ep"], found.layout["distributed_optimizer"]) == (2, 8, True)
    assert found.workload["sequence_length"] == 1024
    assert [each["name"] for each in found.ignored] == ["stderr_sink_level"]
    with pytest.raises(InputError, match="use_torch_fsdp2: FSDP2"):
        read(primus(tmp_path / "other", use_torch_fsdp2=True))


def test_primus_alone_has_its_defaults_and_the_architecture_that_it_names(tmp_path: Path) -> None:
    """Away from Primus's configurations a job still says its degrees, and which shipped architecture it trains."""
    job = tmp_path / "job.yaml"
    overrides = "{tensor_model_parallel_size: 1, expert_model_parallel_size: 8, global_batch_size: 512}"
    job.write_text(
        "modules:\n  pre_trainer:\n    framework: megatron\n    config: pre_trainer.yaml\n"
        f"    model: qwen3_30B_A3B.yaml\n    overrides: {overrides}\n"
    )
    found = read(job)
    assert (found.preset, found.layout["ep"], found.layout["distributed_optimizer"]) == ("qwen3-30b-a3b", 8, True)
    assert sum("does not lie by the file" in note for note in found.notes) == 2
    job.write_text(job.read_text().replace("framework: megatron", "framework: maxtext"))
    with pytest.raises(InputError, match="framework: 'maxtext' is not read"):
        read(job)


@pytest.mark.parametrize("model", ["../../../secret.yaml", "loop.yaml"])
def test_primus_opens_nothing_outside_its_configurations(tmp_path: Path, model: str) -> None:
    """A path that leaves the folder of configurations is not followed, and a circle of them ends with one sentence."""
    job = primus(tmp_path)
    (tmp_path / "secret.yaml").write_text("num_layers: 99")
    (tmp_path / "primus/configs/models/megatron/loop.yaml").write_text("extends: [loop.yaml]")
    if model == "loop.yaml":
        with pytest.raises(InputError, match="more than 8 configurations extend one another"):
            read(job, (), {"MODEL": "loop"})
    else:
        assert "num_hidden_layers" not in read(job, (), {"MODEL": model.removesuffix(".yaml")}).architecture


def test_what_a_runner_appends_to_a_test_case_counts(tmp_path: Path) -> None:
    """--arguments are appended to MODEL_ARGS and to a list of arguments, and the last of two values counts."""
    case, listed = tmp_path / "model.yaml", tmp_path / "arguments.txt"
    case.write_text("MODEL_ARGS: {--num-layers: 4, --tensor-model-parallel-size: 1, --pipeline-model-parallel-size: 2}")
    listed.write_text("--num-layers 4 --tensor-model-parallel-size 1 --pipeline-model-parallel-size 2")
    for path in (case, listed):
        found = read(path, ["--tensor-model-parallel-size", "4", "--context-parallel-size", "2"])
        assert (found.layout["tp"], found.layout["pp"], found.layout["cp"]) == (4, 2, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--arguments", "A 3"],
            "arguments: {path} takes none; a launch script, MODEL_ARGS or a list of arguments does",
        ),
        (["--set", "TPP=2"], "set: TPP occurs nowhere in {path}"),
    ],
)
def test_what_can_have_no_effect_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    """Arguments for a file that takes none, and a variable that it does not name, are not passed over in silence."""
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {num_layers: 4, tensor_model_parallel_size: '${TP:-1}'}\n")
    assert run(["evaluate", "--from", str(path), "--gpus", "8", *options]) == 2
    assert capsys.readouterr().err == f"error: {words.format(path=path)}\n"


def test_dimensions_that_an_override_file_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe's override file gives single dimensions: they change the architecture that --architecture names."""
    path = tmp_path / "override.yaml"
    text = "model: {num_layers: 8, num_moe_experts: 48, moe_layer_freq: [0, 1, 1, 1, 1, 1, 1, 1],\n"
    path.write_text(text + "  tensor_model_parallel_size: 1, expert_model_parallel_size: 8}\n")
    command = ["evaluate", "--from", str(path), "--gpus", "8", "--architecture", "kimi-k2", "--format", "json", "-q"]
    assert run(command) in (0, 1)
    answer = json.loads(capsys.readouterr().out)
    found = load_architecture(answer["problem"]["architecture"])
    expected = load_architecture({"base": "kimi-k2", "num_hidden_layers": 8, "num_experts": 48})
    assert count(found) == count(expected)
    assert found.layers == expected.layers
    assert any("num_hidden_layers 8, num_experts 48" in note for note in answer["read_from"]["notes"])


@pytest.mark.parametrize(
    ("precision", "ends"),
    [
        ("nemotron_3_super_bf16_with_nvfp4_mixed", (0, 14)),
        ("bf16_with_fp8_current_scaling_mixed", (1, 1)),
        ("bf16_with_mxfp8_mixed", (0, 0)),
        ("bf16_mixed", (0, 0)),
    ],
)
def test_a_recipe_s_precision_says_which_layers_stay_in_bf16(
    precision: str, ends: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the file gives no dimensions: the layers at either end change the architecture that is named."""
    path = tmp_path / "recipe.yaml"
    text = "model: {tensor_model_parallel_size: 1, expert_model_parallel_size: 8}\n"
    path.write_text(f"{text}mixed_precision: {precision}\n")
    command = ["evaluate", "--from", str(path), "--gpus", "8", "--cluster", "b200", "--architecture", "mixtral-8x7b"]
    assert run([*command, "--format", "json", "-q"]) in (0, 1)
    answer = json.loads(capsys.readouterr().out)
    found = load_architecture(answer["problem"]["architecture"])
    assert (found.num_layers_at_start_in_bf16, found.num_layers_at_end_in_bf16) == ends
    assert answer["read_from"]["ignored"] == []


HOSTILE = {
    "object.yaml": "model: !!python/object/apply:os.system ['touch pwned']\n",
    "laughs.yaml": "a: &a [1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
    "target.yaml": "model: {_target_: os.system, num_layers: 4, tensor_model_parallel_size: 1}\n",
    "module.toml": '[model]\nname = "x"\nflavor = "y"\n[parallelism]\ntensor_parallel_degree = 1\n[experimental]\n'
    'custom_import = "../../secret"\n',
    "deep.json": "[" * 100_000,
    "nan.json": '{"train_batch_size": NaN}',
    "binary.sh": "\x00\x01torchrun",
    "broken.toml": "a = = 1\n",
    "list.yaml": "- 1\n",
    "negative.json": '{"train_batch_size": -8}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_runs_nothing_and_ends_with_exit_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Object tags, aliases that multiply, names that would be imported: one sentence, exit code 2, no new file."""
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(HOSTILE[name])
    assert run(["evaluate", "--from", name, "--gpus", "8"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_script_opens_only_files_of_its_own_folder(tmp_path: Path) -> None:
    """A configuration that a command names with `../` is looked for beside the script, never outside."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret.yaml").write_text(BRIDGE)
    with pytest.raises(InputError, match="no command with Megatron's arguments"):
        written(inner, "run.sh", "torchrun --nproc_per_node 8 train.py --config ../secret.yaml\n")


def test_an_own_flavour_is_parsed_and_never_imported(tmp_path: Path) -> None:
    """The Python file beside a job gives its literals; code in it does not run."""
    (tmp_path / "mine.py").write_text(
        "open('pwned', 'w')\n"
        "table['m'] = Args(vocab_size=32000, dim=512, n_layers=4, n_heads=8, n_kv_heads=2, head_dim=64,\n"
        "    hidden_dim=1024, qk_norm=True, moe_enabled=False)\n"
    )
    text = TITAN.replace("deepseek_v3", "qwen3").replace("671B", "m").replace("= 8", "= 1", 1)
    found = written(tmp_path, "job.toml", text + '[experimental]\ncustom_import = "mine"\n')
    assert (found.architecture["hidden_size"], found.architecture["qk_norm"]) == (512, "head")
    assert not Path("pwned").exists()
