"""Generate the collections of `scale.py`: texts, judgments and human grades of the shape of MS MARCO, of any size; and
an encoder.

    python benchmarks/scale_data.py FOLDER QUERIES

A query has 31 judged passages, one human positive, and 17.5 passages of 60 words in the corpus. 503,000 queries are the
size of MS MARCO's training set, with 15.6 million judged pairs and 8.8 million passages. Some evaluation queries are
copies of training queries, and some passages have a duplicate that another judgment calls irrelevant; the audit must
find all of them.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge
from labelkit.storage import folders
from labelkit.storage.dataset import records_to_table

JUDGED = 31
PASSAGES_A_QUERY = 17.5
WORDS = 60
EVALUATED, LEAKED, TWINS = 6_980, 500, 1_000
"""Numbers of evaluation queries, of those that are copies, and of duplicated passages. Small collections have fewer."""
FEW = 20
"""Number of queries whose pairs people graded for attacks and for the tuning of a prompt."""
AT_ONCE = 10_000
"""Number of queries generated at a time."""
SHARES = (0.55, 0.25, 0.12, 0.08)
"""Shares of the LLM's grades 0 to 3."""
AGREED = 0.7
"""Share of pairs to which people give the LLM's grade; the others get a random grade."""
JUDGE = Judge(judge_id="graded-made-up", kind="llm", name="made-up", label_grades=(0, 1, 2, 3))
DIMENSIONS = 32
"""Width of the encoder's vectors."""


def planted(queries: int) -> tuple[int, int]:
    """Return the numbers of copied evaluation queries and of duplicated passages in a collection of `queries`."""
    return min(LEAKED, queries // 10), min(TWINS, queries // 10)


def make(folder: Path, queries: int) -> None:
    """Generate with seed 0 a BEIR folder `data`, an evaluation set `eval`, the labels folder `labels`, and beside them
    the human grades of all pairs (`all.tsv`), of one pair per query (`some.tsv`) and of the pairs of 20 queries
    (`few.tsv`), the grades of a second LLM (`other.tsv`), and a TREC run of the judged pairs (`run.trec`).
    """
    random = np.random.default_rng(0)
    phrases = make_phrases(random, made_words(random))
    data, passages = folder / "data", int(queries * PASSAGES_A_QUERY)
    twins = planted(queries)[1]
    (data / "qrels").mkdir(parents=True)
    with (data / "corpus.jsonl").open("w", encoding="utf-8") as file:
        text = ""
        for first in range(0, passages, 100_000):
            picks = random.integers(0, len(phrases), (min(100_000, passages - first), 4))
            for number, four in enumerate(picks.tolist(), first):
                twin = number % 20 == 1 and number < 20 * twins and number < passages
                text = text if twin else " ".join([phrases[n] for n in four])
                file.write(f'{{"_id": "{number}", "title": "", "text": "{text}"}}\n')
    asked = [f"{phrases[n][:40]} {number}" for number, n in enumerate(random.integers(0, len(phrases), queries))]
    write_queries(data / "queries.jsonl", [(f"q{number}", text) for number, text in enumerate(asked)])
    write_evaluation(folder / "eval", asked, random, phrases)
    write_judgements(folder, queries, passages, random)
    leaked, twins = planted(queries)
    (folder / "planted").write_text(f"{leaked} leaked queries, {twins} duplicated passages")


def made_words(random: np.random.Generator) -> list[str]:
    """Generate 20,000 words."""
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    return ["".join(random.choice(letters, size)) for size in random.integers(2, 10, 20_000)]


def make_phrases(random: np.random.Generator, words: list[str]) -> list[str]:
    """Generate 200,000 phrases of 15 words, with frequencies by Zipf's law."""
    weights = 1 / np.arange(1, len(words) + 1)
    picks = random.choice(len(words), (200_000, WORDS // 4), p=weights / weights.sum())
    return [" ".join([words[n] for n in row]) for row in picks.tolist()]


def write_queries(path: Path, queries: list[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for query_id, text in queries:
            file.write(json.dumps({"_id": query_id, "text": text}) + "\n")


def write_evaluation(folder: Path, asked: list[str], random: np.random.Generator, phrases: list[str]) -> None:
    """Write an evaluation set of new queries and passages, and of some training queries in upper case."""
    size, leaked = min(EVALUATED, len(asked)), planted(len(asked))[0]
    picks = random.integers(0, len(phrases), (size, 5))
    texts = [f"{phrases[row[0]][-30:]} {phrases[row[4]][:25]}" for row in picks]
    copied = random.choice(len(asked), leaked, replace=False)
    texts[:leaked] = [asked[n].upper() for n in copied]
    write_queries(folder / "queries.jsonl", [(f"e{number}", text) for number, text in enumerate(texts)])
    (folder / "qrels").mkdir()
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as corpus:
        for number, row in enumerate(picks):
            corpus.write(json.dumps({"_id": f"d{number}", "text": " ".join(phrases[n] for n in row[:4])}) + "\n")
    with (folder / "qrels" / "test.tsv").open("w", encoding="utf-8") as qrels:
        qrels.write("query-id\tcorpus-id\tscore\n")
        qrels.writelines(f"e{number}\td{number}\t1\n" for number in range(size))


def write_encoder(folder: Path) -> None:
    """Write an encoder that adds up random vectors of the words, so that searching takes longer than encoding."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    random = np.random.default_rng(0)
    names = ["[UNK]", *dict.fromkeys(made_words(random))]
    tokenizer = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = random.normal(size=(len(names), DIMENSIONS)).astype(np.float32)
    embedding = StaticEmbedding(tokenizer, embedding_weights=weights)
    SentenceTransformer(modules=[embedding], device="cpu").save_pretrained(str(folder))


def write_judgements(folder: Path, queries: int, passages: int, random: np.random.Generator) -> None:
    """Write the labels folder, and the files of human grades, of the second LLM, and of the run."""
    files = {"train": folder / "data" / "qrels" / "train.tsv"}
    files |= {name: folder / f"{name}.tsv" for name in ("all", "some", "few", "other")}
    with ExitStack() as stack:
        draft = stack.enter_context(folders.writing(folder / "labels", "labels", "made by benchmarks/scale_data.py"))
        out: dict[str, TextIO] = {
            name: stack.enter_context(path.open("w", encoding="utf-8")) for name, path in files.items()
        }
        for file in out.values():
            file.write("query-id\tcorpus-id\tscore\n")
        out["run"] = stack.enter_context((folder / "run.trec").open("w", encoding="utf-8"))
        draft.write_batches("judgements", JUDGEMENT_SCHEMA, judgements(random, queries, passages, out))
        draft.write_table("judges", records_to_table([JUDGE], JUDGE_SCHEMA))


def judgements(
    random: np.random.Generator, queries: int, passages: int, out: dict[str, TextIO]
) -> Iterator[pa.RecordBatch]:
    """Yield the LLM's judgments in blocks, and write all other grades of the same pairs to the files `out`.

    The human positive of a query is its first passage. The first queries have a passage and its duplicate, which the
    LLM grades 0.
    """
    twins = planted(queries)[1]
    for first in range(0, queries, AT_ONCE):
        count = min(AT_ONCE, queries - first)
        steps = random.integers(1, max(2, passages // JUDGED), (count, 1))
        picks = (random.integers(0, passages, (count, 1)) + steps * np.arange(JUDGED)) % passages
        grades = random.choice(4, (count, JUDGED), p=SHARES)
        for query in range(first, min(twins, first + count)):
            pair = [20 * query, 20 * query + 1]
            others = (picks[query, 0] + steps[query] * np.arange(2, JUDGED + 2)) % passages
            picks[query] = [*pair, *others[~np.isin(others, pair)][: JUDGED - 2]]
            grades[query, 1] = 0
        failed = random.random((count, JUDGED)) < 0.005
        failed[: max(0, twins - first)] = False
        write_grades(random, first, picks, grades, out=out)
        yield batch(random, first, picks, grades, failed=failed.ravel())


def write_grades(
    random: np.random.Generator, first: int, picks: NDArray[Any], grades: NDArray[Any], *, out: dict[str, TextIO]
) -> None:
    """Write human grades, the second LLM's grades and the ranks of a block of queries that begins with `first`."""
    human, other = (np.where(random.random(grades.shape) < AGREED, grades, random.integers(0, 4, grades.shape))
                    for _ in range(2))  # fmt: skip
    lines: dict[str, list[str]] = {name: [] for name in out}
    chosen = random.integers(0, JUDGED, len(picks)).tolist()
    rows = zip(picks.tolist(), human.tolist(), other.tolist(), chosen, strict=True)
    for query, (passages, theirs, others, one) in enumerate(rows, first):
        lines["train"].append(f"q{query}\t{passages[0]}\t3\n")
        lines["all"] += [f"q{query}\t{pid}\t{grade}\n" for pid, grade in zip(passages, theirs, strict=True)]
        lines["some"].append(f"q{query}\t{passages[one]}\t{theirs[one]}\n")
        lines["other"] += [f"q{query}\t{pid}\t{grade}\n" for pid, grade in zip(passages, others, strict=True)]
        lines["run"] += [f"q{query} Q0 {pid} {rank} {99 - rank} made\n" for rank, pid in enumerate(passages, 1)]
    lines["few"] = lines["all"][: max(0, FEW - first) * JUDGED]
    for name, file in out.items():
        file.writelines(lines[name])


def batch(
    random: np.random.Generator, first: int, picks: NDArray[Any], grades: NDArray[Any], *, failed: NDArray[np.bool_]
) -> pa.RecordBatch:
    """Make the LLM's judgments of a block of queries that begins with `first`."""
    count = grades.size
    probs = random.random((count, 4)) / 20
    probs[np.arange(count), grades.ravel()] = 0
    probs[np.arange(count), grades.ravel()] = 1 - probs.sum(1)
    digests = random.bytes(32 * count).hex()
    columns = {
        "query_id": [f"q{query}" for query in range(first, first + len(picks)) for _ in range(JUDGED)],
        "passage_id": [str(pick) for pick in picks.ravel().tolist()],
        "judge_id": [JUDGE.judge_id] * count,
        "grade": pa.array(grades.ravel(), pa.int8(), mask=failed),
        "score": pa.array(probs @ np.arange(4), mask=failed),
        "probs": pa.array(
            [None if bad else row for bad, row in zip(failed.tolist(), probs.tolist(), strict=True)],
            pa.list_(pa.float64()),
        ),
        "failure": ["no label" if bad else None for bad in failed.tolist()],
        "reply_ref": [digests[64 * row : 64 * row + 64] for row in range(count)],
        "tokens": [350] * count,
        "cost": [2e-5] * count,
    }
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(count, field.type)
        for field in JUDGEMENT_SCHEMA
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=JUDGEMENT_SCHEMA)


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]))
    write_encoder(Path(sys.argv[1]) / "encoder")
