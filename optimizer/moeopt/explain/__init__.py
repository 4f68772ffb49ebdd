"""Why a problem has no layout, and what would change it.

members.py     the limits and rules that a conflict is made of, and the problem without some of them
degrees.py     whether some of them leave any degrees: arrays, exact
placing.py     whether some layout fits: the search, within a time limit
conflict.py    the smallest set that cannot hold together
relaxations.py single changes that give a layout, each solved
sentences.py   both in words, with numbers
"""

from moeopt.explain.explanation import explain

__all__ = ["explain"]
