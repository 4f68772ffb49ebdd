"""Megatron's layout strings and split options."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeopt.errors import InputError
from moeopt.pipeline import PipelineLayout, unroll


@pytest.mark.parametrize(
    ("text", "stages", "layers", "mtp"),
    [
        ("Et*3|(tt|)*29m|L", 32, 61, 1),  # DeepSeek-V3, 32 stages
        ("Et|(tt|)*30mL", 32, 61, 1),
        ("Et*4|(tttt|)*14tmL", 16, 61, 1),
        ("Et*2|(t*2|)*34,t*3|(t*2|)*3,tL", 40, 80, 0),  # Llama-3 70B, pp 8, vpp 5
        ("Et*4|(t*7|)*5t*8|tmL", 8, 48, 1),  # Qwen3-Next 80B, pp 2, vpp 4
    ],
)
def test_published_strings(text, stages, layers, mtp):
    """Strings of NVIDIA's recipes unroll to their architectures' layers, and print to the same stages."""
    layout = PipelineLayout.parse(text, 2)
    assert (len(layout.chunks), sum(chunk.layers for chunk in layout.chunks), layout.mtp) == (stages, layers, mtp)
    assert unroll(str(layout)) == unroll(text)


@given(
    pp=st.integers(1, 6),
    vpp=st.integers(1, 4),
    data=st.data(),
)
def test_text_and_layout_are_the_same(pp, vpp, data):
    """Any layers a stage, empty stages included, print to a string that parses to the same layout."""
    counts = data.draw(st.lists(st.integers(0, 9), min_size=pp * vpp, max_size=pp * vpp))
    mtp = data.draw(st.integers(0, 2))
    layout = PipelineLayout.from_counts(pp, counts, mtp)
    assert PipelineLayout.parse(str(layout), pp) == layout
    assert layout.vpp == vpp
    assert sorted(layer for r in range(pp) for c in layout.of_rank(r) for layer in range(c.first, c.last)) == list(
        range(sum(counts))
    )


@pytest.mark.parametrize(
    "text",
    [
        "Et|t",
        "t|L",
        "EEt|L",
        "Et|tLL",
        "Et|LL",
        "LtE",
        "Et|tL|",
        "|Et|tL",
        "Et*2|(t|t*2L",
        "Et|t;L",
        "Etm|tL",
        "Etm|mL",
    ],
)
def test_wrong_strings_are_refused(text):
    """A string that is no layout raises InputError that quotes it."""
    with pytest.raises(InputError) as refusal:
        PipelineLayout.parse(text, 2)
    assert "pipeline_layout" in str(refusal.value)


def test_long_strings_are_refused_unread():
    """A repetition beyond any architecture is refused before it is written out."""
    for text in ("Et*999999999999|L", "(" + "t" * 1000 + ")*99999999", "E" + "t" * 200_000 + "L"):
        with pytest.raises(InputError, match="longer than"):
            unroll(text)


def counts(*options, **named):
    return [chunk.layers for chunk in PipelineLayout.from_megatron_options(*options, **named).chunks]


def test_megatron_options():
    """Layers a stage, chunk by chunk: first and last give whole ranks, account_for_* takes one layer off one chunk."""
    assert counts(16, 4) == [4, 4, 4, 4]
    assert counts(16, 4, 2) == [2] * 8
    assert counts(16, 4, first=1) == [1, 5, 5, 5]
    assert counts(16, 4, first=3, last=5) == [3, 4, 4, 5]
    assert counts(16, 4, 2, first=2, last=2) == [1, 3, 3, 1] * 2
    assert counts(14, 4, account_for_embedding=True, account_for_loss=True) == [3, 4, 4, 3]
    assert counts(16, 3, 2, account_for_embedding=True, account_for_loss=True) == [2, 3, 3, 3, 3, 2]
    assert counts(2, 4, account_for_embedding=True, account_for_loss=True) == [0, 1, 1, 0]
    assert counts(8, 1, first=8) == [8]
    assert counts(1, 1, account_for_embedding=True, account_for_loss=True) == [1]
    assert counts(16, 2, layout="Et*9|t*7L") == [9, 7]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"layers": 16, "pp": 1, "vpp": 2}, "vpp 2 needs pp above 1"),
        ({"layers": 16, "pp": 5}, "16 % pp 5 = 1"),
        ({"layers": 16, "pp": 4, "first": 0}, "above 0"),
        ({"layers": 16, "pp": 4, "first": 19}, "16 layers - 19 = -3 for 3 ranks between"),
        ({"layers": 16, "pp": 1, "first": 4, "last": 4}, "8 for -1 ranks between"),
        ({"layers": 16, "pp": 4, "vpp": 3}, "4 % vpp 3 = 1"),
        ({"layers": 16, "pp": 4, "vpp": 2, "first": 2, "last": 4}, "5 % vpp 2 = 1"),
        ({"layers": 16, "pp": 4, "first": 4, "account_for_loss": True}, "exclude account_for_embedding"),
        ({"layers": 16, "pp": 4, "account_for_loss": True, "layout": "Et*16|L"}, "a layout string excludes"),
        ({"layers": 1, "pp": 2, "vpp": 2, "account_for_embedding": True}, "1 % vpp 2 = 1"),
    ],
)
def test_options_that_describe_no_layout(options, text):
    """What Megatron refuses is refused with the numbers; so are layouts with negative layers, which it never asks."""
    with pytest.raises(InputError) as refusal:
        counts(**options)
    assert text in str(refusal.value)
