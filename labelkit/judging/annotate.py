"""Pending pairs -> engine -> journal -> judgements.

Each reply goes to the journal before anything else happens with it. The judgements are then read from the journal
alone: the same journal gives the same bytes, and a run that was killed goes on where it stopped and pays for nothing
twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.engines import EngineFacts, Reply, Settings, open_engine, traits_of
from labelkit.errors import UsageError
from labelkit.judging.budget import Budget, Caps, check_price
from labelkit.judging.journal import FILE as JOURNAL_FILE
from labelkit.judging.journal import Journal
from labelkit.judging.label_tables import finalise
from labelkit.judging.methods import Method, method_named
from labelkit.judging.model_change import ModelChange
from labelkit.judging.prices import price_of
from labelkit.judging.progress import ShowProgress, silent
from labelkit.judging.prompts import Prompt, prompt_for
from labelkit.judging.reading import Reading, complete, read_texts
from labelkit.judging.reply_cache import Cache
from labelkit.judging.request_keys import canonical_json, digest, identity_of
from labelkit.judging.scheduler import RunReplies, Scheduler
from labelkit.judging.tasks import VOTE_TEMPERATURE, Task, Tasks, asked_of
from labelkit.pooling.pool import Pool
from labelkit.records import Judge
from labelkit.storage import folders
from labelkit.storage.labels import KIND
from labelkit.storage.manifest import LabelsFacts
from labelkit.storage.outputs import claimed


class Outcome(NamedTuple):
    """What a run did, for the screen and the demo."""

    pairs: int
    asked: int
    """Requests sent in this run."""
    known: int
    """Pairs that had all their replies already."""
    cached: int
    """Replies out of the cache."""
    pending: int
    """Pairs that are not judged, because the budget allowed no more."""
    failures: dict[str, int]
    """Reason -> pairs without a grade."""
    unscored: int
    """Pairs with a grade and no score: the server gave no log-probabilities that tell the labels apart."""
    seconds: float
    cut_passages: int
    tokens: int
    """Spent on this folder in all its runs, prompts and answers."""
    usd: float | None
    """US dollars spent on it; None where this judge has no known price."""
    facts: dict[str, Any]
    """What the manifest says of cuts, orders and windows."""


def annotate(
    pool: Pool,
    folder: Path,
    *,
    engine_name: str,
    settings: Settings,
    method_name: str,
    prompt_name: str | None,
    limit: int | None,
    command: str,
    reading: Reading = Reading(),  # noqa: B008 (a frozen record)
    tokenizer: str | None = None,
    retry_failed: bool = False,
    cache: Path | None = None,
    allow_drift: bool = False,
    caps: Caps = Caps(),  # noqa: B008 (a frozen record)
    prices: Path | None = None,
    progress: ShowProgress = silent,
) -> Outcome:
    """Judge the pairs of a pool (the first `limit`, in pool order) into a labels folder, or go on with what is there.

    With `retry_failed`, what failed to give a grade is asked again from its first step. Replies in the folder `cache`
    are taken from there, unless they are to be asked again, and new ones are added to it. A served model that changes
    its name or fingerprint ends the run with `EngineError`, unless `allow_drift`. `caps` hold for the folder, over all
    its runs; `prices` is the file that says what tokens cost. `progress` is called as pairs are judged.
    """
    method = method_named(method_name)
    prompt = prompt_for(method_name, prompt_name)
    traits = traits_of(engine_name)
    price = price_of(settings.model, prices, batch=traits.batch)
    check_price(price, caps, settings.model)
    with output_of(folder):
        engine = open_engine(engine_name, settings._replace(folder=folder))
        engine.check_labels(prompt.label_texts)
        tokens = traits.tokens(settings, tokenizer)
        reading = complete(reading, method, tokens)
        judge = make_judge(engine.facts, settings, method, prompt, reading, tokenizer)
        tasks = Tasks(read_texts(pool, limit, reading, tokens), prompt, method, reading, digest(identity_of(judge)))
        work = tasks.make(pool, limit, tokens, traits.context(settings) if method.listwise else None)
        with Journal(folder) as journal:
            folders.begin(folder, KIND, command)
            asked = asked_of(judge.judge_id, work.tasks, listwise=method.listwise)
            journal.register(judge, prompt.content, asked, whole=method.listwise)
            replies = RunReplies(journal, journal.answered())
            # An engine that names its model beforehand runs those weights and no others.
            watched = not allow_drift and engine.facts.model_answered is None
            drift = ModelChange(earlier(journal, work.tasks, replies) if watched else (), watched=watched)
            if retry_failed:
                replies.forget_failed(work.tasks, method, prompt)
            budget = Budget(journal, caps, price=price, tokens=tokens, traits=traits)
            run = Scheduler(tasks, method, prompt, replies, journal, budget, progress)
            run.start(work.tasks)
            try:
                run.ask(engine, drift, None if retry_failed or cache is None else Cache(cache))
            finally:
                run.progress.close()
                engine.close()
                if cache is not None and run.asked:
                    kept = Cache(cache)
                    kept.add(filter(None, map(journal.reply, run.bought)))
                    kept.add(filter(None, map(journal.reply, kept.missing(replies.good))))
            pairs = {(judge.judge_id, task.query_id, pid) for task in work.tasks for pid in task.passage_ids}
            mine = finalise(journal, folder, command, inputs=pool.inputs, facts=work.facts, mine=pairs)
        return Outcome(
            pairs=len(pairs),
            asked=run.asked,
            known=run.known,
            cached=run.cached,
            pending=len(pairs) - mine.judged,
            failures=mine.failures,
            unscored=mine.unscored,
            seconds=run.progress.seconds,
            cut_passages=work.facts.cut_passages,
            tokens=budget.tokens,
            usd=budget.usd if price else None,
            facts=work.facts.as_json(),
        )


def reparse(pool: Pool, folder: Path, command: str) -> dict[str, int]:
    """Read the stored replies of a folder with the present parser and write its judgements anew; nothing is sent.

    Returns the failures by reason. Raises `UsageError` where no run was journalled.
    """
    if not (folder / JOURNAL_FILE).is_file():
        raise UsageError(f"{folder} holds no annotation run; --reparse reads the replies of an earlier one")
    with output_of(folder), Journal(folder) as journal:
        whole = (folder / folders.MANIFEST).is_file()
        facts = folders.read_manifest(folder, KIND, verify=False).facts if whole else LabelsFacts()
        folders.begin(folder, KIND, command)
        return finalise(journal, folder, command, inputs=pool.inputs, facts=facts).failures


@contextmanager
def output_of(folder: Path) -> Iterator[None]:
    """Hold the folder of an annotation run: a new one, or one that it made before, never one of imported grades."""
    with claimed(folder) as place:
        if (place.content() or place.path.is_file()) and not (folder / JOURNAL_FILE).is_file():
            raise UsageError(f"{folder} exists and holds no annotation run; choose another output folder")
        yield


def make_judge(
    facts: EngineFacts, settings: Settings, method: Method, prompt: Prompt, reading: Reading, tokenizer: str | None
) -> Judge:
    """The judge of a run. Its id is the method, the model's short name and a hash over all that may change a
    judgement.
    """
    drawn = reading.votes > 1
    decoding: dict[str, Any] = {"temperature": VOTE_TEMPERATURE if drawn else 0}
    served = served_by(settings.base_urls)
    defended = {"defences": reading.defences} if reading.defences else {}
    several = {"permutations": reading.permutations} if method.listwise else {"votes": reading.votes} if drawn else {}
    fields: dict[str, Any] = {
        "kind": "llm",
        # A server may know two models by paths that end alike.
        "name": settings.called if facts.dtype else settings.model,
        **facts._asdict(),
        "method": prompt.method,
        "prompt_name": prompt.name,
        "prompt_version": prompt.version,
        "prompt_sha256": prompt.sha256,
        "label_grades": method.grades or tuple(label.grade for label in prompt.labels),
        "decoding": canonical_json(decoding | defended | several | served),
        "seed": reading.seed if method.listwise or drawn else None,
    }
    judge = Judge(judge_id="", **fields)
    parts = [identity_of(judge), judge.decoding, judge.seed]
    read = {name: value for name, value in reading._asdict().items() if value != Reading._field_defaults[name]}
    provenance = {
        "judge_id": f"{prompt.method}-{Path(settings.called).name}-{digest(parts)[:16]}",
        "reading": canonical_json({"reading": read, "tokenizer": tokenizer or settings.called}),
    }
    return judge.model_copy(update=provenance)


def served_by(base_urls: Sequence[str]) -> dict[str, Any]:
    """The address in the identity of a judge; those of a fleet in any order are the same fleet."""
    return {"base_url": base_urls[0] if len(base_urls) == 1 else sorted(base_urls)} if base_urls else {}


def earlier(journal: Journal, tasks: Iterable[Task], replies: RunReplies) -> Iterator[Reply]:
    """The replies that a change of the model would show in: one is enough where the whole journal names one model."""
    alike = journal.models() == 1
    for task in tasks:
        if task.key in replies and (reply := replies.get(task.key)):
            yield reply
            if alike:
                return
