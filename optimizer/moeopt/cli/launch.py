"""`moeopt launch`."""

from pathlib import Path
from typing import Any

import click

from moeopt.cli import completing
from moeopt.cli.output import Output
from moeopt.errors import InputError


def frameworks() -> tuple[str, ...]:
    """Frameworks that have a writer."""
    from moeopt.writers.write import FRAMEWORKS

    return FRAMEWORKS


def launchers() -> tuple[str, ...]:
    """Launchers that have a writer."""
    from moeopt.writers.write import LAUNCHERS

    return LAUNCHERS


@click.command()
@click.argument("solution", shell_complete=completing.files)
@click.option(
    "--framework",
    metavar="F",
    default="megatron-lm",
    show_default=True,
    help="megatron-lm, megatron-bridge, torchtitan or deepspeed.",
    shell_complete=completing.words_of(frameworks),
)
@click.option(
    "--launcher",
    metavar="L",
    default="torchrun",
    show_default=True,
    help="torchrun, slurm or kubernetes.",
    shell_complete=completing.words_of(launchers),
)
@click.option("--image", metavar="I", help="Container image for slurm and kubernetes.")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    help="Folder to write the files to.  [required]",
    shell_complete=completing.folders,
)
@click.option("--format", "format_", metavar="text|json", help="How the list of files is printed.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("-q", "--quiet", is_flag=True, help="No notes on stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Faults in full.")
def launch(solution: str, **options: Any) -> int:
    """Files that start the run of SOLUTION: the JSON that solve or evaluate wrote.

    Nothing is started. The folder gets the scripts, a README of what was decided and why, the solution, and a smoke
    run of the same layout scaled to one node.
    """
    folder = options.pop("output")
    output = Output({**options, "output": None})
    if not folder:
        raise InputError("output: not given; say where with -o DIR")
    from moeopt.problem.reading import read_file
    from moeopt.writers.write import check_folder
    from moeopt.writers.write import launch as write

    check_folder(Path(folder))
    content = read_file(Path(solution), "solution")
    paths = write(
        content,
        folder,
        options["framework"],
        options["launcher"],
        image=options["image"],
        force=options["force"],
    )
    answer = {"schema": "moeopt/1", "folder": str(folder), "files": [path.name for path in paths]}
    output.emit(answer, _render)
    return 0


def _render(answer: Any, console: Any) -> None:
    console.print(f"{answer['folder']}: {len(answer['files'])} files", markup=False)
    for name in sorted(answer["files"]):
        console.print(f"  {name}", markup=False)
