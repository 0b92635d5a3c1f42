"""Bring collections to this machine: from addresses, from the Hugging Face Hub, from ir_datasets, and by the names of
benchmarks.
"""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from labelkit.corpora.benchmarks import address_of
from labelkit.errors import DataError, MissingPackageError, RemoteError, first_line
from labelkit.storage.cache_folder import cache_folder
from labelkit.storage.names import inside
from labelkit.storage.remote import exists, local

IRDS = "irds:"
"""Beginning of the id of a data set of ir_datasets, such as `irds:msmarco-passage/train`."""
BEIR_ON_THE_HUB = re.compile(r"(hf://datasets/BeIR/[\w.-]+?)/?")
"""Addresses of the collections of BEIR, whose qrels lie in a repository of their own, `BeIR/NAME-qrels`."""


def local_collection(place: str) -> Path:
    """Return the local folder of a collection; an address, an id of ir_datasets or the name of a benchmark's collection
    is copied into the cache first.

    Raises `DataError` if the collection does not exist, and `RemoteError` if it cannot be fetched.
    """
    if address := address_of(place):
        return from_benchmark(place, address)
    if place.startswith(IRDS):
        return from_ir_datasets(place.removeprefix(IRDS))
    folder = local(place)
    if (found := BEIR_ON_THE_HUB.fullmatch(place)) and exists(f"{found[1]}-qrels"):
        qrels = local(f"{found[1]}-qrels")
        if not (folder / "qrels").exists():
            (folder / "qrels").symlink_to(qrels, target_is_directory=True)
    return folder


def from_benchmark(name: str, address: str) -> Path:
    """Fetch the collection of a benchmark. Raises `RemoteError`, with the cure for a machine without a network."""
    try:
        return local(address)
    except RemoteError as error:
        repository = address.removeprefix("hf://datasets/")
        raise RemoteError(
            f"{name}: {error}; without a network, copy it elsewhere by hf download --repo-type dataset {repository} "
            f"--local-dir {repository.rpartition('/')[2]}, and give that folder instead of {name}"
        ) from None


def from_ir_datasets(name: str) -> Path:
    """Write a data set of ir_datasets to the cache, once, in the BEIR layout; its qrels are named by the last part of
    its id.

    Raises `MissingPackageError` without ir_datasets, `DataError` for an unknown id or one without documents and
    queries, and `RemoteError` if the data set cannot be downloaded.
    """
    try:
        import ir_datasets
    except ImportError:
        raise MissingPackageError("ir_datasets", "irds") from None
    try:
        known = ir_datasets.load(name)
    except KeyError:
        raise DataError(f"{IRDS}{name}: ir_datasets has no data set of this id; see https://ir-datasets.com") from None
    if not (known.has_docs() and known.has_queries()):
        raise DataError(
            f"{IRDS}{name} has no documents or no queries; give the id of one of its parts, such as {name}/train"
        )
    target = inside(cache_folder() / "irds", name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.making"):
        if not target.is_dir():
            draft = target.with_name(f"{target.name}.unfinished")
            shutil.rmtree(draft, ignore_errors=True)
            (draft / "qrels").mkdir(parents=True)
            try:
                write_collection(known, draft, split=name.rpartition("/")[2])
            except (OSError, RuntimeError, ValueError) as error:
                raise RemoteError(f"{IRDS}{name}: {type(error).__name__}: {first_line(error)}") from None
            draft.rename(target)
    return target


def write_collection(known: Any, folder: Path, *, split: str) -> None:
    """Write documents, queries and qrels of a data set of ir_datasets as a stream."""
    write_rows(folder / "corpus.jsonl", (document(each) for each in known.docs_iter()))
    write_rows(
        folder / "queries.jsonl", ({"_id": each.query_id, "text": each.default_text()} for each in known.queries_iter())
    )
    if known.has_qrels():
        with (folder / "qrels" / f"{split}.tsv").open("w", encoding="utf-8") as file:
            file.write("query-id\tcorpus-id\tscore\n")
            for row in known.qrels_iter():
                file.write(f"{row.query_id}\t{row.doc_id}\t{row.relevance}\n")


def document(each: Any) -> dict[str, str]:
    """Return a document as a row of a corpus. Its title is kept apart where the data set has one."""
    title = getattr(each, "title", "") or ""
    if title and getattr(each, "text", None):
        return {"_id": each.doc_id, "title": title, "text": each.text}
    return {"_id": each.doc_id, "title": "", "text": each.default_text()}


def write_rows(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write rows as JSONL."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
