"""Small replicas of the collections of the recipes, behind the stand-in for the Hugging Face Hub of the tests.

A replica has the file names, configurations, columns and types of the repository that its docstring names. The texts
are made here: each topic has one query, two passages that answer it, and two that do not.
"""

import gzip
import json
import os
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "faults"))  # for the stand-in

from hub_standin import Hub, mteb_card

TINY_JUDGE = ("--engine", "scripted", "--model", "overlap", "--method", "utilsel")
SYLLABLES = [first + last for first in "bdfglmnprstvz" for last in "aeiou"]
VOCABULARY = [*SYLLABLES, *(f"##{syllable}" for syllable in SYLLABLES)]
"""Word pieces of all texts of the replicas."""


@contextmanager
def tiny_hub(work: Path, measured: Iterable[str]) -> Iterator[Path]:
    """Let the commands that are started talk to a stand-in with all replicas, and yield a folder with two models of
    random weights: the BERT `bert`, and `tiny`, which makes a sentence-transformers model of it.

    What is fetched is cached in `work`, so that it never mixes with the real collections.
    """
    models = work / "models"
    if not (models / "tiny").is_dir():
        from tiny_encoder import write_encoder  # imports torch, which takes seconds

        write_encoder(models, VOCABULARY, length=128)
    with Hub() as hub:
        put_replicas(hub, measured)
        os.environ.update(hub.environment, HF_HOME=str(work / "home"), LABELKIT_CACHE=str(work / "cache"))
        yield models


class Topic(NamedTuple):
    """A query, and passages of which the first two answer it."""

    query_id: str
    query: str
    passages: tuple[tuple[str, str, str], ...]
    """Id, title and text of each passage."""


def topics(name: str, count: int) -> list[Topic]:
    """Make the topics of a collection; the same name gives the same topics."""
    drawn = random.Random(name)

    def words(number: int) -> list[str]:
        return ["".join(drawn.sample(SYLLABLES, 3)) for _ in range(number)]

    made = []
    for number in range(count):
        asked, title = words(4), words(1)[0]
        texts = [" ".join([*asked, *words(6)]), " ".join([*asked[:3], *words(7)]), *(" ".join(words(9)) for _ in "12")]
        passages = tuple((f"{100 * number + rank}", title, text) for rank, text in enumerate(texts))
        made.append(Topic(f"{1000 + number}", " ".join(asked), passages))
    return made


def lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """Write rows as JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def put_mteb(hub: Hub, name: str, splits: dict[str, list[Topic]]) -> None:
    """Put a collection of MTEB: JSONL for all parts, and scores that are float64.

    https://huggingface.co/datasets/mteb/msmarco/blob/main/README.md
    """
    every = [topic for part in splits.values() for topic in part]
    passages = ({"_id": pid, "title": title, "text": text} for one in every for pid, title, text in one.passages)
    files = {
        "README.md": mteb_card(splits).encode(),
        "corpus.jsonl": lines(passages),
        "queries.jsonl": lines({"_id": topic.query_id, "text": topic.query} for topic in every),
    }
    for split, part in splits.items():
        rows = ({"query-id": one.query_id, "corpus-id": one.passages[0][0], "score": 1.0} for one in part)
        files[f"qrels/{split}.jsonl"] = lines(rows)
    hub.put(f"mteb/{name}", files)


def put_nq(hub: Hub, parts: dict[str, list[Topic]]) -> None:
    """Put Tevatron/wikipedia-nq: gzipped JSONL per split, with answers, and a loading script, which is never run.

    https://huggingface.co/datasets/Tevatron/wikipedia-nq/blob/main/wikipedia-nq.py
    """

    def rows(part: list[Topic]) -> Iterator[dict[str, Any]]:
        for topic in part:
            passages = [{"docid": pid, "title": title, "text": text} for pid, title, text in topic.passages]
            row = {"query_id": topic.query_id, "query": topic.query, "answers": [topic.query.split()[0]]}
            # The annotated passage stands first, although its id is the second.
            yield row | {"positive_passages": passages[1::-1], "negative_passages": passages[2:]}

    files = {f"nq-{split}.jsonl.gz": gzip.compress(lines(rows(part))) for split, part in parts.items()}
    hub.put("Tevatron/wikipedia-nq", {"wikipedia-nq.py": b"raise SystemExit('never run')\n", **files})


def put_replicas(hub: Hub, measured: Iterable[str]) -> None:
    """Put all repositories of the recipes; `measured` names the collections of MTEB to measure on.

    One query of MS MARCO's split dev repeats a training query, as some do in the real collection.
    """
    train, dev = topics("msmarco", 12), topics("msmarco-dev", 5)
    dev[0] = dev[0]._replace(query=train[0].query)
    put_mteb(hub, "msmarco", {"train": train, "dev": [renumbered(topic) for topic in dev]})
    put_nq(hub, {"train": topics("wikipedia", 12), "dev": topics("wikipedia-dev", 2)})
    for name in measured:
        put_mteb(hub, name, {"test": topics(name, 4)})


def renumbered(topic: Topic) -> Topic:
    """Give a topic other ids, so that it fits into the same collection as the topics of another split."""
    passages = tuple((f"9{pid}", title, text) for pid, title, text in topic.passages)
    return Topic(f"9{topic.query_id}", topic.query, passages)
