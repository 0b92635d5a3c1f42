"""Read the parts of evaluation sets that training data must not contain: queries, and passages that answer them."""

from pathlib import Path
from typing import NamedTuple

from labelkit.corpora.benchmarks import split_or_usual
from labelkit.corpora.corpus import corpus_rows
from labelkit.corpora.fields import USUAL, Fields
from labelkit.corpora.layout import layout_of
from labelkit.corpora.qrels import read_qrels
from labelkit.corpora.queries import read_queries
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


SCALE_OPTION = "--eval-scale"
"""Option with the scale of the grades of evaluation sets."""


def read_evaluation(folder: Path, split: str | None, *, scale: str | None = None, fields: Fields = USUAL) -> Evaluation:
    """Read a split, with only the relevant passages of the corpus in memory. Raises `DataError`.

    `split` is None for the split that is usually measured. `scale` is the text of the scale of its grades if they are
    not 0 to 3, the value of `SCALE_OPTION`.
    """
    layout = layout_of(folder)
    graded = read_qrels(*layout.files_of(split_or_usual(folder, split)), scale=scale, option=SCALE_OPTION)
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


def files_of(folder: Path, split: str | None) -> tuple[Path, ...]:
    """Return the files of corpus, queries and qrels of a split; None for the split that is usually measured."""
    layout = layout_of(folder)
    return layout.corpus + layout.queries + layout.files_of(split_or_usual(folder, split))
