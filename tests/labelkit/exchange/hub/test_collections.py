"""Collections on the Hub are read as they lie there: small replicas of real repositories behind the stand-in.

A replica has the file names, configurations, columns and types of the repository that its docstring names. The texts
are ours.
"""

import gzip
import io
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_standin import mteb_card

from labelkit.corpora.beir import read_data

PASSAGES = {"4983": ("Tea", "green tea is brewed below the boiling point"), "31715818": ("Cats", "cats sleep by day")}
QUERIES = {"1": "how hot is the water for tea", "13": "when do cats sleep"}
QRELS = {"train": {"1": {"4983": 1}}, "test": {"13": {"31715818": 1}}}
Command = Callable[..., subprocess.CompletedProcess[str]]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), out)
    return out.getvalue()


def passages(**more: Any) -> list[dict[str, Any]]:
    return [{"_id": pid, "title": title, "text": text, **more} for pid, (title, text) in PASSAGES.items()]


def queries(**more: Any) -> list[dict[str, Any]]:
    return [{"_id": query_id, "text": text, **more} for query_id, text in QUERIES.items()]


def grades(split: str) -> list[tuple[str, str, int]]:
    return [(query_id, pid, grade) for query_id, graded in QRELS[split].items() for pid, grade in graded.items()]


def beir(hub: Any) -> str:
    """BeIR/scifact, and its qrels in BeIR/scifact-qrels, with the tables that the Hub's converter added.

    https://huggingface.co/datasets/BeIR/scifact/tree/main, https://huggingface.co/datasets/BeIR/scifact-qrels/tree/main
    """
    tsv = {
        f"{split}.tsv": "".join(["query-id\tcorpus-id\tscore\n", *(f"{q}\t{p}\t{g}\n" for q, p, g in grades(split))])
        for split in QRELS
    }
    hub.put(
        "BeIR/scifact",
        {
            "README.md": b"---\nlicense: cc-by-sa-4.0\n---\n# BEIR\n",
            "scifact.py": b"raise SystemExit('never run')\n",
            "corpus.jsonl.gz": gzip.compress(jsonl(passages(metadata={}))),
            "queries.jsonl.gz": gzip.compress(jsonl(queries(metadata={"13": []}))),
        },
    )
    hub.put("BeIR/scifact-qrels", {name: content.encode() for name, content in tsv.items()})
    return "BeIR/scifact"


def mteb(hub: Any) -> str:
    """mteb/scifact: JSONL for all parts, and scores that are float64.

    https://huggingface.co/datasets/mteb/scifact/blob/main/README.md
    """
    qrels = {
        f"qrels/{split}.jsonl": jsonl([{"query-id": q, "corpus-id": p, "score": float(g)} for q, p, g in grades(split)])
        for split in QRELS
    }
    files = {
        "README.md": mteb_card(("train", "test")).encode(),
        "corpus.jsonl": jsonl(passages()),
        "queries.jsonl": jsonl(queries()),
        **qrels,
    }
    hub.put("mteb/scifact", files)
    return "mteb/scifact"


NANO = """---
configs:
- config_name: corpus
  data_files:
  - split: train
    path: corpus/train-*
- config_name: qrels
  data_files:
  - split: train
    path: qrels/train-*
  - split: test
    path: qrels/test-*
- config_name: queries
  data_files:
  - split: train
    path: queries/train-*
---
"""


def nano(hub: Any) -> str:
    """zeta-alpha-ai/NanoSciFact: sharded Parquet, and qrels without a score: every pair is relevant.

    https://huggingface.co/datasets/zeta-alpha-ai/NanoSciFact
    """
    files = {"README.md": NANO.encode()}
    for number, row in enumerate(passages()):
        files[f"corpus/train-0000{number}-of-00002.parquet"] = parquet([{"_id": row["_id"], "text": row["text"]}])
    files["queries/train-00000-of-00001.parquet"] = parquet(queries())
    for split in QRELS:
        rows = [{"query-id": query_id, "corpus-id": pid} for query_id, pid, _ in grades(split)]
        files[f"qrels/{split}-00000-of-00001.parquet"] = parquet(rows)
    hub.put("zeta-alpha-ai/NanoSciFact", files)
    return "zeta-alpha-ai/NanoSciFact"


OWN_NAMES = """---
configs:
- config_name: documents
  data_files: english_collection.parquet
- config_name: queries
  data_files:
  - split: train
    path: english_queries.train.parquet
- config_name: qrels
  data_files:
    train: labels/one.parquet
    test: [labels/two.parquet]
- config_name: elsewhere
  data_files: ../../secret.jsonl
---
"""


def own_names(hub: Any) -> str:
    """A repository whose configurations give files names of their own, with whole numbers as ids.

    File names of documents and queries: https://huggingface.co/datasets/lightonai/ms-marco-en-bge/blob/main/README.md;
    ways to write `data_files`: https://huggingface.co/docs/hub/datasets-manual-configuration
    """
    files = {
        "README.md": OWN_NAMES.encode(),
        "english_collection.parquet": parquet(
            [{"document_id": int(row["_id"]), "title": row["title"], "text": row["text"]} for row in passages()]
        ),
        "english_queries.train.parquet": parquet([{"query_id": int(q), "text": text} for q, text in QUERIES.items()]),
    }
    for name, split in (("one", "train"), ("two", "test")):
        rows = [{"query_id": int(q), "document_id": int(pid), "relevance": g} for q, pid, g in grades(split)]
        files[f"labels/{name}.parquet"] = parquet(rows)
    hub.put("somebody/own-names", files)
    return "somebody/own-names"


@pytest.mark.parametrize("replica", [beir, mteb, nano, own_names])
def test_a_repository_is_read_as_it_lies_there(
    hub: Any, labelkit: Command, tmp_path: Path, replica: Callable[[Any], str]
) -> None:
    address = f"hf://datasets/{replica(hub)}"
    called = labelkit("tidy", address, "-o", tmp_path / "clean")
    assert called.returncode == 0, called.stderr
    assert "0 lines removed" in called.stderr
    for split, qrels in QRELS.items():
        data = read_data(tmp_path / "clean", split)
        assert data.qrels == qrels
        assert {query_id: one.text for query_id, one in data.queries.items()} == {q: QUERIES[q] for q in qrels}
    titles = {pid: "" if replica is nano else title for pid, (title, _) in PASSAGES.items()}
    assert {pid: (one.title, one.text) for pid, one in data.corpus.items()} == {
        pid: (titles[pid], text) for pid, (_, text) in PASSAGES.items()
    }
    called = labelkit("pool", address, "-o", tmp_path / "pool", "--split", "test")
    assert called.returncode == 0, called.stderr
    assert "candidates for 1 queries" in called.stderr


def test_only_what_changed_is_fetched_again(hub: Any, labelkit: Command, tmp_path: Path) -> None:
    address = f"hf://datasets/{mteb(hub)}"

    def fetched() -> list[str]:
        hub.ledger.clear()
        called = labelkit("pool", address, "-o", tmp_path / "pool", LABELKIT_CACHE=str(tmp_path / "cache"))
        assert called.returncode == 0, called.stderr
        return sorted({path.split("/resolve/main/")[1] for method, path, _ in hub.ledger if "/resolve/" in path})

    first = fetched()
    assert {"corpus.jsonl", "queries.jsonl", "qrels/test.jsonl"} <= set(first)
    assert fetched() == []
    hub.put("mteb/scifact", {"queries.jsonl": jsonl(queries()[:1])})
    assert fetched() == ["queries.jsonl"]


def test_a_repository_that_is_not_there_is_one_line(hub: Any, labelkit: Command, tmp_path: Path) -> None:
    called = labelkit("pool", "hf://datasets/BeIR/nowhere", "-o", tmp_path / "pool")
    assert called.returncode == 1
    assert called.stderr == "error: hf://datasets/BeIR/nowhere does not exist\n"


def test_the_page_on_formats_lists_every_repository_with_a_replica() -> None:
    """Names after `hub.put(` in the tests of this folder, except invented ones."""
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    names = set(re.findall(r"hub\.put\(\s*[\"']([\w./-]+)[\"']", tests))
    invented = {"somebody/own-names", "somebody/triplets", "sentence-transformers/tuples"}
    assert len(names - invented) >= 10
    page = (Path(__file__).parents[4] / "docs" / "formats.md").read_text(encoding="utf-8")
    assert {name for name in names - invented if f"`{name}`" not in page} == set()
