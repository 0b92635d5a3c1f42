"""Objectives, labels and judges: the study that `STUDY.md` designs.

    python benchmarks/noise_study.py prepare STUDY --data ../shared/data --model MINILM
    python benchmarks/noise_study.py run STUDY --model MINILM --device cuda --workers 8 --minutes 5
    python benchmarks/noise_study.py report STUDY

    python benchmarks/noise_study.py run STUDY-CPU --part cpu --model MINILM --device cpu --workers 2 --minutes 120
    python benchmarks/noise_study.py report STUDY-CPU --part cpu

`prepare` needs the collections, BM25 and the start model, and writes a few MB into STUDY/prepared. `run` needs these
and the start model, no network and no text; it does the runs in the order of the design and writes one line per run to
STUDY/results.jsonl, so that the same command resumes. `report` reads the lines and writes STUDY/report.md and the
figure STUDY/break_even.svg. `--part cpu` is the part of the design for a machine without a GPU, in a folder of its own.
A run with `--steps`, and a run of the whole study on a CPU, is a trial of the program and no result.
"""

import argparse
import logging
import sys
from pathlib import Path

# Instead of this script's folder, whose coverage.py would hide the package of that name from numba.
sys.path[0] = str(Path(__file__).resolve().with_name("noise"))


def main() -> None:
    """Read the command line and do one of the three steps."""
    parser = argparse.ArgumentParser(description="Objectives, labels and judges.")
    parser.add_argument("step", choices=["prepare", "run", "report"])
    parser.add_argument("study", type=Path, help="folder of the study")
    parser.add_argument("--part", choices=["whole", "cpu"], default="whole", help="runs of the design")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the collections")
    parser.add_argument("--model", help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--device", default="cuda", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=8, help="processes on the device")
    parser.add_argument("--minutes", type=float, default=5.0, help="no run is started that would end after this")
    parser.add_argument("--steps", type=int, help="steps per run, for a trial")
    parser.add_argument("--limit", type=int, help="runs at most, for a trial")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if given.step != "report" and given.model is None:
        parser.error("--model is needed")
    if given.step == "prepare":
        from study.collections import prepare

        prepare(given.data, given.model, given.study / "prepared")
    elif given.step == "run":
        from study.grid import PARTS
        from study.workers import Plan, work

        work(
            Plan(
                prepared=given.study / "prepared",
                model=given.model,
                output=given.study,
                device=given.device,
                workers=given.workers,
                minutes=given.minutes,
                part=PARTS[given.part],
                steps=given.steps,
                limit=given.limit,
            )
        )
    else:
        from study.report import write_report

        write_report(given.study, given.part)


if __name__ == "__main__":
    main()
