"""The CP-SAT model: the only importer of ortools."""
