"""One self-contained page about a solution: no script, no network, every picture with its numbers in a table."""

from moeopt.report.html.page import page

__all__ = ["page"]
