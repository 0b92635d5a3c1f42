"""Write the folder of queries: the corpus, the kept queries, qrels that say that a model graded them, the dropped."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from labelkit.corpora.corpus import corpus_rows
from labelkit.corpora.fields import USUAL, Fields
from labelkit.corpora.files import column_names
from labelkit.corpora.qrels import BY_MODEL, SOURCE
from labelkit.queries.drafts import Draft
from labelkit.storage.folders import Draft as Folder

SPLIT = "train"
"""Split of the qrels of written queries."""
DROPPED = "dropped.jsonl"


def write_corpus(folder: Folder, paths: Sequence[Path], fields: Fields) -> None:
    """Write `corpus.jsonl`: a copy of the file of a BEIR folder, else the passages in this layout."""
    target = folder.path / "corpus.jsonl"
    plain = len(paths) == 1 and paths[0].suffix == ".jsonl" and fields == USUAL
    if plain and {"_id", "text"} <= set(column_names(paths[0])):
        shutil.copyfile(paths[0], target)
        return
    rows = corpus_rows(*paths, fields=fields)
    write_lines(target, ({"_id": pid, "title": title, "text": text} for _, pid, title, text in rows))


def write_queries_and_qrels(folder: Folder, drafts: Iterable[Draft], models: Mapping[str, str]) -> None:
    """Write the kept drafts as `queries.jsonl` and their grades as qrels, and the others as `dropped.jsonl`.

    `models`: id of a register's writer by the register's name. Without grades there are no qrels.
    """
    kept = [draft for draft in drafts if draft.reason is None]
    rows = [{"_id": draft.query_id, "text": draft.text, "metadata": metadata_of(draft, models)} for draft in kept]
    folder.rows["queries.jsonl"] = write_lines(folder.path / "queries.jsonl", rows)
    dropped = [
        {"text": draft.text, "reason": draft.reason, "detail": draft.detail, **metadata_of(draft, models)}
        for draft in drafts
        if draft.reason is not None
    ]
    folder.rows[DROPPED] = write_lines(folder.path / DROPPED, dropped)
    pairs = [
        f"{draft.query_id}\t{passage.passage_id}\t{grade}\t{BY_MODEL}\n"
        for draft in kept
        for passage, grade in zip(draft.slot.passages, draft.grades, strict=False)
    ]
    if pairs:
        name = f"qrels/{SPLIT}.tsv"
        (folder.path / "qrels").mkdir()
        text = f"query-id\tcorpus-id\tscore\t{SOURCE}\n" + "".join(pairs)
        (folder.path / name).write_text(text, encoding="utf-8")
        folder.rows[name] = len(pairs)


def metadata_of(draft: Draft, models: Mapping[str, str]) -> dict[str, Any]:
    """Return the provenance of a query and what was measured of it."""
    register, prompt = draft.slot.register.name, draft.slot.register.prompt
    return {
        "written_by": BY_MODEL,
        "writer": models.get(register),
        "register": register,
        "prompt": prompt.name,
        "prompt_sha256": prompt.sha256,
        "passages": [passage.passage_id for passage in draft.slot.passages],
        "overlap": draft.overlap,
        "ranks": dict(draft.ranks),
        "grades": list(draft.grades),
    }


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSONL; return their number."""
    count = 0
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def counts_of(drafts: Sequence[Draft]) -> tuple[dict[str, int], dict[str, int], dict[str, dict[str, int]]]:
    """Count written and kept drafts by register, and dropped ones by register and reason, most frequent first."""
    written = Counter(draft.slot.register.name for draft in drafts)
    kept = Counter(draft.slot.register.name for draft in drafts if draft.reason is None)
    dropped = {
        name: dict(
            Counter(
                draft.reason for draft in drafts if draft.slot.register.name == name and draft.reason is not None
            ).most_common()
        )
        for name in written
    }
    return dict(written), {name: kept[name] for name in written}, dropped
