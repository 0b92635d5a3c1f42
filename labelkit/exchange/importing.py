"""Imports grades as a labels folder, and datasets in other formats as a dataset folder: `labelkit import`."""

from pathlib import Path

from labelkit.corpora.answers import tool_of
from labelkit.corpora.places import local_collection
from labelkit.corpora.qrels import refuse_model_grades
from labelkit.corpora.scales import read_scale
from labelkit.corpora.staged import stage_grades
from labelkit.datasets.card import dataset_card
from labelkit.errors import UnknownNameError, UsageError
from labelkit.exchange.formats import FORMATS, GRADES, SCORES, collected, readable
from labelkit.exchange.formats.collecting import Collector, Grading, judge_of
from labelkit.exchange.formats.scored import scored_files, write_scores
from labelkit.exchange.options import ImportOptions
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge
from labelkit.storage import folders, tables
from labelkit.storage.dataset import records_to_table
from labelkit.storage.labels import JudgeKind, imported_judge, rerankers
from labelkit.storage.manifest import DATASET, LABELS, DatasetFacts, LabelsFacts
from labelkit.storage.outputs import name_of
from labelkit.storage.remote import local

QRELS = "qrels"
SCRATCH = ".scratch"
"""Folder in a draft for the tables of a session."""
KINDS: dict[str, JudgeKind] = {"human": "human", "llm": "llm", "imported": "imported"}


def makes_labels(format_name: str) -> bool:
    """Return whether a format contains grades, for a labels folder; all other formats contain whole datasets.

    Raises `UnknownNameError` for a format that cannot be read.
    """
    labels = (QRELS, SCORES, *GRADES)
    if format_name not in labels and not readable(format_name):
        raise UnknownNameError("format", format_name, [*labels, *filter(readable, FORMATS)])
    return format_name in labels


def import_grades(
    source: Path | str, output: Path | str, options: ImportOptions, *, command: str = "labelkit.import_grades"
) -> int:
    """Import grades made with another tool as a labels folder.

    Args:
        source: a qrels file (BEIR or TREC), or answers exported from Argilla or Label Studio; may be at s3://, gs:// or
            hf://.
        output: labels folder to write.
        options: the judge that made the grades, and their format.
        command: the command that the manifest records as the origin of the folder.

    Returns:
        The number of grades.

    Raises:
        UsageError: the kind or the format is unknown, the format contains datasets, or the file is an export of an
            annotation tool and the format is qrels.
        DataError: the file is malformed.
    """
    path = local(str(source))
    if options.kind not in KINDS:
        raise UsageError(f"unknown kind {options.kind!r}; choose one of: {', '.join(KINDS)}")
    if not makes_labels(options.format):
        raise UsageError(f"format {options.format} contains datasets, not grades: use import_dataset")
    if options.format == QRELS and (tool := tool_of(path)):
        raise UsageError(f"{path} is an export of {tool}, whose drafts and skipped tasks are no grades: --from {tool}")
    if options.format == SCORES:
        return import_scores(path, Path(output), options, command=command)
    with folders.writing(Path(output), LABELS, command) as draft:
        if options.format in GRADES:
            judgements, judges = GRADES[options.format](path, options.judge, options.scale)
            draft.write_table("judgements", records_to_table(judgements, JUDGEMENT_SCHEMA))
        else:
            judges = [save_qrels(draft, path, options)]
        draft.write_table("judges", records_to_table(judges, JUDGE_SCHEMA))
        draft.inputs = inputs_of(path)
    return draft.rows["judgements"]


def import_dataset(
    source: Path | str, output: Path | str, options: ImportOptions, *, command: str = "labelkit.import_dataset"
) -> dict[str, int]:
    """Import a dataset in the format of another tool as a dataset folder.

    For formats without grades, positives get grade 2 and negatives grade 0.

    Args:
        source: file or folder in the format; may be at s3://, gs://, hf:// or irds:.
        output: dataset folder to write.
        options: the format, the judge that made the labels, and the lowest grade of a positive.
        command: the command that manifest and card record as the origin of the folder.

    Returns:
        The numbers of queries, positives, negatives, and passages that were both positive and negative of a query.

    Raises:
        UsageError: the format is unknown, or contains only grades.
        DataError: a file is malformed.
    """
    path, target = local_collection(str(source)), Path(output)
    if makes_labels(options.format):
        raise UsageError(f"format {options.format} contains grades, not datasets: use import_grades")
    positive_grade = options.positive_grade
    grading = Grading(positive_grade, options.scale, options.split)
    with folders.writing(target, DATASET, command) as draft, tables.session(draft.path / SCRATCH) as db:
        collector = Collector(db)
        files = collected(path, options.format, collector, grading=grading)
        judge = judge_of(files, options.judge, options.scale)
        counts = collector.write(draft, judge, path)
        draft.inputs = {str(file): folders.file_sha256(file) for file in files}
        facts = {"format": options.format, "positive_grade": positive_grade, **counts}
        draft.facts = DatasetFacts.model_validate(facts)
        card = dataset_card(name_of(target), draft.rows, draft.facts, judges=[judge], command=command)
        (draft.path / "README.md").write_text(card, encoding="utf-8")
    return counts


def import_scores(path: Path, output: Path, options: ImportOptions, *, command: str) -> int:
    """Import the scores of a reranker as a labels folder without grades. Returns the number of pairs."""
    files = scored_files(path, options.split)
    judge = judge_of(files, options.judge)
    judge = judge.model_copy(update={"kind": KINDS[options.kind], "method": "rerank"})
    with folders.writing(output, LABELS, command) as draft, tables.session(draft.path / SCRATCH) as db:
        count = write_scores(db, draft, files, judge_id=judge.judge_id)
        draft.write_table("judges", records_to_table([judge], JUDGE_SCHEMA))
        draft.inputs = {str(file): folders.file_sha256(file) for file in files}
        draft.facts = LabelsFacts(without_grade=count, rerankers=rerankers([judge]))
    return count


def inputs_of(path: Path) -> dict[str, str]:
    """Return path -> sha256 of a file, or of every file of a folder."""
    if path.is_file():
        return {str(path): folders.file_sha256(path)}
    return {str(path / name): digest for name, digest in folders.known_sha256(path).items()}


def save_qrels(draft: folders.Draft, path: Path, options: ImportOptions) -> Judge:
    """Write the judgements of a qrels file, sorted by pair, and return their judge."""
    if options.kind == "human":
        refuse_model_grades(path)
    scale = options.scale
    judge = imported_judge(path, options.judge, KINDS[options.kind], scale=scale and read_scale(scale).mapping)
    with tables.temporary() as db:
        stage_grades(db, "grades", path, scale=scale, spam=options.spam)
        db.register("nothing", JUDGEMENT_SCHEMA.empty_table())
        rows = f"FROM nothing UNION ALL BY NAME SELECT *, {tables.text(judge.judge_id)} AS judge_id FROM grades"
        tables.save(
            db, draft, "judgements", statement=f"FROM ({rows}) ORDER BY query_id, passage_id", schema=JUDGEMENT_SCHEMA
        )
    return judge
