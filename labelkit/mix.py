"""Judgements from several sources -> labels -> the multi-positive dataset.

Human grades win where people and an LLM judged the same pair; the LLM fills the holes. A pair that the LLM was unsure
of, or failed on, is ignored: never a positive, never a negative. Conflicts are counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from labelkit import artifact, dataset, sources
from labelkit.annotate import read_labels
from labelkit.card import dataset_card
from labelkit.errors import DataError, UsageError
from labelkit.import_grades import imported_judgements
from labelkit.schema import Example, Judge, Judgement, Label

RELEVANT = 2
"""Grade from which an LLM's grade, or its probability mass, counts as relevant."""


class Rules(NamedTuple):
    """Where the lines are drawn."""

    positive_grade: int = 2
    """Lowest human grade that makes a positive; lower human grades make negatives."""
    llm_positive: float = 0.7
    """An LLM label is a positive where its probability of grade >= 2 is at least this."""
    llm_negative: float = 0.3
    """It is a negative where that probability is at most this; between the two it is unsure and ignored."""
    max_positives: int | None = None
    """Keep at most so many positives a query, best first; the rest become ignored."""


class Mixture(NamedTuple):
    """What came out, for the screen and the manifest."""

    examples: list[Example]
    conflicts: int
    """Pairs where a person and an LLM fall on different sides of the lines."""
    failed: int
    """LLM judgements without a grade."""


def mix(
    data_folder: Path, human: Path | None, llm: Sequence[Path], rules: Rules, target: Path, command: str
) -> Mixture:
    """Write the dataset folder `target` from human qrels and labels folders over one BEIR collection."""
    if human is None and not llm:
        raise UsageError("nothing to mix: give --human QRELS, --llm LABELS, or both")
    data = sources.read_data(data_folder)
    judgements, judges = gather(human, llm)
    check_known(judgements, data)
    by_id = {judge.judge_id: judge for judge in judges}
    grades = [row.grade or 0 for row in judgements if by_id[row.judge_id].kind == "human"]
    if grades and max(grades) < rules.positive_grade:
        raise UsageError(f"no human grade reaches {rules.positive_grade}; binary qrels need --positive-grade 1")
    texts = {query_id: query.text for query_id, query in data.queries.items()}
    mixture = mix_judgements(judgements, by_id, texts, rules)
    with artifact.writing(target, dataset.KIND, command) as draft:
        queries = [data.queries[example.query_id] for example in mixture.examples]
        dataset.write_tables(
            draft,
            examples=mixture.examples,
            corpus=(data.corpus[pid] for pid in sorted(data.corpus)),
            queries=queries,
            judgements=judgements,
            judges=judges,
        )
        draft.inputs = input_hashes(data_folder, human, llm)
        draft.facts = {"rules": rules._asdict(), **counts(mixture)}
        card = dataset_card(target.name, draft.rows, draft.facts, judges, command)
        (draft.path / "README.md").write_text(card, encoding="utf-8")
    return mixture


def gather(human: Path | None, llm: Sequence[Path]) -> tuple[list[Judgement], list[Judge]]:
    """All judgements and judges, sorted, each judge once."""
    judgements: list[Judgement] = []
    judges: dict[str, Judge] = {}
    if human is not None:
        rows, judge = imported_judgements(human, human.stem, "human")
        judgements += rows
        judges[judge.judge_id] = judge
    for folder in llm:
        rows, found, _ = read_labels(folder)
        for judge in found:
            if judge.judge_id in judges:
                raise UsageError(f"{folder}: judge {judge.judge_id!r} comes from another source too; give it once")
            judges[judge.judge_id] = judge
        judgements += rows
    order = sorted(judgements, key=lambda row: (row.query_id, row.passage_id, row.judge_id))
    return order, [judges[judge_id] for judge_id in sorted(judges)]


def check_known(judgements: Iterable[Judgement], data: sources.Data) -> None:
    """Raise `DataError` where a judgement names a query or passage that the collection does not hold."""
    for row in judgements:
        if row.query_id not in data.queries:
            raise DataError(f"judge {row.judge_id!r} judged query {row.query_id!r}, which is not in queries.jsonl")
        if row.passage_id not in data.corpus:
            raise DataError(f"judge {row.judge_id!r} judged passage {row.passage_id!r}, which is not in corpus.jsonl")


def mix_judgements(
    judgements: Sequence[Judgement], judges: Mapping[str, Judge], queries: Mapping[str, str], rules: Rules
) -> Mixture:
    """Examples by query id. Several judges of one kind: the first by judge id speaks, and the rest count as conflicts
    where they fall on another side.
    """
    by_query: dict[str, dict[str, list[Judgement]]] = {}
    for row in judgements:
        by_query.setdefault(row.query_id, {}).setdefault(row.passage_id, []).append(row)
    conflicts = 0
    examples = []
    for query_id, pairs in sorted(by_query.items()):
        sides: dict[str, list[Label]] = {"positive": [], "negative": [], "ignored": []}
        for _, rows in sorted(pairs.items()):
            ranked = sorted(
                rows, key=lambda row: (row.grade is None, judges[row.judge_id].kind != "human", row.judge_id)
            )
            verdicts = [side(row, judges[row.judge_id], rules) for row in ranked]
            conflicts += len(set(verdicts) - {"ignored"}) > 1
            sides[verdicts[0]].append(make_label(ranked[0], judges[ranked[0].judge_id]))
        examples.append(make_example(query_id, queries[query_id], sides, rules))
    failed = sum(row.grade is None for row in judgements)
    return Mixture(examples, conflicts, failed)


def side(row: Judgement, judge: Judge, rules: Rules) -> str:
    """On which side of the lines a judgement falls: positive, negative or ignored."""
    if row.grade is None:
        return "ignored"
    if judge.kind == "human":
        return "positive" if row.grade >= rules.positive_grade else "negative"
    probability = probability_of_relevance(row, judge)
    if probability is None:
        # A bare grade: 1 is "related, no answer", which an LLM says of positives and negatives alike.
        return "positive" if row.grade >= RELEVANT else "negative" if row.grade == 0 else "ignored"
    if probability >= rules.llm_positive:
        return "positive"
    return "negative" if probability <= rules.llm_negative else "ignored"


def probability_of_relevance(row: Judgement, judge: Judge) -> float | None:
    """P(grade >= 2) by the judge's own label probabilities; None where it gave none."""
    if row.probs is None or judge.label_grades is None:
        return None
    return sum(p for p, grade in zip(row.probs, judge.label_grades, strict=True) if grade >= RELEVANT)


def make_label(row: Judgement, judge: Judge) -> Label:
    """The label of a pair from the judgement that decided it."""
    return Label(
        passage_id=row.passage_id,
        grade=row.grade,
        source=judge.kind,
        judge_id=row.judge_id,
        probability=probability_of_relevance(row, judge),
    )


def make_example(query_id: str, query: str, sides: Mapping[str, list[Label]], rules: Rules) -> Example:
    """Positives best first (human before LLM, then grade, then probability), the rest by passage id."""
    positives = sorted(sides["positive"], key=best_first)
    kept = positives[: rules.max_positives]
    ignored = sorted(sides["ignored"] + positives[len(kept) :], key=lambda label: label.passage_id)
    return Example(
        query_id=query_id,
        query=query,
        positives=tuple(kept),
        negatives=tuple(sides["negative"]),
        ignored=tuple(ignored),
    )


def best_first(label: Label) -> tuple[bool, int, float, str]:
    """Sort key: human labels, high grades and high probabilities first; ties by passage id."""
    return (label.source != "human", -(label.grade or 0), -(label.probability or 0.0), label.passage_id)


def counts(mixture: Mixture) -> dict[str, int | float | dict[str, float]]:
    """Totals for the manifest and the screen."""
    examples = mixture.examples
    sources_seen = sorted({label.source for example in examples for label in example.positives})
    return {
        "queries": len(examples),
        "queries_without_positives": sum(not example.positives for example in examples),
        "positives": sum(len(example.positives) for example in examples),
        "negatives": sum(len(example.negatives) for example in examples),
        "ignored": sum(len(example.ignored) for example in examples),
        "conflicts": mixture.conflicts,
        "failed_judgements": mixture.failed,
        "positives_per_query": {
            source: round(
                sum(label.source == source for example in examples for label in example.positives) / len(examples),
                3,
            )
            for source in sources_seen
        },
    }


def input_hashes(data_folder: Path, human: Path | None, llm: Sequence[Path]) -> dict[str, str]:
    """sha256 of everything that the dataset was made from."""
    files = [data_folder / "corpus.jsonl", data_folder / "queries.jsonl", *([human] if human else [])]
    files += [folder / artifact.MANIFEST for folder in llm]
    return {str(path): artifact.file_sha256(path) for path in files}
