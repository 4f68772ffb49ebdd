"""Where a better layout could still be: the boxes that no known point covers.

A point is a tuple of objective values (integers, smaller is better). A box holds every vector that is at most its
corner in each objective. All vectors that no point covers are the union of the largest such boxes (the local upper
bounds of Klamroth, Lacour and Vanderpooten, 2015), for any number of objectives.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

Point = tuple[int, ...]
Corner = tuple[int, ...]


@dataclass(frozen=True)
class Resolution:
    """How much better a layout must be to count, by objective: a share of the value, or units of it. Both zero: any."""

    share: tuple[Fraction, ...]
    units: tuple[int, ...]

    @classmethod
    def exact(cls, objectives: int) -> "Resolution":
        """Every integer counts."""
        return cls((Fraction(0),) * objectives, (0,) * objectives)

    def only(self, objectives: Sequence[int]) -> "Resolution":
        """That of some of the objectives."""
        return Resolution(tuple(self.share[j] for j in objectives), tuple(self.units[j] for j in objectives))

    @property
    def is_exact(self) -> bool:
        """Whether every integer counts."""
        return not any(self.share) and not any(self.units)

    def below(self, value: int, objective: int) -> int:
        """The largest value that is better than `value` by more than the resolution: v (1 + share) + units < value."""
        return -(-(value - self.units[objective]) // (1 + self.share[objective])) - 1


class Boxes:
    """The open boxes, the closed ones (proven to hold no layout), and the points."""

    def __init__(self, most: Corner, resolution: Resolution) -> None:
        self.resolution = resolution
        self.open: list[Corner] = [most]
        self.closed: list[Corner] = []

    def cover(self, point: Point) -> None:
        """Take what a point covers out of the open boxes."""
        edge = tuple(self.resolution.below(value, j) for j, value in enumerate(point))
        struck = [corner for corner in self.open if _below(edge, corner)]
        kept = [corner for corner in self.open if not _below(edge, corner)]
        for corner in struck:
            kept += [(*corner[:j], edge[j], *corner[j + 1 :]) for j in range(len(point))]
        self.open = [corner for corner in _largest(kept) if not self.is_closed(corner)]

    def close(self, corner: Corner) -> None:
        """No layout is in this box."""
        self.closed = [*(other for other in self.closed if not inside(other, corner)), corner]
        self.open = [other for other in self.open if not inside(other, corner)]

    def is_closed(self, corner: Corner) -> bool:
        """Whether a box is inside one that was proven empty."""
        return any(inside(corner, other) for other in self.closed)

    def proven(self, point: Point) -> bool:
        """Whether no layout dominates a point (by more than the resolution in every objective, where there is one)."""
        edge = tuple(self.resolution.below(value, j) for j, value in enumerate(point))
        if not self.resolution.is_exact:
            return self.is_closed(edge)
        return all(self.is_closed((*point[:j], edge[j], *point[j + 1 :])) for j in range(len(point)))


def inside(vector: Sequence[int], corner: Sequence[int]) -> bool:
    """Whether a vector (or the box below it) is within the box of a corner."""
    return all(value <= most for value, most in zip(vector, corner, strict=True))


def _below(edge: Sequence[int], corner: Sequence[int]) -> bool:
    """Whether the point of this edge covers the corner of a box."""
    return all(value < most for value, most in zip(edge, corner, strict=True))


def dominates(left: Point, right: Point) -> bool:
    """Whether a point is at least as good everywhere and better somewhere."""
    return left != right and inside(left, right)


def _largest(corners: Iterable[Corner]) -> list[Corner]:
    """The boxes that are inside no other."""
    unique = list(dict.fromkeys(corners))
    return [corner for corner in unique if not any(other != corner and inside(corner, other) for other in unique)]
