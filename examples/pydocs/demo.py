"""Label, mix, train and measure on real text; `make demo` runs this script.

The documents are the documentation of Python's standard library, one text file per function, class or module. Thirty
training queries have reference grades: all grades of ten queries, and one positive of each of the others, as people who
grade little would have them. A real language model judges 16 passages per query with two questions, its scores are
calibrated on the ten graded queries together with the scores of BM25 and of the retriever, and the calibrated labels
are added to the reference grades. Retrievers are compared on 179 other queries, and differ by one thing at a time:
the labels, the objective, or the order of the labels. README.md has the design, which was fixed before the figures.

Every step is a command that you could type; it is printed before it runs. Steps with a complete output folder are
skipped.
"""

import argparse
import csv
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for models.py, which is not in a package

from models import encoder_folder, judge_folder

from labelkit.commands import console
from labelkit.statistics.intervals import Estimate
from labelkit.statistics.paired import holm
from labelkit.storage import folders
from labelkit.storage.atomic import write_text
from labelkit.storage.manifest import DATASET

HERE = Path(__file__).resolve().parent
SPLITS = ("train", "heldout")
GRADED_QUERIES = 10
DEPTH = 16
METHODS = ("graded", "binary")
PASSAGE_WORDS = 64  # the beginning of a docstring says most; on two cores this saves some minutes
THRESHOLDS = ("--llm-positive", "0.5", "--llm-negative", "0.15")
TRAINING = ("--batch-size", "6")
MEASURE = "nDCG@10"
SOURCES = {"human": "reference grades", "llm": "LLM labels"}
"""Source of labels -> its name here: no person wrote the reference grades, which the commands call human."""


class Arm(NamedTuple):
    """A retriever of the comparison: its dataset, and the options of its training."""

    name: str
    dataset: str
    options: tuple[str, ...]


MERGED = Arm("reference + LLM, LSEPair", "mixed", ("--objective", "lsepair", "--epochs", "4"))
OTHERS = (
    Arm("reference, LSEPair", "reference", ("--objective", "lsepair", "--epochs", "4")),
    Arm("reference + LLM, JointLH", "mixed", ("--objective", "jointlh", "--epochs", "4")),
    Arm(
        "LLM, then reference, LSEPair",
        "staged",
        ("--objective", "lsepair", "--epochs", "2", "--stage", "llm", "--stage", "human"),
    ),
)
UNTRAINED = "untrained"


def main() -> None:
    """Run the missing steps and print the measurements."""
    parser = argparse.ArgumentParser(description="Label, mix, train and measure on real text.")
    parser.add_argument("--work", type=Path, default=Path("build/demo"), help="folder for all outputs")
    work = parser.parse_args().work
    start = time.monotonic()
    collect(work)
    label(work)
    train(work)
    show(work, measure(work), time.monotonic() - start)


def collect(work: Path) -> None:
    """Write the documents, the passages with the reference grades, and the pool."""
    source, data = work / "source", work / "data"
    if not source.is_dir():
        run("python", HERE / "corpus.py", "--documents", "-o", source)
    limit = ("--tokenizer", encoder_folder(), "--max-tokens", 512)
    make("labelkit", "corpus", source / "documents", "--queries", source / "queries.jsonl", *limit, output=data)
    passages = first_passages(data)
    for split in SPLITS:
        write_qrels(data / "qrels" / f"{split}.tsv", dict(grades(source / "qrels" / f"{split}.tsv", passages)))
    few = dict(few_grades(dict(grades(source / "qrels" / "train.tsv", passages))))
    write_qrels(data / "qrels" / "few.tsv", few)
    # A query of which people graded the best passage alone would teach the calibration that pairs are relevant.
    write_qrels(data / "qrels" / "graded.tsv", {query: rows for query, rows in few.items() if len(rows) > 1})
    sources = ("--bm25", 30, "--dense", f"{encoder_folder()}:30", "--human", data / "qrels" / "few.tsv")
    make("labelkit", "pool", data, "--split", "train", *sources, "--depth", DEPTH, output=work / "pool")


def label(work: Path) -> None:
    """Judge the pool with both methods, and calibrate their scores."""
    for method in METHODS:
        # This always runs, because it asks nothing if all pairs are judged.
        judge = ("--model", judge_folder(), "--method", method, "--passage-words", PASSAGE_WORDS)
        judged = run("labelkit", "annotate", work / "pool", "-o", work / method, *judge, "--json")
        if json.loads(judged)["asked"]:
            write_text(work / f"{method}.json", judged)
    labels, calibration = [work / method for method in METHODS], work / "calibration.json"
    features = ("--data", work / "data", "--bm25", "--dense", encoder_folder())
    if not calibration.is_file():
        graded = work / "data" / "qrels" / "graded.tsv"
        run("labelkit", "calibrate", *labels, "--human", graded, *features, "-o", calibration)
    make("labelkit", "calibrate", *labels, "--apply", calibration, *features, output=work / "calibrated")


def train(work: Path) -> None:
    """Write the datasets and train all retrievers."""
    grades = ("--data", work / "data", "--human", work / "data" / "qrels" / "few.tsv")
    make("labelkit", "mix", *grades, output=work / "reference")
    both = (*grades, "--llm", work / "calibrated", *THRESHOLDS)
    make("labelkit", "mix", *both, output=work / "mixed")
    # A stage of a curriculum has the labels of one source, also of pairs that both have judged.
    make("labelkit", "mix", *both, "--policy", "staged", output=work / "staged")
    for arm in (MERGED, *OTHERS):
        fit = ("--model", encoder_folder(), *TRAINING, *arm.options)
        make("trainer", "fit", work / arm.dataset, *fit, output=model_of(work, arm))


def measure(work: Path) -> dict[str, Any]:
    """Measure the models on the held-out queries; the result is kept in `evaluation.json`."""
    models = [*(model_of(work, arm) for arm in (MERGED, *OTHERS)), encoder_folder()]
    result = work / "evaluation.json"
    newest = max((model / folders.MANIFEST).stat().st_mtime for model in models[:-1])
    if not result.is_file() or result.stat().st_mtime < newest:
        compare = [part for model in models[1:] for part in ("--compare", model)]
        options = ("--split", "heldout", "--relevant-grade", 2)
        write_text(result, run("trainer", "eval", models[0], work / "data", *options, *compare, "--json"))
    return dict(json.loads(result.read_text(encoding="utf-8")))


def show(work: Path, evaluation: dict[str, Any], seconds: float) -> None:
    """Print the final table: judging, labels, and the measurements of the retrievers."""
    table = Table("what", "measured", title="Python's own documentation: 30 training queries, 179 held out")
    for method in METHODS:
        judging = json.loads((work / f"{method}.json").read_text(encoding="utf-8"))
        failed, rate = sum(judging["failures"].values()), judging["asked"] / judging["seconds"]
        table.add_row(f"pairs judged, {method}", f"{judging['pairs']}, {failed} failed, {rate:.1f} per second")
    for folder in (*METHODS, "calibrated"):
        table.add_row(f"AUC of {folder}", auc(work, folder))
    facts = folders.read_manifest(work / "mixed", DATASET).facts
    for source, mean in facts.positives_per_query.items():
        table.add_row(f"positives per query, {SOURCES[source]}", f"{mean:.2f}")
    names = [arm.name for arm in (MERGED, *OTHERS)] + [UNTRAINED]
    table.add_section()
    for name, model in zip(names, evaluation["measured"], strict=True):
        table.add_row(f"{MEASURE}, {name}", estimate(model["means"][MEASURE], ""))
    table.add_section()
    tests = [difference["tests"][MEASURE] for difference in evaluation["compared"]]
    corrected = holm([test["p"] for test in tests])
    table.add_row(f"{MERGED.name}, minus", "")
    for name, test, p in zip(names[1:], tests, corrected, strict=True):
        table.add_row(f"  {name}", f"{estimate(test, '+')}, p {p:.3f}")
    screen = Console()
    screen.print(table)
    screen.print(
        "Brackets: 95% confidence intervals of single figures. p: corrected for the four differences (Holm); a "
        "difference is significant below 0.05. AUC: on queries that the calibration has not seen. A language model "
        "wrote the grades of the held-out queries, no person."
    )
    screen.print(f"This run took {seconds:.0f} s. Its outputs are in {work}; the next run reuses them.")


def auc(work: Path, labels: str) -> str:
    """Measure the AUC of labels against the reference grades of the queries without grades in the calibration."""
    data = work / "data" / "qrels"
    seen = read_qrels(data / "graded.tsv")
    others = {query: rows for query, rows in read_qrels(data / "train.tsv").items() if query not in seen}
    write_qrels(work / "others.tsv", others)
    found = json.loads(run("labelkit", "agree", work / labels, "--human", work / "others.tsv", "--json"))
    (against,) = found["comparisons"]
    figure = against["figures"]["auc"]
    shown = Estimate(figure["value"], figure["low"], figure["high"]).shown(".2f").replace("[", "\\[")
    return f"{shown} on {against['pairs']} pairs"


def estimate(found: dict[str, float | None], sign: str) -> str:
    """Format a mean with its interval."""
    return Estimate(found["mean"], found["low"], found["high"]).shown(f"{sign}.3f").replace("[", "\\[")


Grades = dict[str, dict[str, int]]
"""Grade of each passage of each query."""


def first_passages(data: Path) -> dict[str, str]:
    """Return the id of the first passage of each document, without the ending of its file name.

    A repeated document has the passage that was kept.
    """
    passages: dict[str, str] = {}
    for row in map(json.loads, (data / "corpus.jsonl").read_text(encoding="utf-8").splitlines()):
        passages.setdefault(row["metadata"]["source"].removesuffix(".txt"), row["_id"])
    for row in map(json.loads, (data / "repeated.jsonl").read_text(encoding="utf-8").splitlines()):
        passages.setdefault(row["source"].removesuffix(".txt"), row["kept"])
    return passages


def grades(qrels: Path, passages: dict[str, str]) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield the grades of each query; documents become passages, and the best grade of a repeated one counts."""
    for query, rows in read_qrels(qrels).items():
        found: dict[str, int] = {}
        for document, grade in rows.items():
            passage = passages[document]
            found[passage] = max(grade, found.get(passage, grade))
        yield query, found


def few_grades(every: Grades) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield all grades of the first queries, and the best passage of each of the others, ties broken by id."""
    for number, (query, rows) in enumerate(sorted(every.items())):
        best = min(rows, key=lambda passage: (-rows[passage], passage))
        yield query, rows if number < GRADED_QUERIES else {best: rows[best]}


def read_qrels(path: Path) -> Grades:
    """Read a qrels file."""
    found: Grades = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            found.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return found


def write_qrels(path: Path, every: Grades) -> None:
    """Write a qrels file."""
    path.parent.mkdir(exist_ok=True)
    lines = [f"{query}\t{passage}\t{grade}\n" for query, rows in every.items() for passage, grade in rows.items()]
    write_text(path, "query-id\tcorpus-id\tscore\n" + "".join(lines))


def model_of(work: Path, arm: Arm) -> Path:
    """Return the folder of a trained model."""
    return work / "models" / arm.name.lower().replace(",", "").replace(" + ", "-").replace(" ", "-")


def make(program: str, *parts: object, output: Path) -> None:
    """Run a command that writes the folder `output`, unless that folder is complete."""
    if not (output / folders.MANIFEST).is_file():
        run(program, *parts, "-o", output)


def run(program: str, *parts: object) -> str:
    """Print a command, run it, and return its standard output; its standard error is not captured."""
    arguments = [str(part) for part in parts]
    console.say(f"\n$ {shlex.join([program, *arguments])}")
    installed = Path(sys.executable).with_name(program)
    done = subprocess.run([str(installed), *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    console.run(main)
