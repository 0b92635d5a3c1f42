"""Turns judgements from several sources into a multi-positive dataset, in one pass: check, read, decide, write.

The table `judgements` keeps all judgements. A policy (`labelkit.datasets.policies`) turns the judgements of a pair into
its label. Pairs that are undecided, or on which every judge failed, are ignored: neither positive nor negative. Labels
are decided for one slice of the queries at a time, so that memory use does not grow. Every result is ordered, so that
the same inputs give the same bytes.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection

from labelkit.datasets.audit_checks import CHECKS, DROPS
from labelkit.datasets.card import dataset_card
from labelkit.datasets.deciding import SCRATCH, decide
from labelkit.datasets.inputs import input_hashes, save_inputs, scoring_judge, source_facts
from labelkit.datasets.no_positives import explanations
from labelkit.datasets.options import MixOptions
from labelkit.datasets.policies import policy_named
from labelkit.errors import UnknownNameError, UsageError
from labelkit.storage import dataset, folders, tables
from labelkit.storage.labels import rerankers
from labelkit.storage.manifest import DatasetFacts
from labelkit.storage.outputs import name_of

log = logging.getLogger(__name__)


def mix(output: Path | str, options: MixOptions, *, command: str = "labelkit.mix") -> dict[str, Any]:
    """Mix human and LLM judgements into a multi-positive dataset. Undecided pairs are ignored.

    Args:
        output: dataset folder to write: `train`, `corpus`, `queries`, `judgements`, `judges`, card and manifest.
        options: texts, judgements, and the rules that turn judgements into labels.
        command: the command that the manifest and the card record as the origin of the folder.

    Returns:
        The counts in the manifest: queries, positives, negatives, ignored pairs, conflicts, dropped labels.

    Raises:
        UsageError: there is nothing to mix, or the rules do not fit the judges.
        DataError: a file is malformed, an id is unknown, or training queries repeat evaluation queries.
    """
    check_rules(options)
    source, target = source_facts(options), Path(output)
    with folders.writing(target, dataset.KIND, command) as draft:
        with tables.session(draft.path / SCRATCH) as db:
            judges, silent = save_inputs(db, draft, options)
            scored_by = scoring_judge(judges)
            totals = decide(db, draft, options, scored_by=scored_by)
            warn_of_few_positives(db, options, totals, target=target)
        draft.inputs = input_hashes(options)
        told: dict[str, Any] = {"rerankers": rerankers(judges), "scored_by": scored_by}
        draft.facts = DatasetFacts(
            rules=options.rules,
            weights=options.weight,
            calibrated_judges=tuple(silent),
            **{name: value for name, value in told.items() if value},
            source=source,
            **totals,
        )
        if source.licence is None:
            log.info(f"{options.data}: the licence is unknown; give --license, texts without one must not be published")
        card = dataset_card(name_of(target), draft.rows, draft.facts, judges=judges, command=command)
        (draft.path / "README.md").write_text(card, encoding="utf-8")
    return totals


def warn_of_few_positives(
    db: DuckDBPyConnection, options: MixOptions, totals: Mapping[str, Any], *, target: Path
) -> None:
    """Warn of a dataset in which half of the queries or more have no positive, with the options that change it."""
    empty, queries = totals["queries_without_positives"], totals["queries"]
    if 2 * empty < queries:
        return
    if totals["positives"]:
        log.warning(f"{target}: {empty:,} of {queries:,} queries have no positive, and teach nothing")
    else:
        log.warning(f"{target}: no pair became a positive, so that nothing can be trained on the dataset")
    for line in explanations(db, options, none=not totals["positives"]):
        log.warning(f"  {line}")


def check_rules(options: MixOptions) -> None:
    """Raise `UsageError` for rules that contradict each other or contain unknown names."""
    if not options.sources:
        raise UsageError("nothing to mix: give --human QRELS, --llm LABELS, or both")
    policy_named(options)
    if unknown := set(options.drop) - set(DROPS):
        raise UnknownNameError("finding to drop", min(unknown), DROPS)
    for name in options.drop:
        if CHECKS[name].needs == "evaluations" and not options.eval:
            raise UsageError(f"--drop {name} needs the evaluation set: give --eval DATA")
