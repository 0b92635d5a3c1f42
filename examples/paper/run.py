"""Reproduce a table of the papers: from a collection on the Hugging Face Hub to objectives and regimes of labels.

    python examples/paper/run.py nq|msmarco|beir -- --engine vllm --model Qwen/Qwen3-32B --method utilsel
    python examples/paper/run.py msmarco --labels FILE      with published labels of an LLM
    python examples/paper/run.py nq --tiny                  the same steps on replicas, in a minute and without network

Every step is a command that you could type; it is printed before it runs. The same command resumes: finished steps are
skipped, and annotation and training continue where they were interrupted.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from recipes import RECIPES, Recipe
from table import table_of

from labelkit.commands import console
from labelkit.errors import UsageError
from labelkit.storage import folders
from labelkit.storage.atomic import write_text

HERE = Path(os.path.relpath(Path(__file__).parent))
"""This folder, written briefly in the printed commands."""
JUDGE = "--engine vllm --model Qwen/Qwen3-32B --method utilsel"
HUB = "hf://datasets/mteb/"


@dataclass(frozen=True)
class Choices:
    """What the user chooses for a recipe."""

    work: Path
    judge: tuple[str, ...]
    """Options of `labelkit annotate`."""
    labels: Path | None
    """File of published labels, which replaces the judge."""
    dense: str
    """Dense retriever whose first passages are judged, in addition to the passages of BM25."""
    depth: int
    """Passages per query that are judged."""
    training: tuple[str, ...]
    """Options of `trainer bakeoff`."""


def main() -> None:
    """Run the missing steps of a recipe and print its table."""
    given = arguments()
    recipe = RECIPES[given.recipe]
    if given.tiny:
        reproduce_tiny(recipe, given.work or Path("build/paper-tiny"), given.labels)
        return
    if not given.judge and not given.labels:
        raise UsageError(f"give a judge after --, such as: -- {JUDGE}; or published labels with --labels FILE")
    choices = Choices(
        work=given.work or Path("build/paper"),
        judge=tuple(given.judge),
        labels=given.labels,
        dense=given.dense or recipe.dense,
        depth=given.depth,
        training=("--model", given.model, "--seeds", str(given.seeds)),
    )
    reproduce(recipe, choices)


def reproduce_tiny(recipe: Recipe, work: Path, labels: Path | None) -> None:
    """Run a recipe on replicas, with a scripted judge, models of random weights, one epoch and one seed."""
    from replicas import TINY_JUDGE, tiny_hub

    with tiny_hub(work, recipe.measured) as models:
        training = ("--model", str(models / "bert"), "--epochs", "1", "--seeds", "1")
        dense = str(models / "tiny")
        reproduce(recipe, Choices(work, judge=TINY_JUDGE, labels=labels, dense=dense, depth=8, training=training))


def arguments() -> argparse.Namespace:
    """Read the command line; what follows `--` are options of `labelkit annotate`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--work", type=Path, help="folder for all outputs; default: build/paper")
    parser.add_argument("--labels", type=Path, help="labels of an LLM: qrels, or lines of a query id and passage ids")
    parser.add_argument("--dense", help="dense retriever of the pool; default: one that was trained on the collection")
    parser.add_argument("--depth", type=int, default=16, help="passages per query that are judged; default: 16")
    parser.add_argument("--model", default="bert-base-uncased", help="model to train; default: bert-base-uncased")
    parser.add_argument("--seeds", type=int, default=3, help="runs per objective and regime; default: 3")
    parser.add_argument("--tiny", action="store_true", help="run on small replicas with a scripted judge")
    own, judge = split_arguments(sys.argv[1:])
    return parser.parse_args(own, argparse.Namespace(judge=judge))


def split_arguments(words: list[str]) -> tuple[list[str], list[str]]:
    """Split a command line at `--`."""
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def reproduce(recipe: Recipe, choices: Choices) -> None:
    """Run the missing steps of a recipe, print its table, and write it to `table.md`."""
    folder = prepare(recipe, choices)
    measure(recipe, choices, folder)
    text = table_of(recipe, folder / "bakeoff")
    write_text(folder / "table.md", text)
    print(text)
    console.say(f"wrote {folder / 'table.md'}; intervals and tests are in {folder / 'bakeoff' / 'report.html'}")


def prepare(recipe: Recipe, choices: Choices) -> Path:
    """Read, pool, label and mix; return the folder in which `dataset` is.

    The policy `staged` keeps the labels of people and of the LLM apart, so that one dataset serves all regimes.
    Training queries that repeat a query of the evaluation are left out.
    """
    source = choices.work / recipe.data
    labels = source / ("labels" if choices.labels is None else "published")
    folder = choices.work / recipe.name / f"with-{labels.name}"
    data, human = read(recipe, source)
    pool(source, choices, data=data, human=human)
    label(source / "pool", choices, labels)
    make(
        "labelkit", "mix", "--data", data, "--human", human, "--positive-grade", 1, "--llm", labels, "--policy",
        "staged", *evaluation(recipe, data), "--eval-split", split(recipe), "--drop", "leaked-queries",
        output=folder / "dataset",
    )  # fmt: skip
    return folder


def measure(recipe: Recipe, choices: Choices, folder: Path, *more: str) -> None:
    """Train every objective on every regime of labels, and measure the models; `more` are options of the bake-off."""
    source = choices.work / recipe.data
    run(
        "trainer", "bakeoff", folder / "dataset", "--config", recipe.settings, "--pool", source / "pool",
        *choices.training, *evaluation(recipe, source / "data"), "--split", split(recipe), *more,
        "-o", folder / "bakeoff",
    )  # fmt: skip


def evaluation(recipe: Recipe, data: Path) -> list[str]:
    """Return the options that name the collections to measure on."""
    places = [f"{HUB}{name}" for name in recipe.measured] or [str(data)]
    return [part for place in places for part in ("--eval", place)]


def split(recipe: Recipe) -> str:
    """Return the split to measure on."""
    return "test" if recipe.measured else "dev"


def read(recipe: Recipe, source: Path) -> tuple[Path, Path]:
    """Write the collection in the BEIR layout; return its folder and the qrels of people for the training queries."""
    data = source / "data"
    if recipe.data == "msmarco":
        make("labelkit", "tidy", f"{HUB}msmarco", output=data)
        return data, data / "qrels" / "train.tsv"
    rows, human = "hf://datasets/Tevatron/wikipedia-nq", source / "human.tsv"
    form = ("--from", "tevatron-classic", "--split", "train", "--judge", "dpr")
    make("labelkit", "import", rows, *form, output=source / "rows")
    make("labelkit", "export", source / "rows", "--to", "beir", output=data)
    # DPR trains on the first positive of a row; BM25 found the others, which contain the answer's words.
    if not human.is_file():
        run("python", HERE / "qrels.py", "first", data / "qrels" / "train.tsv", "-o", human)
    return data, human


def pool(source: Path, choices: Choices, *, data: Path, human: Path) -> None:
    """Collect the passages of the training queries that are judged: of BM25, of a dense retriever, and of people."""
    depth = choices.depth
    sources = ("--bm25", depth, "--dense", f"{choices.dense}:{depth}", "--human", human, "--positive-grade", 1)
    make("labelkit", "pool", data, "--split", "train", *sources, "--depth", depth, output=source / "pool")


def label(pooled: Path, choices: Choices, labels: Path) -> None:
    """Judge the pool, or import published labels."""
    if choices.labels is None:
        # This always runs, because it asks nothing if all pairs are judged.
        run("labelkit", "annotate", pooled, "-o", labels, *choices.judge)
        return
    qrels = choices.labels
    if is_lists(qrels):
        qrels = labels.with_suffix(".tsv")
        run("python", HERE / "qrels.py", "lists", choices.labels, "-o", qrels)
    make("labelkit", "import", qrels, "--judge", "published", "--kind", "llm", output=labels)


def is_lists(path: Path) -> bool:
    """Return whether a file has lines of a query id and passage ids with commas, which are no qrels."""
    with path.open(encoding="utf-8") as file:
        return len(file.readline().split("\t")) == 2


def make(program: str, *parts: object, output: Path) -> None:
    """Run a command that writes the folder `output`, unless the folder is complete and its inputs are unchanged.

    Raises `UsageError` if another command wrote the folder.
    """
    command, made = words(program, *parts, "-o", output), output / folders.MANIFEST
    if made.is_file():
        manifest = json.loads(made.read_text(encoding="utf-8"))
        if manifest["command"] != shlex.join(command):
            raise UsageError(
                f"{output} was made by another command: {manifest['command']}; use the same options, choose another "
                "--work, or remove the folder"
            )
        inputs = [(Path(name), digest) for name, digest in manifest["inputs"].items()]
        if all(path.name != folders.MANIFEST or folders.file_sha256(path) == digest for path, digest in inputs):
            return
    run(*command)


def run(program: str, *parts: object) -> None:
    """Print a command and run it; end with its exit code if it fails."""
    command = words(program, *parts)
    console.say(f"\n$ {shlex.join(command)}")
    done = subprocess.run([str(Path(sys.executable).with_name(program)), *command[1:]], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def words(*parts: object) -> list[str]:
    """Return the words of a command line."""
    return [str(part) for part in parts]


if __name__ == "__main__":
    console.run(main)
