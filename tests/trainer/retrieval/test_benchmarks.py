"""NanoBEIR and MTEB by name: replicas of their repositories behind the stand-in for the Hub, and real clients.

A replica has the file names, configurations, columns and types of the repository; the texts are ours.
https://huggingface.co/datasets/zeta-alpha-ai/NanoSciFact, https://huggingface.co/datasets/mteb/scifact
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_standin import Hub, mteb_card, nano_card
from huggingface_hub import HfFileSystem
from letters import write_bag_of_letters

from labelkit.corpora.benchmarks import MTEB, NANOBEIR, address_of, expanded, split_or_usual
from labelkit.corpora.evaluation_sets import read_evaluation
from labelkit.corpora.places import local_collection
from labelkit.datasets.options import AuditOptions
from labelkit.errors import RemoteError, UnknownNameError
from labelkit.statistics.intervals import UNIT, mean_of_means
from trainer.config.fit_config import FitConfig
from trainer.retrieval.evaluate import averages, evaluate
from trainer.training.dev import folder_and_split, make_dev

PASSAGES = {"p1": "a b", "p2": "b c", "p3": "c d", "p4": "d e", "p5": "a e"}
QUERIES = {"q1": "a b", "q2": "c", "q3": "e"}
QRELS = {"q1": {"p1": 1}, "q2": {"p2": 1, "p3": 1}, "q3": {"p1": 1}}


def parquet(rows: list[dict[str, str]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def put_nano(hub: Hub, repository: str, shift: int) -> None:
    """A repository of NanoBEIR: no titles, and qrels without a score. `shift` changes which passages are relevant."""
    names = list(PASSAGES)
    pairs = [
        {"query-id": query, "corpus-id": names[(names.index(name) + shift * (query == "q3")) % len(names)]}
        for query, graded in QRELS.items()
        for name in graded
    ]
    tables = {
        "corpus": [{"_id": name, "text": text} for name, text in PASSAGES.items()],
        "queries": [{"_id": name, "text": text} for name, text in QUERIES.items()],
        "qrels": pairs,
    }
    files = {f"{part}/train-00000-of-00001.parquet": parquet(rows) for part, rows in tables.items()}
    hub.put(f"zeta-alpha-ai/{repository}", {"README.md": nano_card().encode(), **files})


def put_mteb(hub: Hub, repository: str) -> None:
    """A repository of MTEB: JSONL with titles, and scores that are float64."""
    parts: dict[str, list[dict[str, Any]]] = {
        "corpus.jsonl": [{"_id": name, "title": "", "text": text} for name, text in PASSAGES.items()],
        "queries.jsonl": [{"_id": name, "text": text} for name, text in QUERIES.items()],
        "qrels/test.jsonl": [
            {"query-id": query, "corpus-id": name, "score": float(grade)}
            for query, graded in QRELS.items()
            for name, grade in graded.items()
        ],
    }
    files = {name: "".join(json.dumps(row) + "\n" for row in rows).encode() for name, rows in parts.items()}
    hub.put(f"mteb/{repository}", {"README.md": mteb_card(["test"]).encode(), **files})


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as server:
        for number, repository in enumerate(NANOBEIR.values()):
            put_nano(server, repository, number % 3)
        put_mteb(server, "scifact")
        yield server


@pytest.fixture
def clients(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The clients of this process talk to the stand-in. They read their environment when they are imported, which takes
    long, so the constants that they made of it are set.
    """
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("LABELKIT_CACHE", str(tmp_path / "cache"))
    HfFileSystem.clear_instance_cache()
    yield
    HfFileSystem.clear_instance_cache()


@pytest.mark.usefixtures("clients")
def test_the_whole_of_nanobeir_and_its_mean_beside_a_task_of_mteb(tmp_path: Path) -> None:
    result = evaluate(write_bag_of_letters(tmp_path / "model"), ["nanobeir", "mteb:SciFact"]).to_json()
    assert [(one["name"], one["split"]) for one in result["collections"]] == [
        *((repository, "train") for repository in NANOBEIR.values()),
        ("scifact", "test"),
    ]
    entries = {entry["data"]: entry for entry in result["measured"]}
    assert list(entries)[-2:] == ["NanoBEIR", "average"]
    each = [list(entries[name]["per_query"]["nDCG@10"].values()) for name in NANOBEIR.values()]

    mean = mean_of_means([np.array(values) for values in each], UNIT)
    found = entries["NanoBEIR"]["means"]["nDCG@10"]
    assert found == pytest.approx({"mean": mean.value, "low": mean.low, "high": mean.high})
    assert found["low"] < found["mean"] < found["high"], "the replicas differ"
    first = entries["NanoArguAna"]["means"]["nDCG@10"]
    assert first == pytest.approx(entries["scifact"]["means"]["nDCG@10"]), "the same texts and pairs in both layouts"


@pytest.mark.usefixtures("clients")
def test_a_hub_that_is_not_reached_is_said_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RemoteError) as caught:
        local_collection("nanobeir:scifact")
    error = str(caught.value)
    assert error.startswith("nanobeir:scifact: hf://datasets/zeta-alpha-ai/NanoSciFact: OfflineModeIsEnabled: ")
    assert error.endswith(
        "copy it elsewhere by hf download --repo-type dataset zeta-alpha-ai/NanoSciFact --local-dir NanoSciFact, and "
        "give that folder instead of nanobeir:scifact"
    )
    with pytest.raises(RemoteError, match=r"^hf://datasets/mteb/scifact: OfflineModeIsEnabled: "):
        local_collection("hf://datasets/mteb/scifact")  # before, it was said not to exist


@pytest.mark.usefixtures("clients")
def test_evaluation_sets_of_mix_and_audit_and_dev_sets_have_these_names() -> None:
    sets = AuditOptions.model_validate({"eval": ["nanobeir", "mteb:SciFact"], "eval_scale": "0-1"}).eval
    assert [path.name for path in sets] == [*NANOBEIR.values(), "scifact"]
    known = read_evaluation(AuditOptions.model_validate({"eval": "nanobeir:arguana"}).eval[0], None)
    assert (known.queries, set(known.passages)) == (QUERIES, {"p1", "p2", "p3"})
    dev = make_dev(FitConfig(model="any", objective="lsepair", dev="nanobeir:arguana"))
    assert dev is not None
    assert (dev.collection.split, dev.collection.qrels) == ("train", QRELS)


def test_names_are_addresses_in_any_case() -> None:
    assert address_of("nanobeir:SciFact") == "hf://datasets/zeta-alpha-ai/NanoSciFact"
    assert address_of("mteb:fiqa2018") == "hf://datasets/mteb/fiqa"
    assert address_of("data/scifact") is None
    with pytest.raises(UnknownNameError, match="unknown collection of mteb 'MSMARCO'; choose one of: ArguAna, "):
        address_of("mteb:MSMARCO")
    assert len(NANOBEIR) == len(expanded(["nanobeir"])) == 13
    assert expanded([Path("one"), "mteb:NQ"]) == [Path("one"), "mteb:NQ"]


def test_only_a_collection_of_nanobeir_is_measured_on_train() -> None:
    assert split_or_usual(Path("any/NanoNQ"), None) == "train"
    assert split_or_usual(Path("any/NanoNQ"), "test") == "test"
    assert {split_or_usual(Path(name), None) for name in MTEB.values()} == {"test"}
    assert split_or_usual(Path("any/own"), None, "dev") == "dev"


def test_the_mean_of_nanobeir_needs_all_its_collections() -> None:
    nano = list(NANOBEIR.values())
    assert averages(nano[:1]) == {}
    assert averages(nano) == {"average": nano}
    assert averages([*nano[1:], "own"]) == {"average": [*nano[1:], "own"]}
    assert averages(["own", *nano]) == {"NanoBEIR": nano, "average": ["own", *nano]}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("nanobeir:scifact", ("nanobeir:scifact", None)),
        ("mteb:SciFact:train", ("mteb:SciFact", "train")),
        ("irds:vaswani", ("irds:vaswani", None)),
        ("irds:cranfield:dev", ("irds:cranfield", "dev")),
        ("hf://datasets/mteb/nq:dev", ("hf://datasets/mteb/nq", "dev")),
        ("folder", ("folder", None)),
    ],
)
def test_the_split_of_a_dev_set_is_told_from_its_name(text: str, wanted: tuple[str, str | None]) -> None:
    assert folder_and_split(text) == wanted
