"""Make qrels of two forms of labels that the papers use.

    python examples/paper/qrels.py first QRELS -o OUT     keep the first graded passage of each query
    python examples/paper/qrels.py lists FILE -o OUT      read lines "query id, tab, passage ids with commas"

The lists are the form in which the training code of arXiv 2504.05220 reads the positives that an LLM selected; they get
grade 2.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

Row = tuple[str, str, str]
"""Query id, passage id and grade."""


def first(path: Path) -> Iterator[Row]:
    """Yield the first row of each query of qrels with the header of BEIR."""
    seen = set()
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["query-id"] not in seen:
                seen.add(row["query-id"])
                yield row["query-id"], row["corpus-id"], row["score"]


def lists(path: Path) -> Iterator[Row]:
    """Yield a row of grade 2 for each passage of a list."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            query_id, tab, passages = line.strip().partition("\t")
            if not tab or "\t" in passages:
                sys.exit(f"error: {path}:{number}: wanted a query id, a tab, and passage ids separated by commas")
            for passage_id in filter(None, map(str.strip, passages.split(","))):
                yield query_id, passage_id, "2"


FORMS = {"first": first, "lists": lists}


def main() -> None:
    """Write the qrels that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("path", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    draft = given.output.with_name(f"{given.output.name}.unfinished")
    with draft.open("w", encoding="utf-8", newline="") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        file.writelines("\t".join(row) + "\n" for row in FORMS[given.form](given.path))
    draft.replace(given.output)


if __name__ == "__main__":
    main()
