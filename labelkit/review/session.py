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
from typing import Any

from labelkit.engines import Reply
from labelkit.errors import DataError, MissingPackageError, UnknownNameError, UsageError
from labelkit.judging.annotate import output_of
from labelkit.judging.journal import Arrival, Asked, Journal
from labelkit.judging.label_tables import finalise
from labelkit.judging.prompts import Prompt, load_prompt
from labelkit.pooling.pool import pool_behind
from labelkit.records import Judge, PairIds
from labelkit.review.choosing import ORDERS, Item, Said, choose, item_of, open_judged, said_about
from labelkit.review.options import ReviewOptions
from labelkit.storage import folders, tables
from labelkit.storage.atomic import write_text
from labelkit.storage.manifest import LABELS, LabelsFacts, ReviewFacts

PROMPT = "graded"
"""The shipped prompt whose criteria the page shows, and whose labels are the grades to choose from."""
SHOWN = "shown.json"
"""File with the keys of the pairs whose judges were shown."""


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
        manifest = folders.read_manifest(labels, LABELS)
        prompt = load_prompt(PROMPT)
        judge = human_judge(name, prompt)
        with tables.temporary() as db:
            open_judged(db, labels, options.texts or pool_behind(labels, manifest.inputs, "--texts"))
            chosen, count = choose(db, options)
            items = [item_of(db, pair, judge) for pair in chosen]
            said = {pair: said_about(db, pair) for pair in chosen}
        if not items:
            raise DataError(f"{labels} has no judged pair with a text; give the pool that was judged with --texts")
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
                facts = LabelsFacts(review=ReviewFacts(by=order, seed=seed, pairs=len(items), of=count))
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
