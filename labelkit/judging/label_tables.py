"""A journal -> the tables of a labels folder: judgements, the ballots behind them, and judges.

The same journal gives the same bytes, whenever and however often: times stand in the journal alone.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from labelkit.engines import Reply
from labelkit.judging.journal import Asked, Journal
from labelkit.judging.methods import judging_of
from labelkit.judging.settling import judgements_of
from labelkit.judging.tasks import tasks_of
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge, Judgement
from labelkit.storage import folders
from labelkit.storage.dataset import RowWriter, records_to_table
from labelkit.storage.manifest import LABELS, LabelsFacts


class Tally:
    """Counts judgements as they are written: all of them, or those of the triples (judge, query, passage) given.

    `judged` have a state, `unscored` of them a grade and no score.
    """

    def __init__(self, mine: set[tuple[str, str, str]] | None = None) -> None:
        self._mine = mine
        self._reasons: Counter[str] = Counter()
        self.judged = self.unscored = 0

    def add(self, row: Judgement) -> None:
        """One more judgement."""
        if self._mine is None or (row.judge_id, row.query_id, row.passage_id) in self._mine:
            self.judged += 1
            self.unscored += row.grade is not None and row.score is None
            if row.failure is not None:
                # The kind of a reason stands before its first colon or quote.
                self._reasons[row.failure.split(":", 1)[0].split(" in '", 1)[0].split(' in "', 1)[0]] += 1

    @property
    def failures(self) -> dict[str, int]:
        """Pairs without a grade by the kind of the reason, most frequent first."""
        return dict(sorted(self._reasons.items(), key=lambda item: (-item[1], item[0])))


def finalise(
    journal: Journal,
    folder: Path,
    command: str,
    *,
    inputs: dict[str, str],
    facts: LabelsFacts,
    mine: set[tuple[str, str, str]] | None = None,
) -> Tally:
    """Write the tables of a journal into its folder, sorted by judge and pair, manifest last.

    One query is in memory at a time. Returns the counts of the pairs (judge, query, passage) that are `mine`.
    """
    tally = Tally(mine)
    judges: list[Judge] = []
    every = Tally()
    pairs = 0
    with ExitStack() as stack:
        judgements, ballots = (
            stack.enter_context(RowWriter(folder / f"{name}.parquet", JUDGEMENT_SCHEMA))
            for name in ("judgements", "ballots")
        )
        for judge, content in journal.judges():
            judging = judging_of(judge, content)
            account = Account(journal, judge.judge_id)
            tasks = tasks_of(account.asked(), listwise=judging.listwise)
            for row, votes in judgements_of(judging, tasks, account, cost=journal.cost):
                judgements.add(row)
                ballots.add(*votes)
                every.add(row)
                tally.add(row)
            pairs += account.pairs
            served = ", ".join(sorted(account.models))
            judges.append(judge.model_copy(update={"model_answered": served} if served else {}))
    if every.judged < pairs and journal.mend():
        return finalise(journal, folder, command, inputs=inputs, facts=facts, mine=mine)
    folders.write_parquet(folder / "judges.parquet", records_to_table(judges, JUDGE_SCHEMA))
    folders.write_manifest(
        folder,
        LABELS,
        command,
        inputs=inputs,
        rows={"judgements": judgements.count, "ballots": ballots.count, "judges": len(judges)},
        facts=facts.model_copy(
            update={
                "failures": every.failures,
                "pending": pairs - every.judged,
                "without_score": every.unscored,
            }
        ),
        files=["judgements.parquet", "ballots.parquet", "judges.parquet"],
    )
    return tally


class Account:
    """What a judge was asked and answered by a journal; pairs and models are counted as they pass."""

    def __init__(self, journal: Journal, judge_id: str) -> None:
        self._journal = journal
        self._judge_id = judge_id
        self.pairs = 0
        self.models: set[str] = set()
        """That the replies name."""

    def asked(self) -> Iterator[Asked]:
        """Every pair, those of several orders or votes behind each other."""
        last: tuple[str, ...] = ("", "", "")
        for pair in self._journal.asked(self._judge_id):
            place = pair.judge_id, pair.query_id, pair.passage_id
            self.pairs += place != last
            last = place
            yield pair

    def get(self, key: str) -> Reply | None:
        """The reply to a request; None where it is not there."""
        reply = self._journal.reply(key)
        if reply and reply.model:
            self.models.add(reply.model)
        return reply
