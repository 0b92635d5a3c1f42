"""One query of a dataset for people and machines, with everything that is known of its labels: `labelkit show`."""

from collections.abc import Sequence
from typing import Any

from labelkit.datasets.evidence import Shown
from labelkit.records import Example


def as_json(example: Example, shown: Sequence[Shown]) -> dict[str, Any]:
    """Everything as plain values."""
    return {
        "query_id": example.query_id,
        "query": example.query,
        "labels": [
            {
                "role": one.role,
                **one.label.model_dump(),
                "title": one.passage.title,
                "text": one.passage.text,
                "judgements": [
                    {
                        "judge": found.judge.model_dump(),
                        **found.judgement.model_dump(exclude={"query_id", "passage_id", "judge_id"}),
                        "prompt": found.prompt,
                        "exchanges": [
                            {
                                "request": None
                                if exchange.messages is None
                                else [message._asdict() for message in exchange.messages],
                                **exchange.record,
                            }
                            for exchange in found.exchanges
                        ],
                    }
                    for found in one.evidence
                ],
            }
            for one in shown
        ],
    }
