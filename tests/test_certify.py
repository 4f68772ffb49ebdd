"""The bound on the replayed step: never above any layout's, equal to the best one's with `certify`."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from campaign import blocks
from enumeration import legal_candidates, peak_bytes, placed, random_problem
from moeopt.accounting.ledger import Ledger
from moeopt.accounting.pieces import piece_counts
from moeopt.candidate import Candidate
from moeopt.cpsat.relaxation import Relaxation
from moeopt.dual import NARROW, paired
from moeopt.dual.pairs import ask_pairs
from moeopt.errors import InputError
from moeopt.evaluation import evaluate
from moeopt.layout import Layout
from moeopt.pipeline import PipelineLayout
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem
from moeopt.report.text import render
from moeopt.resolve import complete, degrees_of
from moeopt.schedule.combined import CombinedRow
from moeopt.schedule.replay import replay
from moeopt.schedule.shape import Schedule
from moeopt.screening import Limits, Screening
from moeopt.search import solve
from moeopt.solving.branch import Search
from moeopt.solving.certify import Certificate, Certifier, certify
from moeopt.solving.effort import CHEAP, FULL
from moeopt.solving.incumbent import Found
from moeopt.solving.replay_raising import ReplayRaising
from moeopt.solving.replayed import Replayed
from moeopt.solving.settings import Settings
from schedule_cases import random_shape, random_times

PROBLEMS = Path(__file__).parent.parent / "problems"


def replayed_step(ledger: Ledger, pipeline: PipelineLayout) -> int:
    step = ledger.step_time(pipeline)
    return step.total_ns - step.pipeline_ns + ledger.replay(pipeline).total_ns


def exhaustive_replay(problem: Problem) -> tuple[int | None, list[int]]:
    """Lowest replayed step of every layout that fits; and every layout's excess of its step over the bound that
    `evaluate` prints for its degrees."""
    best: int | None = None
    slack = []
    for ledger in legal_candidates(problem):
        low = ledger.replay_bound_ns()
        for pipeline in placed(ledger):
            step_ns = replayed_step(ledger, pipeline)
            slack.append(step_ns - low)
            if best is not None and step_ns >= best:
                continue
            if peak_bytes(ledger, pipeline) <= problem.memory_limit:
                best = step_ns
    return best, slack


def check(seed: int) -> bool:
    """Whether the problem had a layout; fails where the certificate is not what enumeration gives."""
    problem = random_problem(seed).model_copy(update={"objective": "step_time", "then": ()})
    best, slack = exhaustive_replay(problem)
    assert min(slack, default=0) >= 0, seed
    if best is None:
        return False
    plain = solve(problem, workers=1)["schedule"]
    assert plain["lower_bound_ns"] <= best <= plain["simulated_ns"], seed
    assert plain["certified"] == (plain["lower_bound_ns"] == plain["simulated_ns"]), seed
    answer = solve(problem, workers=1, certify=True)
    schedule = answer["schedule"]
    assert schedule["certified"], seed
    assert schedule["simulated_ns"] == schedule["lower_bound_ns"] == best, seed
    assert schedule["gap"] == 0, seed
    again = evaluate(problem, Layout(**answer["layout"]))
    assert again["status"] == "evaluated", seed
    assert again["schedule"]["simulated_ns"] == best, seed
    near = solve(problem, workers=1, certify=True, gap="5%")["schedule"]
    assert near["lower_bound_ns"] <= best <= near["simulated_ns"] <= near["lower_bound_ns"] * 1.05, seed
    return True


def test_without_the_bound_on_replays_the_answer_is_the_same() -> None:
    """`replay_bound` False changes nothing but what is said of other layouts' replays; it contradicts certify."""
    problem = load_problem({"architecture": "mixtral-8x7b", "cluster": "h100-sxm", "gpus": 64})
    whole, short = (solve(problem, workers=1, replay_bound=bounded) for bounded in (True, False))
    assert whole["schedule"].pop("bound_over") == "problem"
    assert short["schedule"].pop("bound_over") != "problem"
    for answer in (whole, short):
        del answer["search"], answer["schedule"]
    assert "replays_faster" not in short
    whole.pop("replays_faster", None)
    assert whole == short
    with pytest.raises(InputError, match="no-replay-bound"):
        solve(problem, certify=True, replay_bound=False)


def test_certificates_equal_enumeration() -> None:
    """The default bound is below the best replayed step of all layouts, --certify finds that step, and --gap a step and
    a bound no further apart (8 problems)."""
    assert sum(check(seed) for seed in range(8)) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("first", blocks(range(8, 88, 20), 1))
def test_more_certificates_equal_enumeration(first: int) -> None:
    """The same law on 80 further problems, 20 of them always."""
    for seed in range(first, first + 20):
        check(seed)


@pytest.mark.parametrize("after", range(3))
def test_an_interrupted_certificate_claims_no_more_than_it_replayed(
    after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between a candidate's list and its replays: the bound is still below the best replayed step of all
    layouts, though the candidates listed are closed by then. The layout known before is the slowest of each problem."""
    replay_one, turns = ReplayRaising._replay, []

    def stop(self: ReplayRaising, *arguments: object) -> None:
        turns.append(arguments)
        if len(turns) > after:
            raise KeyboardInterrupt
        replay_one(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ReplayRaising, "_replay", stop)
    reached = 0
    for seed in range(12):
        problem = random_problem(seed).model_copy(update={"objective": "step_time", "then": ()})
        best, _ = exhaustive_replay(problem)
        if best is None:
            continue
        turns.clear()
        result = Certifier(Screening(problem), [slowest(problem)], Settings(workers=1), FULL).run()
        reached += len(turns) > after
        assert result.lower_bound_ns <= best <= result.best.step_ns, seed
    assert reached


def slowest(problem: Problem) -> Found:
    """The layout with the longest step that fits."""
    fitting = [
        Found.judge(Candidate(problem, ledger.degrees, ledger.choices, 0), pipeline)
        for ledger in legal_candidates(problem)
        for pipeline in placed(ledger)
        if peak_bytes(ledger, pipeline) <= problem.memory_limit
    ]
    return max(fitting, key=lambda found: found.time_ns)


def test_combined_rows_are_below_every_replay() -> None:
    """Any weighting of critical paths is a row that no other times' replay goes below (up to its rounding)."""
    rng = random.Random(31)
    for _ in range(200):
        shape, overlap, hop = random_shape(rng, 5), rng.random() < 0.4, rng.choice([0, 7])
        schedule = Schedule(*shape, overlap)
        cuts = []
        for _ in range(4):
            cut = replay(*shape, *random_times(rng, schedule.stages), hop, ep_overlap=overlap).cut
            assert cut is not None
            cuts.append((cut.forward, cut.backward, cut.hops))
        row_ = CombinedRow.of(schedule, cuts, [rng.random() for _ in cuts])
        assert row_ is not None
        forward, backward = random_times(rng, schedule.stages)
        total = replay(*shape, forward, backward, hop, ep_overlap=overlap).total_ns
        value = row_.hops * hop
        value += sum(a * b for a, b in zip(row_.forward, forward, strict=True))
        value += sum(a * b for a, b in zip(row_.backward, backward, strict=True))
        assert value <= row_.scale * total


def deepseek(fix: dict[str, object]) -> Problem:
    workload = {"sequence_length": 4096, "global_batch_size": 2048, "precision": "fp8"}
    return load_problem(
        {"architecture": "deepseek-v3", "cluster": "h800", "gpus": 2048, "workload": workload, "fix": fix}
    )


CHEAP_MODULES = {"modules": ["layernorm", "mla_up_proj", "moe_act"]}
LAYOUT = {"tp": 2, "ep": 64, "etp": 1, "cp": 1, "micro_batch_size": 1, "dispatcher": "deepep"}


def candidate(problem: Problem, layout: Layout) -> Candidate:
    full = complete(problem, layout)
    return Candidate(problem, degrees_of(full), full.choices, 0)


@pytest.mark.parametrize(("pp", "vpp", "overlap"), [(8, 2, False), (4, 4, True), (16, 1, False)])
def test_relaxation_is_a_bound_and_beats_the_rows(pp: int, vpp: int, overlap: bool) -> None:
    """Each round's cuts only raise the bound; no placement's replay is below it."""
    recompute = {"modules": ["mla_up_proj", "moe_act"]}
    chosen = {**LAYOUT, "pp": pp, "vpp": vpp, "recompute": recompute, "overlap": {"ep_all_to_all": overlap}}
    problem = deepseek({})
    at = candidate(problem, Layout(**chosen))
    terms, counts = at.ledger.time_terms, piece_counts(problem)
    bounds = []
    for rounds in (1, 40):
        combined = Relaxation(at, Schedule(*at.schedule)).refine(rounds, lambda: False)
        assert combined is not None
        bounds.append(combined.bound_ns(counts, terms.forward_ns, at.backward_ns, terms.hop_ns))
    assert bounds[0] <= bounds[1]
    rng, stages = random.Random(5), pp * vpp
    for _ in range(5):
        layers = [61 // stages] * stages
        for _ in range(61 - sum(layers)):
            layers[rng.randrange(stages)] += 1
        pipeline = PipelineLayout.from_counts(pp, layers, 1)
        assert bounds[1] <= at.ledger.replay(pipeline).total_ns


@pytest.mark.parametrize(
    ("pp", "vpp"), [(16, 1), *(pytest.param(*grid, marks=pytest.mark.slow) for grid in ((8, 2), (4, 4)))]
)
def test_deepseek_closes(pp: int, vpp: int) -> None:
    """With its grid and degrees fixed, DeepSeek-V3's replayed optimum is proven in seconds."""
    problem = deepseek({**LAYOUT, "pp": pp, "vpp": vpp, "recompute": CHEAP_MODULES})
    answer = solve(problem, workers=2, certify=True, time_limit=60)
    assert answer["schedule"]["certified"], answer["schedule"]


def test_a_stopped_certificate_is_still_a_bound() -> None:
    """Without time nothing is certified; the bound is that of the screening, and holds."""
    problem = deepseek({**LAYOUT, "pp": 8, "vpp": 2, "recompute": CHEAP_MODULES})
    at = candidate(problem, Layout(**problem.fix))
    found = Found.judge(at, PipelineLayout.from_counts(8, [4] * 15 + [1], 1))
    expired = Certifier(Screening(problem), [found], Settings(workers=1, deadline=0.0), FULL).run()
    cheap = Certifier(Screening(problem), [found], Settings(workers=1), CHEAP).run()
    assert not expired.closed
    assert expired.lower_bound_ns <= cheap.lower_bound_ns <= cheap.best.step_ns


@pytest.mark.parametrize(("name", "asks"), [("kimi-k2-2048-h800", False), ("qwen3-30b-a3b-16-h100", True)])
def test_a_plain_solve_has_what_is_left_settled(name: str, asks: bool) -> None:
    """No layout of a shipped problem replays faster by more than 1 %, for one worker and two: of Kimi-K2 ranks next
    to each other tell that, of Qwen3-30B-A3B CP-SAT has to be asked about some candidates, too."""
    search = Search(Problem.load(PROBLEMS / f"{name}.yaml"), Settings(workers=2))
    best = search.run().best
    assert best is not None
    one, two, none = (
        Certifier(search.screening, [best], Settings(workers=workers), effort).run()
        for workers, effort in ((1, CHEAP), (2, CHEAP), (2, replace(CHEAP, few=0)))
    )
    assert none.lower_bound_ns <= two.lower_bound_ns == one.lower_bound_ns
    assert two.best.step_ns <= 1.01 * two.lower_bound_ns
    assert (two.best.step_ns > 1.01 * none.lower_bound_ns) is asks


def test_more_effort_gives_no_weaker_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plain solve proves holds for a certificate that gets nowhere, too; one interrupt ends both parts."""
    problem = deepseek({**LAYOUT, "pp": 8, "vpp": 2, "recompute": CHEAP_MODULES})
    at = candidate(problem, Layout(**problem.fix))
    found, screening = [Found.judge(at, PipelineLayout.from_counts(8, [4] * 15 + [1], 1))], Screening(problem)
    plain = certify(screening, found, Settings(workers=1))
    monkeypatch.setattr("moeopt.solving.certify.FULL", replace(CHEAP, rows=1, rounds=1, operations=0, few=0))
    assert certify(screening, found, Settings(workers=1), full=True).lower_bound_ns >= plain.lower_bound_ns

    begun = []

    def interrupted(*arguments: object) -> bool:
        begun.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(ReplayRaising, "raise_lowest", interrupted)
    stopped = certify(screening, found, Settings(workers=1), full=True)
    assert len(begun) == 1
    assert stopped.lower_bound_ns <= plain.lower_bound_ns


def test_the_report_tells_both_optima(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the best replay is not the ledger's optimum, the answer describes the former, keeps the ledger's objective
    and names the latter's layout."""
    import moeopt.search as module

    problem = deepseek({**LAYOUT, "pp": 16, "vpp": 1, "recompute": CHEAP_MODULES})
    at = candidate(problem, Layout(**problem.fix))
    other = Found.judge(at, PipelineLayout.from_counts(16, [3, *[4] * 14, 2], 1))

    def certificate(*_: object) -> Certificate:
        best = Replayed.judge(other)
        return Certificate(best, best.step_ns, 1, 1)

    monkeypatch.setattr(module, "prove_replay", certificate)
    answer = solve(problem, workers=2, certify=True)
    assert answer["layout"]["pipeline_layout"] == str(other.pipeline)
    assert answer["step_time"]["total_ns"] == other.time_ns
    assert answer["objective"]["value"] < other.time_ns
    assert answer["ledger_optimum"]["step_time_ns"] == answer["objective"]["value"]
    assert answer["ledger_optimum"]["layout"]["pipeline_layout"] != str(other.pipeline)
    console = Console(record=True, width=200)
    render(answer, console)
    assert "by the ledger another layout is best" in console.export_text()


def test_a_plain_answer_tells_of_a_faster_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout is the ledger's optimum; where bounding its replay met one that replays faster, the answer has that
    one beside it, and nothing where it did not."""
    import moeopt.search as module

    problem = deepseek({**LAYOUT, "pp": 16, "vpp": 1, "recompute": CHEAP_MODULES})
    at = candidate(problem, Layout(**problem.fix))
    other = Found.judge(at, PipelineLayout.from_counts(16, [3, *[4] * 14, 2], 1))
    for step_ns, told in ((10**9, True), (10**12, False)):
        certificate = Certificate(Replayed(other, step_ns, None), 10**8, 1, 1)
        monkeypatch.setattr(module, "prove_replay", lambda *_, found=certificate: found)
        answer = solve(problem, workers=2)
        assert answer["step_time"]["total_ns"] == answer["objective"]["value"] < other.time_ns
        console = Console(record=True, width=200)
        render(answer, console)
        assert ("1.000 s replayed" in console.export_text()) is told
        assert ("replays_faster" in answer) is told
        if told:
            assert answer["replays_faster"]["layout"]["pipeline_layout"] == str(other.pipeline)
            assert answer["replays_faster"]["step_time_ns"] == other.time_ns
            assert answer["replays_faster"]["simulated_ns"] == 10**9


def test_placements_are_listed_only_where_their_replays_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of small problems whose every candidate is looked at through its ranks, the few placements that are left settle
    it; where replays are extrapolated none is listed, and no candidate with a bound below the limit counts as
    settled."""
    listed = 0
    for most in (200_000, 0):
        monkeypatch.setattr("moeopt.dual.bounds.MOST_EXACT_OPERATIONS", most)
        for seed in range(12):
            problem = random_problem(seed).model_copy(update={"objective": "step_time", "then": ()})
            limits = Limits(problem.memory_limit, time_ns=10**9, replayed=True)
            pairs = Screening(problem).pairs(limits)
            if not pairs:
                continue
            answer = ask_pairs(problem, pairs, limits, lambda question: paired(question, NARROW))
            for bound_ns, placed_, complete_ in zip(answer.bound_ns, answer.placed, answer.complete, strict=True):
                assert complete_ == (bound_ns > 10**9 or bool(placed_))
                listed += bool(placed_) and most > 0
                assert most or not placed_
    assert listed
