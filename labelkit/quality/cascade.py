"""A cascade: a cheap judge judges all pairs, and a strong judge judges the pairs of which the cheap judge is unsure.

Each run has its own labels folder, so each can be resumed. The joined folder has one judgement per pair. Some of the
strong judge's pairs are drawn at random from all pairs: on these the two judges are compared, to estimate the loss on
the pairs that only the cheap judge judged.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from labelkit.errors import UsageError
from labelkit.judging.annotate import Outcome, annotate
from labelkit.judging.methods import method_named
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
    pool = pool_of(source, folder, command, verify=options.verify)
    with claimed(folder, LABELS) as place:
        first, second = place.beside(".cheap"), place.beside(".strong")
        spent = judged(pool, first, options, command=command, progress=progress)
        (judge,) = raters_of([first], [])
        believed = beliefs(sorted(judge.judgements), [judge])
        chosen = choose(believed, {}, Quota(round(strong.share * len(believed)), RANDOM_SHARE, options.seed))
        if not chosen:
            raise UsageError(f"--cascade-share {strong.share} of {len(believed)} pairs is less than one pair; raise it")
        more = judged(chosen_pool(pool, chosen), second, strong.judge(options), command=command, progress=progress)
        join(first, second, folder, command=command)
    return account(judge, raters_of([second], [])[0], chosen, spent=spent, more=more)


def judged(pool: Pool, folder: Path, options: AnnotateOptions, *, command: str, progress: ShowProgress) -> Outcome:
    """Run one of the two judges to its end. Raises `BudgetError` if pairs are left unjudged."""
    outcome = annotate(pool, folder, options, command=command, progress=progress)
    for line in outcome.lines(folder):
        log.info(line)
    outcome.check()
    return outcome


def join(first: Path, second: Path, folder: Path, *, command: str) -> None:
    """Write one judgement per pair: the strong judge's if it gave a grade, else the cheap judge's."""
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
    """Compute the saving and the loss of a cascade."""
    drawn = [one.pair for one in chosen if one.reason == RANDOM]
    both = [
        (strong.judgements[pair], cheap.judgements[pair])
        for pair in drawn
        if pair in strong.judgements and None not in (strong.judgements[pair].grade, cheap.judgements[pair].grade)
    ]
    pairs = rated_pairs(both)
    # The random pairs represent all pairs; those of which the cheap judge is unsure have no loss, and are excluded.
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
    """Return P(relevant) of a pair by one judge."""
    pair = (row.query_id, row.passage_id)
    return beliefs([pair], [rater])[pair]
