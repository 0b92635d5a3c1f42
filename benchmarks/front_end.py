"""Measure the pairs per second that `annotate --engine vllm` processes on one core, without the model.

    python benchmarks/front_end.py MODEL POOL [--rounds 3] [--profile]

MODEL is a folder with a tokenizer; POOL is a folder of `labelkit pool`. vLLM's engine is replaced by a substitute that
answers every request immediately with the same label. The measured time is therefore labelkit's: texts, chat template,
tokens, sampling parameters, journal commits, and the tables at the end. Prints processor seconds of the whole call,
which hardly depend on other programs, and pairs per second.
"""

import argparse
import cProfile
import gc
import pstats
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from labelkit.engines import Request
from labelkit.engines.vllm import VllmEngine
from labelkit.judging import annotate as annotation
from labelkit.judging.options import AnnotateOptions
from labelkit.judging.prompts import load_prompt
from labelkit.pooling.pool import Pool, read_pool


class Instant:
    """Substitute of vLLM's engine that answers every request immediately with the first label."""

    def __init__(self, label_tokens: list[int]) -> None:
        logprobs = {token: SimpleNamespace(logprob=-1.0 - place) for place, token in enumerate(label_tokens)}
        output = SimpleNamespace(token_ids=[label_tokens[0]], logprobs=[logprobs], finish_reason="length")
        self._loaded = False
        self._answer = SimpleNamespace(outputs=[output])

    vllm_config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=256))

    async def generate(self, prompt: Any, sampling: Any, request_id: str) -> AsyncIterator[Any]:
        if not self._loaded:
            gc.freeze()  # as the engine does after loading the weights
        self._loaded = True
        yield self._answer

    def shutdown(self) -> None:
        """Stop nothing."""


def main() -> None:
    """Time the whole call."""
    parser = argparse.ArgumentParser(description="Measure annotate --engine vllm without the model.")
    parser.add_argument("model")
    parser.add_argument("pool", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="profile one more round")
    given = parser.parse_args()
    pool = read_pool(given.pool)
    with tempfile.TemporaryDirectory() as scratch:
        seconds = [annotate(given.model, pool, Path(scratch) / str(number)) for number in range(given.rounds)]
        median = statistics.median(seconds)
        print(f"{len(pool.candidates)} pairs: {median:.2f} s, {len(pool.candidates) / median:.0f} pairs/s")
        if given.profile:
            profile = cProfile.Profile()
            annotate(given.model, pool, Path(scratch) / "profiled", profile)
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)


def annotate(model: str, pool: Pool, folder: Path, profile: cProfile.Profile | None = None) -> float:
    """Measure the processor seconds of one annotation of a pool."""
    prompt = load_prompt("graded")
    options = AnnotateOptions(model=model, engine="vllm", dtype="float32")
    engine = VllmEngine(options.settings)
    engine.__dict__["_llm"] = Instant(list(engine._label_tokens(prompt.label_texts).values()))
    warm = Request("warm", "query", prompt.render("judge", "query", ["passage"]), prompt.label_texts)
    engine._sampling(warm)  # imports vLLM
    with patch.object(annotation, "open_engine", return_value=engine), profile or nullcontext():
        start, wall = time.process_time(), time.perf_counter()
        outcome = annotation.annotate(pool, folder, options, command="benchmark")
        seconds, wall = time.process_time() - start, time.perf_counter() - wall
    if outcome.failures or outcome.pending:
        raise SystemExit(f"not every pair was judged: {outcome}")
    print(f"{outcome.asked} asked, {seconds:.2f} processor seconds, {wall:.2f} s of wall time")
    return seconds


if __name__ == "__main__":
    main()
