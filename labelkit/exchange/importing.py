"""What was made elsewhere becomes ours: grades become judgements, whole datasets become datasets. `labelkit import`."""

from pathlib import Path

from labelkit.corpora.qrels import read_qrels
from labelkit.datasets.card import dataset_card
from labelkit.exchange.formats import GRADES, found_in
from labelkit.exchange.formats.base import queries_of
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge, Judgement
from labelkit.storage import folders
from labelkit.storage.dataset import records_to_table, write_tables
from labelkit.storage.labels import JudgeKind, imported_judge
from labelkit.storage.manifest import DATASET, LABELS, DatasetFacts
from labelkit.storage.outputs import name_of

KINDS: dict[str, JudgeKind] = {"human": "human", "llm": "llm", "imported": "imported"}


def import_grades(
    path: Path, target: Path, *, judge_name: str, kind: JudgeKind, command: str, format_name: str = "qrels"
) -> int:
    """Write grades as a labels folder; returns how many there are.

    They come from a qrels file (BEIR or TREC), or from what people answered in Argilla or Label Studio.
    """
    with folders.writing(target, LABELS, command) as draft:
        if format_name in GRADES:
            judgements, judges = GRADES[format_name](path, judge_name)
        else:
            judgements, judge = imported_judgements(path, judge_name, kind)
            judges = [judge]
        draft.write_table("judgements", records_to_table(judgements, JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table(judges, JUDGE_SCHEMA))
        draft.inputs = inputs_of(path)
    return len(judgements)


def import_dataset(
    path: Path, target: Path, *, format_name: str, judge_name: str, positive_grade: int, command: str
) -> dict[str, int]:
    """Write a dataset in a foreign format as a dataset folder; returns how many queries and labels it has.

    A format without grades calls its positives 2 and its negatives 0.
    """
    with folders.writing(target, DATASET, command) as draft:
        found = found_in(path, format_name, judge_name, positive_grade)
        write_tables(
            draft,
            examples=found.examples,
            corpus=found.corpus.values(),
            queries=queries_of(found),
            judgements=found.judgements,
            judges=[found.judge],
        )
        counts = {
            "queries": len(found.examples),
            "positives": sum(len(example.positives) for example in found.examples),
            "negatives": sum(len(example.negatives) for example in found.examples),
            "on_both_sides": sum(len(example.ignored) for example in found.examples),
        }
        draft.inputs = inputs_of(path)
        facts = {"format": format_name, "positive_grade": positive_grade, **counts}
        draft.facts = DatasetFacts.model_validate(facts)
        card = dataset_card(name_of(target), draft.rows, draft.facts, [found.judge], command)
        (draft.path / "README.md").write_text(card, encoding="utf-8")
    return counts


def inputs_of(path: Path) -> dict[str, str]:
    """sha256 of a file, or of every file of a folder."""
    if path.is_file():
        return {str(path): folders.file_sha256(path)}
    return {str(path / name): digest for name, digest in folders.known_sha256(path).items()}


def imported_judgements(path: Path, judge_name: str, kind: JudgeKind) -> tuple[list[Judgement], Judge]:
    """Judgements of a qrels file, sorted by pair, and their judge."""
    qrels = read_qrels(path)
    judge = imported_judge(path, judge_name, kind)
    judgements = [
        Judgement(query_id=query_id, passage_id=passage_id, judge_id=judge.judge_id, grade=grade)
        for query_id, graded in sorted(qrels.items())
        for passage_id, grade in sorted(graded.items())
    ]
    return judgements, judge
