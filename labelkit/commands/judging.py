"""Commands from a collection to judgements: pool, plan, annotate, prompts."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelkit.commands import console
from labelkit.commands.options import (
    MODEL,
    Defence,
    EngineName,
    Json,
    Limit,
    MaxModelLen,
    MethodName,
    ModelOption,
    NoVerify,
    Output,
    PassageTokens,
    PassageWords,
    Permutations,
    PositiveGrade,
    Prices,
    PromptName,
    Revision,
    Source,
    Tokenizer,
    TrustRemoteCode,
    VotesOption,
    here,
)
from labelkit.commands.parameters import SEEDS
from labelkit.errors import BudgetError, UsageError

if TYPE_CHECKING:
    from labelkit.judging.annotate import Outcome
    from labelkit.pooling.pool import Pool
    from labelkit.quality.cascade import Cascade

MOST_USD = 1e9
"""A cap above this is none."""


def pool(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", parser=here, help="BEIR folder: corpus.jsonl, queries.jsonl, qrels/.")
    ],
    output: Output,
    split: Annotated[str | None, typer.Option(help="Pool only the queries that these qrels judge.")] = None,
    bm25: Annotated[int, typer.Option(min=0, help="Passages a query from BM25; 0 for none.")] = 30,
    dense: Annotated[list[str] | None, typer.Option(help="MODEL:N, N passages a query from a dense model.")] = None,
    run: Annotated[list[str] | None, typer.Option(help="FILE:N, the first N of a TREC run.")] = None,
    human: Annotated[Path | None, typer.Option(help="Qrels whose positives always belong to the pool.")] = None,
    positive_grade: PositiveGrade = 2,
    depth: Annotated[
        int | None, typer.Option(min=1, help="At most so many candidates a query, best fused rank first.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Collect the candidates worth judging, with the sources that gave each."""
    from labelkit.pooling.pool import Recipe, make_pool

    recipe = Recipe(
        bm25=bm25,
        dense=tuple(with_depth(item, "--dense") for item in dense or ()),
        runs=tuple((Path(name), count) for name, count in (with_depth(item, "--run") for item in run or ())),
        human=human,
        positive_grade=positive_grade,
        depth=depth,
        trust_remote_code=trust_remote_code,
    )
    made = make_pool(data, split, recipe, output, console.command_line("labelkit"))
    console.say(f"{output}: {len(made.candidates):,} candidates for {len(made.queries):,} queries")


def plan(
    source: Source,
    model: ModelOption,
    engine: EngineName = "local",
    method: MethodName = "graded",
    prompt: PromptName = None,
    revision: Revision = None,
    max_model_len: MaxModelLen = None,
    limit: Limit = None,
    passage_tokens: PassageTokens = None,
    passage_words: PassageWords = None,
    tokenizer: Tokenizer = None,
    permutations: Permutations = 1,
    votes: VotesOption = 1,
    defence: Defence = None,
    prices: Prices = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Calls a second, for the time that it takes.")] = None,
    no_verify: NoVerify = False,
    as_json: Json = False,
) -> None:
    """Count the calls, tokens, money and time of an annotation. Nothing is sent."""
    from labelkit.engines import Settings, traits_of
    from labelkit.judging.defences import defences_of
    from labelkit.judging.methods import method_named
    from labelkit.judging.plan import lines
    from labelkit.judging.plan import plan as run
    from labelkit.judging.prices import price_of
    from labelkit.judging.reading import Reading
    from labelkit.pooling.pool import pool_of

    command = console.command_line("labelkit")
    defences = defences_of(defence or [], once=votes == 1 and not method_named(method).listwise)
    made = run(
        pool_of(source, source, command, verify=not no_verify),
        engine_name=engine,
        settings=Settings(model, revision, max_model_len=max_model_len),
        method_name=method,
        prompt_name=prompt,
        limit=limit,
        reading=Reading(passage_tokens, passage_words, permutations, votes, defences=defences),
        tokenizer=tokenizer,
        price=price_of(model, prices, batch=traits_of(engine).batch),
        rate=rate,
    )
    if as_json:
        console.result_json(made._asdict(), indent=2)
    else:
        console.result("\n".join(lines(made, model)))


def annotate(
    source: Source,
    output: Output,
    model: Annotated[str | None, MODEL] = None,
    engine: EngineName = "local",
    method: MethodName = "graded",
    prompt: PromptName = None,
    revision: Revision = None,
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float16 or float32; default: what the hardware is fast at.")
    ] = None,
    base_url: Annotated[
        list[str] | None, typer.Option(help="Address of an OpenAI-compatible server; once for each of a fleet.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plain http to other machines, and do not verify TLS.")
    ] = False,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests in flight, or rows a batch.")] = None,
    max_model_len: MaxModelLen = None,
    limit: Limit = None,
    passage_tokens: PassageTokens = None,
    passage_words: PassageWords = None,
    tokenizer: Tokenizer = None,
    permutations: Permutations = 1,
    votes: VotesOption = 1,
    seed: Annotated[int, typer.Option(min=0, max=SEEDS, help="Of the first order or vote; the next ones follow.")] = 0,
    defence: Defence = None,
    max_usd: Annotated[
        float | None,
        typer.Option(min=0, max=MOST_USD, help="Spend at most so many US dollars on this folder, in all its runs."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=0, help="The same in tokens, prompts and answers together.")
    ] = None,
    prices: Prices = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of replies kept across runs: nothing in it is bought again.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask again what gave no grade.")] = False,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="vllm: GPUs that one model is spread over.")] = 1,
    data_parallel: Annotated[int, typer.Option(min=1, help="vllm: copies of the model that share the work.")] = 1,
    reasoning_parser: Annotated[
        str | None, typer.Option(help="vllm: how the model marks its reasoning, such as deepseek_r1 or qwen3.")
    ] = None,
    worker_engine: Annotated[str, typer.Option(help="ray: engine of each worker: vllm, local, scripted.")] = "vllm",
    workers: Annotated[int | None, typer.Option(min=1, help="ray: how many; default one a GPU.")] = None,
    reparse: Annotated[
        bool, typer.Option("--reparse", help="Read the stored replies with the present parser; send nothing.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="openai-batch: stay until all batches are done.")] = False,
    batch_dir: Annotated[
        Path | None, typer.Option(help="openai-batch: exchange files with `vllm run-batch` in this folder.")
    ] = None,
    allow_drift: Annotated[
        bool, typer.Option("--allow-drift", help="Go on when the server changes the model's name or fingerprint.")
    ] = False,
    cascade: Annotated[str | None, typer.Option(help="A stronger model, for what --model is unsure of.")] = None,
    cascade_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the pairs that it judges; a quarter of it is drawn at random.")
    ] = 0.2,
    cascade_engine: Annotated[str | None, typer.Option(help="Its engine; default: --engine.")] = None,
    cascade_base_url: Annotated[list[str] | None, typer.Option(help="Its address; default: --base-url.")] = None,
    no_verify: NoVerify = False,
    as_json: Json = False,
) -> None:
    """Judge the pairs of a pool with a language model. The same command again resumes and pays nothing twice."""
    from labelkit.commands.progress import ProgressBar
    from labelkit.engines import Settings
    from labelkit.judging import annotate as annotation
    from labelkit.judging.budget import Caps
    from labelkit.judging.defences import defences_of
    from labelkit.judging.methods import method_named
    from labelkit.judging.reading import Reading
    from labelkit.pooling.pool import pool_of

    command = console.command_line("labelkit")
    if reparse:
        failures = annotation.reparse(pool_of(source, output, command, verify=not no_verify), output, command)
        console.say(f"{output}: read again, {sum(failures.values())} failed")
        say_reasons(failures)
        return
    if model is None:
        raise UsageError("no judge: give --model")
    defences = defences_of(defence or [], once=votes == 1 and not method_named(method).listwise)
    settings = Settings(
        model,
        revision,
        dtype,
        tuple(base_url or ()),
        concurrency,
        max_model_len,
        insecure=insecure,
        trust_remote_code=trust_remote_code,
        tensor_parallel=tensor_parallel,
        data_parallel=data_parallel,
        reasoning_parser=reasoning_parser,
        worker_engine=worker_engine,
        workers=workers,
        wait=wait,
        batch_dir=batch_dir,
    )
    judged = partial(
        annotation.annotate,
        method_name=method,
        prompt_name=prompt,
        reading=Reading(passage_tokens, passage_words, permutations, votes, seed, defences),
        tokenizer=tokenizer,
        retry_failed=retry_failed,
        cache=cache,
        allow_drift=allow_drift,
        caps=Caps(max_usd, max_tokens),
        prices=prices,
        command=command,
        progress=ProgressBar(),
    )
    cheap = partial(judged, engine_name=engine, settings=settings, limit=limit)
    candidates = pool_of(source, output, command, verify=not no_verify)
    if cascade:
        from labelkit.quality.cascade import cascade as run

        urls = tuple(cascade_base_url) if cascade_base_url else settings.base_urls
        better = settings._replace(model=cascade, revision=None, base_urls=urls)
        strong = partial(judged, engine_name=cascade_engine or engine, settings=better, limit=None)

        def by(judge: "Callable[[Pool, Path], Outcome]") -> "Callable[[Pool, Path], Outcome]":
            return lambda part, folder: finished(judge(part, folder), folder)

        found = run(candidates, output, by(cheap), by(strong), share=cascade_share, seed=seed, command=command)
        if as_json:
            console.result_json(found._asdict())
        console.say(f"{output}: {words_of(found)}")
        return
    outcome = cheap(candidates, output)
    if as_json:
        console.result_json(outcome._asdict())
    finished(outcome, output)


def finished(outcome: "Outcome", output: Path) -> "Outcome":
    """Say what a run did. Raises `BudgetError` where its caps left pairs unjudged."""
    failed = sum(outcome.failures.values())
    console.say(
        f"{output}: {outcome.pairs} pairs, {outcome.asked} asked now in {outcome.seconds:.0f} s, {outcome.known} "
        f"already there, {outcome.cached} replies from the cache, {failed} failed, {outcome.cut_passages} passages cut"
    )
    say_reasons(outcome.failures)
    if outcome.unscored:
        console.say(f"  {outcome.unscored} x a grade without a score: no log-probabilities that tell the labels apart")
    if outcome.pending:
        raise BudgetError(
            f"{outcome.pending} of {outcome.pairs} pairs are not judged: the caps allow no more requests; raise "
            "--max-usd or --max-tokens and run the same command again"
        )
    return outcome


def words_of(found: "Cascade") -> str:
    """What a cascade saved and lost, in words."""
    money = "" if found.saved_usd is None else f", {found.saved_usd:,.2f} US dollars"
    return (
        f"{found.strong_pairs:,} of {found.pairs:,} pairs went to the strong judge: {found.saved:.0%} of its work saved"
        f"{money}. On {found.compared:,} random pairs the two agree with kappa {found.kappa}; of the pairs that the "
        f"cheap one decided, the strong one would have said otherwise of {found.lost}"
    )


def prompts(
    name: Annotated[str | None, typer.Argument(help="A shipped prompt or a TOML file to check and show.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Check the labels under this model's tokenizer too: local folder or Hub id.")
    ] = None,
) -> None:
    """List the shipped prompts, or check one and show what it sends."""
    from labelkit.judging.prompts import load_prompt, shipped_prompts

    if name is None:
        for shipped in map(load_prompt, sorted(shipped_prompts())):
            console.result(f"{shipped.name:9} version {shipped.version}, method {shipped.method}: {shipped.citation}")
        return
    prompt = load_prompt(name)
    if model is not None:
        from labelkit.engines import Settings
        from labelkit.engines.local import first_label_tokens, load_tokenizer

        first_label_tokens(load_tokenizer(Settings(model)), prompt.label_texts)
    console.result(f"# {prompt.name} version {prompt.version}, method {prompt.method}, sha256 {prompt.sha256}")
    console.result(prompt.content.decode().rstrip())


def with_depth(text: str, option: str) -> tuple[str, int]:
    """`NAME:N` taken apart."""
    name, _, count = text.rpartition(":")
    if not name or not count.isdigit() or int(count) < 1:
        raise UsageError(f"{option} {text}: expected NAME:N, such as {option} all-MiniLM-L6-v2:30")
    return name, int(count)


def say_reasons(failures: dict[str, int]) -> None:
    """Why pairs have no grade."""
    for reason, count in failures.items():
        console.say(f"  {count} x {reason}")
