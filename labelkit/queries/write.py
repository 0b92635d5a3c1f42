"""Let a model write queries for sampled passages of a corpus, and keep those that pass every check."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labelkit.corpora.places import local_collection
from labelkit.corpora.queries import query_texts
from labelkit.judging.options import CallOptions
from labelkit.judging.progress import ShowProgress, silent
from labelkit.judging.writing import Writing, spent_in, write_texts
from labelkit.pooling.pool import rankings
from labelkit.pooling.stages import Report
from labelkit.queries.checking import (
    kept_only,
    read_drafts,
    searching,
    with_overlap,
    with_ranks,
    without_duplicates,
)
from labelkit.queries.choosing import Chosen, Source, choose, opened
from labelkit.queries.drafts import Draft, Slot
from labelkit.queries.folder import write_corpus, write_queries_and_qrels
from labelkit.queries.grading import Graded, graded, write_pool
from labelkit.queries.options import WriteOptions
from labelkit.queries.outcome import WrittenQueries, facts_of, outcome_of
from labelkit.storage import folders
from labelkit.storage.manifest import QUERIES
from labelkit.storage.outputs import place_of, refuse_own_input


def write_queries(
    data: Path | str,
    output: Path | str,
    options: WriteOptions,
    *,
    command: str = "labelkit.write_queries",
    progress: ShowProgress = silent,
    report: Report | None = None,
) -> WrittenQueries:
    """Let a model write queries for passages of a corpus, check them, and write a BEIR folder with the kept ones.

    The writer's replies, the judged pairs and the judge's labels are beside the output, with the suffixes `.drafts`,
    `.pool` and `.labels`; the same call resumes a run that was killed, and pays for no reply twice.

    Args:
        data: collection with a corpus; queries are not needed. May be at s3://, gs://, hf:// or irds:.
        output: the BEIR folder to write. Its qrels have the judge's grades, marked as a model's.
        options: the model that writes, the registers, the checks, and the judge.
        command: the command that the manifest records as the origin of the folder.
        progress: called as queries are written and judged.
        report: called with the progress of reading and searching; None writes it to the log.

    Returns:
        Numbers of written, kept and dropped queries by register and reason, and the cost.

    Raises:
        BudgetError: the caps leave queries unwritten or unjudged.
        EngineError: a model cannot be loaded, does not answer, or is no longer the same.
        DataError: the corpus is malformed, or no passage is fit for a query.
    """
    target = Path(output)
    folder = local_collection(str(data))
    refuse_own_input(target, [folder])
    with folders.writing(target, QUERIES, command) as draft:
        beside = place_of(target).beside
        with opened(folder, draft.path / "scratch", options, report=report) as source:
            chosen = choose(source, options)
            writing = written(chosen, beside(".drafts"), beside(".labels"), options=options, progress=progress)
            drafts = checked(chosen.slots, writing, source, options=options)
        write_pool(drafts, beside(".pool"), command, inputs=source.inputs)
        judged = Graded(drafts)
        if options.judge:
            rest = {
                "max_usd": less(options.max_usd, writing.usd),
                "max_tokens": less(options.max_tokens, writing.tokens),
            }
            judge = options.annotating().but(**rest)
            judged = graded(
                drafts, beside(".pool"), beside(".labels"), options=judge, command=command, progress=progress
            )
        write_corpus(draft, source.layout.corpus, options.fields)
        names = {one.name: writer.judge_id for one, writer in zip(chosen.registers, writing.writers, strict=True)}
        write_queries_and_qrels(draft, judged.drafts, names)
        draft.inputs = source.inputs
        draft.facts = facts_of(chosen, judged, writing.writers, options=options, bm25=source.engine.settings)
    return outcome_of(chosen, writing, judged)


def written(chosen: Chosen, drafts: Path, labels: Path, *, options: WriteOptions, progress: ShowProgress) -> Writing:
    """Write the chosen queries, within what the caps leave after the judge's cost so far."""
    judged = spent_in(labels)
    capped: CallOptions = options.but(
        max_usd=less(options.max_usd, judged.usd), max_tokens=less(options.max_tokens, judged.tokens)
    )
    return write_texts(chosen.orders, drafts, capped, progress=progress)


def less(cap: Any, spent: float | None) -> Any:
    """Return the rest of a cap; None if there is no cap."""
    return None if cap is None else max(0, cap - (spent or 0))


def checked(slots: Sequence[Slot], writing: Writing, source: Source, *, options: WriteOptions) -> list[Draft]:
    """Clean the texts, and drop duplicates, texts with too many words of their passages, and texts not found."""
    drafts = read_drafts(slots, {reply.text_id: reply for reply in writing.replies})
    own = source.layout.queries
    known = list(query_texts(*own, fields=options.fields).values()) if own else []
    drafts = without_duplicates(drafts, known)
    drafts = kept_only(drafts, lambda draft: with_overlap(draft, options.max_overlap))
    asked = {str(place): draft.text for place, draft in enumerate(drafts) if draft.reason is None}
    if not asked:
        return drafts
    place = source.place._replace(collection=source.place.collection._replace(queries=asked))
    return with_ranks(drafts, list(rankings(place, searching(options), source.engine)))
