"""Tune the prompt of a judge to human grades: `labelkit tune`.

Half of the queries choose a prompt: the judge's mistakes on them are shown to a model that proposes wordings, and some
of their pairs become examples. The other half is judged only by the chosen prompt and its parent, and reports the
difference with its confidence interval. All judging uses `annotate`, so an interrupted run can be resumed.
"""

import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.corpora.beir import check_ids
from labelkit.corpora.layout import is_collection, layout_of
from labelkit.corpora.places import local_collection
from labelkit.corpora.qrels import read_qrels
from labelkit.corpora.staged import read_texts
from labelkit.errors import UsageError
from labelkit.judging.annotate import annotate
from labelkit.judging.journal import FILE as JOURNAL
from labelkit.judging.journal import Journal, Spent
from labelkit.judging.methods import method_named
from labelkit.judging.options import AnnotateOptions
from labelkit.judging.progress import ShowProgress, silent
from labelkit.judging.prompts import Prompt, prompt_for
from labelkit.pooling.pool import Pool, read_pool
from labelkit.quality.agreement_metrics import figure_interval
from labelkit.quality.options import TuneOptions
from labelkit.quality.tuning.evidence import (
    Grades,
    Halves,
    Judged,
    examples_of,
    mistakes_of,
    scored,
    split,
    worst_first,
)
from labelkit.quality.tuning.power import counts_of, refuse_too_few
from labelkit.quality.tuning.prompt_files import with_examples, with_history
from labelkit.quality.tuning.proposals import propose
from labelkit.quality.tuning.result import FIGURE, Trial, Tuned, compared, history_of
from labelkit.records import Candidate, Origin
from labelkit.statistics.intervals import Estimate
from labelkit.storage.atomic import write_text
from labelkit.storage.folders import file_sha256
from labelkit.storage.labels import read_labels
from labelkit.storage.names import inside
from labelkit.storage.outputs import claimed
from labelkit.storage.remote import local

log = logging.getLogger(__name__)

FILE = "tune.json"
PROMPT = "tuned.toml"


class Job(NamedTuple):
    """The inputs of a tuning run."""

    folder: Path
    pool: Pool
    """Texts, and the pairs with human grades as candidates."""
    halves: Halves
    options: AnnotateOptions
    tuning: TuneOptions
    command: str
    progress: ShowProgress


def tune(
    source: Pool | Path | str,
    output: Path | str,
    options: AnnotateOptions,
    *,
    tuning: TuneOptions,
    command: str = "labelkit.tune",
    progress: ShowProgress = silent,
) -> Tuned:
    """Tune the prompt of a judge to human grades: choose it on half of the queries, and report it on the other half.

    Args:
        source: the texts: a BEIR folder, a pool folder or a pool. With a pool, only its pairs with human grades count.
        output: folder to write: `tuned.toml`, `tune.json`, the prompts that were tried, and their labels folders; the
            same call resumes an interrupted run.
        options: the judge, its parent prompt, and limits that apply to the whole folder.
        tuning: human grades, the proposer, and the number of proposals.
        command: the command that the folders record as their origin.
        progress: called as pairs are judged.

    Returns:
        The prompts with their scores on both halves, and the path of the tuned prompt; no path if no prompt was better
        than its parent on the half that chooses.

    Raises:
        DataError: too few labels to tell prompts apart; the message names the number needed. Nothing was sent.
        BudgetError: the limits left pairs unjudged.
        UsageError: the method is not pointwise, or `output` holds the tuning of another judge or other labels.
    """
    folder = Path(output)
    method = method_named(options.method)
    if method.listwise or method.score_only:
        raise UsageError("tune is for prompts of the methods graded and binary")
    if options.limit is not None:
        raise UsageError("--limit has no effect with tune: it judges the pairs with human grades")
    parent = prompt_for(options.method, options.prompt)
    with claimed(folder) as place:
        pool, grades = labelled(source, tuning, verify=options.verify)
        halves = split(grades, options.seed)
        refuse_too_few(counts_of(halves.choosing), counts_of(halves.reporting), tuning.detect)
        settings = settings_of(options, tuning, parent)
        refuse_other_tuning(folder / FILE, settings)
        place.path.mkdir(exist_ok=True)
        write_json(folder / FILE, {"settings": settings})
        job = Job(folder, pool, halves, options=options, tuning=tuning, command=command, progress=progress)
        found = run(job, parent)
        write_json(folder / FILE, {"settings": settings, "command": command, **found.to_json()})
    return found


def run(job: Job, parent: Prompt) -> Tuned:
    """Try prompts on the choosing half, and report the best one on the other half."""
    trials = [tried(job, parent, job.halves.choosing)]
    wrong = worst_first(job.halves.choosing, trials[0].judged, job.options.seed)
    rejected: list[str] = []
    if wrong and job.tuning.wordings:
        mistakes = mistakes_of(job.pool, parent, job.halves.choosing, judged=trials[0].judged, pairs=wrong)
        proposer = job.tuning.proposing(job.options)
        place = inside(job.folder, "proposals")
        made = propose(parent, mistakes, place, options=capped(job, proposer, place), count=job.tuning.wordings)
        rejected = made.rejected
        for line in rejected:
            log.info(line)
        trials += [tried(job, prompt, job.halves.choosing) for prompt in made.prompts]
    examples = examples_of(job.pool, parent, job.halves.choosing, first=wrong, count=job.tuning.examples)
    without = {query_id for query_id, _ in examples}
    best = max(trials, key=lambda trial: worth(score(job, trial, without)))
    for base in {one.prompt.sha256: one for one in (trials[0], best)}.values() if examples else ():
        shown = with_examples(base.prompt, list(examples.values()), name=f"{base.prompt.name}-examples")
        trials.append(tried(job, shown, job.halves.choosing)._replace(examples=tuple(examples)))
    scores = {one.prompt.name: score(job, one, without) for one in trials}
    best = max(trials, key=lambda trial: worth(scores[trial.prompt.name]))
    reported = [] if best is trials[0] else [tried(job, one.prompt, job.halves.reporting) for one in (trials[0], best)]
    found = compared(trials, scores, reported, halves=job.halves)._replace(rejected=rejected, **spending(job))
    if not reported:
        (job.folder / PROMPT).unlink(missing_ok=True)
        return found
    history = history_of(found, parent, best, options=job.options, human=file_sha256(job.tuning.human))
    (job.folder / PROMPT).write_bytes(with_history(best.prompt, history))
    return found._replace(prompt=job.folder / PROMPT)


def score(job: Job, trial: Trial, without: Collection[str]) -> Estimate:
    """Return the figure of a prompt on the choosing half, without the queries of examples."""
    return figure_interval(FIGURE, scored(job.halves.choosing, trial.judged, without))


def worth(found: Estimate) -> float:
    """Return a figure for the choice of the best prompt; an undefined one is worth least."""
    return -1.0 if found.value is None else found.value


def tried(job: Job, prompt: Prompt, half: Grades) -> Trial:
    """Judge half of the labelled pairs with a prompt, in a labels folder of its own.

    Raises `BudgetError` if the limits leave pairs unjudged.
    """
    name = "choosing" if half is job.halves.choosing else "reporting"
    path = inside(job.folder, f"prompts/{prompt.name}.toml")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(prompt.content)
    target = inside(job.folder, f"labels/{prompt.sha256[:16]}.{name}")
    target.parent.mkdir(exist_ok=True)
    wanted = [one for one in job.pool.candidates if (one.query_id, one.passage_id) in half]
    asked = job.options.but(prompt=str(path), cache=job.options.cache or job.folder / "cache")
    log.info(f"{prompt.name}, {name} half: {len(wanted)} pairs")
    outcome = annotate(
        job.pool._replace(candidates=wanted),
        target,
        capped(job, asked, target),
        command=job.command,
        progress=job.progress,
    )
    outcome.check()
    judged: Judged = {(row.query_id, row.passage_id): row for row in read_labels(target)[0]}
    return Trial(prompt, judged, sum(outcome.failures.values()))


def labelled(source: Pool | Path | str, tuning: TuneOptions, *, verify: bool) -> tuple[Pool, Grades]:
    """Return the texts with the human-graded pairs as candidates, and the grades of these pairs."""
    qrels = read_qrels(tuning.human, scale=tuning.scale)
    where = str(tuning.human)
    folder = None if isinstance(source, Pool) else local_collection(str(source))
    if folder is None or not is_collection(folder):
        pool = source if isinstance(source, Pool) else read_pool(local(str(source)), verify=verify, pairs=qrels)
        kept = [one for one in pool.candidates if one.passage_id in qrels.get(one.query_id, {})]
        grades = {(one.query_id, one.passage_id): qrels[one.query_id][one.passage_id] for one in kept}
        if not kept:
            raise UsageError(f"{where} grades no pair of the pool")
        return pool._replace(candidates=kept), grades
    data = read_texts(folder, qrels)
    check_ids(qrels, data.queries, data.corpus, where=where)
    grades = {(query_id, pid): grade for query_id, graded in sorted(qrels.items()) for pid, grade in graded.items()}
    candidates = [
        Candidate(query_id=query_id, passage_id=pid, sources=(Origin("human", 1, float(grade)),))
        for (query_id, pid), grade in grades.items()
    ]
    layout = layout_of(folder)
    inputs = {str(path): file_sha256(path) for path in (*layout.corpus, *layout.queries, tuning.human)}
    return Pool(data.queries, data.corpus, candidates, inputs=inputs), grades


def capped(job: Job, options: AnnotateOptions, folder: Path) -> AnnotateOptions:
    """Return options whose limits are what the other folders of the run have left of the limits of the whole."""
    if options.max_usd is None and options.max_tokens is None:
        return options
    others = [spent_in(path.parent) for path in journals(job.folder) if path.parent != folder]
    left: dict[str, Any] = {}
    if options.max_usd is not None:
        left["max_usd"] = max(0.0, options.max_usd - sum(one.usd for one in others))
    if options.max_tokens is not None:
        left["max_tokens"] = max(0, options.max_tokens - sum(one.tokens for one in others))
    return options.but(**left)


def spending(job: Job) -> dict[str, Any]:
    """Return the tokens and US dollars that all folders of the run have cost; None for dollars without a price."""
    spent = [spent_in(path.parent) for path in journals(job.folder)]
    tokens, usd = sum(one.tokens for one in spent), sum(one.usd for one in spent)
    return {"tokens": tokens, "usd": None if any(one.unpriced for one in spent) else usd}


def journals(folder: Path) -> list[Path]:
    """Return the journals of a run, in the order of their paths."""
    return sorted([*folder.glob(f"labels/*/{JOURNAL}"), *folder.glob(f"proposals/{JOURNAL}")])


def spent_in(folder: Path) -> Spent:
    """Return the cost of a folder, with reservations of requests without a reply."""
    with Journal(folder) as journal:
        spent = journal.spent()
        for charge in journal.aside().values():
            spent = spent.plus(charge)
    return spent


def settings_of(options: AnnotateOptions, tuning: TuneOptions, parent: Prompt) -> dict[str, Any]:
    """Return the settings that decide the result of a run, as plain JSON. Limits are not among them, nor the
    numbers of proposals, which may be raised later.
    """
    free = {"max_usd", "max_tokens", "cache", "concurrency", "retry_failed", "prices", "verify", "prompt", "wait"}
    judge = options.model_dump(mode="json", exclude=free)
    own = tuning.model_dump(mode="json", exclude={"human", "detect", "wordings", "examples"})
    return judge | own | {"human_sha256": file_sha256(tuning.human), "parent_sha256": parent.sha256}


def refuse_other_tuning(path: Path, settings: dict[str, Any]) -> None:
    """Raise `UsageError` if a folder holds the tuning of another judge, other labels or other settings."""
    made = json.loads(path.read_text(encoding="utf-8")).get("settings", {}) if path.is_file() else {}
    for name in sorted(made):
        if made[name] != settings.get(name):
            raise UsageError(
                f"{path} was made with {name} = {made[name]!r} and not {settings.get(name)!r}; choose another output"
            )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write plain JSON to a file, in one step."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
