"""A training set of SciFact: human positives, and negatives that BM25 found, of which nobody knows whether they are."""

import json
from pathlib import Path

import pytest

from labelkit.datasets.mining.mine import mine
from labelkit.datasets.mix import mix
from labelkit.datasets.options import MineOptions, MixOptions
from labelkit.pooling.options import PoolOptions
from labelkit.pooling.pool import write_pool

SCIFACT = Path(__file__).parents[4] / "shared" / "data" / "scifact"
QUERIES = 12


@pytest.fixture(scope="session")
def scifact(tmp_path_factory, write_beir):
    """SciFact with its first queries, their relevant passages and 300 others."""
    if not SCIFACT.is_dir():
        pytest.skip("needs ../shared/data/scifact")
    rows = [line.split("\t") for line in (SCIFACT / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    asked = list(dict.fromkeys(query_id for query_id, _, _ in rows))[:QUERIES]
    qrels = {name: {pid: 2 * int(grade) for qid, pid, grade in rows if qid == name} for name in asked}
    relevant = {pid for graded in qrels.values() for pid in graded}
    every = [json.loads(line) for line in (SCIFACT / "corpus.jsonl").open(encoding="utf-8")]
    passages = {
        row["_id"]: (row["title"], row["text"])
        for number, row in enumerate(every)
        if row["_id"] in relevant or number < 300
    }
    texts = {row["_id"]: row["text"] for row in map(json.loads, (SCIFACT / "queries.jsonl").open(encoding="utf-8"))}
    folder = tmp_path_factory.mktemp("scifact") / "beir"
    return write_beir(folder, passages, {name: texts[name] for name in asked}, qrels)


@pytest.fixture(scope="session")
def mined(scifact, tmp_path_factory):
    """The dataset: human positives and six mined negatives per query."""
    folder = tmp_path_factory.mktemp("mined")
    human = scifact / "qrels" / "test.tsv"
    write_pool(scifact, folder / "pool", PoolOptions(bm25=10))
    mix(folder / "human", MixOptions(data=scifact, human=human))
    mine(folder / "human", folder / "dataset", MineOptions(pool=folder / "pool", ranks="1-10", max_negatives=6))
    return folder / "dataset"
