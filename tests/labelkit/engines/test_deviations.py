"""Every deviation of the table, at a server on loopback: grade, score, journal, number of requests and exit code."""

import json
from pathlib import Path

import pytest
from deviations import PAIRS, TABLE, good, page
from present import present

from labelkit.judging.journal import Journal
from labelkit.storage.labels import read_labels

PAGE = Path(__file__).parents[3] / "docs" / "servers.md"
CASES = {deviation.name: deviation for deviation in TABLE}


def test_the_page_lists_each_deviation_of_the_table():
    assert len(CASES) == len(TABLE) >= 60
    assert PAGE.read_text(encoding="utf-8") == "\n".join(page()) + "\n", (
        "write it again: python tests/faults/deviations.py > docs/servers.md"
    )


@pytest.fixture
def judged(labelkit, pool, server, Answer, tmp_path, monkeypatch):
    """Judge pairs at a server with a deviation: the called command, and the bodies of all answers with status 2xx."""

    monkeypatch.setenv("LABELKIT_API_KEY", "sk-of-the-test")
    monkeypatch.setattr("labelkit.engines.client.CALL_SECONDS", 5.0)  # a fault that never passes fails soon

    def run(deviation):
        sent = []

        def script(body):
            for rule in deviation.rules:
                if rule.when(body, len(server.ledger)):
                    return Answer(rule.body, rule.status)
            answer = (deviation.answer or good)(body)
            sent.append(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
            return Answer(sent[-1])

        server.script = script
        base = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "openai", "--model", "m", "--json")
        called = labelkit(*base, "--base-url", server.url, "--limit", PAIRS, "--concurrency", 1)
        return called, [body.decode() for body in sent]

    return run


@pytest.mark.parametrize("name", CASES)
def test_annotate_at_a_server_that_deviates(judged, server, tmp_path, name):
    deviation = CASES[name]
    called, sent = judged(deviation)
    assert called.code == deviation.code, called.err
    assert "Traceback" not in called.err
    assert deviation.said in called.err
    assert len(server.ledger) == deviation.requests
    if deviation.code and (not sent or deviation.requests == 1):
        # The run has no labels: its error is the last line, and a judge that never answered leaves no trace.
        assert called.err.splitlines()[-1].startswith("error: ")
        assert not (tmp_path / "labels" / "manifest.json").exists()
        return
    rows, _, manifest = read_labels(tmp_path / "labels")
    assert [row.grade for row in rows] == [deviation.grade] * PAIRS
    if deviation.score is None or deviation.grade is None:
        assert all(row.score is None for row in rows)
    else:
        assert [present(row.score) for row in rows] == pytest.approx([deviation.score] * len(rows), abs=0.002)
    assert next(iter((manifest.facts.sent or {"": {}}).values())) == deviation.sent
    with Journal(tmp_path / "labels") as journal:
        kept = [json.loads(reply) for _, _, reply, *_ in journal.records()]
    if deviation.raw:
        assert [reply["raw"] for reply in kept] == sent[-PAIRS:]
    elif sent:
        assert all("raw" in reply or "error" in reply or reply["text"] == "2" for reply in kept)
