"""Writes files of another tool again with changed labels, and beside them the old labels and the judges."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection

from labelkit.exchange.formats.collecting import Grading
from labelkit.records import RELABELLED, RELABELLED_SCHEMA
from labelkit.relabelling.files import Fixer, rewrite
from labelkit.relabelling.options import RelabelOptions
from labelkit.relabelling.rows import EDITORS, Told
from labelkit.relabelling.rules import KEEP
from labelkit.relabelling.training_sets import TrainingSet
from labelkit.storage import folders, tables
from labelkit.storage.foreign_text import markdown_code, markdown_indented, quoted
from labelkit.storage.outputs import name_of

PLACE = "relabelled"
"""Folder in the output with the old labels and the judges, which readers of the data do not open."""


def save_files(
    db: DuckDBPyConnection,
    draft: folders.Draft,
    source: TrainingSet,
    options: RelabelOptions,
    *,
    pool: Path,
    labels: Path,
) -> Mapping[str, int]:
    """Write the files of a training set with the labels that the table `decided` changes.

    Returns the numbers of rows that were changed, added and left out.
    """
    assert source.format is not None
    told = Told(Counter(), set(), Grading(options.positive_grade, options.scale, options.split))
    fixer = Fixer(db, pool, editor=EDITORS[source.format], told=told)
    for file in source.files:
        draft.rows[source.inside(file)] = rewrite(file, draft.path / source.inside(file), fixer)
    for file in source.copied:
        shutil.copyfile(file, draft.path / source.inside(file))
    (draft.path / PLACE).mkdir()
    shutil.copyfile(labels / "judges.parquet", draft.path / PLACE / "judges.parquet")
    old = {"run": "1", "old_role": "role", "old_source": "source"}
    known = {*old, "query_id", "passage_id", "action", "rule", "judge_id", "grade", "probability", "score"}
    columns = ", ".join(
        f"{old.get(name, name if name in known else 'NULL')} AS {name}" for name in RELABELLED_SCHEMA.names
    )
    statement = f"SELECT {columns} FROM decided WHERE action <> '{KEEP}' ORDER BY query_id, passage_id"
    tables.save(db, draft, f"{PLACE}/{RELABELLED}", statement=statement, schema=RELABELLED_SCHEMA)
    draft.rows[f"{PLACE}/{RELABELLED}.parquet"] = draft.rows.pop(f"{PLACE}/{RELABELLED}")
    return {name: count for name, count in sorted(told.counts.items()) if count}


def readme(target: Path, source: TrainingSet, rows: Mapping[str, int], facts: Mapping[str, Any], command: str) -> str:
    """Write the README of relabelled files; its metadata lets `datasets.load_dataset` find them."""
    files = [source.inside(file) for file in source.files]
    return "\n".join(
        [
            *("---", "configs:", "- config_name: train", "  data_files:", *(f"  - {quoted(name)}" for name in files)),
            *(["- config_name: corpus", "  data_files:"] if source.copied else []),
            *(f"  - {quoted(source.inside(file))}" for file in source.copied),
            *("---", "", f"# {markdown_code(name_of(target))}, relabelled", "", "Written by labelkit:", ""),
            *(markdown_indented(command), ""),
            *(f"- {markdown_code(name)}: {count:,} rows" for name, count in rows.items()),
            "",
            f"`{PLACE}/{RELABELLED}.parquet` has every changed label: the judgment and the rule that changed it, and "
            f"the label before. `{PLACE}/judges.parquet` has the judges.",
            "",
            "```json",
            json.dumps(facts, indent=2, ensure_ascii=True),
            "```",
            "",
        ]
    )
