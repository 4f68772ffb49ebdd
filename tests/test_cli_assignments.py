"""`name=value` lists and limits as people write them."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeopt.cli.assignments import parse_assignments, parse_limits
from moeopt.cli.inputs import read_layout
from moeopt.errors import InputError


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("tp=8,pp=4", {"tp": 8, "pp": 4}),
        (" tp = 8 , pp=4,", {"tp": 8, "pp": 4}),
        ("recompute=full", {"recompute": {"granularity": "full"}}),
        ("recompute=none", {"recompute": {"granularity": "none"}}),
        (
            "recompute=moe_act+layernorm",
            {"recompute": {"granularity": "selective", "modules": ["moe_act", "layernorm"]}},
        ),
        (
            "recompute=full,recompute.method=block,recompute.num_layers=4",
            {"recompute": {"granularity": "full", "method": "block", "num_layers": 4}},
        ),
        ("recompute={granularity: full, num_layers: 2}", {"recompute": {"granularity": "full", "num_layers": 2}}),
        ("dispatcher=deepep", {"dispatcher": "deepep"}),
        ("overlap.ep_all_to_all=true", {"overlap": {"ep_all_to_all": True}}),
        ('pipeline_layout="Et*3|(tt|)*29,m|L",tp=2', {"pipeline_layout": "Et*3|(tt|)*29,m|L", "tp": 2}),
        ("pipeline_layout=Et*3|(tt|)*29m|L", {"pipeline_layout": "Et*3|(tt|)*29m|L"}),
        ("optimizer.offload_fraction=0.5", {"optimizer": {"offload_fraction": 0.5}}),
    ],
)
def test_assignments(text, fields):
    """What each way of writing stands for."""
    assert parse_assignments(text, "fix") == fields


@pytest.mark.parametrize("text", ["tp", "tp=", "=8", "", ",", "tp=8,tp=4", "overlap=x,overlap.tp_comm=true", "a='b"])
def test_what_is_no_assignment_is_refused(text):
    """An error that names the field."""
    with pytest.raises(InputError, match=r"^fix"):
        parse_assignments(text, "fix")


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="tpe=<>,.'\"{}[]*&!|+ 8-é\n:#", max_size=20))
def test_any_text_is_an_assignment_or_an_input_error(text):
    """No text reaches another exception."""
    for parse in (lambda: parse_assignments(text, "fix"), lambda: parse_limits([text])):
        with suppress(InputError):
            assert isinstance(parse(), dict)


@pytest.mark.parametrize(
    ("texts", "limits"),
    [
        (["ep<=64"], {"ep": {"max": 64}}),
        (["tp >= 2", "tp<=8"], {"tp": {"min": 2, "max": 8}}),
        (["tp>2,pp<8"], {"tp": {"min": 3}, "pp": {"max": 7}}),
        (["pp=8"], {"pp": {"min": 8, "max": 8}}),
        (["peak_memory<=76GiB"], {"peak_memory": "76GiB"}),
    ],
)
def test_limits(texts, limits):
    """Strict signs are turned into bounds on integers."""
    assert parse_limits(texts) == limits


def test_a_layout_from_the_command_line():
    """Every kind of decision at once."""
    layout = read_layout(
        "tp=2,pp=8,ep=64,etp=1,vpp=4,recompute=mla_up_proj+mlp,dispatcher=deepep,overlap.ep_all_to_all=true,"
        "pipeline_layout='Et*3|(tt|)*29,m|L',optimizer.moments=bf16"
    )
    assert (layout.tp, layout.pp, layout.ep, layout.etp, layout.vpp) == (2, 8, 64, 1, 4)
    assert layout.recompute.modules == ("mla_up_proj", "mlp")
    assert layout.pipeline_layout == "Et*3|(tt|)*29,m|L"
    assert layout.overlap.ep_all_to_all
    assert layout.overlap.grad_reduce
    assert layout.optimizer.moments == "bf16"
