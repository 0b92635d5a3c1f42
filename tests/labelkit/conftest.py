"""A small collection in the BEIR layout, and the command line called in process."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

from labelkit.commands import app
from labelkit.judging.annotate import Outcome, annotate
from labelkit.judging.budget import Caps
from labelkit.judging.options import AnnotateOptions
from labelkit.judging.progress import ShowProgress, silent
from labelkit.judging.reading import Reading
from labelkit.pooling.options import PoolOptions
from labelkit.pooling.pool import Pool, make_pool, read_pool

PASSAGES = {
    "p1": ("Cats", "cats sleep most of the day and hunt at night"),
    "p2": ("", "dogs bark at the mail carrier every day"),
    "p3": ("Tea", "green tea is brewed with water below the boiling point"),
    "p4": ("Coffee", "coffee is roasted, ground and brewed with hot water"),
    "p5": ("", "why cats purr is not fully understood"),
    "p6": ("Mail", "the carrier brings mail in the morning"),
}
QUERIES = {
    "q1": "why do cats sleep in the day",
    "q2": "green tea water temperature",
    "q3": "mail carrier dogs",
}
QRELS = {
    "q1": {"p1": 3, "p5": 1, "p2": 0},
    "q2": {"p3": 3, "p4": 1},
    "q3": {"p2": 2, "p6": 1},
}

Qrels = Mapping[str, Mapping[str, int]]


def write_qrels(path: Path, qrels: Qrels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{qid}\t{pid}\t{grade}\n" for qid, graded in qrels.items() for pid, grade in graded.items()]
    path.write_text("query-id\tcorpus-id\tscore\n" + "".join(rows), encoding="utf-8")
    return path


def write_beir(
    folder: Path,
    passages: Mapping[str, tuple[str, str]] = PASSAGES,
    queries: Mapping[str, str] = QUERIES,
    qrels: Qrels = QRELS,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    corpus = [{"_id": pid, "title": title, "text": text} for pid, (title, text) in passages.items()]
    asked = [{"_id": qid, "text": text} for qid, text in queries.items()]
    for name, rows in (("corpus", corpus), ("queries", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_qrels(folder / "qrels" / "test.tsv", qrels)
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Embeddings made by tests never reach the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABELKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(name="write_beir", scope="session")
def write_beir_fixture() -> Callable[..., Path]:
    return write_beir


@pytest.fixture(name="write_qrels", scope="session")
def write_qrels_fixture() -> Callable[[Path, Qrels], Path]:
    return write_qrels


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    return write_beir(tmp_path / "beir")


class Called(NamedTuple):
    """What a command did: its exit code and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def labelkit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """Run `labelkit` with these arguments as its entry point does."""
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: Any) -> Called:
        monkeypatch.setattr(sys, "argv", ["labelkit", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            app.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Called(code, *capsys.readouterr())

    return call


@pytest.fixture
def pool(labelkit: Callable[..., Called], beir: Path, tmp_path: Path) -> Path:
    """Every passage that shares a word with a query, and the human positives."""
    human = beir / "qrels" / "test.tsv"
    called = labelkit("pool", beir, "--human", human, "-o", tmp_path / "pool")
    assert called.code == 0, called.err
    return tmp_path / "pool"


@pytest.fixture
def candidates(pool: Path) -> Pool:
    return read_pool(pool)


@pytest.fixture
def judge() -> Callable[..., Outcome]:
    """Judge a pool into a folder, by the scripted judge unless told otherwise."""

    def run(
        pool: Pool,
        folder: Path,
        model: str = "overlap",
        *,
        engine: str = "scripted",
        method: str = "graded",
        prompt: str | None = None,
        limit: int | None = None,
        reading: Reading = Reading(),  # noqa: B008 (a frozen record)
        retry_failed: bool = False,
        cache: Path | None = None,
        caps: Caps = Caps(),  # noqa: B008 (a frozen record)
        prices: Path | None = None,
        progress: ShowProgress = silent,
        **settings: Any,
    ) -> Outcome:
        options = AnnotateOptions(
            model=model,
            engine=engine,
            method=method,
            prompt=prompt,
            limit=limit,
            passage_tokens=reading.passage_tokens,
            passage_words=reading.passage_words,
            permutations=reading.permutations,
            votes=reading.votes,
            seed=reading.seed,
            defence=reading.defences or ("none",),
            retry_failed=retry_failed,
            cache=cache,
            max_usd=caps.usd,
            max_tokens=caps.tokens,
            prices=prices,
            **settings,
        )
        return annotate(pool, folder, options, command="test", progress=progress)

    return run


@pytest.fixture
def wide(tmp_path: Path) -> Pool:
    """A pool of 300 pairs."""
    words = ["ash", "birch", "cedar", "elm", "fir", "oak", "pine", "yew"]
    passages = {f"p{n:02}": ("", f"{words[n % 8]} {words[(n + 3) % 8]} tree number {n}") for n in range(30)}
    queries = {f"q{n}": f"tree {words[n % 8]} {words[(n * 3) % 8]} query{n}" for n in range(10)}
    beir = write_beir(tmp_path / "wide", passages, queries, {})
    return make_pool(beir, tmp_path / "wide.pool", PoolOptions(bm25=30))
