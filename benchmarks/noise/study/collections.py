"""The collections of the study: prepared where texts, BM25 and the start model are, and read without any of them."""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.judges import JUDGE, NEAR_MISS, Floats, Pool, fit

NAMES = ("cranfield", "scifact", "cisi", "cacm")
FEW = {"scifact": 50, "cranfield": 20}
"""Queries that people labelled, in the regimes with few of them."""
DEPTH = 50
"""Passages that BM25 and the start model each put into a pool."""
DEV = 5
"""Every fifth query is a dev query."""
LENGTH = 256
"""Tokens that MiniLM reads."""
CLOSE = 0.03
"""Largest deviation of a fitted number from the one in the design."""
Tokens = NDArray[np.uint16]


@dataclass(frozen=True)
class Part:
    """One division of a collection's queries."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    measured: tuple[str, ...]


@dataclass(frozen=True)
class Collection:
    """All that a run reads of a collection."""

    name: str
    parts: tuple[Part, ...]
    qrels: dict[str, dict[str, int]]
    passage_ids: tuple[str, ...]
    passage_tokens: tuple[Tokens, ...]
    query_tokens: dict[str, Tokens]
    pools: dict[str, Pool]
    """Query id of a training query -> its pool."""
    same: dict[str, str]
    """Passage id -> the first id with the same text."""

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Passage id -> its place."""
        return {name: row for row, name in enumerate(self.passage_ids)}


def prepare(data: Path, model: str, output: Path) -> None:
    """Prepare all collections that are not there yet; check the fitted judges against the design first."""
    from trainer.retrieval.search import load_model

    output.mkdir(parents=True, exist_ok=True)
    encoder = load_model(model)
    encoder.max_seq_length = LENGTH
    if not (output / "judges.json").is_file():
        _check_judges(data / "llmjudge-val", encoder, model, output / "judges.json")
    for name in NAMES:
        if not (output / f"{name}.zip").is_file():
            _prepare(data / name, encoder, model, output / f"{name}.zip")
            print(f"{name} is prepared", flush=True)


def _check_judges(folder: Path, encoder: Any, model: str, output: Path) -> None:
    from labelkit.corpora.beir import read_data
    from labelkit.corpora.qrels import read_qrels

    data = read_data(folder, "test")
    near, ids = _similarities(data, encoder, model)
    human: list[int] = []
    z: list[Floats] = []
    graded: dict[str, list[int]] = {"gpt-4o": [], "llama-3-70b": []}
    judges = {name: read_qrels(folder / f"llm.{name}.tsv") for name in graded}
    for query_id, grades in data.qrels.items():
        cosine = np.array([near[query_id][ids[name]] for name in grades])
        z.append(standardized(cosine))
        human += list(grades.values())
        for name, given in judges.items():
            graded[name] += [given[query_id][passage_id] for passage_id in grades]
    found, each = fit(np.array(human), [np.array(one) for one in graded.values()], np.concatenate(z))
    facts = {"near misses": found.tolist(), **dict(zip(graded, (one.tolist() for one in each), strict=True))}
    mean = np.mean(each, axis=0)
    if np.abs([*(found - NEAR_MISS), *(mean - JUDGE)]).max() > CLOSE:
        raise SystemExit(f"the judges fitted here differ from the design's {NEAR_MISS}, {JUDGE}: {facts}")
    output.write_text(json.dumps(facts, indent=2))


def standardized(values: Floats) -> Floats:
    """Subtract the mean and divide by the standard deviation."""
    spread = float(values.std())
    found: Floats = (values - values.mean()) / (spread if spread > 0 else 1.0)
    return found


def _similarities(data: Any, encoder: Any, model: str) -> tuple[dict[str, NDArray[np.float32]], dict[str, int]]:
    """Query id -> cosine to every passage; passage id -> its place."""
    from labelkit.pooling.dense import encode_passages, encode_queries

    passages = encode_passages(encoder, model, [one.full_text for one in data.corpus.values()])
    queries = encode_queries(encoder, None, [one.text for one in data.queries.values()])
    scores = _unit(queries) @ _unit(passages).T
    return dict(zip(data.queries, scores, strict=True)), {name: row for row, name in enumerate(data.corpus)}


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    units: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


def _prepare(folder: Path, encoder: Any, model: str, output: Path) -> None:
    from labelkit.corpora.beir import read_data
    from labelkit.corpora.qrels import read_qrels
    from labelkit.pooling.bm25 import bm25_run

    data = read_data(folder)
    splits = {name: read_qrels(folder / "qrels" / f"{name}.tsv") for name in ("train", "test")
              if (folder / "qrels" / f"{name}.tsv").is_file()}  # fmt: skip
    qrels = {query_id: grades for split in splits.values() for query_id, grades in split.items()}
    parts = [_without_copies(part, data.queries) for part in _parts(splits)]
    near, ids = _similarities(data, encoder, model)
    names = list(data.corpus)
    trained = sorted({query_id for part in parts for query_id in part.train})
    ranked = bm25_run(data.corpus, {query_id: data.queries[query_id] for query_id in trained}, DEPTH)
    pools = {}
    for query_id in trained:
        dense = [names[row] for row in np.argsort(-near[query_id], kind="stable")[:DEPTH]]
        good = [name for name, grade in qrels[query_id].items() if grade > 0]
        pool = sorted({*ranked.get(query_id, ()), *dense, *good})
        pools[query_id] = Pool(
            query_id,
            pool,
            standardized(np.array([near[query_id][ids[name]] for name in pool], dtype=np.float64)),
            np.array([name in good for name in pool]),
        )
    texts = [one.full_text for one in data.corpus.values()]
    first: dict[str, str] = {}
    same = {name: first[text] for name, text in sorted(zip(names, texts, strict=True))
            if first.setdefault(text, name) != name}  # fmt: skip
    asked = {query_id: data.queries[query_id].text for query_id in qrels}
    write(
        Collection(
            name=folder.name,
            parts=tuple(parts),
            qrels=qrels,
            passage_ids=tuple(names),
            passage_tokens=tuple(_tokens(encoder, texts)),
            query_tokens=dict(zip(asked, _tokens(encoder, list(asked.values())), strict=True)),
            pools=pools,
            same=same,
        ),
        output,
    )


def _parts(splits: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[Part]:
    """Train and test as the collection has them, or two folds; every fifth query that may be trained on is for dev."""
    every = splits.get("train", splits["test"])
    able = [query_id for query_id, grades in every.items() if max(grades.values()) > 0]
    mixed = sorted(able, key=lambda query_id: blake2b(query_id.encode()).digest())
    dev = tuple(mixed[::DEV])
    rest = [query_id for query_id in mixed if query_id not in set(dev)]
    if "train" in splits:
        return [Part(tuple(rest), dev, tuple(splits["test"]))]
    halves = (tuple(rest[::2]), tuple(rest[1::2]))
    return [Part(halves[0], dev, halves[1]), Part(halves[1], dev, halves[0])]


def _without_copies(part: Part, queries: Mapping[str, Any]) -> Part:
    """Leave out training queries that repeat a dev or measured query."""
    import pyarrow as pa

    from labelkit.corpora.near_duplicates import KnownTexts

    known = [*part.dev, *part.measured]
    found = KnownTexts(known, [queries[name].text for name in known])
    texts = pa.array([queries[name].text for name in part.train])
    copies = {copy.name for copy in found.copies(pa.array(part.train), texts)}
    return Part(tuple(name for name in part.train if name not in copies), part.dev, part.measured)


def _tokens(encoder: Any, texts: Sequence[str]) -> Iterator[Tokens]:
    for ids in encoder.tokenizer(list(texts), truncation=True, max_length=LENGTH)["input_ids"]:
        yield np.array(ids, dtype=np.uint16)


def write(collection: Collection, path: Path) -> None:
    """Write a prepared collection as one zip of arrays and one JSON."""
    pools = list(collection.pools.values())
    arrays = {
        "passage_tokens": np.concatenate(collection.passage_tokens),
        "passage_lengths": np.array([len(one) for one in collection.passage_tokens]),
        "query_tokens": np.concatenate(list(collection.query_tokens.values())),
        "query_lengths": np.array([len(one) for one in collection.query_tokens.values()]),
        "pool_rows": np.array([collection.row_of[name] for pool in pools for name in pool.passages]),
        "pool_z": np.concatenate([pool.z for pool in pools]).astype(np.float32),
        "pool_relevant": np.concatenate([pool.relevant for pool in pools]),
        "pool_lengths": np.array([len(pool.passages) for pool in pools]),
    }
    facts = {
        "parts": [vars(part) for part in collection.parts],
        "qrels": collection.qrels,
        "passage_ids": collection.passage_ids,
        "query_ids": list(collection.query_tokens),
        "pool_ids": list(collection.pools),
        "same": collection.same,
    }
    aside = path.with_suffix(".part")
    with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("facts.json", json.dumps(facts))
        for name, values in arrays.items():
            with file.open(f"{name}.npy", "w") as member:
                np.save(member, values, allow_pickle=False)
    aside.replace(path)


def read(path: Path) -> Collection:
    """Read a prepared collection."""
    with zipfile.ZipFile(path) as file:
        facts = json.loads(file.read("facts.json"))
        arrays: dict[str, Any] = {}
        for name in (name for name in file.namelist() if name.endswith(".npy")):
            with file.open(name) as member:
                arrays[name.removesuffix(".npy")] = np.load(member, allow_pickle=False)

    def split(values: str, lengths: str) -> list[Any]:
        return np.split(arrays[values], np.cumsum(arrays[lengths])[:-1])

    names = facts["passage_ids"]
    of_pools = zip(
        facts["pool_ids"],
        *(split(name, "pool_lengths") for name in ("pool_rows", "pool_z", "pool_relevant")),
        strict=True,
    )
    return Collection(
        name=path.stem,
        parts=tuple(Part(**{role: tuple(ids) for role, ids in part.items()}) for part in facts["parts"]),
        qrels=facts["qrels"],
        passage_ids=tuple(names),
        passage_tokens=tuple(split("passage_tokens", "passage_lengths")),
        query_tokens=dict(zip(facts["query_ids"], split("query_tokens", "query_lengths"), strict=True)),
        pools={
            query_id: Pool(query_id, [names[row] for row in rows], z.astype(np.float64), relevant)
            for query_id, rows, z, relevant in of_pools
        },
        same=facts["same"],
    )
