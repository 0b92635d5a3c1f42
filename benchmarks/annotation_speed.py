"""Compare `annotate --engine vllm` with `LLM.chat` and its defaults: pairs per second, and hits of the prefix cache.

    python benchmarks/annotation_speed.py TOKENIZER POOL [--device cuda] [--shape 1.5b 7b] [--rounds 2] [--pairs 6750]

TOKENIZER is a model folder that gives its tokenizer and chat template; POOL is a folder of `labelkit pool`. The shapes
are the sizes of Qwen2.5 with dummy weights, which give meaningless answers at the real cost. `tiny` is a model of two
layers, with which the time of labelkit is a larger share; `real` is the model in TOKENIZER.

Each side runs in its own process. The time starts after the weights are loaded and one prompt was run, and ends with
the labels folder, or with the last text of the bare call, which judges the same shortened texts. The prefix cache is
emptied before each round. With --shuffled, one more round of annotate takes the pairs in random order, to compare the
hits of the prefix cache in vLLM's counters.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from results import add_options, record

from labelkit.engines import Request, Settings
from labelkit.engines.tokenizers import model_tokens
from labelkit.engines.vllm import VllmEngine
from labelkit.judging import annotate as annotation
from labelkit.judging.options import AnnotateOptions
from labelkit.judging.pool_texts import PoolTexts, tables_of
from labelkit.judging.prompts import load_prompt
from labelkit.judging.reading import PASSAGE_TOKENS, Reading
from labelkit.pooling.pool import Pool, read_pool

MAX_MODEL_LEN = 4096
QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 152064,
}
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SHAPES = {
    "tiny": (64, 128, 2, 2, 1),
    "0.5b": (896, 4864, 24, 14, 2),
    "1.5b": (1536, 8960, 28, 12, 2),
    "7b": (3584, 18944, 28, 28, 4),
    "32b": (5120, 27648, 64, 40, 8),
}
"""Sizes of Qwen2.5, in the order of `SIZES`."""
Round = tuple[str, int, float, float | None]
"""Side, tokens of the prompts, seconds, and share of the tokens found in the prefix cache."""


def main() -> None:
    """Time both sides for each shape."""
    given = parse()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if given.device == "cpu":
        os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
    for shape in given.shape:
        rounds: list[Round] = []
        with tempfile.TemporaryDirectory() as scratch:
            model = given.model if shape == "real" else dummy(shape, given.model, Path(scratch) / shape)
            for judge in (ours, bare):
                rounds += in_a_process(judge, str(model), given, Path(scratch))
        report(shape, rounds, given)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="annotate --engine vllm against LLM.chat.")
    parser.add_argument("model", type=Path)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--shape", nargs="+", default=["tiny"], choices=[*SHAPES, "real"])
    parser.add_argument("--pairs", type=int, help="number of first pairs of the pool; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shuffled", action="store_true", help="one more round of annotate in random order")
    add_options(parser)
    return parser.parse_args()


def dummy(shape: str, tokenizer: Path, folder: Path) -> Path:
    """Write a model folder of a shape: a configuration and a tokenizer."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, folder)
    config = QWEN | dict(zip(SIZES, SHAPES[shape], strict=True))
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def arguments(model: str, given: argparse.Namespace) -> dict[str, Any]:
    """Make the arguments of vLLM that both sides share: weights, statistics, and settings of the CPU build."""
    weights = {} if model == str(given.model) else {"load_format": "dummy"}
    cpu = {} if given.device == "cuda" else {"enforce_eager": True}
    return {**weights, **cpu, "disable_log_stats": not given.shuffled}


def pool_of(given: argparse.Namespace) -> Pool:
    """Read the pool, or its first pairs."""
    pool = read_pool(given.pool)
    return pool._replace(candidates=pool.candidates[: given.pairs])


def ours(model: str, given: argparse.Namespace, folder: Path) -> Iterable[Round]:
    """Time rounds of an annotation with a loaded engine."""
    pool = pool_of(given)
    told = tuple(f"{name}={json.dumps(value)}" for name, value in arguments(model, given).items())
    dtype = "bfloat16" if given.device == "cuda" else "float32"
    options = AnnotateOptions(
        model=model, engine="vllm", dtype=dtype, max_model_len=MAX_MODEL_LEN, defence=("none",), engine_arg=told
    )
    engine = VllmEngine(options.settings)
    list(engine.run([warm()]))
    orders = ["annotate"] * given.rounds + ["annotate, pairs in random order"] * given.shuffled
    for number, name in enumerate(orders):
        engine._runner.run(engine._llm.reset_prefix_cache())
        before = prefix_hits()
        shown = pool if name == "annotate" else shuffled(pool)
        start = time.perf_counter()
        # The time of the bare call does not include closing the engine either.
        with patch.object(annotation, "open_engine", return_value=engine), patch.object(engine, "close"):
            outcome = annotation.annotate(shown, folder / f"labels-{number}", options, command="benchmark")
        seconds = time.perf_counter() - start
        if outcome.failures or outcome.pending:
            raise SystemExit(f"not every pair was judged: {outcome}")
        yield name, outcome.tokens, seconds, share(before, prefix_hits())
    engine.close()


def bare(model: str, given: argparse.Namespace, folder: Path) -> Iterable[Round]:
    """Time rounds of one `LLM.chat` call with all prompts, as in vLLM's documentation."""
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    chats = [[message._asdict() for message in request.messages] for request in requests_of(pool_of(given), given)]
    labels = list(load_prompt("graded").label_texts)
    sampling = SamplingParams(
        temperature=0.0, max_tokens=1, logprobs=20, structured_outputs=StructuredOutputsParams(choice=labels)
    )
    dtype = "bfloat16" if given.device == "cuda" else "float32"
    untyped: Any = LLM
    llm = untyped(model, dtype=dtype, max_model_len=MAX_MODEL_LEN, **arguments(model, given))
    llm.chat([[message._asdict() for message in warm().messages]], sampling, use_tqdm=False)
    for _ in range(given.rounds):
        llm.reset_prefix_cache()
        start = time.perf_counter()
        outputs = llm.chat(chats, sampling, use_tqdm=False)
        seconds = time.perf_counter() - start
        if not {output.outputs[0].text for output in outputs} <= set(labels):
            raise SystemExit("an answer is no label")
        yield "LLM.chat", sum(len(output.prompt_token_ids) + 1 for output in outputs), seconds, None
    llm.llm_engine.engine_core.shutdown()


def warm() -> Request:
    """Make a request that both sides answer before the time starts."""
    prompt = load_prompt("graded")
    return Request("warm", "query", prompt.render("judge", "query", ["passage"]), prompt.label_texts)


def requests_of(pool: Pool, given: argparse.Namespace) -> Iterable[Request]:
    """Yield the requests of an annotation, with passages cut to the same length."""
    reading, tokens = Reading(passage_tokens=PASSAGE_TOKENS), model_tokens(Settings(str(given.model)), None)
    prompt = load_prompt("graded")
    with PoolTexts(tables_of(pool), reading, tokens, scratch=Path(tempfile.gettempdir())) as texts:
        for number in range(len(texts)):
            found = texts[number]
            for passage in found.passages.values():
                shown = prompt.render("judge", found.query, [passage])
                yield Request("", found.query_id, shown, prompt.label_texts)


def shuffled(pool: Pool) -> Pool:
    """Shuffle the pairs of a pool."""
    return pool._replace(candidates=random.Random(0).sample(pool.candidates, len(pool.candidates)))


def prefix_hits() -> tuple[float, float]:
    """Read vLLM's counters of tokens found in the prefix cache, and of tokens looked up."""
    from prometheus_client import REGISTRY

    names = ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")
    found = dict.fromkeys(names, 0.0)
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            if sample.name in found:
                found[sample.name] += sample.value
    return found[names[0]], found[names[1]]


def share(before: tuple[float, float], after: tuple[float, float]) -> float | None:
    """Compute the share of tokens found between two readings; None if vLLM counted none."""
    hits, queries = (late - early for early, late in zip(before, after, strict=True))
    return hits / queries if queries else None


def in_a_process(
    judge: Callable[[str, argparse.Namespace, Path], Iterable[Round]],
    model: str,
    given: argparse.Namespace,
    scratch: Path,
) -> list[Round]:
    """Run a function in its own process, and return its rounds."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=send_all, args=(there, judge, model, given, scratch))
    child.start()
    there.close()
    rounds: list[Round] = []
    try:
        while (one := here.recv()) is not None:
            rounds.append(one)
            print(f"{one[0]}: {one[1]} tokens in {one[2]:.2f} s", flush=True)
    except EOFError:
        raise SystemExit("a side of the comparison failed") from None
    finally:
        child.join()
    return rounds


def send_all(pipe: Any, judge: Callable[..., Iterable[Round]], *given: Any) -> None:
    """Send each round through a pipe when it is finished, and None at the end."""
    for one in judge(*given):
        pipe.send(one)
    pipe.send(None)


def report(shape: str, rounds: list[Round], given: argparse.Namespace) -> None:
    """Print and store the medians of both sides."""
    pairs = len(pool_of(given).candidates)
    base = statistics.median(seconds for name, _, seconds, _ in rounds if name == "LLM.chat")
    rows = []
    for name in dict.fromkeys(name for name, *_ in rounds):
        mine = [one for one in rounds if one[0] == name]
        seconds = statistics.median(one[2] for one in mine)
        found = [one[3] for one in mine if one[3] is not None]
        hits = f"{statistics.median(found):.3f}" if found else ""
        rows.append((name, len(mine), pairs / seconds, mine[0][1] / seconds, seconds / base, hits))
    header = ("who", "rounds", "pairs/s", "tokens/s", "time relative to LLM.chat", "share found in the prefix cache")
    record(f"Annotation, Qwen2.5 {shape}, {pairs} pairs", header, rows, given)


if __name__ == "__main__":
    main()
