"""Blocks of one random test of which a share runs always and the others with `make test-all`."""

from collections.abc import Sequence
from typing import Any

import pytest


def blocks(firsts: Sequence[int], always: int) -> list[Any]:
    """Parameters: the first `always` blocks as they are, the others marked as `more` (see pyproject.toml)."""
    return [*firsts[:always], *(pytest.param(first, marks=pytest.mark.more) for first in firsts[always:])]
