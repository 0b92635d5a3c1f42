"""The data card of a dataset: a README.md that describes it, with metadata for loading it with `datasets`.

`mix` writes the card. `publish` writes it again with the licence, the agreement with people and the audit, and adds a
Croissant description beside it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq

from labelkit.records import JUDGE_SCHEMA, Judge
from labelkit.storage.credentials import blot
from labelkit.storage.dataset import CONFIGS
from labelkit.storage.foreign_text import (
    Markdown,
    markdown,
    markdown_code,
    markdown_fenced,
    markdown_indented,
    markdown_paragraphs,
    quoted,
)
from labelkit.storage.manifest import DatasetFacts, Manifest, Source
from labelkit.storage.shipped import SHIPPED
from labelkit.version import __version__

if TYPE_CHECKING:
    from labelkit.quality.agreement_metrics import GradedPair

CARD = "README.md"
TEMPLATE = "dataset.md.jinja"
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
"""Exclusive upper limit of a number of rows -> the Hub's name for that size."""
CREATORS = {"human": "found", "imported": "found", "llm": "machine-generated"}
"""Kind of a judge -> the Hub's term for the creator of its annotations; users of `review` are experts."""
UNKNOWN = Markdown("-")
"""Content of an unknown cell in the table of judges."""


class Publication(NamedTuple):
    """Facts for the card that the dataset does not contain."""

    repo_id: str
    licence: str | None = None
    languages: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """Ids or addresses of the datasets from which texts and labels come."""
    title: str | None = None
    note: str | None = None
    """Paragraph to add to the card."""
    audit: Mapping[str, Any] | None = None
    """The document written by `labelkit audit`."""


class Told(NamedTuple):
    """Numbers of judgements, failures, tokens and US dollars of one judge in a dataset."""

    judgements: int
    failed: int
    tokens: int | None
    usd: float | None


def dataset_card(
    name: str, rows: Mapping[str, int], facts: DatasetFacts, *, judges: Sequence[Judge], command: str
) -> str:
    """Write the card for `mix`, without measured agreement and audit."""
    return blot(render(name, rows, facts, judges=[(judge, None) for judge in judges], command=command, inputs={}))


def published_card(
    folder: Path, manifest: Manifest[DatasetFacts], publication: Publication, judges: Sequence[tuple[Judge, Told]]
) -> str:
    """Write the card for `publish`, with counts per judge, agreement with people and audit."""
    return render(
        folder.name,
        manifest.rows,
        manifest.facts,
        judges=judges,
        command=manifest.command,
        inputs=manifest.inputs,
        publication=publication,
        agreed=list(agreements(folder, [judge for judge, _ in judges])),
    )


def render(
    name: str,
    rows: Mapping[str, int],
    facts: DatasetFacts,
    judges: Sequence[tuple[Judge, Told | None]],
    command: str,
    inputs: Mapping[str, str],
    publication: Publication | None = None,
    agreed: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Render the template of the card."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from labelkit.statistics.intervals import few_queries

    environment = Environment(
        loader=FileSystemLoader(SHIPPED), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
        keep_trailing_newline=True, finalize=markdown,
    )  # fmt: skip
    environment.filters |= FILTERS
    known = publication or Publication("")
    source = facts.source or Source()
    return environment.get_template(TEMPLATE).render(
        name=name,
        repo_id=known.repo_id,
        title=known.title,
        note=known.note,
        licence=known.licence or facts.licence,
        revision=source.revision,
        languages=known.languages,
        sources=known.sources,
        creators=sorted({creator_of(judge) for judge, _ in judges}) or ["no-annotation"],
        size=size_of(rows.get("train", 0)),
        configs=tables_of(rows),
        rows=rows,
        judges=[judge_row(judge, told) for judge, told in judges],
        measured=publication is not None,
        agreements=agreed,
        few=few_queries(min((one["queries"] for one in agreed), default=0)),
        audit=known.audit,
        facts=markdown_fenced(json.dumps(facts.as_json(), indent=2, ensure_ascii=False), "json"),
        command=command,
        inputs=inputs,
        version=__version__,
    )


def short(name: str) -> str:
    """Return the name of a model for a table; for a local model, the name of its folder."""
    return Path(name).name if name.startswith("/") else name


FILTERS: dict[str, Callable[..., str]] = {
    "quoted": quoted,
    "code": markdown_code,
    "figure": Markdown,
    "indented": markdown_indented,
    "paragraphs": markdown_paragraphs,
    "short": short,
}
"""Filters by which a template shows a text in another way than escaped Markdown."""


def tables_of(rows: Mapping[str, int]) -> list[str]:
    """Return the names of a dataset's tables, standard tables first."""
    return [name for name in CONFIGS if name in rows] + sorted(set(rows) - set(CONFIGS))


def creator_of(judge: Judge) -> str:
    """Return the Hub's term for the creator of a judge's annotations."""
    return "expert-generated" if judge.kind == "human" and judge.prompt_name else CREATORS[judge.kind]


def size_of(rows: int) -> str:
    """Return the Hub's name for a number of rows."""
    return next((name for limit, name in SIZES.items() if rows < limit), "n>10M")


def judge_row(judge: Judge, told: Told | None) -> dict[str, Any]:
    """Describe a judge for the template; unknown values are a dash."""
    counts: dict[str, str] = dict.fromkeys(("judgements", "failed", "tokens", "usd"), UNKNOWN)
    if told:
        counts |= {"judgements": f"{told.judgements:,}", "failed": f"{told.failed:,}"}
        counts["tokens"] = UNKNOWN if told.tokens is None else f"{told.tokens:,}"
        counts["usd"] = UNKNOWN if told.usd is None else f"{told.usd:,.4f}"
    prompt = f"{judge.prompt_name} {judge.prompt_version or ''}".strip() if judge.prompt_name else UNKNOWN
    return judge.model_dump() | {"prompt": prompt} | counts


def judges_of(folder: Path) -> list[Judge]:
    """Read the judges of a dataset."""
    return [
        Judge(**row) for row in pq.read_table((folder / "judges.parquet").absolute(), schema=JUDGE_SCHEMA).to_pylist()
    ]


def judges_and_told(folder: Path) -> list[tuple[Judge, Told]]:
    """Read the judges of a dataset, each with the counts of its judgements."""
    told = told_by_judge(folder)
    return [(judge, told.get(judge.judge_id, Told(0, 0, None, usd=None))) for judge in judges_of(folder)]


def told_by_judge(folder: Path) -> dict[str, Told]:
    """Count the judgements of each judge of a dataset, in one pass."""
    path = (folder / "judgements.parquet").absolute()
    table = pq.read_table(path, columns=["judge_id", "failure", "tokens", "cost"])
    grouped = table.group_by("judge_id").aggregate(
        [("failure", "count", pc.CountOptions("only_valid")), ([], "count_all"), ("tokens", "sum"), ("cost", "sum")]
    )
    return {
        row["judge_id"]: Told(row["count_all"], row["failure_count"], row["tokens_sum"], usd=row["cost_sum"])
        for row in grouped.to_pylist()
    }


def agreements(folder: Path, judges: Sequence[Judge]) -> Iterator[dict[str, Any]]:
    """Yield the agreement of every model with every person who graded the same pairs, reading judgements as
    a stream.
    """
    from labelkit.quality.agreement_metrics import GradedPair

    kinds = {judge.judge_id: judge for judge in judges}
    people: dict[str, dict[tuple[str, str], int]] = {}
    for judge_id, pair, grade in graded(folder):
        if kinds[judge_id].kind == "human":
            people.setdefault(judge_id, {})[pair] = grade
    both: dict[tuple[str, str], list[GradedPair]] = {}
    for judge_id, pair, grade in graded(folder):
        if kinds[judge_id].kind != "human":
            for person, grades in people.items():
                if pair in grades:
                    both.setdefault((judge_id, person), []).append(
                        GradedPair(pair[0], grades[pair], grade, score=grade)
                    )
    for (judge_id, person), rows in sorted(both.items()):
        yield {"judge": kinds[judge_id].name, "human": kinds[person].name, **agreement_of(rows)}


def agreement_of(rows: "Iterable[GradedPair]") -> dict[str, Any]:
    """Compute figures of agreement with 95% confidence intervals; the human grade is the reference."""
    from labelkit.quality.agreement_metrics import figure_interval, rated

    pairs = rated(rows)
    figures = {name: str(figure_interval(name, pairs)) for name in ("kappa", "kappa_2", "kappa_quadratic")}
    return {"pairs": len(pairs.query), "queries": pairs.queries, **figures}


def graded(folder: Path) -> Iterator[tuple[str, tuple[str, str], int]]:
    """Yield (judge id, pair, grade) for every judgement with a grade."""
    columns = ["judge_id", "query_id", "passage_id", "grade"]
    with pq.ParquetFile((folder / "judgements.parquet").absolute()) as file:
        for batch in file.iter_batches(columns=columns):
            for judge_id, query_id, passage_id, grade in zip(*(column.to_pylist() for column in batch), strict=True):
                if grade is not None:
                    yield judge_id, (query_id, passage_id), grade
