"""A cheap judge for all pairs, a strong one for those that it is unsure of.

Both runs keep labels folders of their own, so that each resumes by itself; the joined folder has one judgement a pair.
A share of what the strong judge is asked is drawn at random from all pairs: there the two can be compared, and that
says what the cheap judge's word on the rest costs.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from labelkit.errors import UsageError
from labelkit.judging.annotate import Outcome, annotate
from labelkit.judging.options import AnnotateOptions
from labelkit.judging.progress import ShowProgress, silent
from labelkit.pooling.pool import Pool, pool_of
from labelkit.quality.agreement import Rater, rated_pairs, raters_of
from labelkit.quality.agreement_metrics import RELEVANT, figure_interval
from labelkit.quality.options import CascadeOptions
from labelkit.quality.selection import RANDOM, Chosen, Quota, beliefs, choose, chosen_pool
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge, Judgement, PairIds
from labelkit.statistics.intervals import Estimate, share
from labelkit.storage import folders
from labelkit.storage.dataset import records_to_table
from labelkit.storage.labels import read_labels
from labelkit.storage.manifest import LABELS, LabelsFacts
from labelkit.storage.outputs import claimed

log = logging.getLogger(__name__)

RANDOM_SHARE = 0.25
"""Of the pairs that the strong judge sees: those drawn at random, to compare the two on."""


class Cascade(NamedTuple):
    """What a cascade saved, and what it may have lost. Estimates rest on the random pairs that both judged."""

    pairs: int
    strong_pairs: int
    saved: float
    """Share of the pairs that the strong judge did not see."""
    usd: float | None
    """Spent on both; None where a price is unknown."""
    saved_usd: float | None
    """Less than the strong judge on every pair would have cost, at its mean price a pair."""
    compared: int
    kappa: Estimate
    """Of the cheap judge with the strong one."""
    lost: Estimate
    """Share of the pairs left to the cheap judge on whose relevance the strong one would have said otherwise."""


def cascade(
    source: Pool | Path | str,
    output: Path | str,
    options: AnnotateOptions,
    *,
    strong: CascadeOptions,
    command: str = "labelkit.cascade",
    progress: ShowProgress = silent,
) -> Cascade:
    """Judge a pool by a cheap judge, and the pairs that it is unsure of by a strong one.

    Args:
        source: a pool, its folder, or a BEIR folder, as for `annotate`.
        output: the joined labels folder, one judgement per pair; the two runs stand beside it, as `.cheap` and
            `.strong`, and the same call resumes both.
        options: the cheap judge.
        strong: the strong judge and the share of the pairs that it judges.
        command: the words that the manifests name as the origin of the folders.
        progress: called as pairs are judged.

    Returns:
        The saving, and estimates of the loss on the random pairs that both judged.

    Raises:
        BudgetError: the caps left pairs unjudged.
        UsageError: the share is no pair.
        LabelkitError: what `annotate` raises.
    """
    if not 0 < strong.share < 1:
        raise UsageError("--cascade-share must lie between 0 and 1")
    folder = Path(output)
    pool = pool_of(source, folder, command, verify=options.verify)
    with claimed(folder, LABELS) as place:
        first, second = place.beside(".cheap"), place.beside(".strong")
        spent = judged(pool, first, options, command=command, progress=progress)
        (judge,) = raters_of([first], [])
        believed = beliefs(sorted(judge.judgements), [judge])
        chosen = choose(believed, {}, Quota(round(strong.share * len(believed)), RANDOM_SHARE, options.seed))
        if not chosen:
            raise UsageError(f"--cascade-share {strong.share} of {len(believed)} pairs is no pair; raise it")
        more = judged(chosen_pool(pool, chosen), second, strong.judge(options), command=command, progress=progress)
        join(first, second, folder, command=command)
    return account(judge, raters_of([second], [])[0], chosen, spent=spent, more=more)


def judged(pool: Pool, folder: Path, options: AnnotateOptions, *, command: str, progress: ShowProgress) -> Outcome:
    """One of the two runs, whole."""
    outcome = annotate(pool, folder, options, command=command, progress=progress)
    for line in outcome.lines(folder):
        log.info(line)
    outcome.check()
    return outcome


def join(first: Path, second: Path, folder: Path, *, command: str) -> None:
    """One judgement a pair: the strong judge's where it gave a grade, else the cheap one's."""
    judgements: dict[PairIds, Judgement] = {}
    judges: dict[str, Judge] = {}
    for part in (first, second):
        rows, found, _ = read_labels(part)
        judges |= {judge.judge_id: judge for judge in found}
        judgements |= {
            pair: row
            for row in rows
            if (pair := (row.query_id, row.passage_id)) not in judgements or row.grade is not None
        }
    order = sorted(judgements.values(), key=lambda row: (row.judge_id, row.query_id, row.passage_id))
    with folders.writing(folder, LABELS, command) as draft:
        draft.write_table("judgements", records_to_table(order, JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table([judges[name] for name in sorted(judges)], JUDGE_SCHEMA))
        draft.inputs = {str(part): folders.file_sha256(part / folders.MANIFEST) for part in (first, second)}
        draft.facts = LabelsFacts(failures={}, pending=0)


def account(cheap: Rater, strong: Rater, chosen: Sequence[Chosen], *, spent: Outcome, more: Outcome) -> Cascade:
    """The saving and the loss."""
    drawn = [one.pair for one in chosen if one.reason == RANDOM]
    both = [
        (strong.judgements[pair], cheap.judgements[pair])
        for pair in drawn
        if pair in strong.judgements and None not in (strong.judgements[pair].grade, cheap.judgements[pair].grade)
    ]
    pairs = rated_pairs(both)
    # The random pairs stand for all; of these, those that would have gone to the strong judge anyway lose nothing.
    unsure = {one.pair for one in chosen if one.reason != RANDOM}
    margin = max((abs(one.score - 0.5) for one in chosen if one.pair in unsure), default=0.0)
    left = [(one, other) for one, other in both if abs(beliefs_of(cheap, other) - 0.5) > margin]
    usd = None if spent.usd is None or more.usd is None else spent.usd + more.usd
    alone = None if more.usd is None else more.usd / max(1, more.pairs) * spent.pairs
    return Cascade(
        pairs=spent.pairs,
        strong_pairs=more.pairs,
        saved=1 - more.pairs / spent.pairs,
        usd=usd,
        saved_usd=None if usd is None or alone is None else alone - usd,
        compared=len(both),
        kappa=figure_interval("kappa", pairs) if both else Estimate(None),
        lost=share(
            [one.query_id for one, _ in left],
            [((one.grade or 0) >= RELEVANT) != ((other.grade or 0) >= RELEVANT) for one, other in left],
        ),
    )


def beliefs_of(rater: Rater, row: Judgement) -> float:
    """P(relevant) of one pair by one judge."""
    pair = (row.query_id, row.passage_id)
    return beliefs([pair], [rater])[pair]
