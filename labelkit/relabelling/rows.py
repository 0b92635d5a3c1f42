"""Changes the labels in the rows of other tools' formats: one function per format, in one table.

An editor returns the rows that replace a row, or None if the row does not change. Unknown fields are kept.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from labelkit.corpora.rows import id_of, text_of
from labelkit.corpora.scales import read_scale
from labelkit.errors import DataError, UsageError
from labelkit.exchange.formats.collecting import Grading, name_of
from labelkit.exchange.formats.sources import first_of, list_of
from labelkit.exchange.formats.tuples import tuple_columns

Row = Mapping[str, Any]
Rows = list[dict[str, Any]]
SCORES = ("score", "scores", "label", "labels")
"""Columns of tuples whose numbers belong to the texts of a row, and would be wrong for other texts."""
NO_POSITIVE = "rows left out, because they have no positive left"
NO_NEGATIVE = "rows left out, because they have no negative left"
WITHOUT_NEGATIVES = "rows that have no negative left"
NOWHERE = "promoted passages without a row, because their query has no negative left"
CHANGED, ADDED = "rows changed", "rows added for promoted passages"


class Changes(NamedTuple):
    """The changed labels of one query."""

    promoted: Mapping[str, int]
    """Id of a negative that becomes a positive -> its grade."""
    ignored: frozenset[str]
    """Ids of passages that are left out."""
    negatives: Sequence[str]
    """Texts of the query's other negatives; for tuples alone."""

    def gone(self, passage_id: str) -> bool:
        """Return whether a passage is no longer on the side on which it was."""
        return passage_id in self.promoted or passage_id in self.ignored


class Told(NamedTuple):
    """What has been written so far."""

    counts: Counter[str]
    added: set[tuple[str, str]]
    """Query and promoted passage of each row that was added."""
    grading: Grading


class Editor(NamedTuple):
    """The functions for the rows of a format."""

    query_id: Callable[[Row, str], str]
    """(row, place) -> id of its query, as the reader of the format makes it."""
    edit: Callable[[dict[str, Any], str, Changes, Told], Rows | None]
    tuples: bool = False
    """Whether the texts of the query's other negatives are needed."""


def grouped(
    row: dict[str, Any], where: str, changes: Changes, told: Told, *, keys: Sequence[str], id_at: Callable[[Any], str]
) -> Rows | None:
    """Move passages between the lists of a row: the first of `keys` has the positives, the others negatives.

    Lists named after a key, such as `neg_scores` of `neg`, that have as many values are changed alike.
    """
    names = {key: [id_at(one) for one in row.get(key) or ()] for key in keys}
    into, *others = keys
    lost = {key: changes.ignored if key == into else changes.ignored | changes.promoted.keys() for key in keys}
    kept = {key: [at for at, name in enumerate(names[key]) if name not in lost[key]] for key in keys}
    if all(len(kept[key]) == len(names[key]) for key in keys):
        return None
    new, known = dict(row), set(names[into])
    for key in keys:
        new |= {column: [row[column][at] for at in kept[key]] for column in columns_of(row, key)}
    for key in others:
        for at, name in enumerate(names[key]):
            if name in changes.promoted and name not in known:
                known.add(name)
                raise_one(new, row, where, key=key, into=into, at=at)
    if names[into] and not new[into]:
        told.counts[NO_POSITIVE] += 1
        return []
    told.counts[WITHOUT_NEGATIVES] += not any(new.get(key) for key in others)
    return [new]


def columns_of(row: Row, key: str) -> list[str]:
    """Return the columns of a row with a value per passage of the list `key`, which is the first."""
    if not isinstance(row.get(key), list):
        return []
    further = [name for name, values in row.items() if name.startswith(f"{key}_") and isinstance(values, list)]
    return [key, *(name for name in further if len(row[name]) == len(row[key]))]


def raise_one(new: dict[str, Any], row: Row, where: str, *, key: str, into: str, at: int) -> None:
    """Append a value of the list `key`, and of the lists named after it, to the list `into` and its lists.

    Raises `DataError` if only one side has a list.
    """
    ends = [{column.removeprefix(side) for column in columns_of(row, side)} for side in (key, into)]
    if alone := ends[0] ^ ends[1]:
        end = min(alone)
        raise DataError(
            f"{where}: {key + end!r} and {into + end!r} must be lists with a value per passage, or both be absent, so "
            "that a passage can move with its values"
        )
    for end in ends[0]:
        new[into + end].append(row[key + end][at])


def keyed(keys: Sequence[str], id_at: Callable[[Any], str]) -> Callable[..., Rows | None]:
    """Return the editor of rows with one list per role."""
    return lambda row, where, changes, told: grouped(row, where, changes, told=told, keys=keys, id_at=id_at)


def listed(row: dict[str, Any], where: str, changes: Changes, told: Told) -> Rows | None:
    """Change the labels of a labelled list, and leave ignored passages out of all its lists of the same length."""
    docs, labels = list_of(row, "docs", "a text", where=where), list_of(row, "labels", "a finite number", where=where)
    names = [name_of("p", text) for text in docs]
    if not any(map(changes.gone, names)):
        return None
    new = dict(row)
    new["labels"] = [
        raised(label, changes.promoted[name], told.grading, highest=max(labels)) if name in changes.promoted else label
        for name, label in zip(names, labels, strict=True)
    ]
    kept = [at for at, name in enumerate(names) if name not in changes.ignored]
    parallel = [name for name, values in new.items() if isinstance(values, list) and len(values) == len(docs)]
    new |= {name: [new[name][at] for at in kept] for name in parallel}
    if not kept:
        told.counts[NO_POSITIVE] += 1
        return []
    return [new]


def raised(label: float, grade: int, grading: Grading, *, highest: float) -> float:
    """Return the label of a promoted passage on the scale of its file: the judge's grade, but at least the lowest grade
    of a positive.

    If that is 1, the labels may be 0 and 1, so that the new label is at most `highest`, the highest one of its row.
    """
    wanted = max(grade, grading.positive_grade)
    if grading.scale is not None:
        scale = read_scale(grading.scale).grades
        reached = [(value, float(name)) for name, value in scale.items() if value >= grading.positive_grade]
        if not reached:
            raise UsageError(f"--scale {grading.scale} has no label of grade {grading.positive_grade} or higher")
        return type(label)(min(reached, key=lambda one: (abs(one[0] - wanted), one))[1])
    if grading.positive_grade == 1:
        wanted = min(wanted, max(int(highest), 1))
    return type(label)(wanted)


def tupled(row: dict[str, Any], where: str, changes: Changes, told: Told) -> Rows | None:
    """Replace the changed negatives of a tuple, leave it out if that is impossible, and add a tuple for each passage
    that became a positive.
    """
    query, positive = tuple_columns(row, where)
    negatives = [name for name in row if name.startswith("negative")]
    texts = {name: row[name] for name in negatives if isinstance(row[name], str)}
    lists = {name: list_of(row, name, "a text", where=where) for name in negatives if name not in texts}
    shown = [*texts.values(), *(text for several in lists.values() for text in several)]
    if not any(changes.gone(name_of("p", text)) for text in (row[positive], *shown)):
        return None
    query_id = name_of("q", row[query])
    rows = corrected(row, texts, lists, changes=changes, told=told)
    if name_of("p", row[positive]) in changes.ignored:
        told.counts[NO_POSITIVE] += 1
        rows = []
    for text in shown:
        pair = (query_id, name_of("p", text))
        if pair[1] in changes.promoted and pair not in told.added:
            told.added.add(pair)
            rows += added(row | {positive: text}, list(texts), list(lists), changes=changes, told=told)
    return rows


def corrected(
    row: Row, texts: Mapping[str, str], lists: Mapping[str, Sequence[str]], changes: Changes, told: Told
) -> Rows:
    """Return a tuple without its changed negatives; a column of one text gets another negative of the query.

    A triplet is left out instead, since the query's other negatives have triplets of their own.
    """
    left = {name: text for name, text in texts.items() if not changes.gone(name_of("p", text))}
    spare = [text for text in changes.negatives if text not in left.values()] or list(left.values())
    if len(left) < len(texts) and (len(texts) == 1 or not spare):
        told.counts[NO_NEGATIVE] += 1
        return []
    freed = [name for name in texts if name not in left]
    filled: dict[str, Any] = {name: spare[number % len(spare)] for number, name in enumerate(freed)}
    for name, several in lists.items():
        filled[name] = [text for text in several if not changes.gone(name_of("p", text))]
    return [dict(row) | filled]


def added(row: dict[str, Any], texts: Sequence[str], lists: Sequence[str], changes: Changes, told: Told) -> Rows:
    """Return the tuples of a promoted passage: a triplet with each other negative of the query, else one tuple.

    `row`: the tuple in which it was a negative, with the passage as its positive.
    """
    left = list(changes.negatives)
    if texts and not left:
        told.counts[NOWHERE] += 1
        return []
    row = row | dict.fromkeys(lists, left)
    if len(texts) == 1:
        rows = [row | {texts[0]: text} for text in left]
    else:
        rows = [row | {name: left[number % len(left)] for number, name in enumerate(texts)}]
    told.counts[ADDED] += len(rows)
    return rows


def id_in(key: str) -> Callable[[Row, str], str]:
    """Return the function that reads the id of a query from a field."""
    return lambda row, where: id_of(row, key, where)


def id_from(names: Sequence[str]) -> Callable[[Row, str], str]:
    """Return the function that makes the id of a query from its text, which is in the first of some fields."""
    return lambda row, where: name_of("q", text_of(row, first_of(row, names), where))


def tuple_id(row: Row, where: str) -> str:
    """Make the id of the query of a tuple."""
    return name_of("q", text_of(row, tuple_columns(row, where)[0], where))


def ctx_id(passage: Row) -> str:
    """Return the id of a passage in DPR's files."""
    named = passage.get("passage_id") if passage.get("passage_id") is not None else passage.get("psg_id")
    return str(named) if named is not None else name_of("p", passage["text"])


def text_id(text: str) -> str:
    """Make the id of a passage from its text."""
    return name_of("p", text)


DPR = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")
EDITORS = {
    "tevatron": Editor(id_in("query_id"), keyed(("positive_document_ids", "negative_document_ids"), str)),
    "tevatron-classic": Editor(
        id_in("query_id"), keyed(("positive_passages", "negative_passages"), lambda passage: str(passage["docid"]))
    ),
    "dpr": Editor(id_from(("question",)), keyed(DPR, ctx_id)),
    "flag-embedding": Editor(id_from(("query",)), keyed(("pos", "neg"), text_id)),
    "st-triplet": Editor(tuple_id, tupled, tuples=True),
    "st-ntuple": Editor(tuple_id, tupled, tuples=True),
    "st-labeled-list": Editor(id_from(("query", "anchor")), listed),
}
"""Format -> the functions for its rows."""
