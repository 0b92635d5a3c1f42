"""Recognises a training set, and writes the pool of its labels that are judged.

Files of another tool are first imported as a dataset into a temporary folder, so that ids and labels are read in one
place. The source of each candidate is the role and the source of its label, such as `negative:mined`, and its rank is
the place of the label among the labels of its role.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from duckdb import DuckDBPyConnection

from labelkit.corpora.files import column_names, form_of
from labelkit.corpora.layout import stem_of
from labelkit.corpora.rows import COMPRESSED
from labelkit.errors import DataError, UsageError
from labelkit.exchange.formats import recognised
from labelkit.exchange.formats.sources import data_files, of_split, tables_in
from labelkit.exchange.importing import import_dataset
from labelkit.exchange.options import ImportOptions
from labelkit.records import CANDIDATE_SCHEMA, PASSAGE_SCHEMA, QUERY_SCHEMA
from labelkit.relabelling.files import WRITERS
from labelkit.relabelling.options import RelabelOptions
from labelkit.relabelling.rows import EDITORS, SCORES
from labelkit.storage import folders, tables
from labelkit.storage.manifest import DATASET, POOL, PoolFacts
from labelkit.storage.names import missing

TEVATRON = "tevatron"
"""Format whose passages are in a file of their own."""


class TrainingSet(NamedTuple):
    """A training set and the files that it is read from."""

    path: Path
    format: str | None
    """Format of another tool; None for a dataset folder."""
    files: tuple[Path, ...]
    """Files with queries and labels; none for a dataset folder."""
    copied: tuple[Path, ...]
    """Files with passages alone."""
    inputs: dict[str, str]
    """Path of an input for the manifest -> sha256."""

    def inside(self, file: Path) -> str:
        """Return the path of a file within the training set."""
        return file.name if self.path.is_file() else file.relative_to(self.path).as_posix()


def training_set(path: Path, options: RelabelOptions, *, verify: bool) -> TrainingSet:
    """Recognise a training set. Raises `UsageError` for a format that cannot be written back."""
    if not path.exists():
        raise DataError(missing(path))
    if options.format is None and (path / folders.MANIFEST).is_file() and folders.manifest_kind(path) == DATASET:
        folders.read_manifest(path, DATASET, verify=verify)
        return TrainingSet(path, None, (), copied=(), inputs={str(path): folders.file_sha256(path / folders.MANIFEST)})
    name = options.format or recognised(path)
    if name not in EDITORS:
        raise UsageError(
            f"{path}: files in the format {name} cannot be relabelled, only datasets of labelkit and "
            f"{', '.join(sorted(EDITORS))}; make a dataset of it with labelkit import or labelkit mix"
        )
    files, copied = data_files(path, options.split) if name != TEVATRON else [], []
    if name == TEVATRON:
        copied = [file for file in tables_in(path) if stem_of(file) == "corpus"]
        files = of_split(path, [file for file in tables_in(path) if file not in copied], options.split)
    refuse_unwritable(files, name)
    inputs = {str(file): folders.file_sha256(file) for file in (*copied, *files)}
    return TrainingSet(path, name, tuple(files), copied=tuple(copied), inputs=inputs)


def refuse_unwritable(files: Sequence[Path], name: str) -> None:
    """Raise `UsageError` for files that could not be written back, before anything is judged."""
    for file in files:
        if form_of(file) not in WRITERS:
            raise UsageError(f"{file}: rows are written back to {', '.join(WRITERS)}; convert the file to one of these")
        if form_of(file) == ".parquet" and file.suffix in COMPRESSED:
            raise UsageError(f"{file}: Parquet is compressed already; decompress the file first")
        if EDITORS[name].tuples and (found := set(SCORES) & set(column_names(file))):
            raise UsageError(
                f"{file}: the column {min(found)!r} has values for the texts of a row, which would be wrong for other "
                "texts; remove the column, or relabel the dataset from which the tuples were made"
            )


def pool_of(source: TrainingSet, target: Path, options: RelabelOptions, *, command: str) -> PoolFacts:
    """Write the pool of the labels that are judged, or keep the one that an earlier call made of the same files.

    Returns the facts of the pool. Raises `UsageError` if there is no label to judge.
    """
    facts = known_facts(source, target, options)
    if facts is not None:
        return facts
    if source.format is None:
        return write_pool(source.path, target, source, options=options, command=command)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".imported-") as scratch:
        named = {name: getattr(options, name) for name in ("split", "positive_grade", "scale")}
        made = Path(scratch) / "dataset"
        import_dataset(source.path, made, ImportOptions(judge="labels", format=source.format, **named))
        return write_pool(made, target, source, options=options, command=command)


def known_facts(source: TrainingSet, target: Path, options: RelabelOptions) -> PoolFacts | None:
    """Return the facts of a pool that is complete and was made of the same files with the same options."""
    if not (target / folders.MANIFEST).is_file() or folders.manifest_kind(target) != POOL:
        return None
    manifest = folders.read_manifest(target, POOL, verify=False)
    same = manifest.inputs == source.inputs and manifest.facts.relabel.get("options") == options.judged
    return manifest.facts if same else None


def write_pool(dataset: Path, target: Path, source: TrainingSet, options: RelabelOptions, *, command: str) -> PoolFacts:
    """Write the pool of the labels of a dataset folder that are judged."""
    with folders.writing(target, POOL, command) as draft:
        with tables.session(draft.path / ".scratch") as db:
            stage_labels(db, dataset, options)
            rest = (
                "SELECT source || ' ' || role || 's', count(*) FROM labels WHERE NOT judged GROUP BY ALL ORDER BY ALL"
            )
            left_out = dict(db.execute(rest).fetchall())
            if not tables.row(db, "FROM labels WHERE judged"):
                told = ", ".join(f"{count:,} {name}" for name, count in left_out.items()) or "no positives or negatives"
                raise UsageError(
                    f"{source.path} has no label to judge ({told}): --positives judges positives, and --overturn-human "
                    "labels by people"
                )
            save_pool(db, draft, dataset)
        draft.inputs = source.inputs
        told_facts = {"options": options.judged, "not_judged": left_out}
        facts = PoolFacts(recipe=("relabel",), relabel=told_facts)
        draft.facts = facts
    return facts


def stage_labels(db: DuckDBPyConnection, dataset: Path, options: RelabelOptions) -> None:
    """Make the view `train`, and the view `labels` of all positives and negatives with whether each is judged."""
    db.execute(f"CREATE VIEW train AS FROM {tables.parquet(dataset / 'train.parquet')}")
    parts = (
        f"""SELECT query_id, '{role}' AS role, unnest({role}_sources) AS source, unnest({role}_ids) AS passage_id,
                   unnest(range(1, len({role}_ids) + 1))::INT AS place FROM train"""
        for role in ("positive", "negative")
    )
    roles = "true" if options.positives else "role = 'negative'"
    people = "true" if options.overturn_human else "source <> 'human'"
    db.execute(f"CREATE VIEW labels AS SELECT *, {roles} AND {people} AS judged FROM ({' UNION ALL '.join(parts)})")


def save_pool(db: DuckDBPyConnection, draft: folders.Draft, dataset: Path) -> None:
    """Write the tables of a pool from the labels that are judged."""
    origin = "[{name: role || ':' || source, rank: place, score: 0.0}]"
    tables.save(
        db,
        draft,
        "candidates",
        statement=f"SELECT query_id, passage_id, {origin} AS sources FROM labels WHERE judged "
        "ORDER BY query_id, role DESC, place",
        schema=CANDIDATE_SCHEMA,
    )
    pairs = tables.parquet(draft.path / "candidates.parquet")
    asked = f"SELECT query_id, query AS text FROM train SEMI JOIN {pairs} USING (query_id) ORDER BY query_id"
    tables.save(db, draft, "queries", statement=asked, schema=QUERY_SCHEMA)
    corpus = tables.parquet(dataset / "corpus.parquet")
    used = f"SELECT passage_id FROM {pairs}"
    shown = f"SELECT passage_id, title, text FROM {corpus} WHERE passage_id IN ({used}) ORDER BY passage_id"
    tables.save(db, draft, "passages", statement=shown, schema=PASSAGE_SCHEMA)
