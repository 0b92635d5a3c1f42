"""The command line `labelkit`. Heavy imports stand inside the commands, so that `--help` answers at once."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelkit import console
from labelkit.errors import UsageError

if TYPE_CHECKING:
    from labelkit.agree import Agreement

app = typer.Typer(
    name="labelkit",
    help="Relevance labels from language models and people, as datasets that train retrievers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
PositiveGrade = Annotated[
    int, typer.Option(min=1, max=3, help="Lowest human grade that makes a positive; 1 for binary qrels.")
]
DEFAULT_BM25 = 30


@app.command()
def pool(
    data: Annotated[Path, typer.Argument(help="BEIR folder: corpus.jsonl, queries.jsonl, qrels/.")],
    output: Output,
    split: Annotated[str | None, typer.Option(help="Pool only the queries that these qrels judge.")] = None,
    bm25: Annotated[int, typer.Option(min=0, help="Passages a query from BM25; 0 for none.")] = DEFAULT_BM25,
    dense: Annotated[list[str] | None, typer.Option(help="MODEL:N, N passages a query from a dense model.")] = None,
    run: Annotated[list[str] | None, typer.Option(help="FILE:N, the first N of a TREC run.")] = None,
    human: Annotated[Path | None, typer.Option(help="Qrels whose positives always belong to the pool.")] = None,
    positive_grade: PositiveGrade = 2,
    depth: Annotated[
        int | None, typer.Option(min=1, help="At most so many candidates a query, best fused rank first.")
    ] = None,
) -> None:
    """Collect the candidates worth judging, with the sources that gave each."""
    from labelkit.pool import Recipe, make_pool

    recipe = Recipe(
        bm25=bm25,
        dense=tuple(with_depth(item, "--dense") for item in dense or ()),
        runs=tuple((Path(name), count) for name, count in (with_depth(item, "--run") for item in run or ())),
        human=human,
        positive_grade=positive_grade,
        depth=depth,
    )
    made = make_pool(data, split, recipe, output, console.command_line("labelkit"))
    console.say(f"{output}: {len(made.candidates):,} candidates for {len(made.queries):,} queries")


@app.command()
def annotate(
    source: Annotated[
        Path, typer.Argument(metavar="POOL", help="Pool folder, or a BEIR folder to pool with the defaults.")
    ],
    output: Output,
    model: Annotated[str, typer.Option(help="Local folder, Hub id, or the name the server knows.")],
    engine: Annotated[str, typer.Option(help="local, vllm, openai or scripted.")] = "local",
    method: Annotated[str, typer.Option(help="graded (0 to 3) or binary (yes, no).")] = "graded",
    prompt: Annotated[str | None, typer.Option(help="A shipped prompt's name or a TOML file.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit or tag of a Hub model.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float16 or float32; default: what the hardware is fast at.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests in flight, or rows a batch.")] = None,
    max_model_len: Annotated[int | None, typer.Option(min=16, help="Longest prompt in tokens.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Judge only the first N pairs of the pool.")] = None,
    passage_words: Annotated[int, typer.Option(min=1, help="Cut passages to so many words; the cut is counted.")] = 300,
    as_json: Json = False,
) -> None:
    """Judge the pairs of a pool with a language model. The same command again resumes and pays nothing twice."""
    from labelkit.annotate import annotate as run
    from labelkit.engines import Settings

    settings = Settings(model, revision, dtype, base_url, concurrency, max_model_len)
    outcome = run(
        pool_of(source, output),
        output,
        engine_name=engine,
        settings=settings,
        method_name=method,
        prompt_name=prompt,
        limit=limit,
        passage_words=passage_words,
        command=console.command_line("labelkit"),
    )
    if as_json:
        print(json.dumps(outcome._asdict()))
    failed = sum(outcome.failures.values())
    console.say(
        f"{output}: {outcome.pairs} pairs, {outcome.asked} asked now in {outcome.seconds:.0f} s, "
        f"{outcome.pairs - outcome.asked} already there, {failed} failed, {outcome.cut_passages} passages cut"
    )
    for reason, count in outcome.failures.items():
        console.say(f"  {count} x {reason}")


@app.command("import")
def import_(
    grades: Annotated[Path, typer.Argument(help="BEIR or TREC qrels with grades 0 to 3.")],
    output: Output,
    judge: Annotated[str, typer.Option(help="Name of who made these grades.")],
    kind: Annotated[str, typer.Option(help="human, llm or imported.")] = "imported",
) -> None:
    """Turn grades that were made elsewhere into a labels folder."""
    from labelkit.import_grades import KINDS, import_grades

    if kind not in KINDS:
        raise UsageError(f"unknown kind {kind!r}; choose one of: {', '.join(KINDS)}")
    count = import_grades(grades, output, judge_name=judge, kind=KINDS[kind], command=console.command_line("labelkit"))
    console.say(f"{output}: {count:,} grades of {judge}")


@app.command()
def agree(
    labels: Annotated[Path, typer.Argument(help="Labels folder.")],
    human: Annotated[Path, typer.Option(help="Human qrels, BEIR or TREC.")],
    as_json: Json = False,
) -> None:
    """Compare a judge with human grades: kappa, alpha, AUC, confusion matrix."""
    from labelkit.agree import agree as run

    found = run(labels, human)
    if as_json:
        print(json.dumps([agreement._asdict() for agreement in found], indent=2))
    else:
        for agreement in found:
            print_agreement(agreement)


@app.command()
def mix(
    output: Output,
    data: Annotated[Path, typer.Option(help="BEIR folder with the texts.")],
    human: Annotated[Path | None, typer.Option(help="Human qrels.")] = None,
    llm: Annotated[list[Path] | None, typer.Option(help="Labels folder; may be given several times.")] = None,
    positive_grade: PositiveGrade = 2,
    llm_positive: Annotated[
        float, typer.Option(min=0.5, max=1, help="P(grade >= 2) from which an LLM label is positive.")
    ] = 0.7,
    llm_negative: Annotated[
        float, typer.Option(min=0, max=0.5, help="P(grade >= 2) up to which it is negative.")
    ] = 0.3,
    max_positives: Annotated[int | None, typer.Option(min=1, help="Keep at most so many positives a query.")] = None,
    as_json: Json = False,
) -> None:
    """Turn human and LLM judgements into one multi-positive dataset. Human grades win; unsure pairs are ignored."""
    from labelkit.mix import Rules, counts
    from labelkit.mix import mix as run

    rules = Rules(positive_grade, llm_positive, llm_negative, max_positives)
    mixture = run(data, human, llm or [], rules, output, console.command_line("labelkit"))
    totals = counts(mixture)
    if as_json:
        print(json.dumps(totals))
    console.say(f"{output}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in totals.items()))


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Any folder that labelkit or trainer wrote.")],
) -> None:
    """Check a folder against its manifest: every file, byte for byte."""
    from labelkit.artifact import manifest_kind, read_manifest

    document = read_manifest(folder, manifest_kind(folder))
    console.say(f"{folder}: a {document['kind']}, {len(document['files'])} files as they were written")


def with_depth(text: str, option: str) -> tuple[str, int]:
    """`NAME:N` taken apart."""
    name, _, count = text.rpartition(":")
    if not name or not count.isdigit() or int(count) < 1:
        raise UsageError(f"{option} {text}: expected NAME:N, such as {option} all-MiniLM-L6-v2:30")
    return name, int(count)


def pool_of(source: Path, output: Path) -> Any:
    """The pool to judge; a BEIR folder is pooled with the defaults, beside the labels."""
    from labelkit.artifact import file_sha256, read_manifest
    from labelkit.pool import Recipe, make_pool, read_pool

    if not (source / "corpus.jsonl").is_file():
        return read_pool(source)
    target = output.with_name(output.name + ".pool")
    if target.is_dir():
        made = read_manifest(target, "pool")["inputs"]
        if (
            made != {str(path): file_sha256(path) for path in map(Path, made)}
            or str(source / "corpus.jsonl") not in made
        ):
            raise UsageError(f"{target} was made from other data than {source}; choose another output or remove it")
        return read_pool(target)
    console.say(f"{source} is no pool: pooling {DEFAULT_BM25} passages a query from BM25 into {target}")
    return make_pool(source, None, Recipe(bm25=DEFAULT_BM25), target, console.command_line("labelkit"))


def print_agreement(agreement: "Agreement") -> None:
    """One judge's figures as a table for people."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        "figure",
        "value",
        title=f"{escape(agreement.judge_name)}, {agreement.pairs} pairs that a person graded too",
    )
    for name in ("kappa", "kappa_binary", "kappa_quadratic", "alpha_ordinal", "auc"):
        value = getattr(agreement, name)
        table.add_row(FIGURES[name], "undefined" if value is None else f"{value:.3f}")
    table.add_row("pairs without a grade", str(agreement.failures))
    matrix = Table("human \\ judge", "0", "1", "2", "3", title="pairs by grade")
    for grade, row in enumerate(agreement.confusion):
        matrix.add_row(str(grade), *map(str, row))
    out = Console()
    out.print(table)
    out.print(matrix)


FIGURES = {
    "kappa": "Cohen's kappa, grades 0 to 3",
    "kappa_binary": "Cohen's kappa, grade >= 2",
    "kappa_quadratic": "quadratic kappa",
    "alpha_ordinal": "Krippendorff's alpha, ordinal",
    "auc": "AUC of the score, human grade >= 2",
}


def main() -> None:
    """Entry point of the console command."""
    console.run(app)


if __name__ == "__main__":
    main()
