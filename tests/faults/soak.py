"""All promises with the full numbers: prints the table and writes it to build/soak.json and build/soak.md.

make soak        or: python tests/faults/soak.py [--short] [--only 1,5]
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import promises
from checks import Outcome

BUILD = Path(__file__).parents[2] / "build"


def main() -> int:
    """Run the checks; 1 where one was violated or showed nothing."""
    parser = argparse.ArgumentParser(description="All promises, with their trials and violations.")
    parser.add_argument("--short", action="store_true", help="The numbers of the test suite.")
    parser.add_argument("--only", help="Numbers of promises, with commas.")
    given = parser.parse_args()
    wanted = {int(number) for number in given.only.split(",")} if given.only else None
    rows = []
    for promise in promises.PROMISES:
        if wanted is None or promise.number in wanted:
            rows.append(row_of(promise, full=not given.short))
            print(line_of(rows[-1]), flush=True)
            for violation in rows[-1]["violations"][:5]:
                print(f"      {violation}", flush=True)
    BUILD.mkdir(exist_ok=True)
    (BUILD / "soak.json").write_text(json.dumps(rows, indent=1))
    head = "| promise | what | trials | violations | seconds | |\n|---|---|---|---|---|---|\n"
    (BUILD / "soak.md").write_text(head + "".join(f"{line_of(row)}\n" for row in rows))
    return int(any(row["violations"] or not row["trials"] for row in rows))


def row_of(promise: promises.Promise, *, full: bool) -> dict[str, Any]:
    """One promise: its check, then its tests."""
    start = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix=f"soak-{promise.number}-"))
    try:
        found = promise.check(work, full) if promise.check else Outcome(0, [])
    except Exception as error:
        found = Outcome(1, [f"the check itself failed: {type(error).__name__}: {error}"])
    tested = promises.run_tests(promise, full)
    shutil.rmtree(work, ignore_errors=True)
    notes = [found.note] + ([f"{tested.trials} tests"] if tested.trials else [])
    return {
        "promise": promise.number,
        "what": promise.text,
        "trials": found.trials + tested.trials,
        "violations": found.violations + tested.violations,
        "seconds": round(time.monotonic() - start),
        "note": "; ".join(filter(None, notes)),
    }


def line_of(row: dict[str, Any]) -> str:
    """A row of the table."""
    cells = (row["promise"], row["what"], row["trials"], len(row["violations"]), row["seconds"], row["note"])
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    sys.exit(main())
