"""A small encoder with random weights, and small datasets written through labelkit."""

import json
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from sentence_transformers import CrossEncoder
from tiny_encoder import write_encoder, write_language_model

from labelkit.records import Example, Label, Passage, Query
from labelkit.storage import folders
from labelkit.storage.dataset import write_tables
from trainer.commands.app import main

# Tiny matrices gain nothing from threads; on a busy machine, threads that wait for each other take 30 times
# as long.
torch.set_num_threads(1)

WORDS = tuple(f"word{number}" for number in range(60))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer BERT of width 32 over `WORDS`, with dropout, as a sentence-transformers folder."""
    return write_encoder(tmp_path_factory.mktemp("models"), WORDS)


@pytest.fixture(scope="session")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, but it reads 128 tokens."""
    return write_encoder(tmp_path_factory.mktemp("models"), WORDS, 128)


@pytest.fixture(scope="session")
def tiny_reranker(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder on the tiny encoder, without dropout, whose random head gives pairs different scores."""
    folder = tmp_path_factory.mktemp("models") / "tiny-reranker"
    torch.manual_seed(0)
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = CrossEncoder(str(tiny_model), num_labels=1, device="cpu", config_kwargs=off)
    torch.nn.init.normal_(model.get_submodule("0.model.classifier").weight)
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer BERT of width 32 over `WORDS` with a masked-language-model head, without dropout."""
    return write_language_model(tmp_path_factory.mktemp("models") / "mlm", WORDS)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run the command line in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["trainer", *(str(argument) for argument in arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def label(
    passage_id: str, grade: int | None = 1, source: Literal["human", "llm", "imported"] = "llm", **fields: Any
) -> Label:
    return Label(passage_id=passage_id, grade=grade, source=source, judge_id="judge", **fields)


def example(
    query_id: str,
    positives: Iterable[str | Label] = (),
    negatives: Iterable[str | Label] = (),
    ignored: Iterable[str] = (),
    query: str = "word0",
) -> Example:
    return Example(
        query_id=query_id,
        query=query,
        positives=tuple(one if isinstance(one, Label) else label(one) for one in positives),
        negatives=tuple(one if isinstance(one, Label) else label(one, 0) for one in negatives),
        ignored=tuple(label(one, None, "llm") for one in ignored),
    )


def passage(passage_id: str, text: str) -> Passage:
    return Passage(passage_id=passage_id, title="", text=text)


WriteDataset = Callable[[Iterable[Example], Iterable[Passage]], Path]


@pytest.fixture
def write_dataset(tmp_path: Path) -> WriteDataset:
    """Write examples and passages as a dataset folder."""

    def write(examples: Iterable[Example], passages: Iterable[Passage]) -> Path:
        examples = list(examples)
        queries = [Query(query_id=one.query_id, text=one.query) for one in examples]
        with folders.writing(tmp_path / "dataset", "dataset", "test") as draft:
            write_tables(draft, examples=examples, corpus=passages, queries=queries, judgements=(), judges=())
        return tmp_path / "dataset"

    return write


@pytest.fixture
def toy_dataset(write_dataset: WriteDataset) -> Path:
    """12 queries with 2 positives and 4 negatives each, to be learnt by heart; a 13th has no positives."""
    passages = [passage(f"p{n:02d}", f"{WORDS[n]} {WORDS[(7 * n + 3) % 60]} {WORDS[(11 * n) % 60]}") for n in range(40)]
    names = [one.passage_id for one in passages]
    examples = [
        example(
            f"q{n:02d}",
            positives=[label(name, probability=0.9) for name in names[2 * n : 2 * n + 2]],
            negatives=[label(names[(2 * n + step) % 40], 0, probability=0.1) for step in (5, 9, 14, 22)],
            ignored=[names[(2 * n + 2) % 40]],
            query=f"{WORDS[59 - n]} {WORDS[30 + n]}",
        )
        for n in range(12)
    ]
    return write_dataset([*examples, example("q12", negatives=names[:3])], passages)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """Six passages and two queries."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": f"p{n}", "title": "", "text": f"word{n} word{n + 1}"} for n in range(6)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text('{"_id": "q0", "text": "word2"}\n{"_id": "q1", "text": "word5"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\tp2\t1\nq1\tp4\t2\n")
    return folder


@pytest.fixture
def two_sources(write_dataset: WriteDataset) -> Path:
    """12 queries with a human and two LLM positives each."""
    passages = [passage(f"p{n:02d}", f"{WORDS[n]} {WORDS[(7 * n + 3) % 60]} {WORDS[(11 * n) % 60]}") for n in range(48)]
    names = [one.passage_id for one in passages]
    examples = [
        example(
            f"q{n:02d}",
            positives=[label(names[3 * n], 2, "human"), *names[3 * n + 1 : 3 * n + 3]],
            negatives=[names[(3 * n + step) % 48] for step in (7, 13, 19, 29)],
            query=f"{WORDS[59 - n]} {WORDS[30 + n]}",
        )
        for n in range(12)
    ]
    return write_dataset(examples, passages)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings are cached in the test's own folder, never in the user's."""
    monkeypatch.setenv("LABELKIT_CACHE", str(tmp_path / "cache"))


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))
