"""What people call a field elsewhere: the one table behind every "did you mean".

A name found here is answered with moeopt's own, never taken for it: some of these mean something else in other tools
(`nodes` are not GPUs, `world_size` may be).
"""

from collections.abc import Iterable
from difflib import get_close_matches

_CALLED = {
    "architecture": "model model_name model_name_or_path arch config hf_config",
    "cluster": "hardware gpu_type gpu_model device system machine",
    "gpus": "gpu n_gpus num_gpus ngpus gpu_count world_size nodes num_nodes nnodes devices",
    "sequence_length": "seq seqlen seq_len seq_length sequence_len max_seq_len max_seq_length context context_length",
    "global_batch_size": "gbs gbsz batch batch_size global_batch train_batch_size",
    "precision": "dtype bf16 fp8 mixed_precision data_type torch_dtype",
    "tp": "tensor tensor_parallel tensor_parallel_size tensor_model_parallel_size tp_size",
    "pp": "pipeline pipeline_parallel pipeline_parallel_size pipeline_model_parallel_size pp_size stages",
    "cp": "context_parallel context_parallel_size cp_size",
    "dp": "data_parallel data_parallel_size dp_size",
    "ep": "expert_parallel expert_parallel_size expert_model_parallel_size ep_size",
    "etp": "expert_tensor_parallel expert_tensor_parallel_size",
    "vpp": "vp virtual_pipeline virtual_pipeline_model_parallel_size interleave virtual_stages num_virtual_stages",
    "micro_batch_size": "mbs micro_batch microbatch microbatch_size micro_bs",
    "num_microbatches": "gas gradient_accumulation gradient_accumulation_steps microbatches",
    "sequence_parallel": "sp sequence_parallelism",
    "distributed_optimizer": "zero zero1 zero_stage use_distributed_optimizer dist_opt",
    "recompute": "recompute_granularity activation_checkpointing gradient_checkpointing checkpoint_activations ac",
    "dispatcher": "moe_token_dispatcher_type token_dispatcher deepep enable_deepep",
    "cuda_graphs": "cuda_graph enable_cuda_graph graphs",
    "pipeline_layout": "pipeline_model_parallel_layout pp_layout",
    "peak_memory": "memory mem max_memory memory_limit gpu_memory vram",
    "tokens_per_second": "throughput tps",
    "step_time": "time latency speed step_time_ms iteration_time",
    "cost": "price money usd",
    "price_per_gpu_hour_usd": "price price_per_gpu_hour usd_per_gpu_hour cost_per_gpu_hour",
    "memory": "gpu_memory memory_bytes memory_gb vram hbm mem",
    "network_bandwidth_bytes_per_s": "network_bandwidth network internode_bandwidth ib_bandwidth",
    "nvlink_bandwidth_bytes_per_s": "nvlink_bandwidth nvlink intranode_bandwidth",
    "memory_bandwidth_bytes_per_s": "memory_bandwidth hbm_bandwidth",
    "time_limit": "time timeout max_time",
    "top": "top_k topk k n_best num_results",
    "workers": "threads cores cpus num_workers",
    "constraint": "constraints where",
    "limit": "limits",
    "format": "json output_format",
    "output": "out output_file outfile output_dir",
    "active_params": "active active_parameters",
    "params": "parameters total_params",
    "megatron-bridge": "nemo",
    "kubernetes": "k8s kube",
    "slurm": "sbatch srun",
}
"""moeopt's name -> what it is called elsewhere. A word may stand for several; the first that is known in a place is."""
SYNONYMS: dict[str, tuple[str, ...]] = {}
for _own, _words in _CALLED.items():
    for _word in _words.split():
        SYNONYMS[_word] = (*SYNONYMS.get(_word, ()), _own)


def _plain(name: str) -> str:
    return name.strip().lstrip("-").lower().replace("-", "_")


def own_names(name: str) -> tuple[str, ...]:
    """What moeopt may call this: the name itself in its spelling, then what it is a synonym of."""
    return (_plain(name), *SYNONYMS.get(_plain(name), ()))


def meant(name: str, known: Iterable[str]) -> str | None:
    """The known name that is meant: in another spelling, by a synonym, or else by its letters. None if none is near.

    A known name may have a path before it (`workload.sequence_length`), which the one given need not have.
    """
    known = list(known)
    for own in own_names(name):
        found = next((each for each in known if _plain(own) in (_plain(each), _plain(each).rpartition(".")[2])), None)
        if found is not None:
            return found
    if len(own_names(name)) > 1:
        return None  # it is something else's name: letters would mislead
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return close[0] if close else None
