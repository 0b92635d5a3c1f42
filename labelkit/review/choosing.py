"""Chooses the pairs that an annotator grades, and looks up their texts and what the judges said about them."""

import hashlib
import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.corpora.staged import stage_texts
from labelkit.errors import DataError
from labelkit.judging.journal import Asked
from labelkit.pooling.languages import Terms
from labelkit.records import Judge, PairIds
from labelkit.review.markup import shared_words
from labelkit.review.options import ReviewOptions
from labelkit.storage import folders, tables
from labelkit.storage.labels import judgements_sql, judges_in
from labelkit.storage.manifest import POOL

NAME_SCHEMA = pa.schema([("judge_id", pa.string()), ("name", pa.string())])


class Item(NamedTuple):
    """A pair to grade, as the page shows it."""

    query_id: str
    passage_id: str
    query: str
    title: str
    text: str
    key: str
    shared: list[str]
    """Words of title and text that are words of the query, too, in lower case."""


Group = list[PairIds]
"""Pairs that are shown together: one pair, or pairs of one query."""
PAIRS = """
    SELECT query_id, passage_id, coalesce(max(grade) - min(grade), 0)::INT AS gap,
           coalesce(min(list_max(probs)), 1.0) AS sure
    FROM said GROUP BY query_id, passage_id
"""
"""SQL of the judged pairs, with the fields of `JudgedPair`."""


class Said(NamedTuple):
    """A judge's grade and score of a pair, shown after the annotator has graded it."""

    judge: str
    grade: int | None
    score: float | None


class JudgedPair(NamedTuple):
    """A pair with judgements, and how far they differ."""

    query_id: str
    passage_id: str
    gap: int
    """Difference between the highest and the lowest grade; 0 without two grades."""
    sure: float
    """Lowest confidence of a judge, the probability of its most probable label; 1 if no judge gives probabilities."""


def by_chance(pair: JudgedPair, seed: int) -> tuple[Any, ...]:
    """Return a key that sorts pairs randomly, by the seed. Every prefix is a random sample, so agreement on it is
    unbiased.
    """
    ids = pair[:2]
    return hashlib.sha256(f"{seed} {json.dumps(ids)}".encode()).digest(), ids


def by_disagreement(pair: JudgedPair, seed: int) -> tuple[Any, ...]:
    """Return a key that sorts pairs by the difference between the judges' grades, largest first, then by the judges'
    lowest confidence.

    The order is for correcting labels. Agreement on such pairs is biased.
    """
    return -pair.gap, pair.sure, *by_chance(pair, seed)


ORDERS: dict[str, Callable[[JudgedPair, int], tuple[Any, ...]]] = {
    "random": by_chance,
    "disagreement": by_disagreement,
}
"""Value of `--by` -> function of a pair and the seed that returns the key by which pairs are sorted."""


def open_judged(db: DuckDBPyConnection, labels: Path, texts: Path) -> None:
    """Make the views `said` of the judges' answers in a labels folder, `queries` and `passages`.

    From a pool, only the answers to its pairs are used. Raises the errors of reading a collection.
    """
    names = [(judge.judge_id, judge.name) for judge in judges_in(labels) if judge.kind != "human"]
    tables.stage(db, "judges", NAME_SCHEMA, rows=names)
    answers = f"{judgements_sql(db, labels)} JOIN judges USING (judge_id)"
    if (texts / folders.MANIFEST).is_file() and folders.manifest_kind(texts) == POOL:
        folders.read_manifest(texts, POOL)
        answers += f" SEMI JOIN {tables.parquet(texts / 'candidates.parquet')} USING (query_id, passage_id)"
        for name in ("queries", "passages"):
            db.execute(f"CREATE TEMP VIEW {name} AS FROM {tables.parquet(texts / f'{name}.parquet')}")
    else:
        stage_texts(db, texts)
        db.execute("CREATE TEMP VIEW passages AS FROM corpus")
    db.execute(f"CREATE TEMP VIEW said AS FROM {answers} WHERE failure IS NULL")


def choose(db: DuckDBPyConnection, options: ReviewOptions) -> tuple[list[Group], int]:
    """Choose the first pairs in the order of the options, in groups that are shown together; also returns the number of
    all judged pairs.

    A group is one pair, or all judged pairs of a query in random order. Queries are added until there are enough pairs.
    """
    units = PAIRS if options.unit == "pair" else f"SELECT query_id, '', max(gap), min(sure) FROM ({PAIRS}) GROUP BY ALL"
    found = db.sql(units)

    def pairs() -> Iterator[JudgedPair]:
        for batch in found.to_arrow_reader(tables.ROWS_AT_ONCE):
            yield from map(JudgedPair, *(column.to_pylist() for column in batch.columns))

    key = ORDERS[options.by]
    first = heapq.nsmallest(options.pairs, pairs(), key=lambda pair: key(pair, options.seed))
    count = tables.value(db, f"SELECT count(*) FROM ({PAIRS})")
    if options.unit == "pair":
        return [[(pair.query_id, pair.passage_id)] for pair in first], count
    groups: list[Group] = []
    for query in first:
        if sum(map(len, groups)) >= options.pairs:
            break
        groups.append(pairs_of(db, query.query_id, options.seed))
    return groups, count


def pairs_of(db: DuckDBPyConnection, query_id: str, seed: int) -> Group:
    """Return all judged pairs of a query in random order."""
    found = db.execute("SELECT DISTINCT passage_id FROM said WHERE query_id = ?", [query_id]).fetchall()
    return in_random_order([(query_id, passage_id) for (passage_id,) in found], seed)


def in_random_order(pairs: Iterable[PairIds], seed: int) -> Group:
    """Sort pairs randomly, by the seed."""
    return sorted(pairs, key=lambda ids: by_chance(JudgedPair(ids[0], ids[1], 0, sure=1.0), seed))


def share_of(name: str, groups: Sequence[Group], options: ReviewOptions) -> list[Group]:
    """Return the groups that one annotator of a team grades; without a team, all groups.

    A part of the groups, `options.shared`, is given to every annotator; the rest is divided among them. Both are drawn
    by the seed, so that every annotator gets the same division without knowing the grades of the others.
    """
    if not options.team:
        return list(groups)
    salted = (f"share {options.seed} {json.dumps(group)}" for group in groups)
    drawn = [place for _, place in sorted((hashlib.sha256(text.encode()).digest(), n) for n, text in enumerate(salted))]
    common = round(options.shared * len(groups))
    own = drawn[common:][sorted(options.team).index(name) :: len(options.team)]
    return [groups[place] for place in sorted([*drawn[:common], *own])]


def said_about(db: DuckDBPyConnection, pair: PairIds) -> list[Said]:
    """Return the judges' answers to a pair, in the order of the labels folder."""
    rows = "SELECT name, grade, score FROM said WHERE query_id = ? AND passage_id = ? ORDER BY row"
    return [Said(*found) for found in db.execute(rows, pair).fetchall()]


def key_of(judge: Judge, pair: PairIds) -> str:
    """Return the key of an annotator's answer to a pair."""
    return hashlib.sha256(json.dumps([judge.judge_id, *pair]).encode()).hexdigest()


def asked_about(judge: Judge, pairs: Iterable[PairIds]) -> list[Asked]:
    """Return the records of the pairs that an annotator is asked about, sorted."""
    return [
        Asked(judge.judge_id, *pair, variant=0, window=0, position=0, seed=None, key=key_of(judge, pair))
        for pair in sorted(pairs)
    ]


def item_of(db: DuckDBPyConnection, pair: PairIds, judge: Judge, *, terms: Terms) -> Item:
    """Make the item of a pair with its texts; `terms` are the rules by which words are the same.

    Raises `DataError` if a text is missing.
    """
    query_id, passage_id = pair
    query = db.execute("SELECT text FROM queries WHERE query_id = ?", [query_id]).fetchall()
    passage = db.execute("SELECT title, text FROM passages WHERE passage_id = ?", [passage_id]).fetchall()
    if not query or not passage:
        raise DataError(
            f"the pair {query_id!r}, {passage_id!r} has no text; give the pool that was judged with --texts"
        )
    ((title, text),) = passage
    shared = shared_words(terms, query[0][0], f"{title} {text}")
    return Item(query_id, passage_id, query[0][0], title=title, text=text, key=key_of(judge, pair), shared=shared)
