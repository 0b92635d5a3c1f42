"""Compares the time of `annotate --engine vllm` with a bare `LLM.chat`, on the same prompts and settings of vLLM.

    python benchmarks/vllm_overhead.py MODEL DATA [--pairs 1500] [--rounds 3] [--tiny]

DATA is a BEIR folder whose judged pairs are the prompts. Both are run in turn, each round in its own process, so that
the prefix cache is empty. The time starts after the weights are loaded and one prompt was run, and ends with the labels
folder, or with the last text of the bare call. With --tiny, MODEL is replaced by a random two-layer model with the same
tokenizer, so that the time of labelkit is a larger share. Prints the seconds of each round and the ratio of the
medians.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

from labelkit.corpora.beir import read_data
from labelkit.engines import Request
from labelkit.engines.vllm import ROWS, VllmEngine
from labelkit.judging import annotate as annotation
from labelkit.judging.options import AnnotateOptions
from labelkit.judging.prompts import load_prompt
from labelkit.pooling.options import PoolOptions
from labelkit.pooling.pool import Pool, make_pool

MAX_MODEL_LEN = 4096


def main() -> None:
    """Time both in turn."""
    parser = argparse.ArgumentParser(description="Compare annotate --engine vllm with a bare LLM.chat.")
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--pairs", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    with tempfile.TemporaryDirectory() as scratch:
        model = tiny_twin(given.model, Path(scratch) / "tiny") if given.tiny else given.model
        pool = judged_pairs(given.data, given.split, given.pairs, Path(scratch))
        seconds: dict[str, list[float]] = {"annotate": [], "LLM.chat": []}
        for number in range(given.rounds):
            for name, judge in (("annotate", ours), ("LLM.chat", bare)):
                seconds[name].append(in_a_process(judge, model, pool, Path(scratch) / f"labels-{number}"))
                print(f"{name}: {given.pairs} pairs in {seconds[name][-1]:.2f} s", flush=True)
    ratio = statistics.median(seconds["annotate"]) / statistics.median(seconds["LLM.chat"])
    print(f"ratio of the medians: {ratio:.3f}")


def tiny_twin(model: str, folder: Path) -> str:
    """Write a two-layer model of width 64 with random weights and the tokenizer of `model`."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config: Any = AutoConfig.from_pretrained(model)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 64, 128, 2
    config.num_attention_heads, config.num_key_value_heads = 2, 1
    config.layer_types = config.layer_types[:2]
    untyped: Any = AutoModelForCausalLM
    untyped.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return str(folder)


def judged_pairs(folder: Path, split: str, pairs: int, scratch: Path) -> Pool:
    """Make a pool of the first judged pairs of a BEIR folder, without duplicates, which `annotate` judges only once."""
    data = read_data(folder, split)
    texts = {
        (query_id, data.corpus[passage_id].full_text): passage_id
        for query_id, grades in data.qrels.items()
        for passage_id in grades
    }
    run = scratch / "judged.trec"
    with run.open("w", encoding="utf-8") as lines:
        for rank, ((query_id, _), passage_id) in enumerate(islice(texts.items(), pairs)):
            lines.write(f"{query_id} Q0 {passage_id} 1 {-rank} judged\n")
    pool = make_pool(folder, scratch / "pool", PoolOptions(split=split, bm25=0, run=(f"{run}:{pairs}",)))
    assert len(pool.candidates) == pairs, f"{folder} has only {len(pool.candidates)} different judged pairs"
    return pool


def requests_of(pool: Pool) -> Iterable[Request]:
    """Yield the requests that `annotate` sends if no passage is shortened."""
    prompt = load_prompt("graded")
    for pair in pool.candidates:
        texts = (pool.queries[pair.query_id].text, [pool.passages[pair.passage_id].full_text])
        key = f"{pair.query_id} {pair.passage_id}"
        yield Request(key, pair.query_id, prompt.render("judge", *texts), prompt.label_texts)


def ours(model: str, pool: Pool, folder: Path) -> float:
    """Measure the seconds of an annotation with a loaded engine."""
    options = AnnotateOptions(
        model=model,
        engine="vllm",
        dtype="float32",
        max_model_len=MAX_MODEL_LEN,
        passage_tokens=MAX_MODEL_LEN,
        defence=("none",),
    )
    engine = VllmEngine(options.settings)
    list(engine.run(islice(requests_of(pool), 1)))
    start = time.perf_counter()
    # The time of the bare call does not include closing the engine either.
    with patch.object(annotation, "open_engine", return_value=engine), patch.object(engine, "close"):
        outcome = annotation.annotate(pool, folder, options, command="benchmark")
    told = (outcome.asked, outcome.cut_passages, outcome.failures)
    assert told == (len(pool.candidates), 0, {}), f"asked, cut, failed: {told}"
    seconds = time.perf_counter() - start
    engine.close()
    return seconds


def bare(model: str, pool: Pool, folder: Path) -> float:
    """Measure the seconds of one `LLM.chat` call with all prompts."""
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    requests = list(requests_of(pool))
    chats: list[Any] = [[message._asdict() for message in request.messages] for request in requests]
    sampling = SamplingParams(
        temperature=0.0,
        max_tokens=1,
        logprobs=20,
        structured_outputs=StructuredOutputsParams(choice=list(requests[0].labels)),
    )
    llm = LLM(
        model,
        dtype="float32",
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=ROWS,
        enforce_eager=True,
        disable_log_stats=True,
    )
    llm.chat(chats[:1], sampling, use_tqdm=False)
    start = time.perf_counter()
    outputs = llm.chat(chats, sampling, use_tqdm=False)
    seconds = time.perf_counter() - start
    assert {output.outputs[0].text for output in outputs} <= {"0", "1", "2", "3"}
    llm.llm_engine.engine_core.shutdown()
    return seconds


def in_a_process(judge: Callable[[str, Pool, Path], float], model: str, pool: Pool, folder: Path) -> float:
    """Run a function in its own process, and return its result."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=report, args=(there, judge, model, pool, folder))
    child.start()
    there.close()
    seconds: float = here.recv()
    child.join()
    return seconds


def report(pipe: Any, judge: Callable[[str, Pool, Path], float], model: str, pool: Pool, folder: Path) -> None:
    """Send the result of a function through a pipe."""
    pipe.send(judge(model, pool, folder))


if __name__ == "__main__":
    main()
