"""Trains objectives on simulated LLM labels of known precision and recall, on collections with complete human labels.

    python benchmarks/noise_study.py MODEL DATA … -o DIR [--levels 15/93 30/85 71/72] [--objectives lsepair …]
        [--regimes llm merged "merged twice" curriculum] [--seeds 3] [--folds 2]

All but one human positive of every training query are hidden ("human single", as in MS MARCO). LLM labels are simulated
for a pool of the best passages of BM25 and all relevant passages: relevant passages become positives with probability
recall, and other passages, preferably high-ranked ones, become positives until the precision is reached. All other
passages of the pool become negatives. The levels are taken from arXiv 2504.05220. Every objective is trained on the
LLM labels only, on LLM labels merged with human single, and on LLM labels followed by human single. The last regime
takes twice as many steps; "merged twice" therefore trains on the merged labels in two stages. Human single alone is one
run per seed, because all objectives are equal with one positive. Epochs are fixed in advance, and nothing is selected
on any data. A collection with a train split is measured on its test split; other collections are cross-validated over
folds of their queries.

All runs use `trainer bakeoff`: the same command resumes an interrupted study, and objectives, regimes, levels and seeds
may be added. The table, plots and text of each level are in DIR/LEVEL/report.html.
"""

import argparse
import json
import random
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.corpora.beir import Data, check_ids, read_data
from labelkit.corpora.qrels import Qrels, qrels_path, read_qrels
from labelkit.pooling.pool import bm25_run
from labelkit.records import Example, Label, Query
from labelkit.storage import folders
from labelkit.storage.atomic import write_text
from labelkit.storage.dataset import write_tables
from labelkit.storage.manifest import Facts
from trainer.bakeoffs.config import PAPER, BakeoffConfig
from trainer.bakeoffs.report import write_report
from trainer.bakeoffs.runner import RunResult, run_grid
from trainer.retrieval.search import read_collection

DEPTH = 100
"""Passages of BM25 in the pool of a query."""
REGIMES: dict[str, list[str | dict[str, Any]]] = {
    "llm": ["llm"],
    "merged": ["human + llm"],
    "merged twice": ["human + llm", "human + llm"],
    "curriculum": ["llm", "human"],
}
HUMAN = "human single"


class Part(NamedTuple):
    """The data of one bake-off."""

    name: str
    """Name of its folder."""
    data: Data
    train: Qrels
    test: Qrels


def main() -> None:
    """Run the missing trainings, then write the reports."""
    parser = argparse.ArgumentParser(description="Train objectives on simulated LLM labels.")
    parser.add_argument("model")
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--levels", nargs="+", default=["15/93", "30/85", "71/72"], help="precision/recall in percent")
    parser.add_argument("--objectives", nargs="+", default=list(PAPER))
    parser.add_argument("--regimes", nargs="+", default=list(REGIMES), choices=list(REGIMES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--max-steps", type=int, help="for a short trial: steps per stage, instead of epochs")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--max-length", type=int, default=128, help="maximum tokens of a passage")
    parser.add_argument("--precision", default="float32", help="precision of the training: float32, bf16 or fp16")
    given = parser.parse_args()
    length = {"max_steps": given.max_steps} if given.max_steps else {"epochs": given.epochs}
    settings = {
        **length,
        "model": given.model,
        "batch_size": given.batch_size,
        "learning_rate": given.learning_rate,
        "max_passage_length": given.max_length,
        "precision": given.precision,
    }
    regimes = {name: REGIMES[name] for name in given.regimes}
    configs = [
        BakeoffConfig(objectives=("singlelh",), regimes={HUMAN: ["human"]}, seeds=given.seeds, fit=settings),
        BakeoffConfig(objectives=tuple(given.objectives), regimes=regimes, seeds=given.seeds, fit=settings),
    ]
    parts = [part for folder in given.data for part in make_parts(folder, given.folds)]
    command = " ".join(["python", *sys.argv])
    for level in given.levels:
        precision, recall = (int(number) / 100 for number in level.split("/"))
        folder = given.output / level.replace("/", "-")
        results = [run_part(folder, part, precision, recall, configs, command) for part in parts]
        title = f"labels of precision {precision:.0%} and recall {recall:.0%}"
        words = write_report(folder, merge(results), title, command=command)
        print(f"\n{title}\n" + "\n".join(words), flush=True)


def make_parts(folder: Path, folds: int) -> list[Part]:
    """Use the train and test splits of a collection, or folds of the queries of its test split."""
    if (folder / "qrels" / "train.tsv").is_file():
        data, train, test = read_data(folder), *(read_qrels(qrels_path(folder, split)) for split in ("train", "test"))
        for qrels, split in ((train, "train"), (test, "test")):
            check_ids(qrels, data.queries, data.corpus, split)
        return [Part(folder.name, data, train, test)]
    data = read_data(folder, "test")
    mixed = sorted(data.qrels, key=lambda query_id: blake2b(query_id.encode()).digest())
    parts = []
    for number in range(folds):
        held_out = set(mixed[number::folds])
        train = {query_id: grades for query_id, grades in data.qrels.items() if query_id not in held_out}
        test = {query_id: data.qrels[query_id] for query_id in data.qrels if query_id in held_out}
        parts.append(Part(f"{folder.name}-{number}", data, train, test))
    return parts


def run_part(
    output: Path, part: Part, precision: float, recall: float, configs: Sequence[BakeoffConfig], command: str
) -> list[RunResult]:
    """Run both grids on one part, and return all results."""
    folder = output / part.name
    test = folder / "data" / part.name.rstrip("0123456789").rstrip("-")
    if not (test / "qrels" / "test.tsv").is_file():
        write_beir(test, part)
    if not (folder / "dataset" / folders.MANIFEST).is_file():
        write_dataset(folder / "dataset", part, precision, recall)
    collections = [read_collection(test, "test")]
    dataset = folder / "dataset"
    grids = [run_grid(dataset, folder, config, collections=collections, command=command) for config in configs]
    return [*grids[0], *(result for result in grids[1] if result.objective)]


def merge(parts: Sequence[Sequence[RunResult]]) -> list[RunResult]:
    """Merge the results of the folds of a collection, each of which measures other queries."""
    merged: dict[tuple[str, str, int], RunResult] = {}
    for result in (result for part in parts for result in part):
        key = (result.regime, result.objective, result.seed)
        if key not in merged:
            merged[key] = replace(result, dev=[])
            continue
        values = {name: dict(measures) for name, measures in merged[key].values.items()}
        for name, measures in result.values.items():
            old = values.get(name, {})
            values[name] = {measure: old.get(measure, {}) | each for measure, each in measures.items()}
        merged[key] = replace(merged[key], values=values, seconds=merged[key].seconds + result.seconds)
    return list(merged.values())


def write_beir(folder: Path, part: Part) -> None:
    """Write a part as a BEIR folder with its test qrels."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for passage in part.data.corpus.values():
            row = {"_id": passage.passage_id, "title": passage.title, "text": passage.text}
            file.write(json.dumps(row) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as file:
        for query_id in part.test:
            file.write(json.dumps({"_id": query_id, "text": part.data.queries[query_id].text}) + "\n")
    rows = [f"{q}\t{p}\t{grade}" for q, grades in part.test.items() for p, grade in grades.items()]
    write_text(folder / "qrels" / "test.tsv", "\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")


def write_dataset(folder: Path, part: Part, precision: float, recall: float) -> None:
    """Write a dataset with one human positive per query, and simulated LLM labels of its pool."""
    queries = {query_id: part.data.queries[query_id] for query_id in part.train}
    ranked = bm25_run(part.data.corpus, queries, DEPTH)
    examples, right, called, relevant = [], 0, 0, 0
    for query_id in sorted(part.train):
        good = sorted(name for name, grade in part.train[query_id].items() if grade > 0)
        if not good:
            continue
        pool = list(ranked.get(query_id, ()))
        found, wrong = noisy(good, [name for name in pool if name not in good], precision, recall, query_id)
        human = random.Random(f"human {query_id}").choice(good)
        positives = (label(human, 2, "human"), *(label(name, 2, "llm") for name in (*found, *wrong)))
        rest = sorted({*pool, *good} - {*found, *wrong})
        negatives = tuple(label(name, 0, "llm") for name in rest)
        text = queries[query_id].text
        examples.append(Example(query_id=query_id, query=text, positives=positives, negatives=negatives, ignored=()))
        right, called, relevant = right + len(found), called + len(found) + len(wrong), relevant + len(good)
    with folders.writing(folder, "dataset", "benchmarks/noise_study.py") as draft:
        write_tables(
            draft,
            examples=examples,
            corpus=[part.data.corpus[name] for name in sorted(part.data.corpus)],
            queries=[Query(query_id=one.query_id, text=one.query) for one in examples],
            judgements=(),
            judges=(),
        )
        draft.facts = Facts.model_validate({"precision": right / called, "recall": right / relevant})
    print(f"{folder}: precision {right / called:.3f}, recall {right / relevant:.3f}", flush=True)


def noisy(
    good: Sequence[str], others: Sequence[str], precision: float, recall: float, query_id: str
) -> tuple[list[str], list[str]]:
    """Simulate the positives of an LLM: some of the relevant passages `good`, some of `others`, which are ranked.

    Each passage of `good` is positive with probability `recall`. The number of positives among `others` gives the
    expected `precision`; their probability decreases with the rank.
    """
    source = random.Random(f"llm {query_id}")
    found = [name for name in good if source.random() < recall]
    expected = len(good) * recall * (1 - precision) / precision
    count = min(len(others), int(expected) + (source.random() < expected % 1))
    waiting = sorted(range(len(others)), key=lambda rank: source.expovariate(1 / (rank + 10)))
    return found, [others[rank] for rank in waiting[:count]]


def label(passage_id: str, grade: int, source: str) -> Label:
    """Make a label without a probability."""
    return Label.model_validate({"passage_id": passage_id, "grade": grade, "source": source, "judge_id": source})


if __name__ == "__main__":
    main()
