"""Compare objectives by cross-validation over queries, on a BEIR folder with complete human labels.

    python benchmarks/objectives.py MODEL DATA -o DIR [--objectives lsepair …] [--folds 5] [--seeds 1]

Every objective is trained on all folds but one and measured on that fold, so that no query is measured by a model that
was trained on it. All relevant passages of the qrels are positives; the best other passages of BM25 are negatives.
Prints nDCG@10, R@100 and AP@100, and paired differences from the untrained model and from SingleLH with 95% jackknife
intervals over queries. With several seeds, the value of a query is its mean. Finished runs are kept in DIR, and the
same command resumes with the missing ones.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path

import ir_measures
import numpy as np

from labelkit.corpora.beir import Data, read_data
from labelkit.pooling.bm25 import bm25_run
from labelkit.pooling.dense_search import Lengths
from labelkit.records import Example, Label, Query
from labelkit.statistics.intervals import SIGNED, mean_of_means
from labelkit.storage import folders
from labelkit.storage.dataset import write_tables
from trainer.config.fit_config import FitConfig
from trainer.objectives.objectives import OBJECTIVES
from trainer.retrieval.search import Collection, load_model, read_collection, search
from trainer.training.fit import fit

MEASURES = {"nDCG@10": ir_measures.nDCG @ 10, "R@100": ir_measures.R @ 100, "AP@100": ir_measures.AP @ 100}
CONTRASTIVE = [name for name, objective in OBJECTIVES.items() if objective.reads != "teacher"]
"""Names of the objectives without distillation, which needs scores that human labels lack."""
NEGATIVES = 30
"""Number of BM25 negatives per query, from which groups are drawn."""
UNTRAINED = "untrained"

Values = dict[str, dict[str, float]]
"""Measure -> query id -> value."""


def main() -> None:
    """Run the missing trainings, then print the table."""
    parser = argparse.ArgumentParser(description="Compare objectives by cross-validation over queries.")
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--objectives", nargs="+", default=CONTRASTIVE)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--precision", default="float32", help="precision of the training: float32, bf16 or fp16")
    parser.add_argument("--max-length", type=int, default=128, help="maximum tokens of a passage")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    data = read_data(given.data, given.split)
    folds = make_folds(sorted(data.qrels), given.folds)
    collection = read_collection(given.data, given.split)
    untrained = partial(measure, given.model, collection, list(data.qrels), given.max_length)
    keep(given.output / f"{UNTRAINED}.json", untrained)
    for seed in range(given.seeds):
        for number, held_out in enumerate(folds):
            dataset = given.output / f"dataset-{number}"
            if not (dataset / folders.MANIFEST).is_file():
                write_dataset(dataset, data, set(data.qrels) - set(held_out))
            for objective in given.objectives:
                config = FitConfig(
                    model=given.model,
                    objective=objective,
                    epochs=given.epochs,
                    batch_size=given.batch_size,
                    group_size=given.group_size,
                    learning_rate=given.learning_rate,
                    max_passage_length=given.max_length,
                    precision=given.precision,
                    seed=seed,
                )
                path = given.output / f"{objective}-{number}-{seed}.json"
                keep(path, partial(train_and_measure, dataset, config, collection, held_out, given.output))
                print(path.name, flush=True)
    print_table(given.output, given.objectives, given.folds, given.seeds)


def make_folds(query_ids: Sequence[str], count: int) -> list[list[str]]:
    """Divide queries into folds by a hash of their id."""
    mixed = sorted(query_ids, key=lambda query_id: blake2b(query_id.encode()).digest())
    return [mixed[number::count] for number in range(count)]


def keep(path: Path, compute: Callable[[], Values]) -> None:
    """Compute and write a result unless its file exists."""
    if not path.is_file():
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(compute()))
        aside.replace(path)


def write_dataset(folder: Path, data: Data, query_ids: set[str]) -> None:
    """Write a dataset folder with human positives and BM25 negatives."""
    ranked = bm25_run(data.corpus, data.queries, 2 * NEGATIVES)
    examples = []
    for query_id in sorted(query_ids):
        grades = data.qrels[query_id]
        positives = [name for name, grade in sorted(grades.items()) if grade > 0]
        negatives = [name for name in ranked.get(query_id, ()) if grades.get(name, 0) <= 0][:NEGATIVES]
        examples.append(
            Example(
                query_id=query_id,
                query=data.queries[query_id].text,
                positives=tuple(label(name, grades[name]) for name in positives),
                negatives=tuple(label(name, 0) for name in negatives),
                ignored=(),
            )
        )
    queries = [Query(query_id=one.query_id, text=one.query) for one in examples]
    with folders.writing(folder, "dataset", "benchmarks/objectives.py") as draft:
        corpus = [data.corpus[name] for name in sorted(data.corpus)]
        write_tables(draft, examples=examples, corpus=corpus, queries=queries, judgements=(), judges=())


def label(passage_id: str, grade: int) -> Label:
    """Make a human label."""
    return Label(passage_id=passage_id, grade=grade, source="human", judge_id="qrels")


def train_and_measure(
    dataset: Path, config: FitConfig, collection: Collection, held_out: Sequence[str], work: Path
) -> Values:
    """Train and measure a model, and remove it."""
    model = work / "model"
    shutil.rmtree(model, ignore_errors=True)
    fit(dataset, model, config, command="benchmarks/objectives.py")
    values = measure(str(model), collection, held_out, config.max_passage_length)
    shutil.rmtree(model)
    return values


def measure(model: str, collection: Collection, query_ids: Sequence[str], max_length: int | None) -> Values:
    """Compute all measures of the given queries, searching the whole corpus."""
    part = collection._replace(
        queries={query_id: collection.queries[query_id] for query_id in query_ids},
        qrels={query_id: collection.qrels[query_id] for query_id in query_ids},
    )
    run = search(load_model(model), model, part, lengths=Lengths(max_length, max_length))
    names = {what: name for name, what in MEASURES.items()}
    values: Values = {name: dict.fromkeys(query_ids, 0.0) for name in MEASURES}
    for found in ir_measures.iter_calc(list(names), part.qrels, run):
        values[names[found.measure]][found.query_id] = float(found.value)
    return values


def print_table(folder: Path, objectives: Sequence[str], folds: int, seeds: int) -> None:
    """Print a row per objective: means, and differences from the untrained model and from SingleLH."""
    untrained: Values = json.loads((folder / f"{UNTRAINED}.json").read_text())
    found = {name: collect(folder, name, folds, seeds) for name in objectives}
    baseline = found.get("singlelh")
    print(f"| objective | {' | '.join(f'{m} | - untrained | - singlelh' for m in MEASURES)} |")
    for name, values in {UNTRAINED: untrained, **found}.items():
        cells = []
        for each in MEASURES:
            cells += [f"{np.mean(list(values[each].values())):.4f}", against(values[each], untrained[each])]
            cells.append(against(values[each], baseline[each]) if baseline else "")
        print(f"| {name} | {' | '.join(cells)} |")


def collect(folder: Path, objective: str, folds: int, seeds: int) -> Values:
    """Read the values of all queries, averaged over seeds."""
    runs = [
        [json.loads((folder / f"{objective}-{number}-{seed}.json").read_text()) for number in range(folds)]
        for seed in range(seeds)
    ]
    merged = [{m: {q: v for part in parts for q, v in part[m].items()} for m in MEASURES} for parts in runs]
    return {m: {q: float(np.mean([one[m][q] for one in merged])) for q in merged[0][m]} for m in MEASURES}


def against(values: Mapping[str, float], others: Mapping[str, float]) -> str:
    """Format a paired difference with its interval, and a star if the interval does not contain 0."""
    gap = mean_of_means([np.array([values[query_id] - others[query_id] for query_id in sorted(values)])], SIGNED)
    star = "*" if gap.low is not None and gap.high is not None and not gap.low <= 0 <= gap.high else ""
    return f"{gap.shown('+.3f')}{star}"


if __name__ == "__main__":
    main()
