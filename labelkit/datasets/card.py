"""The data card of a dataset: a README.md whose metadata makes it load with `datasets`, and what a reader must know.

`mix` writes it with what it knows; `publish` writes it again with the licence, the agreement with people, the audit,
and a Croissant description beside it.
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
"""The Hub's names for how many rows there are, by the first number that is too large."""
CREATORS = {"human": "found", "imported": "found", "llm": "machine-generated"}
"""Kind of a judge -> the Hub's word for who made its annotations; people who used `review` are experts."""
UNKNOWN = Markdown("-")
"""Stands in a cell of the table of judges."""


class Publication(NamedTuple):
    """What only the publisher knows."""

    repo_id: str
    licence: str | None = None
    languages: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """Ids or addresses of the datasets that texts and labels come from."""
    title: str | None = None
    note: str | None = None
    """A paragraph for the card."""
    audit: Mapping[str, Any] | None = None
    """The document that `labelkit audit` wrote."""


class Told(NamedTuple):
    """What one judge said in a dataset, counted."""

    judgements: int
    failed: int
    tokens: int | None
    usd: float | None


def dataset_card(
    name: str, rows: Mapping[str, int], facts: DatasetFacts, *, judges: Sequence[Judge], command: str
) -> str:
    """The card that `mix` writes: what is known before anybody measured anything."""
    return blot(render(name, rows, facts, [(judge, None) for judge in judges], command, {}))


def published_card(
    folder: Path, manifest: Manifest[DatasetFacts], publication: Publication, judges: Sequence[tuple[Judge, Told]]
) -> str:
    """The card of a dataset folder as it is published, with everything that can be counted in it."""
    return render(
        folder.name,
        manifest.rows,
        manifest.facts,
        judges,
        manifest.command,
        manifest.inputs,
        publication,
        list(agreements(folder, [judge for judge, _ in judges])),
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
    """Fill the template."""
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
    """A name as a table shows it: of a local model the folder's name."""
    return Path(name).name if name.startswith("/") else name


FILTERS: dict[str, Callable[..., str]] = {
    "quoted": quoted,
    "code": markdown_code,
    "figure": Markdown,
    "indented": markdown_indented,
    "paragraphs": markdown_paragraphs,
    "short": short,
}
"""How a template may show a text beside the plain way, which escapes it."""


def tables_of(rows: Mapping[str, int]) -> list[str]:
    """The tables of a dataset, the usual ones first."""
    return [name for name in CONFIGS if name in rows] + sorted(set(rows) - set(CONFIGS))


def creator_of(judge: Judge) -> str:
    """The Hub's word for who made a judge's annotations."""
    return "expert-generated" if judge.kind == "human" and judge.prompt_name else CREATORS[judge.kind]


def size_of(rows: int) -> str:
    """The Hub's name for a number of rows."""
    return next((name for limit, name in SIZES.items() if rows < limit), "n>10M")


def judge_row(judge: Judge, told: Told | None) -> dict[str, Any]:
    """A judge as the template shows it; what is not known is a dash."""
    counts: dict[str, str] = dict.fromkeys(("judgements", "failed", "tokens", "usd"), UNKNOWN)
    if told:
        counts |= {"judgements": f"{told.judgements:,}", "failed": f"{told.failed:,}"}
        counts["tokens"] = UNKNOWN if told.tokens is None else f"{told.tokens:,}"
        counts["usd"] = UNKNOWN if told.usd is None else f"{told.usd:,.4f}"
    prompt = f"{judge.prompt_name} {judge.prompt_version or ''}".strip() if judge.prompt_name else UNKNOWN
    return judge.model_dump() | {"prompt": prompt} | counts


def judges_of(folder: Path) -> list[Judge]:
    """The judges of a dataset."""
    return [
        Judge(**row) for row in pq.read_table((folder / "judges.parquet").absolute(), schema=JUDGE_SCHEMA).to_pylist()
    ]


def judges_and_told(folder: Path) -> list[tuple[Judge, Told]]:
    """The judges of a dataset with what each said."""
    told = told_by_judge(folder)
    return [(judge, told.get(judge.judge_id, Told(0, 0, None, None))) for judge in judges_of(folder)]


def told_by_judge(folder: Path) -> dict[str, Told]:
    """What each judge of a dataset said, counted in one pass."""
    path = (folder / "judgements.parquet").absolute()
    table = pq.read_table(path, columns=["judge_id", "grade", "tokens", "cost"])
    grouped = table.group_by("judge_id").aggregate(
        [("grade", "count", pc.CountOptions("only_valid")), ([], "count_all"), ("tokens", "sum"), ("cost", "sum")]
    )
    return {
        row["judge_id"]: Told(
            row["count_all"], row["count_all"] - row["grade_count"], row["tokens_sum"], row["cost_sum"]
        )
        for row in grouped.to_pylist()
    }


def agreements(folder: Path, judges: Sequence[Judge]) -> Iterator[dict[str, Any]]:
    """Agreement of every model with every person of a dataset that graded pairs in common, streamed."""
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
                    both.setdefault((judge_id, person), []).append(GradedPair(pair[0], grades[pair], grade, grade))
    for (judge_id, person), rows in sorted(both.items()):
        yield {"judge": kinds[judge_id].name, "human": kinds[person].name, **agreement_of(rows)}


def agreement_of(rows: "Iterable[GradedPair]") -> dict[str, Any]:
    """Figures with intervals; the human grade is the reference."""
    from labelkit.quality.agreement_metrics import figure_interval, rated

    pairs = rated(rows)
    figures = {name: str(figure_interval(name, pairs)) for name in ("kappa", "kappa_2", "kappa_quadratic")}
    return {"pairs": len(pairs.query), "queries": pairs.queries, **figures}


def graded(folder: Path) -> Iterator[tuple[str, tuple[str, str], int]]:
    """(judge id, pair, grade) of every judgement that has a grade."""
    columns = ["judge_id", "query_id", "passage_id", "grade"]
    with pq.ParquetFile((folder / "judgements.parquet").absolute()) as file:
        for batch in file.iter_batches(columns=columns):
            for judge_id, query_id, passage_id, grade in zip(*(column.to_pylist() for column in batch), strict=True):
                if grade is not None:
                    yield judge_id, (query_id, passage_id), grade
