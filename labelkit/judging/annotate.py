"""Judge the pairs of a pool in one pass: read texts, cut and defend them, send requests, settle replies, write tables.

Each reply is stored in the journal before it is used. The judgements are then computed from the journal alone: the same
journal gives the same bytes, and a run that was killed resumes where it stopped without paying for a reply twice.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.engines import EngineFacts, open_engine, traits_of
from labelkit.engines.model_families import families
from labelkit.errors import ArtifactError, BudgetError, EngineError, JournalError, UsageError
from labelkit.judging.budget import Budget, check_price
from labelkit.judging.calls import Calls
from labelkit.judging.journal import FILE as JOURNAL_FILE
from labelkit.judging.journal import Journal
from labelkit.judging.judges import refuse_further
from labelkit.judging.label_tables import RunPairs, Tally, Written, finalise, still_valid
from labelkit.judging.methods import Judging, method_behind, method_named
from labelkit.judging.options import AnnotateOptions, CallOptions
from labelkit.judging.pool_texts import PoolTables, PoolTexts, inputs_of, tables_of
from labelkit.judging.prices import known_context, price_line, price_of
from labelkit.judging.progress import ShowProgress, silent
from labelkit.judging.prompts import Prompt, prompt_for
from labelkit.judging.reading import Reading, complete
from labelkit.judging.request_keys import canonical_json, digest, identity_of
from labelkit.judging.scheduler import Scheduler
from labelkit.judging.tasks import VOTE_TEMPERATURE, Requests, Room, Work
from labelkit.pooling.pool import Pool, pool_folder
from labelkit.records import Judge
from labelkit.storage import folders
from labelkit.storage.labels import KIND
from labelkit.storage.manifest import LabelsFacts
from labelkit.storage.outputs import Place, claimed

log = logging.getLogger(__name__)

UNSCORED = "grade without a score: no log-probabilities that distinguish the labels"

SCORE_ONLY = "score without a grade: draw the thresholds with labelkit calibrate {} --human QRELS -o calibration.json"


class Outcome(NamedTuple):
    """Counts and costs of an annotation run."""

    pairs: int
    asked: int
    """Requests sent in this run."""
    known: int
    """Pairs whose replies were all in the journal before this run."""
    cached: int
    """Replies taken from the cache."""
    pending: int
    """Pairs left unjudged because of the budget."""
    failures: dict[str, int]
    """Reason -> number of pairs without a grade."""
    unscored: int
    """Pairs with a grade but no score, because no log-probabilities distinguish the labels."""
    score_only: int
    """Pairs with a reranker's score but no grade."""
    seconds: float
    cut_passages: int
    tokens: int
    """Tokens of prompts and answers spent on this folder in all its runs."""
    usd: float | None
    """US dollars spent on this folder in all its runs; None if the judge has no known price."""
    facts: dict[str, Any]
    """Facts about cuts, orders and windows, as in the manifest."""
    judge_id: str
    """Id of the judge in the labels folder."""

    def lines(self, folder: Path) -> list[str]:
        """Return a summary of the run for people: one line, and one line per reason for missing grades."""
        failed = sum(self.failures.values())
        return [
            f"{folder}: {self.pairs} pairs, {self.asked} requests in {self.seconds:.0f} s, {self.known} pairs already "
            f"there, {self.cached} replies from the cache, {failed} failed, {self.cut_passages} passages cut",
            *reason_lines(self.failures),
            *([f"  {self.unscored} x {UNSCORED}"] if self.unscored else []),
            *([f"  {self.score_only} x {SCORE_ONLY.format(folder)}"] if self.score_only else []),
        ]

    def check(self) -> None:
        """Raise `BudgetError` if the caps left pairs unjudged, and `EngineError` if most pairs have no grade."""
        if self.pending:
            raise BudgetError(
                f"{self.pending} of {self.pairs} pairs are not judged: the caps allow no more requests; raise "
                "--max-usd or --max-tokens and run the same command again"
            )
        failed = sum(self.failures.values())
        if 2 * failed > self.pairs:
            raise EngineError(
                f"{failed} of {self.pairs} pairs have no grade, most often: {next(iter(self.failures))}; the labels "
                "are written; remove the cause, and run the same command again with --retry-failed"
            )


def reason_lines(failures: Mapping[str, int]) -> list[str]:
    """Return one line per reason for missing grades, with the number of pairs."""
    return [f"  {count} x {reason}" for reason, count in failures.items()]


def annotate(
    source: Pool | Path | str,
    output: Path | str,
    options: AnnotateOptions,
    *,
    command: str = "labelkit.annotate",
    progress: ShowProgress = silent,
) -> Outcome:
    """Judge the pairs of a pool with a language model and write a labels folder, or resume the run in that folder.

    Args:
        source: a pool, its folder, or a BEIR folder, from which a pool is made beside `output` with default options.
            Folders may be at s3://, gs:// or hf://.
        output: the labels folder: `judgements`, `ballots` (single votes or orders), `judges`, and the journal of all
            replies.
        options: judge, reading, engine and limits. The caps apply to the folder, over all its runs.
        command: the command that the manifest records as the origin of the folder.
        progress: called as pairs are judged; `labelkit.progress_bar()` shows a bar in a terminal and in a notebook.

    Returns:
        Counts of pairs, requests and failures, tokens and US dollars. If the caps left pairs unjudged, `pending` counts
        them. `Outcome.check` raises an error for these, and for a run in which most pairs got no grade.

    Raises:
        UsageError: options contradict each other, the folder holds something else, or it has labels of another judge
            and `add_judge` is not set.
        EngineError: the judge cannot be loaded, does not answer, or is no longer the same model.
        JournalError: another process writes to the folder, or its journal is damaged.
    """
    folder = Path(output)
    place = source if isinstance(source, Pool) else pool_folder(source, folder, command)
    tables = tables_of(place, verify=options.verify).first(options.limit)
    return judge_pool(tables, folder, options, command=command, progress=progress)


def judge_pool(
    pool: PoolTables, folder: Path, options: AnnotateOptions, *, command: str, progress: ShowProgress
) -> Outcome:
    """Judge every pair of a pool: cut and defend its texts, send requests, settle the replies, write the tables."""
    method, traits = method_named(options.method), traits_of(options.engine)
    prompt = prompt_for(options.method, options.prompt, lambda: traits.pairs(options.settings))
    price = price_of(options.model, options.prices, batch=traits.batch)
    check_price(price, options.caps, model=options.model, prices=options.prices)
    if price is not None:
        log.info(price_line(options.model, price, options.prices))
    with output_of(folder) as place, ExitStack() as kept, ExitStack() as opened:
        engine = open_engine(options.engine, options.settings._replace(folder=folder))
        opened.callback(engine.close)
        engine.check_labels(prompt.label_texts)
        tokens = traits.tokens(options.settings, options.tokenizer)
        reading = complete(options.reading, method, tokens)
        context = traits.context(options.settings) or known_context(price, tokens)
        room = Room(tokens, context if method.listwise else None)
        scratch = place.path if place.in_place else place.path.parent
        texts = kept.enter_context(PoolTexts(pool, reading, tokens, scratch=scratch))

        def requests_of(facts: EngineFacts) -> Requests:
            judge = make_judge(facts, options, prompt, reading=reading)
            return Requests(Judging(judge, prompt, method), reading, room)

        with Journal(folder) as journal:
            if not options.add_judge:
                refuse_further(requests_of(engine.facts).judging.judge, journal, folder)
            budget = Budget(journal, options.caps, price=price, tokens=tokens, traits=traits)
            calls = Calls(engine, options, journal, budget=budget)
            work, run = calls.ask(
                requests_of, texts, begin=partial(folders.begin, folder, KIND, command), show=progress
            )
            opened.close()
            counts = Tally()
            if run.begun:
                mine = partial(run_pairs, work.judging.judge.judge_id, texts)
                written = Written(command, pool.inputs, work.facts)
                found = None if journal.changed else still_valid(journal, folder, written, mine=mine)
                if found is None:
                    folders.begin(folder, KIND, command)
                    found = finalise(journal, folder, command, inputs=pool.inputs, facts=work.facts, mine=mine)
                counts = found
    return outcome_of(work, run, counts, priced=price is not None)


def run_pairs(judge_id: str, texts: PoolTexts) -> RunPairs:
    """Return the pairs of a run, from their beginning."""
    return RunPairs(judge_id, texts.passages_of())


def outcome_of(work: Work, run: Scheduler, mine: Tally, *, priced: bool) -> Outcome:
    """Return the counts and costs of a run."""
    return Outcome(
        pairs=work.pairs,
        asked=run.asked,
        known=run.known,
        cached=run.cached,
        pending=work.pairs - mine.judged,
        failures=mine.failures,
        unscored=mine.unscored,
        score_only=mine.score_only,
        seconds=run.progress.seconds,
        cut_passages=work.facts.cut_passages,
        tokens=run.budget.tokens,
        usd=run.budget.usd if priced else None,
        facts=work.facts.as_json(),
        judge_id=work.judging.judge.judge_id,
    )


def reparse(
    source: Pool | Path | str, output: Path | str, *, verify: bool = True, command: str = "labelkit.reparse"
) -> dict[str, int]:
    """Parse the stored replies of a labels folder again with the current parser and rewrite its judgements.

    No request is sent. `source` is the pool that was judged. Returns the number of pairs without a grade by reason.
    Raises `UsageError` if `output` has no journal.
    """
    folder = Path(output)
    inputs = source.inputs if isinstance(source, Pool) else inputs_of(pool_folder(source, folder, command), verify)
    if not (folder / JOURNAL_FILE).is_file():
        raise UsageError(f"{folder} contains no annotation run; --reparse needs the replies of an earlier run")
    with output_of(folder), Journal(folder) as journal:
        whole = (folder / folders.MANIFEST).is_file()
        facts = folders.read_manifest(folder, KIND, verify=False).facts if whole else LabelsFacts()
        folders.begin(folder, KIND, command)
        return finalise(journal, folder, command, inputs=inputs, facts=facts).failures


@contextmanager
def output_of(folder: Path) -> Iterator[Place]:
    """Reserve the folder of an annotation run, which must be new or from an earlier run, never of imported grades."""
    with claimed(folder) as place:
        if place.path.is_file():
            raise ArtifactError(f"{folder} is a file; choose another output folder")
        if place.content() and not (folder / JOURNAL_FILE).is_file():
            raise UsageError(f"{folder} exists and contains no annotation run; choose another output folder")
        there, new = place.path.exists(), not place.content()
        try:
            yield place
        finally:
            if new:
                remove_unused(place.path, keep=there)


def remove_unused(folder: Path, *, keep: bool) -> None:
    """Remove the journal of a run that stored nothing, and with `keep` false also its folder."""
    if [path.name for path in folder.glob("*")] != [JOURNAL_FILE]:
        return
    with suppress(JournalError, OSError):
        with Journal(folder) as journal:
            unused = journal.unused()
        if unused:
            (folder / JOURNAL_FILE).unlink()
            if not keep:
                folder.rmdir()


def make_judge(facts: EngineFacts, options: CallOptions, prompt: Prompt, *, reading: Reading) -> Judge:
    """Return the judge of a run. Its id has the method, the model's short name and a hash over everything that may
    change a judgement.
    """
    settings, method, drawn = options.settings, method_behind(prompt.method), reading.votes > 1
    decoding: dict[str, Any] = {"temperature": VOTE_TEMPERATURE if drawn else reading.temperature}
    served = served_by(settings.base_urls)
    defended = {"defences": reading.defences} if reading.defences else {}
    several = {"permutations": reading.permutations} if method.grades else {"votes": reading.votes} if drawn else {}
    stated = facts._asdict()
    changing, sent = stated.pop("arguments"), dict(stated.pop("sent"))
    arguments: dict[str, Any] = {"engine_args": sorted(changing), "reasoning_effort": settings.reasoning_effort}
    arguments |= {"thinking_tokens": reading.thinking_tokens, "sent": sent}
    unlabelled = method.score_only or method.writes
    fields: dict[str, Any] = {
        "kind": "llm",
        # A server may have two models whose paths end with the same name.
        "name": settings.called if facts.dtype else settings.model,
        "family": ", ".join(sorted(families(settings.model))) or None,
        **stated,
        "method": prompt.method,
        "prompt_name": prompt.name,
        "prompt_version": prompt.version,
        "prompt_sha256": prompt.sha256,
        "label_grades": None if unlabelled else method.grades or tuple(one.grade for one in prompt.labels),
        "scale": prompt.scale,
        "decoding": canonical_json(decoding | defended | several | served | given(arguments)),
        "seed": reading.seed if method.listwise or drawn else None,
    }
    judge = Judge(judge_id="", **fields)
    parts = [identity_of(judge), judge.decoding, judge.seed]
    read = {name: value for name, value in reading._asdict().items() if value != Reading._field_defaults[name]}
    provenance = {
        "judge_id": f"{prompt.method}-{Path(settings.called).name}-{digest(parts)[:16]}",
        "reading": canonical_json({"reading": read, "tokenizer": options.tokenizer or settings.called}),
    }
    return judge.model_copy(update=provenance)


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value}


def served_by(base_urls: Sequence[str]) -> dict[str, Any]:
    """Return the servers' addresses for the identity of a judge, sorted so that their order makes no difference."""
    return {"base_url": base_urls[0] if len(base_urls) == 1 else sorted(base_urls)} if base_urls else {}
