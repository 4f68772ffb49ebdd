"""Input: architecture, cluster, workload, and the problem that joins them."""
