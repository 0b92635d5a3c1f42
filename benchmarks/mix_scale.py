"""Measure time and memory of mix, audit and export on a dataset of the size of MS MARCO.

    python benchmarks/mix_scale.py --work build/scale [--queries 50300 503000] [--format tevatron]

Generates a collection of each given size, with 31 judged passages per query (one human positive, all graded by an LLM
with probabilities) and 17.5 passages of 60 words per query in the corpus. 503,000 queries are the size of MS MARCO's
training set, with 15.6 million judgements and 8.8 million passages. Then runs each command in its own process, and
prints its wall time and peak resident memory (including mapped files). 500 of the 6,980 evaluation queries are copies
of training queries, and 1,000 passages have a duplicate that another judgement calls irrelevant; the audit must find
all of them. The generated files are removed at the end unless --keep is given.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import pyarrow as pa

from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge
from labelkit.storage import folders
from labelkit.storage.dataset import records_to_table

JUDGED = 31
PASSAGES_A_QUERY = 17.5
WORDS = 60
EVALUATED, LEAKED, TWINS = 6_980, 500, 1_000
AT_ONCE = 10_000
"""Number of queries generated at a time."""
SHARES = (0.55, 0.25, 0.12, 0.08)
"""Shares of the LLM's grades 0 to 3."""
JUDGE = Judge(judge_id="graded-made-up", kind="llm", name="made-up", label_grades=(0, 1, 2, 3))


class Run(NamedTuple):
    """The measurement of one command at one size."""

    command: str
    judgements: int
    minutes: float
    cpu_minutes: float
    peak_gb: float
    disk_gb: float


def main() -> None:
    """Generate the collections, run the commands, and print the table."""
    parser = argparse.ArgumentParser(description="Measure mix, audit and export at the size of MS MARCO.")
    parser.add_argument("--work", type=Path, default=Path("build/scale"))
    parser.add_argument("--queries", type=int, nargs="+", default=[50_300, 503_000])
    parser.add_argument("--format", default="tevatron")
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    runs = []
    for queries in given.queries:
        folder = given.work / str(queries)
        if not (folder / "labels" / folders.MANIFEST).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder, queries)
        for name, command in commands(folder, given.format).items():
            runs.append(measured(name, queries * JUDGED, command, folder))
            print(json.dumps(runs[-1]._asdict()), flush=True)
        check(folder)
        if not given.keep:
            shutil.rmtree(folder)
    print("\n| command | judgements | minutes | minutes of CPU | peak GB | GB on disk |\n|---|---|---|---|---|---|")
    for run in runs:
        figures = (run.minutes, run.cpu_minutes, run.peak_gb, run.disk_gb)
        print(f"| {run.command} | {run.judgements:,} | {' | '.join(f'{figure:.1f}' for figure in figures)} |")


def commands(folder: Path, form: str) -> dict[str, list[str]]:
    """List the measured commands with their arguments."""
    dataset = folder / "dataset"
    mix = f"mix --data {folder}/data --human {folder}/data/qrels/train.tsv --llm {folder}/labels -o {dataset}"
    return {
        "mix": mix.split(),
        "audit": f"audit {dataset} --eval {folder}/eval".split(),
        "export": f"export {dataset} --to {form} -o {folder}/export".split(),
    }


def measured(name: str, judgements: int, command: list[str], folder: Path) -> Run:
    """Run one command, and measure its time, memory and disk usage."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "labelkit", *command])
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} failed")
    minutes = (time.monotonic() - start) / 60
    made = folder / ("export" if name == "export" else "dataset")
    disk = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    busy = (used.ru_utime + used.ru_stime) / 60
    return Run(name, judgements, minutes, busy, used.ru_maxrss * 1024 / 1e9, disk / 1e9)


def check(folder: Path) -> None:
    """Print the numbers of planted and of found duplicates."""
    findings = json.loads((folder / "dataset" / "audit.json").read_text(encoding="utf-8"))["findings"]
    counts = {finding["name"]: finding["found"] for finding in findings}
    print(f"planted: {LEAKED} leaked queries, {TWINS} duplicated passages; found: {counts}")


def make(folder: Path, queries: int) -> None:
    """Generate the BEIR folder, the labels folder and the evaluation set with seed 0."""
    random = np.random.default_rng(0)
    phrases = make_phrases(random)
    data, passages = folder / "data", int(queries * PASSAGES_A_QUERY)
    (data / "qrels").mkdir(parents=True)
    with (data / "corpus.jsonl").open("w", encoding="utf-8") as file:
        text = ""
        for first in range(0, passages, 100_000):
            picks = random.integers(0, len(phrases), (min(100_000, passages - first), 4))
            for number, four in enumerate(picks.tolist(), first):
                twin = number % 20 == 1 and number < 20 * TWINS
                text = text if twin else " ".join([phrases[n] for n in four])
                file.write(f'{{"_id": "{number}", "title": "", "text": "{text}"}}\n')
    asked = [f"{phrases[n][:40]} {number}" for number, n in enumerate(random.integers(0, len(phrases), queries))]
    write_queries(data / "queries.jsonl", [(f"q{number}", text) for number, text in enumerate(asked)])
    write_evaluation(folder / "eval", asked, random, phrases)
    with folders.writing(folder / "labels", "labels", "made by benchmarks/mix_scale.py") as draft:
        with (data / "qrels" / "train.tsv").open("w", encoding="utf-8") as qrels:
            qrels.write("query-id\tcorpus-id\tscore\n")
            draft.write_batches("judgements", JUDGEMENT_SCHEMA, judgements(random, queries, passages, qrels))
        draft.write_table("judges", records_to_table([JUDGE], JUDGE_SCHEMA))


def make_phrases(random: np.random.Generator) -> list[str]:
    """Generate 200,000 phrases of 15 random words, whose frequencies follow Zipf's law."""
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    words = ["".join(random.choice(letters, size)) for size in random.integers(2, 10, 20_000)]
    weights = 1 / np.arange(1, len(words) + 1)
    picks = random.choice(len(words), (200_000, WORDS // 4), p=weights / weights.sum())
    return [" ".join([words[n] for n in row]) for row in picks.tolist()]


def write_queries(path: Path, queries: list[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for query_id, text in queries:
            file.write(json.dumps({"_id": query_id, "text": text}) + "\n")


def write_evaluation(folder: Path, asked: list[str], random: np.random.Generator, phrases: list[str]) -> None:
    """Write an evaluation set of new queries and passages, and of 500 training queries in upper case."""
    picks = random.integers(0, len(phrases), (EVALUATED, 5))
    texts = [f"{phrases[row[0]][-30:]} {phrases[row[4]][:25]}" for row in picks]
    leaked = random.choice(len(asked), LEAKED, replace=False)
    texts[:LEAKED] = [asked[n].upper() for n in leaked]
    write_queries(folder / "queries.jsonl", [(f"e{number}", text) for number, text in enumerate(texts)])
    (folder / "qrels").mkdir()
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as corpus:
        for number, row in enumerate(picks):
            corpus.write(json.dumps({"_id": f"d{number}", "text": " ".join(phrases[n] for n in row[:4])}) + "\n")
    with (folder / "qrels" / "test.tsv").open("w", encoding="utf-8") as qrels:
        qrels.write("query-id\tcorpus-id\tscore\n")
        qrels.writelines(f"e{number}\td{number}\t1\n" for number in range(EVALUATED))


def judgements(random: np.random.Generator, queries: int, passages: int, qrels: TextIO) -> Iterator[pa.RecordBatch]:
    """Yield the LLM's judgements in blocks, and write the human positive of each query, its first passage, to `qrels`.

    The first queries have a passage and its duplicate, which the LLM grades 0.
    """
    for first in range(0, queries, AT_ONCE):
        count = min(AT_ONCE, queries - first)
        steps = random.integers(1, passages // JUDGED, (count, 1))
        picks = (random.integers(0, passages, (count, 1)) + steps * np.arange(JUDGED)) % passages
        grades = random.choice(4, (count, JUDGED), p=SHARES)
        for query in range(first, min(TWINS, first + count)):
            picks[query, :2] = 20 * query, 20 * query + 1
            grades[query, 1] = 0
        probs = np.full((count * JUDGED, 4), 0.04)
        probs[np.arange(count * JUDGED), grades.ravel()] = 0.88
        qrels.writelines(f"q{query}\t{pick}\t3\n" for query, pick in enumerate(picks[:, 0].tolist(), first))
        failed = random.random((count, JUDGED)) < 0.005
        failed[: max(0, TWINS - first)] = False
        failed = failed.ravel()
        digests = random.bytes(32 * count * JUDGED).hex()
        columns = {
            "query_id": [f"q{query}" for query in range(first, first + count) for _ in range(JUDGED)],
            "passage_id": [str(pick) for pick in picks.ravel().tolist()],
            "judge_id": [JUDGE.judge_id] * (count * JUDGED),
            "grade": pa.array(grades.ravel(), pa.int8(), mask=failed),
            "score": pa.array(grades.ravel().astype(float), mask=failed),
            "probs": pa.array(
                [None if bad else row for bad, row in zip(failed.tolist(), probs.tolist(), strict=True)],
                pa.list_(pa.float64()),
            ),
            "failure": ["no label" if bad else None for bad in failed.tolist()],
            "reply_ref": [digests[64 * row : 64 * row + 64] for row in range(count * JUDGED)],
            "tokens": [350] * (count * JUDGED),
            "cost": [2e-5] * (count * JUDGED),
        }
        arrays = [
            pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(len(failed), field.type)
            for field in JUDGEMENT_SCHEMA
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=JUDGEMENT_SCHEMA)


if __name__ == "__main__":
    main()
