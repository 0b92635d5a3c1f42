"""Make and read pools of candidates worth judging: from BM25, dense models, run files and human positives.

Rankings are fused by reciprocal rank (Cormack, Clarke and Büttcher, SIGIR 2009, k = 60), and `depth` keeps the best
candidates per query. Human positives are always kept. Each candidate records its sources.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.corpora.beir import Data, check_ids, read_data
from labelkit.corpora.human import files_behind, human_qrels
from labelkit.corpora.layout import is_collection, layout_of
from labelkit.corpora.places import local_collection
from labelkit.corpora.qrels import Qrels
from labelkit.corpora.runs import RankedRun, read_run
from labelkit.errors import UsageError
from labelkit.pooling.bm25 import bm25_run
from labelkit.pooling.model_loading import load_encoder
from labelkit.pooling.options import PoolOptions
from labelkit.records import (
    CANDIDATE_SCHEMA,
    PASSAGE_SCHEMA,
    QUERY_SCHEMA,
    Candidate,
    Origin,
    Passage,
    Query,
)
from labelkit.storage import folders
from labelkit.storage.dataset import records_to_table
from labelkit.storage.manifest import POOL, PoolFacts
from labelkit.storage.outputs import Place, place_of

log = logging.getLogger(__name__)

KIND = POOL
RRF_K = 60


class Pool(NamedTuple):
    """A pool in memory: candidates in judging order (query by query, best fused rank first), and their texts."""

    queries: dict[str, Query]
    passages: dict[str, Passage]
    candidates: list[Candidate]
    inputs: dict[str, str]
    """Inputs for the manifest of labels from this pool: path -> sha256."""


def make_pool(
    data: Path | str,
    output: Path | str,
    options: PoolOptions = PoolOptions(),  # noqa: B008 (a frozen record)
    *,
    command: str = "labelkit.pool",
) -> Pool:
    """Collect the candidates worth judging from a collection and write them to a pool folder.

    Args:
        data: collection in any layout that is read; may be at s3://, gs://, hf:// or irds:.
        output: the pool folder: `candidates`, `queries` and `passages`, in judging order.
        options: the retrievers and their depths, in passages per query.
        command: the command that the manifest records as the origin of the folder.

    Returns:
        The pool as it was written: candidates query by query, best fused rank first.

    Raises:
        UsageError: no source of candidates is given, or no human grade makes a positive.
        DataError: a file is malformed or names unknown ids.
    """
    folder = local_collection(str(data))
    with folders.writing(Path(output), KIND, command) as draft:
        read = read_data(
            folder,
            options.split,
            scale=options.scale,
            fields=options.fields,
            skip_unknown=options.skip_unknown,
        )
        candidates = list(candidates_of(read, options))
        write_tables(draft, candidates, queries=read.queries, passages=read.corpus)
        draft.inputs = {str(path): folders.file_sha256(path) for path in input_files(folder, options)}
        draft.facts = PoolFacts(recipe=recipe(options), queries_without_candidates=empty(read, candidates))
    return read_pool(Path(output))


def candidates_of(data: Data, options: PoolOptions) -> Iterator[Candidate]:
    """Yield the candidates of every query. Raises `UsageError` for options without a source."""
    ranked = list(rankings(data, options))
    if not ranked and options.human is None:
        raise UsageError("nothing to pool from: give --bm25, --dense, --run or --human")
    human = read_positives(options.human, data, options) if options.human else {}
    for query_id in data.queries:
        runs = [(name, run.get(query_id, {})) for name, run in ranked]
        yield from fuse(query_id, runs, human, depth=options.depth)


def recipe(options: PoolOptions) -> tuple[str, ...]:
    """Return the options of a pool in the form for its manifest."""
    sources = (options.bm25, options.models, options.runs, options.human)
    rest = (options.positive_grade, options.depth, options.trust_remote_code)
    return tuple(str(value) for value in (*sources, *rest))


def write_tables(
    draft: folders.Draft,
    candidates: Sequence[Candidate],
    *,
    queries: Mapping[str, Query],
    passages: Mapping[str, Passage],
) -> None:
    """Write the tables of a pool: candidates in judging order, all queries, and the passages that are candidates."""
    used = sorted({candidate.passage_id for candidate in candidates})
    draft.write_table("candidates", records_to_candidates(candidates))
    draft.write_table("queries", records_to_table(queries.values(), QUERY_SCHEMA))
    draft.write_table("passages", records_to_table((passages[pid] for pid in used), PASSAGE_SCHEMA))


def read_pool(folder: Path, *, verify: bool = True) -> Pool:
    """Read and check a pool folder. Raises `ArtifactError`."""
    folders.read_manifest(folder, KIND, verify=verify)
    queries = {row["query_id"]: Query(**row) for row in folders.read_table(folder, "queries").to_pylist()}
    passages = {row["passage_id"]: Passage(**row) for row in folders.read_table(folder, "passages").to_pylist()}
    candidates = [
        Candidate(**row | {"sources": tuple(Origin(**origin) for origin in row["sources"])})
        for row in folders.read_table(folder, "candidates").to_pylist()
    ]
    inputs = {str(folder): folders.file_sha256(folder / folders.MANIFEST)}
    return Pool(queries, passages, candidates, inputs=inputs)


def pool_behind(labels: Path, inputs: Mapping[str, str], option: str) -> Path:
    """Return the folder of the pool from which labels were made, by the `inputs` of their manifest.

    Raises `UsageError` if the pool is missing or has changed; `option` is the option that names another folder.
    """
    for name, digest in inputs.items():
        manifest = Path(name) / folders.MANIFEST
        if manifest.is_file() and folders.file_sha256(manifest) == digest:
            return Path(name)
    raise UsageError(f"the pool of {labels} ({', '.join(inputs)}) is missing or has changed: give it by {option}")


def pool_of(source: Pool | Path | str, output: Path, command: str, *, verify: bool = True) -> Pool:
    """Return the pool to judge; from a collection, make a pool with default options beside the labels."""
    if isinstance(source, Pool):
        return source
    return read_pool(pool_folder(source, output, command), verify=verify)


def pool_folder(source: Path | str, output: Path, command: str) -> Path:
    """Return the folder of the pool to judge, which is made beside the labels if `source` is a collection."""
    folder = local_collection(str(source))
    if not is_collection(folder):
        return folder
    # Nothing is written into the folder of the data.
    place = Place(folder.resolve(), in_place=False) if output == folder else place_of(output)
    target = place.beside(".pool")
    if target.is_dir():
        made = folders.read_manifest(target, KIND, verify=False).inputs
        if (
            made != {str(path): folders.file_sha256(path) for path in map(Path, made)}
            or str(layout_of(folder).corpus[0]) not in made
        ):
            raise UsageError(f"{target} was made from other data than {folder}; choose another output or remove it")
        return target
    log.info(f"{folder} is not a pool: pooling {PoolOptions().bm25} passages per query from BM25 into {target}")
    make_pool(folder, target, command=command)
    return target


def rankings(data: Data, options: PoolOptions) -> Iterator[tuple[str, RankedRun]]:
    """Yield the name of each source of candidates with its ranking of passages for every query."""
    if options.bm25:
        yield "bm25", bm25_run(data.corpus, data.queries, options.bm25, language=options.language)
    for model, depth in options.models:
        yield f"dense:{Path(model).name}", dense_run(data, model, depth, trusted=options.trust_remote_code)
    for path, depth in options.runs:
        run = read_run(path)
        wanted = {qid: dict(list(ranked.items())[:depth]) for qid, ranked in run.items() if qid in data.queries}
        check_ids(wanted, data.queries, data.corpus, where=str(path))
        yield f"run:{path.name}", wanted


def dense_run(data: Data, model: str, depth: int, *, trusted: bool = False) -> RankedRun:
    """Rank passages by exact search with a sentence-transformers model and its own similarity."""
    encoder = load_encoder(model, trust_remote_code=trusted)
    from labelkit.pooling.dense_search import dense_search

    texts = {query_id: query.text for query_id, query in data.queries.items()}
    return dense_search(encoder, model, texts, passages=data.corpus.values(), depth=depth)


def read_positives(path: Path, data: Data, options: PoolOptions) -> Qrels:
    """Read the human positives of the pooled queries. Raises `UsageError` if no grade is a positive."""
    graded_pairs, positive_grade = human_qrels(path, options.scale), options.positive_grade
    qrels = {query_id: graded for query_id, graded in graded_pairs.items() if query_id in data.queries}
    check_ids(qrels, data.queries, data.corpus, where=str(path))
    positives = {
        query_id: {pid: grade for pid, grade in graded.items() if grade >= positive_grade}
        for query_id, graded in qrels.items()
    }
    if not any(positives.values()):
        raise UsageError(
            f"{path}: no grade reaches {positive_grade} for these queries; "
            "binary qrels need --positive-grade 1 or --scale 0-1"
        )
    return positives


def fuse(
    query_id: str,
    ranked: Sequence[tuple[str, Mapping[str, float]]],
    human: Mapping[str, Mapping[str, int]],
    *,
    depth: int | None,
) -> list[Candidate]:
    """Return the candidates of a query by reciprocal rank, ties by passage id; `depth` keeps all human positives."""
    origins: dict[str, list[Origin]] = {}
    fused: dict[str, float] = {}
    for name, scores in ranked:
        for rank, (passage_id, score) in enumerate(scores.items(), 1):
            origins.setdefault(passage_id, []).append(Origin(name, rank, score))
            fused[passage_id] = fused.get(passage_id, 0.0) + 1 / (RRF_K + rank)
    positives = human.get(query_id, {})
    for rank, (passage_id, grade) in enumerate(sorted(positives.items(), key=lambda item: (-item[1], item[0])), 1):
        origins.setdefault(passage_id, []).append(Origin("human", rank, float(grade)))
    order = sorted(origins, key=lambda pid: (-fused.get(pid, 0.0), pid))
    if depth is not None:
        others = {*[pid for pid in order if pid not in positives][: max(0, depth - len(positives))]}
        # Positives keep their rank among the others, so that the first pairs of a pool include both.
        order = [pid for pid in order if pid in positives or pid in others]
    return [Candidate(query_id=query_id, passage_id=pid, sources=tuple(origins[pid])) for pid in order]


def records_to_candidates(candidates: Iterable[Candidate]) -> Any:
    """Return candidates as a table; their sources become a list of structs."""
    import pyarrow as pa

    rows = [
        {
            "query_id": candidate.query_id,
            "passage_id": candidate.passage_id,
            "sources": [origin._asdict() for origin in candidate.sources],
        }
        for candidate in candidates
    ]
    return pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA)


def input_files(folder: Path, options: PoolOptions) -> list[Path]:
    """Return the files from which a pool is made, for its manifest."""
    layout = layout_of(folder)
    files = [*layout.corpus, *layout.queries, *(path for path, _ in options.runs)]
    if options.split is not None:
        files += layout.files_of(options.split)
    return files + (files_behind(options.human) if options.human else [])


def empty(data: Data, candidates: Sequence[Candidate]) -> int:
    """Return the number of queries without candidates."""
    return len(set(data.queries) - {candidate.query_id for candidate in candidates})
