"""Pipeline schedules: order of operations, replay, bounds on time, activations in flight."""
