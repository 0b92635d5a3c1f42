"""A local web page on which people grade pairs without seeing the judges' grades: `labelkit review`.

An annotator is a judge like any other: the pairs to grade are written to the journal first, each grade is a reply in
it, and the judgements are made from the journal. A grade can be changed until the judges' grades of the pair are shown.
Then it is locked, so that agreement is measured only on blind grades.
"""

import asyncio
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.corpora.beir import read_data
from labelkit.engines import Reply
from labelkit.errors import DataError, MissingPackageError, UnknownNameError, UsageError
from labelkit.judging.annotate import output_of
from labelkit.judging.journal import Arrival, Asked, Journal
from labelkit.judging.label_tables import finalise
from labelkit.judging.prompts import Prompt, load_prompt
from labelkit.pooling.pool import pool_behind, read_pool
from labelkit.records import Judge, Judgement, PairIds
from labelkit.review.options import ReviewOptions
from labelkit.storage import folders
from labelkit.storage.atomic import write_text
from labelkit.storage.labels import read_labels
from labelkit.storage.manifest import POOL, LabelsFacts, ReviewFacts

PROMPT = "graded"
"""The shipped prompt whose criteria the page shows, and whose labels are the grades to choose from."""
SHOWN = "shown.json"
"""File with the keys of the pairs whose judges were shown."""


class Item(NamedTuple):
    """A pair to grade, as the page shows it."""

    query_id: str
    passage_id: str
    query: str
    title: str
    text: str
    key: str


class Said(NamedTuple):
    """A judge's grade and score of a pair, shown after the annotator has graded it."""

    judge: str
    grade: int | None
    score: float | None


def by_chance(pairs: Mapping[PairIds, Sequence[Judgement]], seed: int) -> list[PairIds]:
    """Sort all pairs randomly, by the seed. Every prefix is a random sample, so agreement on it is unbiased."""
    return sorted(pairs, key=lambda pair: (hashlib.sha256(f"{seed} {json.dumps(pair)}".encode()).digest(), pair))


def by_disagreement(pairs: Mapping[PairIds, Sequence[Judgement]], seed: int) -> list[PairIds]:
    """Sort pairs by the difference between the judges' grades, largest first, then by the judges' lowest confidence.

    The order is for correcting labels. Agreement on such pairs is biased.
    """
    order = {pair: number for number, pair in enumerate(by_chance(pairs, seed))}

    def doubt(pair: PairIds) -> tuple[int, float, int]:
        grades = [row.grade for row in pairs[pair] if row.grade is not None]
        sure = [max(row.probs) for row in pairs[pair] if row.probs]
        return -(max(grades, default=0) - min(grades, default=0)), min(sure, default=1.0), order[pair]

    return sorted(pairs, key=doubt)


ORDERS: dict[str, Callable[[Mapping[PairIds, Sequence[Judgement]], int], list[PairIds]]] = {
    "random": by_chance,
    "disagreement": by_disagreement,
}
"""Value of `--by` -> function of (judgements of each pair, seed) that sorts the pairs."""


class Review:
    """The pairs of a session with their grades. The journal must be open as long as the session is used."""

    def __init__(
        self, items: Sequence[Item], said: Mapping[PairIds, Sequence[Said]], journal: Journal, folder: Path
    ) -> None:
        self.items = items
        self._said = said
        self._journal = journal
        self._file = folder / SHOWN
        self._shown: set[str] = set(json.loads(self._file.read_text())) if self._file.is_file() else set()
        self.grades: dict[str, str] = {}
        answered = journal.answered()
        for item in items:
            if item.key in answered and (reply := journal.reply(item.key)) and reply.text is not None:
                self.grades[item.key] = reply.text

    def state(self, index: int) -> dict[str, Any]:
        """Return the data of a pair for the page, without the judges' grades."""
        item = self.items[index]
        return {
            "index": index,
            "total": len(self.items),
            "graded": len(self.grades),
            "next": self.next(index),
            "query": item.query,
            "title": item.title,
            "text": item.text,
            "grade": self.grades.get(item.key),
            "locked": item.key in self._shown,
        }

    def next(self, after: int = -1) -> int | None:
        """Return the first pair without a grade after `after`, else before it; None if all pairs are graded."""
        order = [*range(after + 1, len(self.items)), *range(after + 1)]
        return next((index for index in order if self.items[index].key not in self.grades), None)

    def grade(self, index: int, grade: str) -> None:
        """Store a grade so that it survives a crash. Raises `UsageError` for a locked pair."""
        key = self.items[index].key
        if key in self._shown:
            raise UsageError("the grade can no longer be changed, because the judges' grades were shown")
        self._journal.append([Arrival(Reply(key=key, text=grade, finish_reason="stop"))])
        self.grades[key] = grade

    def show(self, index: int) -> list[dict[str, Any]]:
        """Return the judges' grades of a pair and lock its grade. Raises `UsageError` for a pair without a grade."""
        item = self.items[index]
        if item.key not in self.grades:
            raise UsageError("grade the pair first, then show the judges")
        self._shown.add(item.key)
        write_text(self._file, json.dumps(sorted(self._shown)) + "\n")
        return [said._asdict() for said in self._said[item.query_id, item.passage_id]]


def review(
    labels: Path,
    output: Path | str,
    options: ReviewOptions,
    *,
    ready: Callable[[str], None],
    command: str = "labelkit.review",
) -> int:
    """Serve a local page on which an annotator grades pairs without seeing the judges' grades, until it is finished.

    Args:
        labels: labels folder whose judges are checked by the human grades.
        output: labels folder to write, with the grades as judgements of a human judge; the same call resumes it.
        options: the annotator, the pairs and the port.
        ready: called with the address of the page.
        command: the command that the manifest records as the origin of the folder.

    Returns:
        The number of graded pairs.

    Raises:
        UsageError: the order is unknown, or the pool of the labels is missing.
        DataError: no judged pair has a text.
    """
    folder, name, order, seed = Path(output), options.name, options.by, options.seed
    if order not in ORDERS:
        raise UnknownNameError("order", order, ORDERS)
    with output_of(folder):
        judgements, judges, manifest = read_labels(labels)
        names = {judge.judge_id: judge.name for judge in judges if judge.kind != "human"}
        queries, passages, wanted = read_texts(options.texts or pool_behind(labels, manifest.inputs, "--texts"))
        pairs: dict[PairIds, list[Judgement]] = {}
        for row in judgements:
            pair = (row.query_id, row.passage_id)
            if row.judge_id in names and row.failure is None and (wanted is None or pair in wanted):
                pairs.setdefault(pair, []).append(row)
        if not pairs:
            raise DataError(f"{labels} has no judged pair with a text; give the pool that was judged with --texts")
        prompt = load_prompt(PROMPT)
        judge = human_judge(name, prompt)
        chosen = ORDERS[order](pairs, seed)[: options.pairs]
        items = [item_of(pair, queries, passages, judge=judge) for pair in chosen]
        said = {pair: [Said(names[row.judge_id], row.grade, row.score) for row in rows] for pair, rows in pairs.items()}
        with Journal(folder) as journal:
            asked = [
                Asked(
                    judge.judge_id,
                    item.query_id,
                    item.passage_id,
                    variant=0,
                    window=0,
                    position=0,
                    seed=None,
                    key=item.key,
                )
                for item in items
            ]
            journal.register(judge, prompt.content, sorted(asked))
            session = Review(items, said, journal, folder=folder)
            try:
                serve(session, prompt, options.port, ready=ready)
            finally:
                facts = LabelsFacts(review=ReviewFacts(by=order, seed=seed, pairs=len(items), of=len(pairs)))
                inputs = {str(labels): folders.file_sha256(labels / folders.MANIFEST)}
                finalise(journal, folder, command, inputs=inputs, facts=facts)
    return len(session.grades)


def human_judge(name: str, prompt: Prompt) -> Judge:
    """Make the judge record of an annotator who grades by the criteria of a prompt."""
    digest = hashlib.sha256(f"human {name} {prompt.sha256}".encode()).hexdigest()
    return Judge(
        judge_id=f"human-{name}-{digest[:16]}",
        kind="human",
        name=name,
        engine="review",
        method=prompt.method,
        prompt_name=prompt.name,
        prompt_version=prompt.version,
        prompt_sha256=prompt.sha256,
        label_grades=tuple(label.grade for label in prompt.labels),
    )


def item_of(pair: PairIds, queries: Mapping[str, Any], passages: Mapping[str, Any], judge: Judge) -> Item:
    """Make the item of a pair with its texts. Raises `DataError` if a text is missing."""
    query_id, passage_id = pair
    if query_id not in queries or passage_id not in passages:
        raise DataError(
            f"the pair {query_id!r}, {passage_id!r} has no text; give the pool that was judged with --texts"
        )
    passage = passages[passage_id]
    key = hashlib.sha256(json.dumps([judge.judge_id, *pair]).encode()).hexdigest()
    return Item(query_id, passage_id, queries[query_id].text, title=passage.title, text=passage.text, key=key)


def read_texts(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any], set[PairIds] | None]:
    """Read queries and passages by id from a pool or a BEIR folder; third, the pairs of a pool, or None."""
    if (path / folders.MANIFEST).is_file() and folders.manifest_kind(path) == POOL:
        pool = read_pool(path)
        return pool.queries, pool.passages, {(one.query_id, one.passage_id) for one in pool.candidates}
    data = read_data(path)
    return data.queries, data.corpus, None


def serve(session: Review, prompt: Prompt, port: int, *, ready: Callable[[str], None]) -> None:
    """Serve a session on 127.0.0.1, at a secret address that is passed to `ready`."""
    try:
        from aiohttp import web
    except ImportError:
        raise MissingPackageError("aiohttp", "review") from None

    from labelkit.review.server import application

    async def run() -> None:
        token, done = secrets.token_urlsafe(24), asyncio.Event()
        runner = web.AppRunner(application(session, prompt, token, done=done), access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            bound = runner.addresses[0][1]
            ready(f"http://127.0.0.1:{bound}/{token}/")
            await done.wait()
        finally:
            await runner.cleanup()

    asyncio.run(run())
