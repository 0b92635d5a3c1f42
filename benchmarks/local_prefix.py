"""Compare engine `local` with a plain padded forward pass, on the same prompts and model, interleaved in one process.

    python benchmarks/local_prefix.py MODEL DATA [--queries 4] [--passages 8]

DATA is a BEIR folder with qrels; the first queries are judged with their first passages. Prints pairs per second of
each round, the ratio of the median times, and the largest difference between the label log-probabilities of the two.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from labelkit.corpora.beir import read_data
from labelkit.engines import Request, Settings
from labelkit.engines.local import LocalEngine, first_label_tokens
from labelkit.judging.prompts import load_prompt

LogProbs = dict[str, dict[str, float]]
"""Key of a request -> label -> log-probability."""


def main() -> None:
    """Time both in turn, and compare their log-probabilities."""
    parser = argparse.ArgumentParser(description="Compare engine local with a plain padded forward pass.")
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--passages", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    requests = make_requests(given.data, given.split, given.queries, given.passages)
    engine = LocalEngine(Settings(given.model))
    plain(engine, requests[:1])  # loads the weights, warms up
    seconds: dict[str, list[float]] = {"shared prefix": [], "plain": []}
    found: dict[str, LogProbs] = {}
    for _ in range(given.rounds):
        for name, judge in (("shared prefix", shared), ("plain", plain)):
            start = time.perf_counter()
            found[name] = judge(engine, requests)
            seconds[name].append(time.perf_counter() - start)
            print(f"{name}: {len(requests) / seconds[name][-1]:.2f} pairs/s", flush=True)
    ratio = statistics.median(seconds["plain"]) / statistics.median(seconds["shared prefix"])
    differences = [
        abs(found["plain"][key][label] - value)
        for key, labels in found["shared prefix"].items()
        for label, value in labels.items()
    ]
    print(f"median ratio {ratio:.2f}; largest difference of a log-probability {max(differences):.1e}")


def make_requests(folder: Path, split: str, queries: int, passages: int) -> list[Request]:
    """Make requests for the first passages of the first queries, with the shipped prompt `graded`."""
    data, prompt = read_data(folder, split), load_prompt("graded")
    return [
        Request(
            f"{query_id} {passage_id}",
            query_id,
            prompt.render("judge", data.queries[query_id].text, [data.corpus[passage_id].full_text]),
            prompt.label_texts,
        )
        for query_id in islice(data.qrels, queries)
        for passage_id in islice(data.qrels[query_id], passages)
    ]


def shared(engine: LocalEngine, requests: Sequence[Request]) -> LogProbs:
    """Compute log-probabilities with the engine."""
    return {reply.key: reply.label_logprobs or {} for reply in engine.run(requests)}


def plain(engine: LocalEngine, requests: Sequence[Request]) -> LogProbs:
    """Compute log-probabilities from whole prompts, sorted by length and padded in batches of eight."""
    import torch

    model: Any = engine._model
    rows = sorted(((engine._encoder.encode(r.messages), r) for r in requests), key=lambda row: len(row[0]))
    found: LogProbs = {}
    for start in range(0, len(rows), 8):
        batch = rows[start : start + 8]
        padded = torch.zeros(len(batch), len(batch[-1][0]), dtype=torch.long)
        for row, (ids, _) in enumerate(batch):
            padded[row, : len(ids)] = torch.tensor(ids)
        with torch.inference_mode():
            hidden = model.base_model(input_ids=padded.to(model.device), use_cache=False).last_hidden_state
            last = hidden[torch.arange(len(batch)), torch.tensor([len(ids) - 1 for ids, _ in batch])]
            logprobs = torch.log_softmax(model.get_output_embeddings()(last).float(), dim=-1).cpu()
        for (_, request), row in zip(batch, logprobs, strict=True):
            tokens = first_label_tokens(engine._tokenizer, request.labels)
            found[request.key] = {label: float(row[token]) for label, token in tokens.items()}
    return found


if __name__ == "__main__":
    main()
