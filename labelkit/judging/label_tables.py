"""Write the tables of a labels folder from its journal: judgements, their ballots, judges, and annotators' notes.

The same journal always gives the same bytes, because times are stored in the journal only.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from labelkit.engines import Reply
from labelkit.errors import ArtifactError
from labelkit.judging.failure_log import by_kind, kind_of
from labelkit.judging.human_answers import write_notes
from labelkit.judging.journal import Answer, Journal
from labelkit.judging.methods import Judging, judging_of
from labelkit.judging.request_keys import sent_of
from labelkit.judging.settling import judgements_of
from labelkit.judging.tasks import tasks_of
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge, Judgement, JudgementRow
from labelkit.storage import folders
from labelkit.storage.dataset import RowWriter, records_to_table
from labelkit.storage.labels import rerankers
from labelkit.storage.manifest import LABELS, LabelsFacts
from labelkit.version import __version__


class RunPairs:
    """The pairs of a run, looked up in the order of a labels table, with the passages of one query in memory."""

    def __init__(self, judge_id: str, passages: Iterable[tuple[str, Iterable[str]]]) -> None:
        """`passages`: query ids with their passage ids, sorted by query id."""
        self._judge_id = judge_id
        self._queries = groupby(passages, key=itemgetter(0))
        self._query_id: str | None = ""
        self._passages: set[str] = set()

    def among(self, rows: Sequence["Row"]) -> list["Row"]:
        """Return the judgements of one judge on one query that are about pairs of the run.

        Queries of the run's judge must come sorted by query id.
        """
        if not rows or rows[0].judge_id != self._judge_id:
            return []
        query_id = rows[0].query_id
        while self._query_id is not None and self._query_id < query_id:
            self._query_id, group = next(self._queries, (None, []))
            self._passages = {passage_id for _, ids in group for passage_id in ids}
        return [row for row in rows if row.passage_id in self._passages] if self._query_id == query_id else []


class Counted(NamedTuple):
    """The columns of a judgement that are counted."""

    judge_id: str
    query_id: str
    passage_id: str
    grade: int | None
    score: float | None
    failure: str | None


Row = Judgement | JudgementRow | Counted


class Tally:
    """Counts judgements as they are written.

    `judged` counts all judgements, `unscored` the grades without a score, `score_only` the scores without a grade.
    """

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self.judged = self.unscored = self.score_only = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Count more judgements."""
        failures = [row.failure for row in rows if row.failure is not None]
        self.judged += len(rows)
        self.unscored += len([row for row in rows if row.score is None and row.grade is not None])
        # A failure has no grade.
        self.score_only += len([row for row in rows if row.grade is None]) - len(failures)
        self._reasons.update(map(kind_of, failures))

    @property
    def failures(self) -> dict[str, int]:
        """Number of pairs without a grade by kind of reason, most frequent first."""
        return by_kind(self._reasons.items())


def finalise(
    journal: Journal,
    folder: Path,
    command: str,
    *,
    inputs: dict[str, str],
    facts: LabelsFacts,
    mine: Callable[[], RunPairs] | None = None,
) -> Tally:
    """Write the tables of a journal to its folder, sorted by judge and pair, and then the manifest.

    One query is in memory at a time. Returns the counts for the pairs of a run that `mine` returns, or for all.
    """
    run, tally, every = mine and mine(), Tally(), Tally()
    judges: list[Judge] = []
    pairs = 0
    with ExitStack() as stack:
        judgements, ballots = (
            stack.enter_context(RowWriter(folder / f"{name}.parquet", JUDGEMENT_SCHEMA))
            for name in ("judgements", "ballots")
        )
        for judge, account, queries in settled(journal):
            for found in queries:
                rows = [row for row, _ in found]
                judgements.add(*rows)
                ballots.add(*(vote for _, votes in found for vote in votes))
                every.add(rows)
                if run is not None:
                    tally.add(run.among(rows))
            pairs += account.pairs
            served = ", ".join(sorted(account.models))
            judges.append(judge.model_copy(update={"model_answered": served} if served else {}))
    if every.judged < pairs and journal.mend():
        return finalise(journal, folder, command, inputs=inputs, facts=facts, mine=mine)
    sent = {judge.judge_id: options for judge in judges if (options := sent_of(judge))}
    folders.write_parquet(folder / "judges.parquet", records_to_table(judges, JUDGE_SCHEMA))
    notes = write_notes(journal, folder)
    folders.write_manifest(
        folder,
        LABELS,
        command,
        inputs=inputs,
        rows={"judgements": judgements.count, "ballots": ballots.count, "judges": len(judges), **notes},
        facts=facts.model_copy(
            update={
                "failures": every.failures,
                "pending": pairs - every.judged,
                "without_score": every.unscored,
                **({"without_grade": every.score_only, "rerankers": rerankers(judges)} if every.score_only else {}),
                **({"sent": sent} if sent else {}),
                "journal": journal.state(),
            }
        ),
        files=["judgements.parquet", "ballots.parquet", "judges.parquet", *(f"{name}.parquet" for name in notes)],
    )
    return every if mine is None else tally


class Written(NamedTuple):
    """What the manifest of a labels folder says about the run that wrote it."""

    command: str
    inputs: dict[str, str]
    facts: LabelsFacts


OF_TABLES = ("failures", "pending", "without_score", "without_grade", "rerankers", "sent", "journal")
"""Facts that follow from the tables and the journal alone."""


def still_valid(journal: Journal, folder: Path, written: Written, *, mine: Callable[[], RunPairs]) -> Tally | None:
    """Return the counts for the pairs of a run if the tables of its folder are up to date, else None.

    They are if this release wrote them from the journal as it is, and their files are undamaged. The manifest is
    written again if the run differs from the one that wrote it.
    """
    try:
        manifest = folders.read_manifest(folder, LABELS)
    except ArtifactError:
        return None
    facts = manifest.facts
    if manifest.labelkit_version != __version__ or facts.journal != journal.state():
        return None
    kept = {name: getattr(facts, name) for name in OF_TABLES if name in facts.model_fields_set}
    now = written._replace(facts=written.facts.model_copy(update=kept))
    if Written(manifest.command, dict(manifest.inputs), facts) != now:
        rows, files = manifest.rows, list(manifest.files)
        folders.write_manifest(folder, LABELS, now.command, inputs=now.inputs, rows=rows, facts=now.facts, files=files)
    run, tally = mine(), Tally()
    for batch in folders.read_batches(folder, "judgements"):
        counted = map(Counted, *(batch.column(name).to_pylist() for name in Counted._fields))
        for _, group in groupby(counted, key=itemgetter(0, 1)):  # of one judge and one query
            tally.add(run.among(list(group)))
    return tally


Settled = list[tuple[JudgementRow, list[JudgementRow]]]
"""Judgements of one query, each with its ballots if there are several."""


def settled(journal: Journal) -> Iterator[tuple[Judge, "Account", Iterator[Settled]]]:
    """Yield every judge of a journal with its account and its judgements, query by query.

    The judgements of a judge must be read before the next judge is taken.
    """
    for judge, content in journal.judges():
        judging = judging_of(judge, content)
        account = Account(journal, judge.judge_id)
        yield judge, account, account.settled(judging)


class Account:
    """Reads the pairs and replies of a judge from a journal, query by query, and counts pairs and models on the way."""

    def __init__(self, journal: Journal, judge_id: str) -> None:
        self._journal = journal
        self._judge_id = judge_id
        self._first: dict[str, Answer] = {}
        """Answers to the first requests about the current query, by key."""
        self.pairs = 0
        self.models: set[str] = set()
        """Names of models in the replies."""

    def settled(self, judging: Judging) -> Iterator[Settled]:
        """Yield the judgements of every query."""
        for pairs in self._journal.asked_by_query(self._judge_id):
            self.pairs += len({pair.passage_id for pair in pairs})
            self._first = self._journal.answers({pair.key for pair in pairs})
            tasks = tasks_of(pairs, listwise=judging.listwise)
            yield list(judgements_of(judging, tasks, self, cost=self.cost))

    def get(self, key: str) -> Reply | None:
        """Return the reply to a request; None if there is none."""
        reply = self._first[key].reply if key in self._first else self._journal.reply(key)
        if reply and reply.model:
            self.models.add(reply.model)
        return reply

    def cost(self, key: str) -> float | None:
        """Return the US dollars spent on a request; None if that is unknown."""
        return self._first[key].usd if key in self._first else self._journal.cost(key)
