"""Compare all annotation methods with human grades, on the same pools.

    python benchmarks/methods.py DATA -o DIR [--split test] [--pools 10] [--passages 8] -- --engine vllm --model MODEL

DATA is a BEIR folder with grades 0 to 3. A pool is a query and some of its graded passages, drawn with a fixed seed
from every grade in turn. If there are fewer queries than pools, a query is used again with other passages. Options
after `--` are passed to `labelkit annotate` for every method. As arXiv 2504.05220 does, the benchmark prints precision
and recall of the human positives (grade >= 2) and positives per pool, and also kappa, AUC, failures and seconds. The
labels stay in DIR, and the same command judges nothing again.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from labelkit.corpora.beir import Data, read_data
from labelkit.corpora.qrels import Qrels, read_qrels
from labelkit.judging.methods import METHODS
from labelkit.pooling.options import PoolOptions
from labelkit.pooling.pool import make_pool
from labelkit.quality.agreement import agreement_of
from labelkit.quality.agreement_metrics import RELEVANT
from labelkit.storage.labels import read_labels


def main() -> None:
    """Draw the pools, judge them by every method, and print the table."""
    parser = argparse.ArgumentParser(description="Compare all annotation methods on the same pools.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--pools", type=int, default=10)
    parser.add_argument("--passages", type=int, default=8)
    parser.add_argument("annotate", nargs="+", help="options of `labelkit annotate`, after --")
    given = parser.parse_args()
    qrels = draw(given.data, given.split, given.pools, given.passages, given.output)
    print("| method | precision | recall | positives per pool | kappa >= 2 | AUC | failures | seconds |")
    for method in METHODS:
        seconds = annotate(given.output, method, given.annotate)
        print(row(given.output / method, qrels, method, seconds), flush=True)


def draw(folder: Path, split: str, pools: int, passages: int, output: Path) -> Path:
    """Write a collection of `pools` queries with `passages` graded passages each, and its pool; return the qrels."""
    data = read_data(folder, split)
    output.mkdir(parents=True, exist_ok=True)
    drawn = dict(deal(data.qrels, pools, passages))
    write_collection(output / "data", data, drawn)
    run = output / "judged.trec"
    run.write_text(
        "".join(f"{qid} Q0 {pid} 1 {-n} judged\n" for qid, ids in drawn.items() for n, pid in enumerate(ids))
    )
    make_pool(output / "data", output / "pool", PoolOptions(bm25=0, run=(f"{run}:{passages}",)))
    return output / "data" / "qrels" / "test.tsv"


def deal(qrels: Qrels, pools: int, passages: int) -> Iterator[tuple[str, list[str]]]:
    """Yield query ids, numbered by their use, each with passages of all grades in turn."""
    queues = {query_id: by_turns(grades) for query_id, grades in qrels.items()}
    for number in range(pools):
        query_id = list(queues)[number % len(queues)]
        start = number // len(queues) * passages
        yield f"{query_id}.{number // len(queues) + 1}", queues[query_id][start : start + passages]


def by_turns(grades: Mapping[str, int]) -> list[str]:
    """Order passages by taking one of each grade in turn, in random order within a grade."""
    source = random.Random(0)
    columns = [sorted(pid for pid, found in grades.items() if found == grade) for grade in sorted(set(grades.values()))]
    for column in columns:
        source.shuffle(column)
    return [pid for turn in zip_longest(*columns) for pid in turn if pid is not None]


def write_collection(folder: Path, data: Data, drawn: Mapping[str, Sequence[str]]) -> None:
    """Write the drawn pools as a BEIR folder."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    used = {pid for ids in drawn.values() for pid in ids}
    corpus = [{"_id": pid, "title": data.corpus[pid].title, "text": data.corpus[pid].text} for pid in sorted(used)]
    queries = [{"_id": qid, "text": data.queries[original(qid)].text} for qid in drawn]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    grades = [f"{qid}\t{pid}\t{data.qrels[original(qid)][pid]}\n" for qid, ids in drawn.items() for pid in ids]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(grades))


def original(query_id: str) -> str:
    """Return the original query id of a drawn pool."""
    return query_id.rpartition(".")[0]


def annotate(folder: Path, method: str, options: Sequence[str]) -> float:
    """Judge the pool by one method in its own process, and return its seconds, including loading."""
    start = time.monotonic()
    command = [sys.executable, "-m", "labelkit", "annotate", folder / "pool", "-o", folder / method]
    subprocess.run([*map(str, command), "--method", method, *options], check=True)
    return time.monotonic() - start


def row(labels: Path, qrels: Path, method: str, seconds: float) -> str:
    """Format a row of the table."""
    human, (judgements, _, _) = read_qrels(qrels), read_labels(labels)
    chosen = {(one.query_id, one.passage_id) for one in judgements if (one.grade or 0) >= RELEVANT}
    relevant = {(qid, pid) for qid, grades in human.items() for pid, grade in grades.items() if grade >= RELEVANT}
    found = len(chosen & relevant)
    [agreement] = agreement_of([labels], [qrels]).comparisons
    agreed = [agreement.figures[name].value for name in ("kappa_2", "auc")]
    figures = [found / len(chosen) if chosen else None, found / len(relevant), len(chosen) / len(human)]
    cells = ["-" if one is None else f"{one:.2f}" for one in (*figures, *agreed)]
    return f"| {method} | {' | '.join(cells)} | {agreement.failures} | {seconds:.0f} |"


if __name__ == "__main__":
    main()
