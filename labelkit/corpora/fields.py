"""Find the columns of ids, texts, titles and grades in files that name them in different ways."""

from collections.abc import Iterable
from typing import NamedTuple

from labelkit.errors import DataError

PASSAGE_IDS = (
    "_id", "id", "docid", "doc_id", "pid", "passage_id", "document_id", "corpus_id", "corpus-id", "docno", "did",
)  # fmt: skip
QUERY_IDS = ("_id", "id", "qid", "query_id", "query-id", "queryid", "question_id", "topic_id", "topic", "number")
TEXTS = ("text", "contents", "content", "passage", "body", "segment", "document", "document_text", "passage_text")
QUERY_TEXTS = ("text", "query", "question", "query_text", "contents", "title")
TITLES = ("title",)
JUDGED_QUERIES = ("query-id", "query_id", "qid", "queryid", "query", "topic_id", "topic", "_id")
JUDGED_PASSAGES = (
    "corpus-id", "corpus_id", "docid", "doc_id", "pid", "passage_id", "passage-id", "document_id", "docno", "did",
    "doc", "document", "passage",
)  # fmt: skip
GRADES = ("score", "relevance", "rel", "grade", "label", "judgment", "judgement", "relevance_grade")

ID_LIKE = ("id", "key", "number", "no")
TEXT_LIKE = ("text", "content", "body", "passage", "question")


class Fields(NamedTuple):
    """Names of columns that replace the usual names; None keeps the usual names."""

    id: str | None = None
    text: str | None = None
    title: str | None = None


USUAL = Fields()


class PassageColumns(NamedTuple):
    """The columns of a corpus."""

    id: str
    text: str
    title: str


class QueryColumns(NamedTuple):
    """The columns of a file of queries."""

    id: str
    text: str


class GradeColumns(NamedTuple):
    """The columns of qrels. If there are only columns of query and passage, every pair is relevant and gets grade 1."""

    query: str
    passage: str
    grade: str | None


class Wanted(NamedTuple):
    """A value of a row, and the names under which files store it."""

    what: str
    names: tuple[str, ...]
    flag: str = ""
    """Flag that names the column; empty if there is none."""
    like: tuple[str, ...] = ()
    """Parts of a name by which the column is probably meant, for the error."""


def passage_columns(names: Iterable[str], fields: Fields, where: str) -> PassageColumns:
    """Return the columns of id, text and title of a corpus. Raises `DataError`."""
    there = list(names)
    wanted = (
        Wanted("the passage id", (fields.id,) if fields.id else PASSAGE_IDS, "--id-field", like=ID_LIKE),
        Wanted("the text", (fields.text,) if fields.text else TEXTS, "--text-field", like=TEXT_LIKE),
    )
    passage_id, text = columns_of(there, wanted, where)
    if fields.title:
        (title,) = columns_of(there, [Wanted("the title", (fields.title,), "--title-field", like=TITLES)], where)
    else:
        title = next((name for name in there if name.lower() in TITLES and name != text), TITLES[0])
    return PassageColumns(passage_id, text, title)


def query_columns(names: Iterable[str], fields: Fields, where: str) -> QueryColumns:
    """Return the columns of id and text of a file of queries. Raises `DataError`.

    The names in `fields` belong to the corpus; queries with other names are read by their usual names.
    """
    ids = (fields.id, *QUERY_IDS) if fields.id else QUERY_IDS
    texts = (fields.text, *QUERY_TEXTS) if fields.text else QUERY_TEXTS
    wanted = (
        Wanted("the query id", ids, "--id-field", like=ID_LIKE),
        Wanted("the text", texts, "--text-field", like=TEXT_LIKE),
    )
    return QueryColumns(*columns_of(list(names), wanted, where))


def grade_columns(names: Iterable[str], where: str) -> GradeColumns:
    """Return the columns of query id, passage id and grade of qrels. Raises `DataError`.

    A third column of any name has the grades. Of several unknown columns, each could have them, so they are refused.
    """
    there = list(names)
    wanted = (Wanted("the query id", JUDGED_QUERIES), Wanted("the passage id", JUDGED_PASSAGES))
    query, passage = columns_of(there, wanted, where)
    known = next((name for grade in GRADES for name in there if name.lower() == grade), None)
    others = [name for name in there if name not in (query, passage)]
    if known is None and len(others) > 1:
        columns_of(others, [Wanted("the grade", GRADES)], where)
    return GradeColumns(query, passage, known or next(iter(others), None))


def columns_of(there: list[str], wanted: Iterable[Wanted], where: str) -> list[str]:
    """Return the first known name of each wanted value that is a column, in any case of letters.

    Raises `DataError` with the columns that were found and the flag that names the right one.
    """
    known = {name.lower(): name for name in reversed(there)}
    found = []
    for what, names, flag, like in wanted:
        name = next((known[name.lower()] for name in names if name.lower() in known), None)
        if name is None:
            columns = ", ".join(map(repr, there[:8])) or "no columns"
            usual = " or ".join(map(repr, names[:3]))
            near = next((name for name in there if any(part in name.lower() for part in like)), "NAME")
            cure = f": {flag} {near}" if flag else "; rename the column"
            raise DataError(f"{where}: found {columns}, wanted {usual} for {what}{cure}")
        found.append(name)
    return found
