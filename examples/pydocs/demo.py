"""Label, mix, train and measure on real text; `make demo` runs this script.

The corpus is the documentation of Python's standard library. Thirty training queries have one human positive each, as
in most collections. A real language model judges eight passages per query, and its labels are added to the human
labels. A retriever trained on both is compared with a retriever trained on human labels only and with the untrained
model, on thirty other queries.

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
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for models.py, which is not in a package

from models import encoder_folder, judge_folder

from labelkit.commands import console
from labelkit.statistics.intervals import Estimate
from labelkit.storage import folders
from labelkit.storage.atomic import write_text
from labelkit.storage.manifest import DATASET

HERE = Path(__file__).resolve().parent
PAIRS_A_QUERY = 8
PASSAGE_WORDS = 64  # the beginning of a docstring says most; on two cores this saves some minutes
TRAINING = ("--epochs", "4", "--batch-size", "6", "--max-passage-length", "128")
# The 1.5B judge gives most pairs a probability near 0.5. With these thresholds about a tenth of the pairs are positive,
# and pairs with a probability of at most 0.5 are negative.
LINES = ("--llm-positive", "0.58", "--llm-negative", "0.5")


def main() -> None:
    """Run the missing steps and print the measurements."""
    parser = argparse.ArgumentParser(description="Label, mix, train and measure on real text.")
    parser.add_argument("--work", type=Path, default=Path("build/demo"), help="folder for all outputs")
    work = parser.parse_args().work
    start = time.monotonic()
    label(work)
    train(work)
    evaluation = measure(work)
    show(work, evaluation, time.monotonic() - start)


def label(work: Path) -> None:
    """Write the corpus, the pool and the labels."""
    data = work / "data"
    single = data / "qrels" / "train-single.tsv"
    if not single.is_file():
        run("python", HERE / "corpus.py", "-o", data)
        keep_one_positive(data / "qrels" / "train.tsv", single)
    sources = ("--bm25", 20, "--dense", f"{encoder_folder()}:20", "--human", single, "--depth", PAIRS_A_QUERY)
    make("labelkit", "pool", data, "--split", "train", *sources, output=work / "pool")
    # This always runs, because it asks nothing if all pairs are judged.
    judge = ("--model", judge_folder(), "--passage-words", PASSAGE_WORDS)
    judged = run("labelkit", "annotate", work / "pool", "-o", work / "labels", *judge, "--json")
    if json.loads(judged)["asked"]:
        write_text(work / "annotate.json", judged)


def train(work: Path) -> None:
    """Write both datasets and train both retrievers."""
    data = work / "data"
    human = ("--data", data, "--human", data / "qrels" / "train-single.tsv")
    make("labelkit", "mix", *human, output=work / "human")
    make("labelkit", "mix", *human, "--llm", work / "labels", *LINES, output=work / "mixed")
    fit = ("--model", encoder_folder(), *TRAINING)
    make("trainer", "fit", work / "human", "--objective", "singlelh", *fit, output=work / "model-human")
    make("trainer", "fit", work / "mixed", "--objective", "lsepair", *fit, output=work / "model-mixed")


def measure(work: Path) -> dict[str, Any]:
    """Measure the models on the held-out queries; the result is kept in `evaluation.json`."""
    models = (work / "model-mixed", work / "model-human", encoder_folder())
    result = work / "evaluation.json"
    newest = max((model / folders.MANIFEST).stat().st_mtime for model in models)
    if not result.is_file() or result.stat().st_mtime < newest:
        compare = [part for model in models[1:] for part in ("--compare", model)]
        output = run("trainer", "eval", models[0], work / "data", "--relevant-grade", 2, *compare, "--json")
        write_text(result, output)
    return dict(json.loads(result.read_text(encoding="utf-8")))


def show(work: Path, evaluation: dict[str, Any], seconds: float) -> None:
    """Print the final table: judging, labels, and the measurements of the retrievers."""
    judging = json.loads((work / "annotate.json").read_text(encoding="utf-8"))
    train_qrels = work / "data" / "qrels" / "train.tsv"
    agreement = json.loads(run("labelkit", "agree", work / "labels", "--human", train_qrels, "--json"))
    (against_people,) = agreement["comparisons"]
    figures = {name: figure["value"] for name, figure in against_people["figures"].items()}
    facts = folders.read_manifest(work / "mixed", DATASET).facts
    table = Table("what", "measured", title="Python's own documentation: 30 training queries, 30 held out")
    table.add_row("pairs judged", f"{judging['pairs']}, {sum(judging['failures'].values())} without a grade")
    rate = f"{judging['asked'] / judging['seconds']:.2f} pairs per second"
    table.add_row("judging", f"{judging['seconds']:.0f} s, {rate}")
    table.add_row(
        "judge against the reference grades",
        f"AUC {figures['auc']:.2f}, kappa {figures['kappa']:.2f}, alpha {figures['alpha_ordinal']:.2f}"
        f" on {against_people['pairs']} pairs",
    )
    for source, mean in facts.positives_per_query.items():
        table.add_row(f"positives per query from source {source}", f"{mean:.2f}")
    table.add_section()
    names = ("one human positive + LLM, LSEPair", "one human positive, SingleLH", "untrained")
    for name, model in reversed(list(zip(names, evaluation["measured"], strict=True))):
        table.add_row(f"nDCG@10, {name}", estimate(model["means"]["nDCG@10"], ""))
    table.add_section()
    for name, difference in zip(names[1:], evaluation["compared"], strict=True):
        table.add_row(f"human + LLM minus {name}", difference_shown(difference["tests"]["nDCG@10"]))
    screen = Console()
    screen.print(table)
    screen.print("Brackets: 95% jackknife intervals over the held-out queries.")
    screen.print(f"This run took {seconds:.0f} s. Its outputs are in {work}; the next run reuses them.")


def estimate(found: dict[str, float | None], sign: str) -> str:
    """Format a mean with its interval."""
    return Estimate(found["mean"], found["low"], found["high"]).shown(f"{sign}.3f").replace("[", "\\[")


def difference_shown(found: dict[str, float | None]) -> str:
    """Describe a difference with its interval; it is not significant if the interval contains 0 or does not exist."""
    low, high = found["low"], found["high"]
    significant = low is not None and high is not None and not low <= 0 <= high
    return estimate(found, "+") + ("" if significant else ": no significant difference")


def keep_one_positive(qrels: Path, target: Path) -> None:
    """Write qrels with only the best passage of each query, ties broken by id, as in most collections."""
    best: dict[str, tuple[int, str]] = {}
    with qrels.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            found = (-int(row["score"]), row["corpus-id"])
            best[row["query-id"]] = min(found, best.get(row["query-id"], found))
    lines = [f"{query_id}\t{passage_id}\t{-negative}\n" for query_id, (negative, passage_id) in best.items()]
    write_text(target, "query-id\tcorpus-id\tscore\n" + "".join(lines))


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
