"""Read the parts of evaluation sets that training data must not contain: queries, and passages that answer them."""

from pathlib import Path
from typing import NamedTuple

from labelkit.corpora.corpus import corpus_rows
from labelkit.corpora.qrels import qrels_path, read_qrels
from labelkit.corpora.queries import read_queries
from labelkit.records import Passage
from labelkit.storage import folders


class Evaluation(NamedTuple):
    """One split of a BEIR folder."""

    name: str
    queries: dict[str, str]
    """Id -> text of each query in the split's qrels."""
    passages: dict[str, str]
    """Id -> full text of each passage with a grade above 0."""
    files: dict[str, str]
    """Path of each file that was read -> sha256."""


def read_evaluation(folder: Path, split: str, scale: str | None = None) -> Evaluation:
    """Read a split, with only the relevant passages of the corpus in memory. Raises `DataError`.

    `scale` is the text of the scale of its grades if they are not 0 to 3.
    """
    corpus, asked, qrels = files_of(folder, split)
    graded = read_qrels(qrels, scale)
    queries = {
        query_id: query.text for query_id, query in read_queries(folder / "queries.jsonl").items() if query_id in graded
    }
    relevant = {pid for grades in graded.values() for pid, grade in grades.items() if grade > 0}
    passages = {
        pid: Passage(passage_id=pid, title=title, text=text).full_text
        for _, pid, title, text in corpus_rows(corpus)
        if pid in relevant
    }
    files = {str(path): folders.file_sha256(path) for path in (corpus, asked, qrels)}
    return Evaluation(folder.name, queries, passages, files=files)


def files_of(folder: Path, split: str) -> tuple[Path, Path, Path]:
    """Return the paths of corpus, queries and qrels of a split."""
    return folder / "corpus.jsonl", folder / "queries.jsonl", qrels_path(folder, split)
