"""Read the parts of evaluation sets that training data must not contain: queries, and passages that answer them."""

from pathlib import Path
from typing import NamedTuple

from labelkit.corpora.corpus import corpus_rows
from labelkit.corpora.fields import USUAL, Fields
from labelkit.corpora.layout import layout_of
from labelkit.corpora.qrels import read_qrels
from labelkit.corpora.queries import read_queries
from labelkit.errors import DataError
from labelkit.records import Passage
from labelkit.storage import folders


class Evaluation(NamedTuple):
    """One split of a collection."""

    name: str
    queries: dict[str, str]
    """Id -> text of each query in the split's qrels."""
    passages: dict[str, str]
    """Id -> full text of each passage with a grade above 0."""
    files: dict[str, str]
    """Path of each file that was read -> sha256."""


def read_evaluation(folder: Path, split: str, *, scale: str | None = None, fields: Fields = USUAL) -> Evaluation:
    """Read a split, with only the relevant passages of the corpus in memory. Raises `DataError`.

    `scale` is the text of the scale of its grades if they are not 0 to 3, the value of `--eval-scale`.
    """
    layout = layout_of(folder)
    try:
        graded = read_qrels(*layout.files_of(split), scale=scale)
    except DataError as error:
        # The commands have a scale of their own for evaluation sets.
        raise DataError(str(error).replace("--scale", "--eval-scale")) from None
    asked = read_queries(*layout.queries, fields=fields)
    queries = {query_id: query.text for query_id, query in asked.items() if query_id in graded}
    relevant = {pid for grades in graded.values() for pid, grade in grades.items() if grade > 0}
    passages = {
        pid: Passage(passage_id=pid, title=title, text=text).full_text
        for _, pid, title, text in corpus_rows(*layout.corpus, fields=fields)
        if pid in relevant
    }
    files = {str(path): folders.file_sha256(path) for path in files_of(folder, split)}
    return Evaluation(folder.name, queries, passages, files=files)


def files_of(folder: Path, split: str) -> tuple[Path, ...]:
    """Return the files of corpus, queries and qrels of a split."""
    layout = layout_of(folder)
    return layout.corpus + layout.queries + layout.files_of(split)
