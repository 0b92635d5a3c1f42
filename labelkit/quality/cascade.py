"""A cascade: a cheap judge judges all pairs, and a strong judge judges the pairs of which the cheap judge is unsure.

Each run has its own labels folder, so each can be resumed. The joined folder has one judgement per pair. Some of the
strong judge's pairs are drawn at random from all pairs: on these the two judges are compared, to estimate the loss on
the pairs that only the cheap judge judged.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from labelkit.errors import UsageError
from labelkit.judging.annotate import Outcome, annotate
from labelkit.judging.methods import method_named
from labelkit.judging.options import AnnotateOptions
from labelkit.judging.progress import ShowProgress, silent
from labelkit.pooling.pool import Pool, pool_folder, read_pool
from labelkit.quality.agreement_metrics import RELEVANT, figure_interval, rated_columns
from labelkit.quality.calibration.features import Scored
from labelkit.quality.options import CascadeOptions
from labelkit.quality.rater_reading import numbers_in, raters_of
from labelkit.quality.selection import RANDOM, Chosen, Quota, beliefs, choose
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Origin, PairIds
from labelkit.statistics.intervals import Estimate, share
from labelkit.storage import folders, tables
from labelkit.storage.dataset import records_to_table
from labelkit.storage.labels import judgements_sql, judges_in
from labelkit.storage.manifest import LABELS, LabelsFacts
from labelkit.storage.outputs import claimed

log = logging.getLogger(__name__)

PAIR_SCHEMA = pa.schema([("query_id", pa.string()), ("passage_id", pa.string())])
RANDOM_SHARE = 0.25
"""Share of the strong judge's pairs that is drawn at random, to compare the two judges."""


class Cascade(NamedTuple):
    """The saving of a cascade, and its loss, estimated on the random pairs that both judges judged."""

    pairs: int
    strong_pairs: int
    saved: float
    """Share of the pairs that the strong judge did not judge."""
    usd: float | None
    """Cost of both judges in US dollars; None if a price is unknown."""
    saved_usd: float | None
    """Cost of the strong judge on every pair, at its mean price per pair, minus the cost of the cascade."""
    compared: int
    kappa: Estimate
    """Cohen's kappa between the cheap and the strong judge."""
    lost: Estimate
    """Share of the pairs judged only by the cheap judge whose relevance the strong judge would decide differently."""


def cascade(
    source: Pool | Path | str,
    output: Path | str,
    options: AnnotateOptions,
    *,
    strong: CascadeOptions,
    command: str = "labelkit.cascade",
    progress: ShowProgress = silent,
) -> Cascade:
    """Judge a pool by a cheap judge, and the pairs of which it is unsure by a strong judge.

    Args:
        source: a pool, a pool folder, or a BEIR folder, as for `annotate`.
        output: labels folder to write, with one judgement per pair. The two runs are stored beside it, with the
            suffixes `.cheap` and `.strong`; the same call resumes both.
        options: options of the cheap judge.
        strong: options of the strong judge, and the share of the pairs that it judges.
        command: the command that the manifests record as the origin of the folders.
        progress: called as pairs are judged.

    Returns:
        The saving, and the loss, estimated on the random pairs that both judges judged.

    Raises:
        BudgetError: the spending limits left pairs unjudged.
        UsageError: the share is less than one pair.
        LabelkitError: any error of `annotate`.
    """
    if not 0 < strong.share < 1:
        raise UsageError("--cascade-share must be between 0 and 1")
    for judge_options in (options, strong.judge(options)):
        if method_named(judge_options.method).score_only:
            raise UsageError(f"a cascade needs judges that give grades: method {judge_options.method} gives scores")
    folder = Path(output)
    pool = source if isinstance(source, Pool) else pool_folder(source, folder, command)
    with claimed(folder, LABELS) as place:
        first, second = place.beside(".cheap"), place.beside(".strong")
        spent = judged(pool, first, options, command=command, progress=progress)
        chosen = choose_unsure(first, strong.share, options.seed)
        part = chosen_pool(pool if isinstance(pool, Pool) else pool_with(pool, chosen), chosen)
        more = judged(part, second, strong.judge(options), command=command, progress=progress)
        join(first, second, folder, command=command)
    return account(first, second, chosen, spent=spent, more=more)


def choose_unsure(labels: Path, share: float, seed: int) -> dict[PairIds, Chosen]:
    """Choose a share of the pairs of one judge: the pairs of which it is unsure, and a random sample."""
    with tables.temporary() as db:
        (judge,) = raters_of(db, [labels])
        believed = beliefs(Scored(db, judge.pairs, judge.pair, data=None), [judge])
        quota = Quota(round(share * len(believed)), RANDOM_SHARE, seed)
        chosen = choose(believed, np.zeros(len(believed)), quota)
        if not chosen:
            raise UsageError(f"--cascade-share {share} of {len(believed)} pairs is less than one pair; raise it")
        ids = judge.pairs.ids(judge.pair[[one.place for one in chosen]])
    return dict(zip(ids, chosen, strict=True))


def pool_with(folder: Path, chosen: Mapping[PairIds, Chosen]) -> Pool:
    """Read only the chosen pairs of a pool folder, since a whole pool may not fit into memory."""
    pairs: dict[str, set[str]] = {}
    for query_id, passage_id in chosen:
        pairs.setdefault(query_id, set()).add(passage_id)
    return read_pool(folder, verify=False, pairs=pairs)


def chosen_pool(pool: Pool, chosen: Mapping[PairIds, Chosen]) -> Pool:
    """Make a pool of the chosen pairs, in the order of `pool`; the reason is added to the sources of each pair."""
    added = {pair: Origin(one.reason, rank, one.score) for rank, (pair, one) in enumerate(chosen.items(), 1)}
    candidates = [
        candidate.model_copy(update={"sources": (*candidate.sources, added[pair])})
        for candidate in pool.candidates
        if (pair := (candidate.query_id, candidate.passage_id)) in added
    ]
    asked = {candidate.query_id for candidate in candidates}
    queries = {query_id: query for query_id, query in pool.queries.items() if query_id in asked}
    return Pool(queries, pool.passages, candidates, inputs=pool.inputs)


def judged(
    pool: Pool | Path, folder: Path, options: AnnotateOptions, *, command: str, progress: ShowProgress
) -> Outcome:
    """Run one of the two judges to its end. Raises `BudgetError` if pairs are left unjudged."""
    outcome = annotate(pool, folder, options, command=command, progress=progress)
    for line in outcome.lines(folder):
        log.info(line)
    outcome.check()
    return outcome


def join(first: Path, second: Path, folder: Path, *, command: str) -> None:
    """Write one judgement per pair: the strong judge's if it gave a grade, else the cheap judge's."""
    judges = {judge.judge_id: judge for part in (first, second) for judge in judges_in(part)}
    with folders.writing(folder, LABELS, command) as draft, tables.temporary() as db:
        cheap, strong = (judgements_sql(db, part) for part in (first, second))
        both = f"SELECT 0 AS strong, * FROM {cheap} UNION ALL BY NAME SELECT 1 AS strong, * FROM {strong}"
        preferred = "(strong = 1 AND grade IS NOT NULL) DESC, strong"
        best = f"row_number() OVER (PARTITION BY query_id, passage_id ORDER BY {preferred})"
        columns = ", ".join(JUDGEMENT_SCHEMA.names)
        statement = f"SELECT {columns} FROM ({both}) QUALIFY {best} = 1"
        ordered = f"{statement} ORDER BY judge_id, query_id, passage_id"
        tables.save(db, draft, "judgements", statement=ordered, schema=JUDGEMENT_SCHEMA)
        draft.write_table("judges", records_to_table([judges[name] for name in sorted(judges)], JUDGE_SCHEMA))
        draft.inputs = {str(part): folders.file_sha256(part / folders.MANIFEST) for part in (first, second)}
        draft.facts = LabelsFacts(failures={}, pending=0)


def account(first: Path, second: Path, chosen: Mapping[PairIds, Chosen], *, spent: Outcome, more: Outcome) -> Cascade:
    """Compute the saving and the loss of a cascade from the labels of the cheap and of the strong judge."""
    with tables.temporary() as db:
        cheap, strong = raters_of(db, [first, second])
        tables.stage(db, "drawn", PAIR_SCHEMA, rows=(pair for pair, one in chosen.items() if one.reason == RANDOM))
        drawn = np.unique(numbers_in(db, cheap.pairs, "drawn")[0])
    both = drawn[(strong.grades_of(drawn) >= 0) & (cheap.grades_of(drawn) >= 0)]
    one, other = strong.only(both), cheap.only(both)
    pairs = rated_columns(one.query, one.grade, other.grade, score=other.rank_score)
    # The random pairs represent all pairs; those of which the cheap judge is unsure have no loss, and are excluded.
    margin = max((abs(one.score - 0.5) for one in chosen.values() if one.reason != RANDOM), default=0.0)
    left = np.abs(other.belief - 0.5) > margin
    usd = None if spent.usd is None or more.usd is None else spent.usd + more.usd
    alone = None if more.usd is None else more.usd / max(1, more.pairs) * spent.pairs
    return Cascade(
        pairs=spent.pairs,
        strong_pairs=more.pairs,
        saved=1 - more.pairs / spent.pairs,
        usd=usd,
        saved_usd=None if usd is None or alone is None else alone - usd,
        compared=len(both),
        kappa=figure_interval("kappa", pairs),
        lost=share(one.query[left], ((one.grade >= RELEVANT) != (other.grade >= RELEVANT))[left]),
    )
