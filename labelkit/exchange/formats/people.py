"""Records of Argilla and Label Studio: one record per pair, with models' grades as suggestions and human grades as
answers.

`labelkit.corpora.answers` reads the answers back, as human judgements with one judge per person.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from labelkit.corpora.answers import QUESTION
from labelkit.exchange.formats.base import View, Written, write_lines
from labelkit.records import MAX_GRADE

GRADES = [str(grade) for grade in range(MAX_GRADE + 1)]
LABELLING = f"""\
<View>
  <Header value="$query"/>
  <Text name="passage" value="$passage"/>
  <Choices name="{QUESTION}" toName="passage" choice="single" showInLine="true">
{chr(10).join(f'    <Choice value="{grade}" hotkey="{grade}"/>' for grade in GRADES)}
  </Choices>
</View>"""
"""Labelling configuration of a Label Studio project for these tasks."""


def write_argilla(view: View, folder: Path) -> Written:
    """Write `records.json` for `dataset.records.from_json`: fields query and passage, question grade (labels "0" to
    "3").

    Argilla stores an answer under a user id. A judge has none, so human grades get an id made from the judge's id.
    """
    left_out = {"suggestions after the first of a record": 0, "judgements without a grade": 0}

    def records() -> Iterator[dict[str, Any]]:
        for pair in judged_pairs(view, left_out):
            people = [said for said in pair["grades"] if said["kind"] == "human"]
            models = [said for said in pair["grades"] if said["kind"] != "human"]
            left_out["suggestions after the first of a record"] += max(0, len(models) - 1)
            first = [{"value": m["grade"], "score": m["probability"], "agent": m["judge_id"]} for m in models[:1]]
            answers = [{"value": said["grade"], "user_id": user_id(said["judge_id"])} for said in people]
            ids = {name: pair[name] for name in ("query_id", "passage_id")}
            yield {
                "id": json.dumps(list(ids.values()), ensure_ascii=False),
                "fields": {"query": pair["query"], "passage": pair["passage"]},
                "metadata": ids,
                "suggestions": {QUESTION: first[0]} if first else {},
                "responses": {QUESTION: answers} if answers else {},
                "vectors": {},
                "status": "completed" if answers else "pending",
            }

    return Written({"records.json": write_array(folder / "records.json", records())}, left_out)


def user_id(judge_id: str) -> str:
    """Make a UUID from the id of a judge; equal ids give equal UUIDs."""
    digest = hashlib.sha256(judge_id.encode()).hexdigest()
    return "-".join((digest[:8], digest[8:12], f"4{digest[13:16]}", f"8{digest[17:20]}", digest[20:32]))


def write_label_studio(view: View, folder: Path) -> Written:
    """Write `tasks.json` and the project's `config.xml`: models' grades are predictions, human grades
    are annotations.
    """
    left_out = {"judgements without a grade": 0}

    def result(grade: str) -> list[dict[str, Any]]:
        return [{"from_name": QUESTION, "to_name": "passage", "type": "choices", "value": {"choices": [grade]}}]

    def tasks() -> Iterator[dict[str, Any]]:
        for pair in judged_pairs(view, left_out):
            grades = pair.pop("grades")
            yield {
                "data": pair,
                "annotations": [
                    {"completed_by": {"email": said["judge_id"]}, "result": result(said["grade"])}
                    for said in grades
                    if said["kind"] == "human"
                ],
                "predictions": [
                    {"model_version": said["judge_id"], "score": said["probability"], "result": result(said["grade"])}
                    for said in grades
                    if said["kind"] != "human"
                ],
            }

    rows = {"tasks.json": write_array(folder / "tasks.json", tasks())}
    write_lines(folder / "config.xml", [LABELLING])
    return Written(rows, left_out)


def judged_pairs(view: View, left_out: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Yield every judged pair with its texts and grades. The table `judgements` is sorted by pair."""
    kinds = {row["judge_id"]: row["kind"] for row in view.rows("judges")}
    queries = {row["query_id"]: row["text"] for row in view.rows("queries")}
    for (query_id, passage_id), rows in groupby(
        view.rows("judgements"), key=lambda row: (row["query_id"], row["passage_id"])
    ):
        grades = []
        for row in rows:
            if row["grade"] is None:
                left_out["judgements without a grade"] += 1
                continue
            grades.append(
                {
                    "judge_id": row["judge_id"],
                    "kind": kinds[row["judge_id"]],
                    "grade": str(row["grade"]),
                    "probability": max(row["probs"]) if row["probs"] else None,
                }
            )
        yield {
            "query_id": query_id,
            "passage_id": passage_id,
            "query": queries[query_id],
            "passage": view.passage(passage_id).full_text,
            "grades": grades,
        }


def write_array(path: Path, items: Iterable[Any]) -> int:
    """Write a JSON array, one item per line. Returns the number of items."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for count, item in enumerate(items, 1):
            file.write(",\n" if count > 1 else "\n")
            file.write(json.dumps(item, ensure_ascii=False))
        file.write("\n]\n")
    return count
