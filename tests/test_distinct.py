"""Rows that a formula cannot tell apart are priced once: with the same integers."""

import random
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest

from moeopt.accounting import distinct
from moeopt.accounting.distinct import Distinct
from moeopt.accounting.memory.terms import memory_terms
from moeopt.accounting.time.terms import time_terms
from moeopt.layout import Choices, Degrees
from moeopt.problem.loading import load_problem
from time_cases import columns

NAMES = tuple(field.name for field in fields(Degrees))
ROWS = 300


def _rows(seed: int) -> Degrees:
    """Rows of few sizes of pieces, and many of everything else."""
    rng = random.Random(seed)
    rows = []
    for _ in range(ROWS):
        few = {name: rng.choice([1, 2]) for name in ("tp", "cp", "ep", "etp")}
        many = {name: 2 ** rng.randint(0, 5) for name in ("pp", "edp", "vpp", "num_microbatches")}
        many["dp"] = 1024 // (few["tp"] * few["cp"] * many["pp"])
        rows.append(Degrees(**few, **many, micro_batch_size=1, interleave_group=many["pp"]))
    return columns(rows)


def _flat(value: Any, name: str = "") -> dict[str, list[int]]:
    """Every number of the terms by a name, as a column."""
    if isinstance(value, (dict, list, tuple)):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: column for part, each in inner for key, column in _flat(each, f"{name} {part}").items()}
    if is_dataclass(value):
        return _flat(vars(value), name)
    return {name: np.broadcast_to(np.asarray(value), (ROWS,)).tolist()}


@pytest.mark.parametrize("fsdp", ["none", "optim_grads_params"])
@pytest.mark.parametrize("architecture", ["deepseek-v3", "qwen3-next-80b-a3b", "gpt-oss-20b"])
def test_prices_do_not_depend_on_what_is_priced_once(
    architecture: str, fsdp: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prices of hundreds of rows with a dozen kinds of pieces are those of each row alone, whatever else differs."""
    asked = load_problem({"architecture": architecture, "cluster": "h100-sxm", "gpus": {"min": 1, "max": 4096}})
    choices = Choices(overlap={"ep_all_to_all": True}, fsdp=fsdp)
    rows = _rows(len(architecture))
    alone = [_flat(terms(asked, rows, choices)) for terms in (time_terms, memory_terms)]
    monkeypatch.setattr(distinct, "_FEW", 2)
    assert len(Distinct.of(rows, (rows.tp, rows.cp, rows.ep, rows.etp, rows.gpus)).degrees.tp) < ROWS // 4
    shared = [_flat(terms(asked, rows, choices)) for terms in (time_terms, memory_terms)]
    assert alone == shared


def test_every_row_has_one_that_stands_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A distinct row has the keys of all that it stands for; keys too large for one number are told apart too."""
    monkeypatch.setattr(distinct, "_FEW", 2)
    rows = _rows(1)
    keys = [getattr(rows, name) for name in ("tp", "dp", "edp")]
    for scale in (1, 2**40):
        found = Distinct.of(rows, [key * scale for key in keys])
        assert found.rows is not None
        for name in ("tp", "dp", "edp"):
            assert np.array_equal(found.spread(getattr(found.degrees, name)), getattr(rows, name))
        assert found.spread(7) == 7


def test_few_rows_and_integers_stand_for_themselves() -> None:
    """One layout, and few rows, are priced as they are."""
    rows = _rows(2)
    assert Distinct.of(rows, (rows.tp,)).rows is None
    one = Degrees(**{name: int(getattr(rows, name)[0]) for name in NAMES})
    assert Distinct.of(one, (one.tp, one.pp > 1)).degrees is one
