"""Many problems in one run: a grid of points, solved in parallel, kept in a journal, written as a table."""

from moeopt.sweeping.grid import AXES, Point, grid
from moeopt.sweeping.journal import Journal
from moeopt.sweeping.point import Record, Task, solve_point
from moeopt.sweeping.runners import Runner, processes, ray_cluster, run

__all__ = [
    "AXES",
    "Journal",
    "Point",
    "Record",
    "Runner",
    "Task",
    "grid",
    "processes",
    "ray_cluster",
    "run",
    "solve_point",
]
