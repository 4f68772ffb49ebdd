"""From all layouts to the few that could be best, with the proof intact: arrays of layouts, and bounds that hold for
every placement of their layers.

    time bound    no placement of the layers of this row is faster
    memory bound  no placement of the layers of this row needs less on its fullest rank
    capacity      no placement holds all layers within both limits, counted rank by rank

A row whose time bound is above a known layout's time, whose memory bound is above the limit or whose ranks cannot hold
the layers is dropped. What is left is given to CP-SAT.
"""

from moeopt.screening.limits import MOST_NS, Column, Limits, Share
from moeopt.screening.pairs import Joined, Pair, tightened
from moeopt.screening.screen import Block, Screening, legal_rows

__all__ = ["MOST_NS", "Block", "Column", "Joined", "Limits", "Pair", "Screening", "Share", "legal_rows", "tightened"]
