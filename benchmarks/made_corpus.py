"""Make a BEIR folder of any size from the texts of real ones, for measurements at the size of MS MARCO.

A passage is made of sentences of the given collections, drawn at random up to about 56 words, the mean of MS MARCO.
Real sentences have a small vocabulary, so that one word in 12 is replaced by an invented one, drawn from a Zipf
distribution: the vocabulary grows with the number of passages, as in a real corpus. Queries are spans of 3 to 9 words
of these passages (6 on average, as in MS MARCO), of which stop words are a part. The qrels name the passage of each
query as its only positive, in the splits train and dev.

    python benchmarks/made_corpus.py scifact cacm cisi cranfield -o DATA --passages 1000000 --queries 50000
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from labelkit.corpora.corpus import corpus_rows

WORDS = 56
"""Mean number of words per passage."""
INVENTED = 1 / 12
"""Share of words that are replaced by invented ones."""
EXPONENT = 1.2
"""Exponent of the Zipf distribution of invented words."""
FIRST = 20
"""Rank of the most frequent invented word, so that it is in about 4 % of the passages and not in every other one."""
SENTENCE = re.compile(r"(?<=[.!?])\s+")


def sentences(folders: Sequence[Path]) -> list[list[str]]:
    """Return the sentences of the corpora as lists of words; very short and very long ones are left out."""
    found = []
    for folder in folders:
        for _, _, _, text in corpus_rows(folder / "corpus.jsonl"):
            found += [words for one in SENTENCE.split(text) if 4 <= len(words := one.split()) <= 60]
    return found


def passages(known: Sequence[list[str]], count: int, random: np.random.Generator) -> Iterator[list[str]]:
    """Yield passages as lists of words."""
    mean = float(np.mean([len(words) for words in known]))
    for _ in range(count):
        drawn = random.integers(len(known), size=max(1, random.poisson(WORDS / mean)))
        words = [word for number in drawn for word in known[number]]
        for place in np.flatnonzero(random.random(len(words)) < INVENTED).tolist():
            words[place] = f"w{int(FIRST * (1 + random.pareto(EXPONENT - 1)) % 50_000_000):x}"
        yield words


def span(words: Sequence[str], random: np.random.Generator) -> str:
    """Return 3 to 9 consecutive words."""
    size = int(random.integers(3, 10))
    start = int(random.integers(max(1, len(words) - size)))
    return " ".join(words[start : start + size])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=50_000)
    parser.add_argument("--dev", type=int, default=1000, help="how many of the queries are in the split dev")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    asked = random.choice(options.passages, min(options.queries, options.passages), replace=False).tolist()
    splits = dict.fromkeys(asked, "train") | dict.fromkeys(asked[: options.dev], "dev")
    (options.output / "qrels").mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        names = ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/dev.tsv")
        corpus, queries, *qrels = (stack.enter_context((options.output / name).open("w")) for name in names)
        by_split = dict(zip(("train", "dev"), qrels, strict=True))
        for file in qrels:
            file.write("query-id\tcorpus-id\tscore\n")
        for number, words in enumerate(passages(sentences(options.folders), options.passages, random)):
            corpus.write(json.dumps({"_id": str(number), "title": "", "text": " ".join(words)}) + "\n")
            if number in splits:
                queries.write(json.dumps({"_id": f"q{number}", "text": span(words, random)}) + "\n")
                by_split[splits[number]].write(f"q{number}\t{number}\t1\n")


if __name__ == "__main__":
    main()
