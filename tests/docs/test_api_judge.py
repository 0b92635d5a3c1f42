"""docs/api_judge.md: the page runs with a judge behind an API, here a lenient one that grades by shared words."""

import json
import math
import random
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from doc_blocks import BLOCKS, REPOSITORY, run

from labelkit.exchange.importing import import_grades
from labelkit.exchange.options import ImportOptions
from labelkit.storage.labels import read_labels

PAGE = REPOSITORY / "docs" / "api_judge.md"
GRADED = 50


def shared(text: str) -> int:
    """Grade from 0 to 3: long words that the query shares with its passage."""
    query, _, passage = text.partition("Passage")
    return min(3, len(set(re.findall(r"[a-z]{4,}", query.lower())) & set(re.findall(r"[a-z]{4,}", passage.lower()))))


class Judge(BaseHTTPRequestHandler):
    """Chat completions with log-probabilities of the grades; there is no list of models."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send(404, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        grade = shared(body["messages"][-1]["content"])
        top = [
            {"token": str(other), "logprob": math.log(0.7 if other == grade else 0.1), "bytes": None}
            for other in range(4)
        ]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": str(grade)},
            "finish_reason": "stop",
            "logprobs": {"content": [{**top[grade], "top_logprobs": top}]},
        }
        usage = {"prompt_tokens": 200, "completion_tokens": 1, "total_tokens": 201}
        self.send(200, {"model": body["model"], "choices": [choice], "usage": usage})

    def send(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address(monkeypatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    monkeypatch.setenv("BASE_URL", url)
    monkeypatch.setenv("LABELKIT_API_KEY", "sk-of-the-test")
    yield url
    server.shutdown()
    thread.join()
    server.server_close()


def scripts() -> tuple[str, str]:
    """The commands of the page before and after the pairs are graded by hand."""
    blocks = [block for block in BLOCKS if block.page == PAGE]
    (review,) = [number for number, block in enumerate(blocks) if "labelkit review" in block.text]
    before, after = (
        "\n".join(block.text for block in part if block.language == "sh") for part in (blocks[:review], blocks[review:])
    )
    return before, after


def grade_by_hand(folder: Path) -> None:
    """Write the labels folder `mine` of a person who is stricter than the judge, but for one pair of five."""
    rows, _, _ = read_labels(folder / "docs-labels")
    drawn = random.Random(0).sample(rows, GRADED)
    given = [max(0, (row.grade or 0) - 1) if place % 5 else place % 4 for place, row in enumerate(drawn)]
    lines = [f"{row.query_id}\t{row.passage_id}\t{grade}" for row, grade in zip(drawn, given, strict=True)]
    grades = folder / "grades.tsv"
    grades.write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    import_grades(grades, folder / "mine", ImportOptions(judge="anna", kind="human"))


def test_the_page_runs_from_documents_to_a_retriever(tmp_path, address, encoder):
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    before, after = scripts()
    run(before, tmp_path, encoder)
    rows, _, _ = read_labels(tmp_path / "docs-labels")
    assert {row.grade for row in rows} == {0, 1, 2, 3}
    assert all(row.score is not None for row in rows)
    grade_by_hand(tmp_path)
    run(after, tmp_path, encoder)
    assert (tmp_path / "docs-retriever" / "model.safetensors").is_file()
