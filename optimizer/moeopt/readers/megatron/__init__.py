"""Megatron-LM's command line: scripts that start it, and what each of its arguments means."""
