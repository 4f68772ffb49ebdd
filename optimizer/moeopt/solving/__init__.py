"""The parts of a solve: layouts found, candidates still open, what settles them, ties, certificates."""
