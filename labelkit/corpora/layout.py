"""Find the files of a collection in a folder: passages, queries, and qrels by split.

A README.md with `configs`, as data sets on the Hugging Face Hub have, names the files. Without one, the names of files
and folders tell: `corpus.jsonl.gz`, `collection.tsv`, `queries.dev.small.tsv`, `qrels/test.tsv`,
`corpus/corpus-00000-of-00002.parquet`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.corpora.fields import grade_columns
from labelkit.corpora.files import READERS, column_names, form_of
from labelkit.corpora.rows import COMPRESSED
from labelkit.errors import DataError
from labelkit.storage import folders
from labelkit.storage.manifest import CORPUS, DATA, EXPORT, QUERIES, SPLIT
from labelkit.storage.names import inside, missing

ROLES = {
    "qrels": re.compile("qrels", re.IGNORECASE),
    "queries": re.compile("queries|topics|questions", re.IGNORECASE),
    "corpus": re.compile("corpus|collection|documents|docs|passages|psgs", re.IGNORECASE),
}
"""Kind of file -> pattern of a word in its name. The first kind that matches counts."""
CONFIGS = {
    "corpus": ("corpus", "documents", "docs", "passages", "collection"),
    "queries": ("queries", "query", "topics"),
    "qrels": ("qrels", "default"),
}
"""Kind of file -> names of its configuration in a README.md, the first that exists counts."""
FORMS = {*READERS, ".txt", ".trec", ".sgml", ".xml"}
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
WANTED = {
    "corpus": "corpus.jsonl, collection.tsv or corpus.parquet (or .csv, .json, .gz, .zst)",
    "queries": "queries.jsonl or queries.tsv (or .csv, .json, .parquet, .gz, .zst)",
}


class Layout(NamedTuple):
    """The files of a collection."""

    folder: Path
    corpus: tuple[Path, ...]
    queries: tuple[Path, ...]
    qrels: dict[str, tuple[Path, ...]]
    """Split -> files."""

    def files_of(self, split: str) -> tuple[Path, ...]:
        """Return the qrels files of a split. Raises `DataError`, with the splits that exist, if there are none, and
        `ArtifactError` for a name that leads out of the folder.
        """
        if split not in self.qrels:
            inside(self.folder / "qrels", f"{split}.tsv")
            splits = ", ".join(sorted(self.qrels)) or "none"
            raise DataError(f"{self.folder} has no qrels of the split {split!r}; splits of {self.folder}: {splits}")
        if len(set(map(form_of, self.qrels[split]))) > 1:
            names = ", ".join(path.name for path in self.qrels[split])
            raise DataError(f"{self.folder} contains several files for the split {split!r} ({names}); keep one of them")
        return self.qrels[split]


def layout_of(folder: Path, needed: Sequence[str] = ("corpus", "queries")) -> Layout:
    """Find the files of a collection. Raises `DataError` if files of a kind that is `needed` are missing."""
    if not folder.is_dir():
        raise DataError(not_a_folder(folder))
    found = configured(folder) or named(folder)
    for kind in needed:
        if not found[kind]:
            there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
            names = ", ".join(there[:8]) + (" and more" if there[8:] else "") or "nothing"
            raise DataError(
                f"{folder / kind}.jsonl does not exist: {folder} contains {names}, wanted {WANTED[kind]}. Files whose "
                "rows are queries with their passages are read by labelkit import, documents by labelkit corpus, with "
                "--queries for the queries"
            )
    corpus, queries = (tuple(chain.from_iterable(found[kind].values())) for kind in ("corpus", "queries"))
    return Layout(folder, corpus, queries, qrels={split: tuple(files) for split, files in found["qrels"].items()})


def is_collection(folder: Path) -> bool:
    """Return whether a folder contains a collection, and not a pool, labels or another artifact."""
    if (folder / folders.MANIFEST).is_file() and folders.manifest_kind(folder) not in (
        DATA,
        EXPORT,
        CORPUS,
        QUERIES,
        SPLIT,
    ):
        return False
    try:
        layout_of(folder)
    except DataError:
        return False
    return True


def not_a_folder(folder: Path) -> str:
    """Explain that the place of a collection is no folder."""
    if folder.is_file():
        return f"{folder} is a file and is not a folder; give the folder with corpus.jsonl and queries.jsonl"
    hub = str(folder)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", hub):
        return f"{folder} is not a folder; for the data set on the Hugging Face Hub give hf://datasets/{hub}"
    return f"{missing(folder)}; give a folder with corpus.jsonl and queries.jsonl"


Files = dict[str, dict[str, list[Path]]]
"""Kind of file -> split, or group of files -> files in order."""


def named(folder: Path) -> Files:
    """Find files by their names. Raises `DataError` for two corpora, since either could be meant."""
    found = by_name(folder)
    for kind in ("corpus", "queries"):
        own = next((name for name in (f"{folder / kind}", f"{folder / kind}/") if name in found[kind]), None)
        found[kind] = {own: found[kind][own]} if own else found[kind]
    firsts = [path for paths in found["corpus"].values() for path in {form_of(path): path for path in paths}.values()]
    if len(firsts) > 1:
        several = ", ".join(path.name for path in firsts)
        raise DataError(f"{folder} contains several corpora ({several}); keep one of them, named corpus, in the folder")
    return found


def by_name(folder: Path) -> Files:
    """Group the files of a folder by the kind and the split or group that their names tell."""
    found: Files = {kind: {} for kind in ROLES}
    for path in data_files(folder):
        words = path.relative_to(folder).parts
        kind = next((kind for kind, word in ROLES.items() if any(map(word.search, words))), None)
        if kind == "qrels":
            found[kind].setdefault(split_of(path, folder), []).append(path)
        elif kind:
            whole = path.parent != folder and ROLES[kind].search(path.parent.name)
            group = f"{path.parent}/" if whole else str(path.parent / stem_of(path))
            found[kind].setdefault(group, []).append(path)
    return found


def data_files(folder: Path) -> Iterator[Path]:
    """Yield the files whose form is known in a folder and its folders, sorted; not the compressed copy of a file."""
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))]
    for path in (path for place in places for path in sorted(place.iterdir())):
        copy = path.suffix in COMPRESSED and path.with_suffix("").is_file()
        if path.is_file() and form_of(path) in FORMS and not copy and not path.name.startswith((".", "_")):
            yield path


def stem_of(path: Path) -> str:
    """Return the name of a file without its endings and without the number of its shard."""
    plain = path.with_suffix("") if path.suffix in COMPRESSED else path
    return SHARD.sub("", plain.stem)


def split_of(path: Path, folder: Path) -> str:
    """Return the split of a qrels file: `test` for `qrels/test.tsv`, `dev.small` for `qrels.dev.small.tsv`."""
    stem = stem_of(path)
    if path.parent != folder and not ROLES["qrels"].search(stem):
        return stem
    return re.sub(r"[._-]*qrels[._-]*", "", stem) or stem


def configured(folder: Path) -> Files | None:
    """Find files by the configurations of a README.md; None if it has none for corpus and queries."""
    configs = configurations(folder / "README.md")
    found: Files = {}
    for kind, names in CONFIGS.items():
        name = next((name for name in names if name in configs), None)
        found[kind] = dict(files_in(folder, configs[name])) if name else {}
    if not found["corpus"] or not found["queries"]:
        return None
    found["qrels"] = {split: files for split, files in found["qrels"].items() if has_grades(files)}
    if not found["qrels"]:
        found["qrels"] = by_name(folder)["qrels"]
    return found


def configurations(readme: Path) -> dict[str, Any]:
    """Return the data files of each configuration in the metadata of a README.md; empty if there are none."""
    import yaml

    try:
        text = readme.read_text(encoding="utf-8")
        metadata = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else {}
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return {}
    listed = metadata.get("configs") if isinstance(metadata, dict) else None
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return {str(entry.get("config_name")): entry.get("data_files") for entry in entries}


def files_in(folder: Path, listed: Any) -> Iterator[tuple[str, list[Path]]]:
    """Yield each split of a configuration with its files, which exist in the folder."""
    if isinstance(listed, str):
        listed = {"train": listed}
    if isinstance(listed, list):
        listed = dict(
            (str(entry.get("split")), entry.get("path")) if isinstance(entry, dict) else ("train", entry)
            for entry in listed
        )
    for split, patterns in listed.items() if isinstance(listed, dict) else ():
        several = patterns if isinstance(patterns, list) else [patterns]
        if files := [path for pattern in several for path in matching(folder, str(pattern))]:
            yield split, files


def matching(folder: Path, pattern: str) -> Iterable[Path]:
    """Return the files that a pattern of a README.md names, sorted; none for a pattern that leads out of the folder."""
    if pattern.startswith("/") or ".." in Path(pattern).parts:
        return []
    return sorted(path for path in folder.glob(pattern) if path.is_file() and form_of(path) in FORMS)


def has_grades(files: Iterable[Path]) -> bool:
    """Return whether files have the columns of qrels."""
    try:
        return all(grade_columns(column_names(path), "") for path in files)
    except DataError:
        return False
