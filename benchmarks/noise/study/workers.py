"""Do the runs of the study in processes that share one device, in the order of the design, until the time is over."""

import json
import logging
import multiprocessing
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from labelkit.pooling.packing import unpadded
from study.collections import Collection, read
from study.grid import PARTS, Part, Run
from study.training import Session, perform

log = logging.getLogger(__name__)
GRACE = 60.0
"""Seconds after the end in which the last runs may end."""


class Plan(NamedTuple):
    """How the runs are done."""

    prepared: Path
    model: str
    output: Path
    """Folder of `results.jsonl`, one line per run, and `failures.jsonl`."""
    device: str
    workers: int
    minutes: float
    part: Part = PARTS["whole"]
    steps: int | None = None
    """Steps per run, for a trial; None takes the steps of the part."""
    limit: int | None = None
    """At most this many runs; for a trial."""


class Results:
    """What is done, by key; a file that grows by lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, dict[str, Any]] = {}
        self.dev: dict[str, float] = {}
        """Key of a run -> mean nDCG@10 over the dev queries, where it measured them."""

    def load(self, collections: Mapping[str, Collection]) -> None:
        """Read what is there; a last line that was cut off is dropped from the file."""
        if not self.path.is_file():
            return
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self.path.write_text(whole, encoding="utf-8")
        for line in whole.splitlines():
            self._take(json.loads(line), collections)

    def add(self, line: dict[str, Any], collections: Mapping[str, Collection]) -> None:
        """Append a result."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._take(line, collections)

    def _take(self, line: dict[str, Any], collections: Mapping[str, Collection]) -> None:
        self.lines[line["key"]] = line
        name, fold = line["key"].split(" | ")[0], int(line["key"].split("fold ")[1].split(" ")[0])
        values = line["values"]["nDCG@10"]
        self.dev[line["key"]] = float(np.mean([values[query_id] for query_id in collections[name].parts[fold].dev]))


def work(plan: Plan) -> Results:
    """Do what is missing; results are on disk after every run, and the same call resumes."""
    # Threads of a parent are missing in a forked process, which would wait for them for ever.
    torch.set_num_threads(1)
    plan.output.mkdir(parents=True, exist_ok=True)
    collections = {path.stem: read(path) for path in sorted(plan.prepared.glob("*.zip"))}
    results = Results(plan.output / "results.jsonl")
    results.load(collections)
    session = Session(_load(plan.model), collections, plan.steps or plan.part.steps)
    context = multiprocessing.get_context("fork")  # everything is read once; no worker has used the device before
    pipes = []
    for _ in range(plan.workers):
        ours, theirs = context.Pipe()
        context.Process(target=_serve, args=(session, plan.device, theirs), daemon=True).start()
        pipes.append(ours)
    _hand_out(plan, results, pipes, collections)
    return results


def _hand_out(plan: Plan, results: Results, pipes: list[Connection], collections: Mapping[str, Collection]) -> None:
    started, failed = time.perf_counter(), set[str]()
    busy: dict[Connection, str] = {}
    idle, handed = list(pipes), 0
    longest = 0.0
    while True:
        left = 60 * plan.minutes - (time.perf_counter() - started)
        while idle and left > longest and handed != plan.limit:
            run = next(_open_runs(plan.part, results, {*busy.values(), *failed}), None)
            if run is None:
                break
            pipe = idle.pop()
            pipe.send(run)
            busy[pipe] = run.key
            handed += 1
        if not busy:
            break
        ready = wait(list(busy), timeout=max(0.0, left) + GRACE)
        if not ready:
            log.warning(f"{len(busy)} runs did not end in time and are given up: {', '.join(busy.values())}")
            return
        for pipe in [one for one in busy if one in ready]:
            key = busy.pop(pipe)
            try:
                line = pipe.recv()
            except EOFError:
                line = {"key": key, "error": "its process died"}
            else:
                idle.append(pipe)
            if "error" in line:
                failed.add(key)
                with (plan.output / "failures.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                log.warning(f"{key}: {line['error'].splitlines()[-1]}")
                continue
            results.add(line, collections)
            longest = max(longest, line["seconds"][1])
            log.info(f"{len(results.lines)} done after {time.perf_counter() - started:.0f} s: {key}")
    for pipe in idle:
        pipe.send(None)


def _open_runs(part: Part, results: Results, taken: set[str]) -> Iterator[Run]:
    """The runs that can be done now, in order: those without a rate wait until it is chosen."""
    for block in part.blocks:
        for run in block.runs():
            settled = part.settled(run, results.dev)
            if settled is not None and settled.key not in results.lines and settled.key not in taken:
                yield settled


def _load(model: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(model, device="cpu")


def _serve(session: Session, device: str, pipe: Connection) -> None:
    session.model.to(device)
    packed = unpadded(session.model, torch.bfloat16) if device == "cuda" else nullcontext()
    with packed as session.packing:
        while (run := pipe.recv()) is not None:
            try:
                pipe.send(perform(session, run))
            except Exception:  # reported, and the next run is done
                pipe.send({"key": run.key, "error": traceback.format_exc()})
