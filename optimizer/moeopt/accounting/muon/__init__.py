"""Muon: what it updates, who keeps its state, and what Megatron-LM's default buffers pad."""
