"""What the search shows, in one run: `python benchmarks/search.py [--sections space seconds laws random …]`.

    space     how many layouts the search decides among, counted
    seconds   until their optimum is proven, and what trying every even split would take, extrapolated
    laws      the schedule's laws on random schedules, counted
    random    optimum, frontier and conflicts of random problems against enumeration, counted
    strings   DeepSeek-V3's hand-written pipeline layouts beside ours, under the same evaluation
    even      the joint optimum beside the best even-split layout, for published trainings
    gaps      the replayed gap of the default solve, and what --certify makes of it

Written to benchmarks/search.md.
"""

import argparse
import datetime
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import solve as timing
from even_split import best_even
from moeopt.candidate import Candidate
from moeopt.layout import Layout
from moeopt.pipeline import PipelineLayout
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem
from moeopt.resolve import complete, degrees_of
from moeopt.search import solve
from moeopt.solving.incumbent import Found
from moeopt.solving.replayed import Replayed
from moeopt.solving.settings import ENGINE
from random_laws import check_random
from replay_laws import check_laws
from space_count import count as count_space

FOLDER = Path(__file__).parent.parent / "problems"
TRAININGS = (
    "deepseek-v3-2048-h800",
    "mixtral-8x22b-128-h100",
    "qwen3-235b-a22b-256-h100",
    "kimi-k2-2048-h800",
    "glm-4.5-1024-h100",
    "gpt-oss-120b-64-h100",
)
STRINGS = {
    (4, 1): "Et*16|(t*16|)*2t*13mL",
    (8, 1): "Et*8|(t*8|)*6t*5mL",
    (16, 1): "Et*4|(t*4|)*14tmL",
    (4, 2): "Et*8|(t*8|)*6t*5mL",
    (8, 2): "Et*4|(t*4|)*14tmL",
    (4, 4): "Et*4|(t*4|)*14tmL",
    (2, 8): "Et*4|(t*4|)*14tmL",
}
"""Megatron-Bridge, recipes/deepseek/deepseek_v3.py: the seven (pp, vpp) pairs that it knows, with one MTP module."""
RECOMPUTES: tuple[dict[str, Any], ...] = (
    {"granularity": "none"},
    {"modules": ("mla_up_proj", "layernorm")},
    {"modules": ("mla_up_proj", "layernorm", "moe_act")},
    {"modules": ("mla_up_proj", "layernorm", "moe_act", "mlp", "shared_experts")},
    {"granularity": "full"},
)
"""The recipe's own and what a user would try next; the first under which the hand-written layout fits."""
AIMS = {512: 1.5, 16_384: 2.5, 131_072: 5.0}
"""Seconds to the proof that are asked for, by GPUs; below 500 MB."""
DEGREES = {"tp": 2, "cp": 1, "ep": 64, "etp": 1, "micro_batch_size": 1, "dispatcher": "deepep"}
"""The recipe's degrees on 1,024 H100 (tensor 2, expert 64), with its flexible dispatcher."""
GIB = 2**30


def hand_problem(fix: dict[str, Any]) -> Problem:
    """DeepSeek-V3 on 1,024 H200: 8,192 sequences of 4,096 tokens, bf16 (H200, so that more of the strings fit)."""
    workload = {"sequence_length": 4096, "global_batch_size": 8192, "precision": "bf16"}
    return Problem(architecture="deepseek-v3", cluster="h200", gpus=1024, workload=workload, fix=fix)


def hand_written(pp: int, vpp: int) -> tuple[dict[str, Any], Replayed] | None:
    """The recipe's layout for one pair, with the first recompute setting under which it fits."""
    for recompute in RECOMPUTES:
        fix = {**DEGREES, "pp": pp, "vpp": vpp, "recompute": recompute, "overlap": {"ep_all_to_all": False}}
        problem = hand_problem(fix)
        layout = complete(problem, Layout(pipeline_layout=STRINGS[pp, vpp], pp=pp, vpp=vpp))
        candidate = Candidate(problem, degrees_of(layout), layout.choices, 0)
        found = Found.judge(candidate, PipelineLayout.parse(STRINGS[pp, vpp], pp))
        if found.peak_bytes <= problem.memory_limit:
            return fix, Replayed.judge(found)
    return None


def strings_section(limit: float) -> list[str]:
    """Ours beside theirs."""
    lines = [
        "## Hand-written layouts of DeepSeek-V3, and ours",
        "",
        f"1,024 H200, 8,192 sequences of 4,096 tokens, bf16, {DEGREES};",
        "recompute the lightest under which theirs fits.",
        "Ours: `solve --certify` with everything fixed but the placement; both judged by the same evaluation.",
        "",
        "Step: seconds, replayed. Peak: GiB.",
        "",
        "| pp, vpp | recompute | theirs | step | peak | ours | step | peak | gain | certified |",
        "|---|---|---|---:|---:|---|---:|---:|---:|---|",
    ]
    for pp, vpp in STRINGS:
        theirs = hand_written(pp, vpp)
        if theirs is None:
            lines.append(f"| {pp}, {vpp} | | {_cell(STRINGS[pp, vpp])} | does not fit | | | | | | |")
            continue
        fix, judged = theirs
        answer = solve(hand_problem(fix), certify=True, time_limit=limit)
        ours, mine = answer["schedule"]["simulated_ns"], judged.step_ns
        peaks = judged.found.peak_bytes / GIB, answer["memory"]["peak_bytes"] / GIB
        proof = "yes" if answer["schedule"]["certified"] else format(answer["schedule"]["gap"], ".2%")
        cells = (
            f"{pp}, {vpp}",
            str(judged.found.candidate.choices.recompute),
            _cell(STRINGS[pp, vpp]),
            f"{mine / 1e9:.3f}",
            f"{peaks[0]:.1f}",
            _cell(answer["layout"]["pipeline_layout"]),
            f"{ours / 1e9:.3f}",
            f"{peaks[1]:.1f}",
            f"{mine / ours - 1:.2%}",
            proof,
        )
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def _cell(layout: str) -> str:
    """A layout string in a table's cell: its stage breaks must not end the cell."""
    return "`" + layout.replace("|", "\\|") + "`"


def even_section(names: Sequence[str], limit: float) -> list[str]:
    """The joint optimum beside the best even split."""
    lines = [
        "## The joint optimum, and the best even-split layout",
        "",
        "Even split: what Megatron makes without a layout string, embedding or loss counted as a layer where that",
        "divides; all other decisions free, found exhaustively. Gain: of the step, by the ledger and replayed.",
        "",
        "| training | status | joint step s | peak GiB | even step s | peak GiB | gain | replayed gain | GiB |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        problem = Problem.load(FOLDER / f"{name}.yaml")
        answer = solve(problem, time_limit=limit)
        step, peak = answer["step_time"]["total_ns"], answer["memory"]["peak_bytes"]
        row = f"| {name} | {answer['status']} | {step / 1e9:.3f} | {peak / GIB:.1f} "
        even = best_even(problem, step)
        if even is None:
            lines.append(row + "| none fits | | | | |")
        else:
            replayed = Replayed.judge(even).step_ns / answer["schedule"]["simulated_ns"] - 1
            lines.append(
                row + f"| {even.time_ns / 1e9:.3f} | {even.peak_bytes / GIB:.1f} | {even.time_ns / step - 1:.2%} "
                f"| {replayed:.2%} | {(even.peak_bytes - peak) / GIB:+.1f} |"
            )
        print(lines[-1], flush=True)
    return [*lines, ""]


def gaps_section(names: Sequence[str], limit: float) -> list[str]:
    """The default bound and the certified one."""
    lines = [
        "## The replayed step, and the bound that no layout beats",
        "",
        f"`--certify` for {limit:g} s at most, the solve included. Closed: candidates whose bound is not below the",
        "best step.",
        "",
        "| problem | step s, replayed | gap of a plain solve | wall s | --gap 1% | wall s | gap with --certify "
        "| closed | wall s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    cases = [(name, {}) for name in names]
    cases += [("deepseek-v3-2048-h800", {"pp": pp, "vpp": vpp}) for pp, vpp in ((16, 1), (8, 2), (4, 4))]
    for name, fix in cases:
        problem = Problem.load(FOLDER / f"{name}.yaml", fix=fix)
        started = time.monotonic()
        plain = solve(problem, time_limit=limit)["schedule"]
        middle = time.monotonic()
        near = solve(problem, time_limit=limit, certify=True, gap="1%")["schedule"]
        later = time.monotonic()
        full = solve(problem, time_limit=limit, certify=True)["schedule"]
        title = ", ".join([name, *(f"{key} {value}" for key, value in fix.items())])
        lines.append(
            f"| {title} | {full['simulated_ns'] / 1e9:.3f} | {plain['gap']:.2%} | {middle - started:.1f} "
            f"| {near['gap']:.2%} | {later - middle:.1f} "
            f"| {'0, certified' if full['certified'] else format(full['gap'], '.2%')} "
            f"| {full.get('candidates_closed', 0):,} of {full.get('candidates', 0):,} "
            f"| {time.monotonic() - later:.1f} |"
        )
        print(lines[-1], flush=True)
    return [*lines, ""]


def laws_section(schedules: int, seed: int) -> list[str]:
    """Counted laws."""
    head = ["## Laws of the schedule", "", "| law | tried | broken |", "|---|---|---:|"]
    lines = check_laws(schedules, seed).lines()
    print("\n".join(lines), flush=True)
    return [*head, *lines, ""]


def space_section(gpus: Sequence[int]) -> list[str]:
    """The joint space of DeepSeek-V3, counted."""
    head = [
        "## The space",
        "",
        "DeepSeek-V3 on H100, 8,192 sequences of 4,096: legal candidates (degrees, modes, recompute) and layouts",
    ]
    lines = [
        *head,
        "(candidates with every placement of their layers), counted and not sampled.",
        "",
        "| GPUs | candidates | layouts |",
        "|---:|---:|---:|",
    ]
    for count in gpus:
        given = {"architecture": "deepseek-v3", "cluster": "h100-sxm", "gpus": count}
        candidates, layouts = count_space(load_problem({**given, "workload": {"global_batch_size": 8192}}))
        lines.append(f"| {count:,} | {candidates:,} | {layouts:,} |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def seconds_section(limit: float, repeat: int, seed: int) -> list[str]:
    """DeepSeek-V3: the process until its proof, and enumeration's rate."""
    options = argparse.Namespace(time_limit=limit, workers=os.cpu_count() or 1, repeat=repeat, sample=3.0, seed=seed)
    aims = ", ".join(f"{seconds:g} s at {gpus:,}" for gpus, seconds in AIMS.items())
    lines = [
        "## Seconds to the proof, and what enumeration would take",
        "",
        f"H100, 4,096 tokens, bf16; the median of {repeat} runs of the process `moeopt solve`, imports included.",
        f"Proven: the layout is printed then (aim: {aims}, below 500 MB);",
        "the rest of the process bounds how fast other layouts replay. Even-split layouts: one placement of each",
        "candidate, judged one by one for 3 s on one core; all of them at that rate, which is an extrapolation",
        "([solve.md](solve.md) has more rows and says more).",
        "",
        *timing.table_head(),
    ]
    for gpus in AIMS:
        lines.append(timing.measure("deepseek-v3", gpus, options).text)
        print(lines[-1], flush=True)
    return [*lines, ""]


def random_section(share: float) -> list[str]:
    """Counted laws on random problems."""
    head = ["## Random problems against enumeration", "", "Broken: blocks of problems.", ""]
    lines = check_random(share)
    print("\n".join(lines), flush=True)
    return [*head, "| law | problems | broken |", "|---|---:|---:|", *lines, ""]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sections and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    every = ("space", "seconds", "laws", "random", "strings", "even", "gaps")
    parser.add_argument("--sections", nargs="+", choices=every, default=every)
    parser.add_argument("--schedules", type=int, default=3000)
    parser.add_argument("--share", type=float, default=1.0, help="of the random problems, the first ones")
    parser.add_argument("--repeat", type=int, default=3, help="runs of a proof whose median counts")
    parser.add_argument("--trainings", nargs="+", default=TRAININGS)
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds for each solve")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args(arguments)
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    page = [
        "# What the search shows",
        "",
        f"{day}, {ENGINE}, Python {platform.python_version()}, {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[0]:.1f} at the start. Again: `python benchmarks/search.py`.",
        "",
    ]
    sections = {
        "space": lambda: space_section((512, 2048)),
        "seconds": lambda: seconds_section(options.time_limit, options.repeat, options.seed),
        "random": lambda: random_section(options.share),
        "laws": lambda: laws_section(options.schedules, options.seed),
        "strings": lambda: strings_section(options.time_limit),
        "even": lambda: even_section(options.trainings, options.time_limit),
        "gaps": lambda: gaps_section(options.trainings, options.time_limit),
    }
    for name in options.sections:
        page += sections[name]()
        options.output.write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
