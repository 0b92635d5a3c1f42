"""The README of a dataset folder: metadata that makes it load with `datasets`, and what is in it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from labelkit.dataset import CONFIGS
from labelkit.schema import Judge

TEMPLATE = """\
---
configs:
{configs}
task_categories:
- text-retrieval
tags:
- labelkit
---

# {name}

A multi-positive retrieval dataset made with labelkit. `train` holds one query a row with parallel lists for its
positives, negatives and ignored passages (ids, grades 0 to 3, sources, judges, weights, probabilities); the texts
stand once, in `corpus`.

| table | rows |
|---|---|
{rows}

## Judges

| judge | kind | model | prompt |
|---|---|---|---|
{judges}

## What the mixing decided

```json
{facts}
```

Made by:

    {command}
"""


def dataset_card(
    name: str, rows: Mapping[str, int], facts: Mapping[str, Any], judges: Sequence[Judge], command: str
) -> str:
    """The card as Markdown with the Hub's metadata block."""
    return TEMPLATE.format(
        name=name,
        configs="\n".join(f"- config_name: {config}\n  data_files: {config}.parquet" for config in CONFIGS),
        rows="\n".join(f"| {table} | {count:,} |" for table, count in rows.items()),
        judges="\n".join(
            f"| `{judge.judge_id}` | {judge.kind} | {judge.name} | {judge.prompt_name or '-'} |" for judge in judges
        ),
        facts=json.dumps(facts, indent=2),
        command=command,
    )
