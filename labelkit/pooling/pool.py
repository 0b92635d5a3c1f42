"""Make and read pools of candidates worth judging: from BM25, dense models, run files and human positives.

Rankings are fused by reciprocal rank, and `depth` keeps the best candidates per query. Human positives are always kept.
Each candidate records its sources. A pool is written query by query, so that memory does not grow with its pairs.
"""

import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pyarrow as pa

from labelkit.corpora.human import files_behind
from labelkit.corpora.layout import is_collection, layout_of
from labelkit.corpora.places import local_collection
from labelkit.errors import UsageError
from labelkit.pooling.bm25 import Bm25
from labelkit.pooling.collection import stage_collection
from labelkit.pooling.fusion import Found, candidate_batches, found_in, fuse
from labelkit.pooling.options import PoolOptions
from labelkit.pooling.sharing import sharing
from labelkit.pooling.sources import (
    Source,
    Workplace,
    bm25_source,
    commits_of,
    dense_source,
    human_positives,
    run_source,
)
from labelkit.pooling.stages import LoggedStages, Report, Stage
from labelkit.records import CANDIDATE_SCHEMA, PASSAGE_SCHEMA, QUERY_SCHEMA, Candidate, Origin, Passage, Query
from labelkit.storage import folders, tables
from labelkit.storage.dataset import records_to_table
from labelkit.storage.manifest import POOL, PoolFacts, parse_manifest
from labelkit.storage.outputs import Place, place_of

log = logging.getLogger(__name__)

KIND = POOL
QUERIES = 1_000
"""Queries after which the progress of pooling is reported."""
LATER = ("split", "language", "scale", "id_field", "text_field", "title_field", "skip_unknown")
"""Options that are in a recipe only if they are given."""


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
        UsageError: no source of candidates is given, no human grade makes a positive, or `output` is a pool that was
            made with other settings.
        DataError: a file is malformed or names unknown ids.
    """
    write_pool(data, output, options, command=command)
    return read_pool(Path(output))


class Written(NamedTuple):
    """The numbers of a pool that was written."""

    candidates: int
    queries: int
    queries_without_candidates: int


def write_pool(
    data: Path | str,
    output: Path | str,
    options: PoolOptions = PoolOptions(),  # noqa: B008 (a frozen record)
    *,
    command: str = "labelkit.write_pool",
    report: Report | None = None,
) -> Written:
    """Make a pool as `make_pool` does, without reading it back, for pools that are larger than memory.

    `report` is called with the progress of each stage; None writes it to the log. Processes that `torchrun` started
    share the encoding and the search by BM25; the first one writes the pool, and its result is that of all.
    """
    folder, shown = local_collection(str(data)), report or LoggedStages()
    refuse_other_settings(Path(output), options)
    with sharing() as first, ExitStack() as stack:
        # The other processes do the same work, so that they encode and search the same texts in the same order.
        aside = None if first else stack.enter_context(TemporaryDirectory(prefix="labelkit-pool-"))
        target = Path(output) if aside is None else Path(aside, "pool")
        draft = stack.enter_context(folders.writing(target, KIND, command))
        facts = write_pool_tables(draft, folder, options, report=shown if first else lambda stage: None)
        draft.inputs = {str(path): folders.file_sha256(path) for path in input_files(folder, options)}
        draft.facts = facts
    return Written(draft.rows["candidates"], draft.rows["queries"], facts.queries_without_candidates)


def write_pool_tables(draft: folders.Draft, folder: Path, options: PoolOptions, report: Report) -> PoolFacts:
    """Write the tables of a pool of the collection in `folder`, and return the facts of the pool."""
    scratch = draft.path / "scratch"
    with tables.session(scratch) as db:
        collection = stage_collection(db, folder, scratch, options=options, report=report)
        place = Workplace(db, scratch, collection=collection, report=report)
        facts = write_candidates(draft, place, options)
        asked = {"query_id": list(collection.queries), "text": list(collection.queries.values())}
        draft.write_table("queries", pa.table(asked, schema=QUERY_SCHEMA))
        candidates = tables.parquet(draft.path / "candidates.parquet")
        used = f"""SELECT passage_id, title, text FROM corpus
            WHERE passage_id IN (SELECT passage_id FROM {candidates}) ORDER BY passage_id"""
        tables.save(db, draft, "passages", statement=used, schema=PASSAGE_SCHEMA)
    return facts


def write_candidates(draft: folders.Draft, place: Workplace, options: PoolOptions) -> PoolFacts:
    """Write the table of candidates, query by query, and return the facts of the pool.

    Raises `UsageError` for options without a source.
    """
    if not (options.bm25 or options.models or options.runs or options.human):
        raise UsageError("nothing to pool from: give --bm25, --dense, --run or --human")
    queries, without = place.collection.queries, 0
    engine = Bm25(place.collection.corpus, options.language, place.report) if options.bm25 else None
    sources = list(rankings(place, options, engine))
    human = human_positives(place, options.human, options) if options.human else ({} for _ in queries)

    def pooled() -> Iterator[tuple[str, Sequence[Found]]]:
        nonlocal without
        streams = zip(queries, human, *(source.rankings for source in sources), strict=True)
        for number, (query_id, positives, *ranked) in enumerate(streams, 1):
            named = [(source.name, scores) for source, scores in zip(sources, ranked, strict=True)]
            found = fuse(named, positives, depth=options.depth)
            without += not found
            yield query_id, found
            if number % QUERIES == 0:
                place.report(Stage("pool", number, len(queries), items="queries"))

    draft.write_batches("candidates", CANDIDATE_SCHEMA, candidate_batches(pooled()))
    facts = PoolFacts(recipe=recipe(options), queries_without_candidates=without)
    used = {"bm25": engine.settings if engine else {}, "encoders": commits_of(options.models)}
    return facts.model_copy(update={name: settings for name, settings in used.items() if settings})


def rankings(place: Workplace, options: PoolOptions, engine: Bm25 | None) -> Iterator[Source]:
    """Yield the sources of candidates."""
    if engine:
        yield bm25_source(place, engine, options.bm25)
    for model, depth in options.models:
        yield dense_source(place, model, depth, trusted=options.trust_remote_code)
    for number, (path, depth) in enumerate(options.runs):
        yield run_source(place, number, path, depth=depth)


def recipe(options: PoolOptions) -> tuple[str, ...]:
    """Return the options of a pool in the form for its manifest."""
    sources = (options.bm25, options.models, options.runs, options.human)
    rest = (options.positive_grade, options.depth, options.trust_remote_code)
    given = options.model_dump(mode="json", exclude_defaults=True)
    named = (f"{name}={given[name]}" for name in LATER if name in given)
    return (*(str(value) for value in (*sources, *rest)), *named)


def refuse_other_settings(output: Path, options: PoolOptions) -> None:
    """Raise `UsageError` if the output is a pool that was made with other settings: it would be replaced."""
    if not (output / folders.MANIFEST).is_file():
        return
    manifest = parse_manifest(output / folders.MANIFEST)
    if manifest.kind == KIND and tuple(manifest.facts.recipe) != recipe(options):
        raise UsageError(
            f"{output} is a pool with other settings, which was made by: {manifest.command}. "
            f"Give another output, or remove {output}"
        )


def write_tables(
    draft: folders.Draft,
    candidates: Sequence[Candidate],
    *,
    queries: Mapping[str, Query],
    passages: Mapping[str, Passage],
) -> None:
    """Write the tables of a pool: candidates in judging order, all queries, and the passages that are candidates."""
    used = sorted({candidate.passage_id for candidate in candidates})
    draft.write_batches("candidates", CANDIDATE_SCHEMA, candidate_batches(found_in(candidates)))
    draft.write_table("queries", records_to_table(queries.values(), QUERY_SCHEMA))
    draft.write_table("passages", records_to_table((passages[pid] for pid in used), PASSAGE_SCHEMA))


def read_pool(folder: Path, *, verify: bool = True, pairs: Mapping[str, Container[str]] | None = None) -> Pool:
    """Read and check a pool folder, or only some of its pairs with their texts: query id -> passage ids.

    Raises `ArtifactError`.
    """
    folders.read_manifest(folder, KIND, verify=verify)

    def rows(name: str) -> Iterator[dict[str, Any]]:
        for batch in folders.read_batches(folder, name):
            yield from batch.to_pylist()

    candidates = [
        Candidate(**row | {"sources": tuple(Origin(**origin) for origin in row["sources"])})
        for row in rows("candidates")
        if pairs is None or row["passage_id"] in pairs.get(row["query_id"], ())
    ]
    asked, used = ({getattr(one, name) for one in candidates} for name in ("query_id", "passage_id"))
    queries = {row["query_id"]: Query(**row) for row in rows("queries") if pairs is None or row["query_id"] in asked}
    passages = {
        row["passage_id"]: Passage(**row) for row in rows("passages") if pairs is None or row["passage_id"] in used
    }
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
    write_pool(folder, target, command=command)
    return target


def input_files(folder: Path, options: PoolOptions) -> list[Path]:
    """Return the files from which a pool is made, for its manifest."""
    layout = layout_of(folder)
    files = [*layout.corpus, *layout.queries, *(path for path, _ in options.runs)]
    if options.split is not None:
        files += layout.files_of(options.split)
    return files + (files_behind(options.human) if options.human else [])
