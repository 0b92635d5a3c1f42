"""Shows one query of a dataset with the origin of its labels: `labelkit show`."""

from pathlib import Path
from typing import Any, NamedTuple

from labelkit.datasets.evidence import Shown, find
from labelkit.datasets.options import ShowOptions
from labelkit.records import Example
from labelkit.storage.remote import local


class ShownQuery(NamedTuple):
    """A query and its labels, each with its judgements, requests and replies."""

    example: Example
    labels: list[Shown]

    def to_json(self) -> dict[str, Any]:
        """Convert to plain dicts and lists, for `json.dumps`."""
        return {
            "query_id": self.example.query_id,
            "query": self.example.query,
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
                    **({"mined": dict(one.mined)} if one.mined else {}),
                    **({"relabelled": dict(one.relabelled)} if one.relabelled else {}),
                }
                for one in self.labels
            ],
        }


def show(dataset: Path | str, options: ShowOptions) -> ShownQuery:
    """Look up the labels of a query with their origin: judge, prompt, request, raw reply, price and date.

    Args:
        dataset: dataset folder; may be at s3://, gs:// or hf://.
        options: the query, or the query and one of its passages.

    Returns:
        The example and its labels in the same order, with every judgement, request and reply.

    Raises:
        DataError: the dataset has no such query or label.
    """
    return ShownQuery(*find(local(str(dataset)), options.query, options.passage))
