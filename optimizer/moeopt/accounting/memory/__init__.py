"""Memory of one GPU from first principles: states, kept activations, transients, persistent buffers, overheads."""
