"""Measure precision and recall of every mixing policy against human grades.

    python benchmarks/policies.py ../shared/data/llmjudge-val

Mixes the grades of the LLMs in the folder (`llm.NAME.tsv`) by every policy, without human labels and with the human
labels of two of the five queries. The positives are compared with human positives (grade >= 2), only on queries whose
human labels were not mixed in. Five queries are few: no intervals are given, and differences of a few hundredths are
not meaningful. "relevant" is the share of the negatives that have human grade >= 2.
"""

import argparse
import tempfile
from pathlib import Path

from labelkit.corpora.qrels import Qrels, read_qrels
from labelkit.datasets.mix import mix
from labelkit.datasets.options import MixOptions
from labelkit.datasets.policies import POLICIES
from labelkit.exchange.importing import import_grades
from labelkit.exchange.options import ImportOptions
from labelkit.records import ROLES
from labelkit.storage.dataset import read_dataset

SHARES = (0.0, 0.4)
"""Shares of the queries whose human labels are mixed in."""


def main() -> None:
    """Mix by every policy, compare with human grades, and print the table."""
    parser = argparse.ArgumentParser(description="Compare mixing policies with human grades.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    given = parser.parse_args()
    human = given.data / "qrels" / f"{given.split}.tsv"
    truth = read_qrels(human)
    print(
        "| judges | policy | human labels | positives | precision | recall | negatives | relevant of them | ignored |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        labels = {path.stem.removeprefix("llm."): path for path in sorted(given.data.glob("llm.*.tsv"))}
        for name, path in labels.items():
            import_grades(path, Path(scratch, name), ImportOptions(judge=name, kind="llm"))
        folders = {name: Path(scratch, name) for name in labels}
        for name, folder in folders.items():
            row(name, MixOptions(data=given.data, llm=(folder,)), truth, target=Path(scratch, "dataset"))
        for share in SHARES:
            people = human if share else None
            for policy in POLICIES:
                if policy == "staged":
                    continue  # its train table equals the one of human-first
                options = MixOptions(
                    data=given.data,
                    human=people,
                    llm=tuple(folders.values()),
                    policy=policy,
                    human_fraction=share,
                    llm_positive=0.5,
                    llm_negative=0.3,
                )
                row(" + ".join(folders), options, truth, target=Path(scratch, "dataset"))


def row(judges: str, options: MixOptions, truth: Qrels, *, target: Path) -> None:
    """Mix, compare on the queries without human labels, and print a row of the table."""
    mix(target, options, command="benchmark")
    examples = read_dataset(target).examples
    seen = {one.query_id for one in examples if any(label.source == "human" for label in one.positives + one.negatives)}
    examples = [one for one in examples if one.query_id not in seen]
    positives, negatives, ignored = (
        {(one.query_id, label.passage_id) for one in examples for label in getattr(one, side)}
        for side in ROLES.values()
    )
    unseen = {query_id: graded for query_id, graded in truth.items() if query_id not in seen}
    relevant = {(query_id, pid) for query_id, graded in unseen.items() for pid, grade in graded.items() if grade >= 2}
    right = len(relevant & positives)
    found = (f"{right / max(1, len(positives)):.3f}", f"{right / len(relevant):.3f}")
    missed = f"{len(relevant & negatives) / max(1, len(negatives)):.3f}"
    counts = (len(positives), *found, len(negatives), missed, len(ignored))
    cells = (judges, options.policy, f"{len(seen)} queries", *counts)
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
