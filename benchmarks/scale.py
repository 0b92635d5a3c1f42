"""Measure time and memory of every command at 10 thousand, 100 thousand and 1 million judged pairs.

    python benchmarks/scale.py --work build/scale [--pairs 10000 100000 1000000] [--only agree bias ...] [--keep]

Generates a collection of each size (`scale_data.py`), runs each command in its own process, and prints a table in
Markdown: CPU seconds of all cores and peak resident memory (including mapped files) at each size, the exponent of the
growth of time between the two largest sizes, and what both come to at 15.6 million pairs, the size of MS MARCO: time by
the exponent or by a straight line, whichever is longer, and memory by a straight line. An exponent of 1 is linear
growth; at small sizes the start of a process hides it. Commands without a measurement at the largest size are not
continued. Memory that is bounded, such as DuckDB's, is continued too, so the figure is too high. Measurements are kept
with the seconds by the clock in `WORK/measured.jsonl`, so that the same call resumes. `--only` runs some commands whose
inputs an earlier call with --keep has made.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

JUDGED = 31
"""Number of judged pairs per query."""
PAIRS = (10_000, 100_000, 1_000_000)
FULL = 15_600_000
"""Number of judged pairs in MS MARCO with 31 per query."""
LABELKIT, TRAINER = "labelkit", "trainer"
SERVED = b"open http"
"""First words of a command that serves a page until it is stopped."""


class Run(NamedTuple):
    """The measurement of one command at one size."""

    command: str
    pairs: int
    seconds: float
    cpu_seconds: float
    peak_gib: float


def main() -> None:
    """Generate the collections, run the commands, and print the table."""
    parser = argparse.ArgumentParser(description="Measure every command at several sizes.")
    parser.add_argument("--work", type=Path, default=Path("build/scale"))
    parser.add_argument("--pairs", type=int, nargs="+", default=list(PAIRS))
    parser.add_argument("--only", nargs="+", help="names of commands, as in the table")
    parser.add_argument("--timeout", type=float, default=7200, help="seconds after which a command is given up")
    parser.add_argument("--keep", action="store_true", help="keep the generated collections and results")
    given = parser.parse_args()
    work, runs = given.work.absolute(), []
    for pairs in given.pairs:
        runs += measure(work, pairs, given.only, given.timeout)
        if not given.keep:
            shutil.rmtree(work / str(pairs))
    print("\n".join(table(runs)))


def measure(work: Path, pairs: int, only: list[str] | None, timeout: float) -> list[Run]:
    """Run the commands at one size, or read their earlier measurements."""
    folder, record = work / str(pairs), work / "measured.jsonl"
    if not (folder / "made").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        # In another process, because the peak memory of a command includes that of the process that starts it.
        script = Path(__file__).with_name("scale_data.py")
        subprocess.run([sys.executable, script, folder, str(pairs // JUDGED)], check=True)
        (folder / "made").touch()
    known = [Run(**json.loads(line)) for line in record.read_text().splitlines()] if record.is_file() else []
    done = {run.command: run for run in known if run.pairs == pairs}
    for name, command in commands(folder).items():
        if name not in done and (only is None or name in only):
            done[name] = measured(name, pairs, command, timeout=timeout)
            with record.open("a") as file:
                file.write(json.dumps(done[name]._asdict()) + "\n")
            print(f"{name}, {pairs:,} pairs: {done[name].seconds:.1f} s, {done[name].peak_gib:.2f} GiB", flush=True)
    if "audit" in done and (folder / "dataset").is_dir():
        check(folder)
    return [run for name, run in done.items() if only is None or name in only]


def commands(folder: Path) -> dict[str, list[str]]:
    """List the measured commands with their arguments, in the order in which they need each other's results."""
    data, labels = folder / "data", folder / "labels"
    pool, dataset = folder / "pool", folder / "dataset"
    lines = {
        "pool --run": f"pool {data} --bm25 0 --run {folder}/run.trec:31 -o {pool}",
        "pool --bm25": f"pool {data} --bm25 30 -o {folder}/pool-bm25",
        "pool --dense": f"pool {data} --bm25 0 --dense {folder}/encoder:30 -o {folder}/pool-dense",
        "plan": f"plan {pool} --engine scripted --model overlap",
        "annotate": f"annotate {pool} -o {folder}/annotated --engine scripted --model overlap",
        "annotate, nothing left": f"annotate {pool} -o {folder}/annotated --engine scripted --model overlap",
        "annotate --cascade": f"annotate {pool} -o {folder}/cascaded --engine scripted --model overlap --method binary "
        "--cascade overlap --cascade-share 0.05",
        "verify, labels": f"verify {folder}/annotated",
        "replay": f"replay {folder}/annotated",
        "judges": f"judges {labels} --json",
        "import": f"import {folder}/other.tsv -o {folder}/other --judge other --kind llm",
        "agree": f"agree {labels} --human {folder}/all.tsv --json",
        "agree, two judges": f"agree {labels} {folder}/other --human {folder}/all.tsv --json",
        "agree --by length": f"agree {labels} --human {folder}/all.tsv --by length --data {data} --json",
        "agree --by overlap": f"agree {labels} --human {folder}/all.tsv --by overlap --data {data} --json",
        "agree --by source": f"agree {labels} --human {folder}/all.tsv --by source --pool {pool} --json",
        "bias": f"bias {labels} --human {folder}/all.tsv --data {data} --json",
        "calibrate": f"calibrate {labels} {folder}/other --human {folder}/some.tsv -o {folder}/calibration.json",
        "calibrate, all pairs graded": f"calibrate {labels} --human {folder}/all.tsv -o {folder}/all.json",
        "calibrate --bm25": f"calibrate {labels} --human {folder}/some.tsv --bm25 --data {data} -o {folder}/bm25.json",
        "calibrate --apply": f"calibrate {labels} {folder}/other --apply {folder}/calibration.json --apply-anyway "
        f"-o {folder}/applied",
        "select": f"select {labels} {folder}/other --pool {pool} --budget 1000 -o {folder}/selected",
        "review": f"review {labels} -o {folder}/reviewed --name anna --texts {data} --no-browser",
        "redteam": f"redteam {data} --human {folder}/few.tsv --engine scripted --model overlap --prompt graded "
        f"--defence none --pairs 20 -o {folder}/attacked",
        "tune": f"tune {pool} --human {folder}/few.tsv --engine scripted --model overlap --wordings 0 --detect 1 "
        f"-o {folder}/tuned",
        "tidy": f"tidy {data} -o {folder}/tidied",
        "mix": f"mix --data {data} --human {data}/qrels/train.tsv --llm {labels} -o {dataset}",
        "mix --calibration": f"mix --data {data} --human {data}/qrels/train.tsv --llm {labels} --llm {folder}/other "
        f"--calibration {folder}/calibration.json --apply-anyway -o {folder}/mixed",
        "audit": f"audit {dataset} --eval {folder}/eval",
        "report": f"report {labels} --human {folder}/all.tsv --data {data} -o {folder}/report.html",
        "report, dataset": f"report {dataset} -o {folder}/dataset.html",
        "show": f"show {dataset} --query q1 --json",
        "verify": f"verify {dataset}",
        "export": f"export {dataset} --to tevatron -o {folder}/export",
        "relabel": f"relabel {dataset} -o {folder}/relabelled --engine scripted --model overlap",
        "relabel, files": f"relabel {folder}/export -o {folder}/rewritten --engine scripted --model overlap",
    }
    model = f"--model {folder}/encoder --objective lsepair --max-steps 1"
    trained = {
        "trainer suspects": f"suspects {folder}/mixed {model} -o {folder}/suspects --folds 2 --show 3",
        "trainer eval": f"eval {folder}/encoder {data} --split train --json",
    }
    every = {name: (LABELKIT, line) for name, line in lines.items()}
    every |= {name: (TRAINER, line) for name, line in trained.items()}
    return {name: [sys.executable, "-m", package, *line.split()] for name, (package, line) in every.items()}


def measured(name: str, pairs: int, command: list[str], timeout: float) -> Run:
    """Run one command, and measure its time and memory. Raises `SystemExit` with its messages if it fails."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told)
        ended, served = 0, False
        while not ended:
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            time.sleep(0.02)
            if not served and os.pread(told.fileno(), len(SERVED), 0) == SERVED:
                served = True
                process.send_signal(signal.SIGINT)
            if time.monotonic() - start > timeout:
                process.kill()
        if status and not served:
            told.seek(0)
            raise SystemExit(f"{name} failed or took over {timeout:.0f} s:\n{told.read().decode()[-2000:]}")
    busy = used.ru_utime + used.ru_stime
    return Run(name, pairs, time.monotonic() - start, busy, used.ru_maxrss / 2**20)


def check(folder: Path) -> None:
    """Print the numbers of planted and of found duplicates."""
    findings = json.loads((folder / "dataset" / "audit.json").read_text(encoding="utf-8"))["findings"]
    counts = {finding["name"]: finding["found"] for finding in findings}
    print(f"planted: {(folder / 'planted').read_text()}; found: {counts}")


def table(runs: Sequence[Run]) -> list[str]:
    """Return the lines of the table in Markdown."""
    sizes = sorted({run.pairs for run in runs})
    heads = ["command", *(f"{size:,} pairs" for size in sizes)]
    if len(sizes) > 1:
        heads += ["exponent", f"{FULL:,} pairs"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for command in dict.fromkeys(run.command for run in runs):
        by_size = {run.pairs: run for run in runs if run.command == command}
        cells = [
            f"{by_size[size].cpu_seconds:.1f} s, {by_size[size].peak_gib:.2f} GiB" if size in by_size else ""
            for size in sizes
        ]
        if len(sizes) > 1:
            measured_at = [by_size[size] for size in sizes if size in by_size]
            cells += extrapolated(measured_at if sizes[-1] in by_size else [])
        lines.append(f"| `{command}` | {' | '.join(cells)} |")
    return lines


def extrapolated(runs: Sequence[Run]) -> list[str]:
    """Return the exponent of a command's time between its two largest sizes, and its time and memory at `FULL` pairs.

    Time that shrinks is taken as constant.
    """
    if len(runs) < 2:
        return ["", ""]
    one, two = runs[-2:]
    exponent = max(0.0, math.log(two.cpu_seconds / one.cpu_seconds) / math.log(two.pairs / one.pairs))
    further = (FULL - two.pairs) / (two.pairs - one.pairs)
    on_line = two.cpu_seconds + further * max(0.0, two.cpu_seconds - one.cpu_seconds)
    minutes = max(on_line, two.cpu_seconds * (FULL / two.pairs) ** exponent) / 60
    gib = two.peak_gib + further * max(0.0, two.peak_gib - one.peak_gib)
    return [f"{exponent:.2f}", f"{minutes:.1f} min, {gib:.1f} GiB"]


if __name__ == "__main__":
    main()
