"""Grade pairs on a local web page without seeing the judges' grades: `labelkit review`.

An annotator is a judge like any other: the pairs to grade are written to the journal first, each answer is a reply in
it, and the judgements are made from the journal. An answer can be changed until the judges' grades are shown. Then it
is locked, so that agreement is measured only on blind grades.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from labelkit.errors import DataError, UnknownNameError
from labelkit.judging.annotate import output_of
from labelkit.judging.human_answers import count_of
from labelkit.judging.journal import Journal
from labelkit.judging.label_tables import finalise
from labelkit.judging.prompts import Prompt, load_prompt
from labelkit.pooling.languages import Terms, terms_of
from labelkit.pooling.pool import pool_behind
from labelkit.records import Judge
from labelkit.review import settling
from labelkit.review.choosing import (
    ORDERS,
    Group,
    asked_about,
    choose,
    item_of,
    open_judged,
    said_about,
    share_of,
)
from labelkit.review.options import ReviewOptions
from labelkit.review.screens import Review, Shown
from labelkit.review.serving import serve
from labelkit.storage import folders, tables
from labelkit.storage.manifest import LABELS, LabelsFacts, Manifest, ReviewFacts

PROMPT = "graded"
"""The shipped prompt whose criteria the page shows, and whose labels are the grades to choose from."""
LARGEST = 1_000_000
"""Most bytes of the guidelines."""


class Reviewed(NamedTuple):
    """Counts of an annotator's answers."""

    graded: int
    cannot_tell: int
    left: int
    """Number of pairs without an answer."""


class Chosen(NamedTuple):
    """The pairs of a session in groups that are shown together."""

    groups: list[Group]
    of: int
    """Number of pairs from which they were chosen."""
    opinions: settling.Opinions
    """Answers of other annotators, which are shown; empty unless disagreements are settled."""


def review(
    labels: Path,
    output: Path | str,
    options: ReviewOptions,
    *,
    ready: Callable[[str], None],
    command: str = "labelkit.review",
) -> Reviewed:
    """Serve a local page on which an annotator grades pairs without seeing the judges' grades, until it is finished.

    Args:
        labels: labels folder whose judges are checked by the human grades.
        output: labels folder to write, with the grades as judgements of a human judge; the same call resumes it.
        options: the annotator, the pairs, the help beside them, and the port.
        ready: called with the address of the page.
        command: the command that the manifest records as the origin of the folder.

    Returns:
        The number of graded pairs, of pairs that the annotator could not grade, and of pairs without an answer.

    Raises:
        UsageError: the order is unknown, or the pool of the labels is missing.
        DataError: no judged pair has a text, or the guidelines cannot be read.
    """
    folder = Path(output)
    if options.by not in ORDERS:
        raise UnknownNameError("order", options.by, ORDERS)
    terms, guidelines = terms_of(options.language), guidelines_in(options.guidelines)
    with output_of(folder):
        manifest, prompt = folders.read_manifest(labels, LABELS), load_prompt(PROMPT)
        judge = human_judge(options.name, prompt, settles=bool(options.settle))
        chosen, shown = chosen_in(labels, manifest, options, judge=judge, prompt=prompt, terms=terms)
        with Journal(folder) as journal:
            if options.settle:
                pairs = [pair for group in chosen.groups for pair in group]
                settling.register(journal, chosen.opinions, judge, prompt=prompt, queue=pairs)
            else:
                asked = asked_about(judge, [pair for group in chosen.groups for pair in group])
                journal.register(judge, prompt.content, asked)
            session = Review(shown, journal, folder)
            inputs = [labels, *options.settle, *([options.guidelines] if options.guidelines else [])]
            with written(journal, folder, inputs, facts=facts_of(chosen, options), command=command):
                if shown:
                    serve(session, prompt, options.port, guidelines=guidelines, ready=ready)
    answers = session.answers.values()
    left = len(session.items) - len(session.answers)
    return Reviewed(count_of(answers, cannot_tell=False), count_of(answers, cannot_tell=True), left)


@contextmanager
def written(journal: Journal, folder: Path, inputs: list[Path], *, facts: LabelsFacts, command: str) -> Iterator[None]:
    """Write the tables of the folder when the block ends, whether or not it fails."""
    try:
        yield
    finally:
        files = {str(path): path / folders.MANIFEST if path.is_dir() else path for path in inputs}
        digests = {name: folders.file_sha256(file) for name, file in files.items()}
        finalise(journal, folder, command, inputs=digests, facts=facts)


def chosen_in(
    labels: Path, manifest: Manifest[LabelsFacts], options: ReviewOptions, *, judge: Judge, prompt: Prompt, terms: Terms
) -> tuple[Chosen, list[list[Shown]]]:
    """Choose the pairs of a session, and look up their texts and the judges' answers, by group.

    Raises `DataError` if there are no pairs, or a pair has no text.
    """
    with tables.temporary() as db:
        open_judged(db, labels, options.texts or pool_behind(labels, manifest.inputs, "--texts"))
        if options.settle:
            opinions = settling.opinions_in(options.settle, prompt)
            queue = settling.disputed(opinions, prompt, options.seed)
            groups = settling.group_by_query(queue) if options.unit == "query" else [[pair] for pair in queue]
            chosen = Chosen(groups, len(opinions), opinions)
        else:
            groups, count = choose(db, options)
            if not groups:
                raise DataError(f"{labels} has no judged pair with a text; give the pool that was judged with --texts")
            chosen = Chosen(share_of(options.name, groups, options), count, {})
            if not chosen.groups:
                raise DataError(f"no pair is left for {options.name}: raise --pairs or --overlap for the whole team")
        shown = [
            [
                Shown(item_of(db, pair, judge, terms=terms), said_about(db, pair), chosen.opinions.get(pair, ()))
                for pair in group
            ]
            for group in chosen.groups
        ]
    return chosen, shown


def facts_of(chosen: Chosen, options: ReviewOptions) -> LabelsFacts:
    """Return the facts of a session for the manifest."""
    pairs = sum(map(len, chosen.groups))
    order = "settling" if options.settle else options.by
    facts = ReviewFacts(by=order, unit=options.unit, seed=options.seed, pairs=pairs, of=chosen.of)
    if options.team:
        facts = facts.model_copy(update={"team": tuple(sorted(options.team)), "overlap": options.shared})
    return LabelsFacts(review=facts)


def guidelines_in(path: Path | None) -> str | None:
    """Read the guidelines. Raises `DataError` for a file that is missing, too large or not UTF-8."""
    if path is None:
        return None
    if not path.is_file():
        raise DataError(f"{path} does not exist; give --guidelines a text or Markdown file")
    if path.stat().st_size > LARGEST:
        raise DataError(f"{path} has more than {LARGEST:,} bytes; give --guidelines a shorter file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8; save the guidelines as UTF-8 text") from None


def human_judge(name: str, prompt: Prompt, *, settles: bool = False) -> Judge:
    """Make the judge record of an annotator who grades by the criteria of a prompt.

    A person who settles disagreements is another judge, because the answers of the annotators are not hidden.
    """
    name = f"{name}-settled" if settles else name
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
