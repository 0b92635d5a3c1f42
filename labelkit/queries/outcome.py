"""Count the written, kept and dropped queries, for the user and for the manifest."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from labelkit.judging.writing import Writing
from labelkit.pooling.sources import commits_of
from labelkit.queries.checking import limit_of, searching
from labelkit.queries.choosing import Chosen
from labelkit.queries.folder import counts_of
from labelkit.queries.grading import Graded
from labelkit.queries.options import WriteOptions
from labelkit.records import Judge
from labelkit.storage.manifest import QueriesFacts

DECISIVE = {
    "model", "engine", "passages", "per_passage", "registers", "max_overlap", "within", "language", "dense", "judge",
    "judge_model", "judge_engine", "judge_method", "judge_prompt", "seed",
}  # fmt: skip
"""Options that decide which queries are written and kept."""


class WrittenQueries(NamedTuple):
    """The numbers of queries that a model wrote."""

    passages: int
    """Passages for which queries were asked for."""
    left_out: dict[str, int]
    """Reason -> number of passages that were left out."""
    written: dict[str, int]
    """Register -> number of queries that were asked for."""
    kept: dict[str, int]
    dropped: dict[str, dict[str, int]]
    """Register -> reason -> number of queries."""
    asked: int
    """Requests to the writer in this run."""
    tokens: int
    """Tokens spent on writing and judging in all runs of this output."""
    usd: float | None
    """US dollars spent on writing and judging in all runs; None if a model has no known price."""

    def lines(self, folder: Path) -> list[str]:
        """Return the result for people: a line for all, and per register a line and one per reason."""
        kept, written = sum(self.kept.values()), sum(self.written.values())
        said = [f"{folder}: {kept} of {written} queries kept, for {self.passages} passages"]
        said += [f"  {count} passages left out: {reason}" for reason, count in self.left_out.items()]
        for name, count in self.written.items():
            said.append(f"  {name}: {self.kept[name]} of {count} kept ({self.kept[name] / count:.0%})")
            said += [f"    {times} x {reason}" for reason, times in self.dropped[name].items()]
        return said


def facts_of(
    chosen: Chosen, judged: Graded, writers: Sequence[Judge], *, options: WriteOptions, bm25: dict[str, str]
) -> QueriesFacts:
    """Return the facts of the manifest."""
    count, kept, dropped = counts_of(judged.drafts)
    wrote = sorted({one.name for one in writers})
    graders = [] if judged.judge is None else [judged.judge.name]
    limits = {slot.register.name: limit_of(slot, options.max_overlap) for slot in chosen.slots}
    return QueriesFacts(
        queries_by="llm",
        grades_by="llm" if options.judge else None,
        models={"writer": tuple(wrote), "judge": tuple(graders)},
        same_model=graders == wrote,
        registers={
            one.name: {
                "share": round(one.share, 4),
                "prompt": one.prompt.name,
                "prompt_sha256": one.prompt.sha256,
                "max_overlap": limits.get(one.name),
            }
            for one in options.shares
        },
        settings=options.model_dump(mode="json", include=DECISIVE),
        retrievers={"bm25": bm25, **commits_of(searching(options).models)},
        passages=len(chosen.sample.drawn),
        left_out=chosen.left_out,
        written=count,
        kept=kept,
        dropped=dropped,
    )


def outcome_of(chosen: Chosen, writing: Writing, judged: Graded) -> WrittenQueries:
    """Return the numbers of a run."""
    count, kept, dropped = counts_of(judged.drafts)
    done = judged.outcome
    unpriced = writing.usd is None or (done is not None and done.usd is None)
    return WrittenQueries(
        passages=len(chosen.sample.drawn),
        left_out=chosen.left_out,
        written=count,
        kept=kept,
        dropped=dropped,
        asked=writing.asked,
        tokens=writing.tokens + (done.tokens if done else 0),
        usd=None if unpriced else (writing.usd or 0) + ((done.usd or 0) if done else 0),
    )
