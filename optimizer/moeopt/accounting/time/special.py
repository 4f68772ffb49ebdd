"""The pieces that are not decoder layers: embedding, output head with the loss, MTP modules."""

from collections.abc import Sequence
from functools import reduce
from operator import add

from moeopt.accounting.time import gemm
from moeopt.accounting.time.additions import add_bytes, add_products, add_tensor_block
from moeopt.accounting.time.memory_bound import memory_ns
from moeopt.accounting.time.scene import Scene, Timed
from moeopt.arithmetic import Number, ceil_div, round_up

LOSS_FORWARD_BYTES, LOSS_BACKWARD_BYTES = 6, 12
"""Bytes a logit: bf16 written, fp32 maximum, exponential and sum forward; fp32 gradient and its bf16 copy backward;
18 together (fused cross entropy; the unfused one moves more, which is not counted)."""
EMBEDDING_BYTES = 6
"""Bytes an output element forward: row read, written, and its sequence-parallel copy; the gradient doubles it."""
PROJECTION_BYTES = 12
"""Bytes a hidden element around MTP's projection: two norms and the concatenation."""


def local_vocabulary(scene: Scene) -> Number:
    """Padded vocabulary rows on one GPU."""
    tp = scene.degrees.tp
    padded = round_up(scene.problem.architecture.vocab_size, tp * scene.problem.workload.make_vocab_size_divisible_by)
    return padded // tp


def embedding(scene: Scene) -> Timed:
    """Row gather forward, scatter of gradients backward; nearly free."""
    timed = Timed()
    add_bytes(scene, timed, scene.tokens.attention * (EMBEDDING_BYTES * scene.problem.architecture.hidden_size))
    return timed


def add_head(scene: Scene, timed: Timed) -> None:
    """Output head in bf16 and fp32 cross entropy over the local part of the vocabulary."""
    rows = local_vocabulary(scene)
    add_products(
        scene, timed, gemm.product(scene.tokens.attention, rows, scene.problem.architecture.hidden_size), bf16=True
    )
    logits = scene.tokens.attention * rows
    timed.forward.add("memory_bound", memory_ns(logits * LOSS_FORWARD_BYTES, scene.rates))
    timed.backward.add("memory_bound", memory_ns(logits * LOSS_BACKWARD_BYTES, scene.rates))
    add_tensor_block(scene, timed, bf16=True)


def loss(scene: Scene) -> Timed:
    """Output head and loss: worth 1.2 to 2.4 layers, so it decides how uneven a pipeline should be."""
    timed = Timed()
    add_head(scene, timed)
    return timed


def mtp(scene: Scene, layers: Sequence[Timed]) -> Timed:
    """One MTP module: a projection from 2h to h, its layers, its own pass through head and loss."""
    architecture = scene.problem.architecture
    timed = reduce(add, layers, Timed())
    width = ceil_div(architecture.hidden_size, scene.degrees.tp)
    add_products(scene, timed, gemm.product(scene.tokens.attention, width, 2 * architecture.hidden_size))
    add_bytes(scene, timed, scene.tokens.local * (PROJECTION_BYTES * architecture.hidden_size))
    add_head(scene, timed)
    return timed
