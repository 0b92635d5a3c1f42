"""Annotation runs through the OpenAI engine: keys stay secret, faults resume, nothing is paid twice."""

import gc
import itertools
import json
import threading
from urllib.parse import urlsplit

import pytest

CANARY = "sk-canary-4b1d7f0e"


@pytest.fixture
def annotate(labelkit, pool, server, tmp_path):
    def run(*options):
        base = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "openai", "--model", "m", "--json")
        return labelkit(*base, "--base-url", server.url, *options)

    return run


def places_of_the_key(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert folder / "labels" / "journal.sqlite" in files
    return [path for path in files if CANARY.encode() in path.read_bytes()]


def test_the_key_is_sent_and_stays_out_of_the_folder_and_the_screen(annotate, server, monkeypatch, tmp_path):
    monkeypatch.setenv("LABELKIT_API_KEY", CANARY)
    called = annotate()
    assert called.code == 0
    pairs = json.loads(called.out)["pairs"]
    assert f"judged {pairs}/{pairs}," in called.err
    assert f" {pairs} new," in called.err, "the first request shows what the server accepts, and judges a pair"
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {CANARY}"}
    assert CANARY not in called.out + called.err
    assert places_of_the_key(tmp_path) == []


def test_a_server_that_repeats_the_key_does_not_bring_it_into_the_folder(
    annotate, server, monkeypatch, tmp_path, Answer, completion
):
    monkeypatch.setenv("LABELKIT_API_KEY", CANARY)
    told = Answer(completion(f"2, said {CANARY}"))
    long = Answer({"error": {"message": "x" * 250 + CANARY}}, 503)
    answers = iter([Answer({"error": {"message": f"no credit left on {CANARY}"}}, 422), long, told])
    server.script = lambda body: next(answers, Answer(completion("2")))
    called = annotate()
    assert called.code == 0
    assert CANARY not in called.out + called.err
    assert places_of_the_key(tmp_path) == []


def test_a_missing_key_is_one_line(labelkit, pool, server, tmp_path):
    called = labelkit("annotate", pool, "-o", tmp_path / "labels", "--engine", "openai", "--model", "m")
    assert called.code == 2
    assert called.err.startswith("error: no API key: set LABELKIT_API_KEY or OPENAI_API_KEY in the environment, or ")
    assert called.err.count("\n") == 1
    assert not (tmp_path / "labels").exists()


@pytest.fixture
def keyring(monkeypatch, tmp_path_factory):
    """Writes a keyring with the given permissions."""
    path = tmp_path_factory.mktemp("home") / "keys.toml"
    monkeypatch.setenv("LABELKIT_KEYRING", str(path))

    def write(content, mode=0o600):
        path.write_text(content)
        path.chmod(mode)
        return path

    return write


def test_the_keyring_has_a_key_for_each_host_and_it_reaches_no_file(annotate, server, keyring, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "of-another-server")
    keyring(f'"127.0.0.1" = "of-the-host"\n"{urlsplit(server.url).netloc}" = "{CANARY}"\n')
    called = annotate()
    assert called.code == 0
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {CANARY}"}
    assert CANARY not in called.out + called.err
    assert places_of_the_key(tmp_path) == []
    monkeypatch.setenv("LABELKIT_API_KEY", "for-this-run")
    server.headers.clear()
    annotate("--retry-failed", "--passage-words", "5")
    assert {headers["authorization"] for headers in server.headers} == {"Bearer for-this-run"}


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (f'"127.0.0.1" = "{CANARY}"', 0o644, "others may read it; run: chmod 600"),
        (f'"127.0.0.1" = "{CANARY}', 0o600, "expected lines of the form"),
        (f'["127.0.0.1"]\nkey = "{CANARY}"', 0o600, "expected lines of the form"),
    ],
)
def test_a_keyring_that_cannot_be_trusted_or_read_is_one_line(annotate, server, keyring, content, mode, reason):
    keyring(content, mode)
    called = annotate()
    assert called.code == 2
    assert reason in called.err
    assert called.err.count("\n") == 1
    assert CANARY not in called.err
    assert server.ledger == []


def test_a_refused_key_is_one_line(annotate, server, monkeypatch, Answer):
    monkeypatch.setenv("LABELKIT_API_KEY", CANARY)
    server.script = lambda body: Answer({"error": {"message": "bad key"}}, 401)
    called = annotate()
    assert called.code == 1
    assert len(called.err.splitlines()) == 1
    assert "refuses the key in LABELKIT_API_KEY" in called.err
    assert CANARY not in called.err


def test_a_key_that_expires_with_many_requests_in_flight_is_one_line_too(annotate, server, caplog, Answer, completion):
    answers = iter([Answer(completion("1"))])
    server.script = lambda body: next(answers, Answer({"error": {"message": "expired"}}, 401))
    called = annotate()
    gc.collect()
    assert called.code == 1
    assert "Traceback" not in called.err
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []
    assert len(server.ledger) > 2
    server.script = lambda body: Answer(completion("1"))
    again = json.loads(annotate().out)
    assert again["asked"] == again["pairs"] - 1


def test_pairs_without_an_answer_are_asked_again_and_no_others(annotate, server, Answer, completion):
    count, lock = [0], threading.Lock()

    def flaky(body):
        with lock:
            count[0] += 1
            return (
                Answer({"error": {"message": "unprocessable"}}, 422) if count[0] % 3 == 0 else Answer(completion("1"))
            )

    server.script = flaky
    first = json.loads(annotate().out)
    failed = sum(first["failures"].values())
    assert 0 < failed < first["pairs"] == len(server.ledger)
    server.script = lambda body: Answer(completion("1"))
    second = json.loads(annotate().out)
    assert (second["asked"], second["failures"]) == (failed, {})
    assert len(server.ledger) == first["pairs"] + failed


def test_concurrency_is_no_part_of_a_judge_but_the_address_is(
    annotate, server, Answer, completion, labelkit, pool, tmp_path
):
    pairs = json.loads(annotate().out)["pairs"]
    assert json.loads(annotate("--concurrency", "2").out)["asked"] == 0
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    assert json.loads(annotate("--base-url", elsewhere, "--add-judge").out)["asked"] == pairs


def test_replies_without_choices_are_failures_in_the_folder(annotate, server, Answer, completion):
    server.script = lambda body: Answer(completion("2") | {"choices": []})
    called = annotate()
    outcome = json.loads(called.out)
    assert outcome["failures"] == {"no answer": outcome["pairs"]}
    assert called.code == 1, "most pairs failed"
    assert f"error: {outcome['pairs']} of {outcome['pairs']} pairs have no grade, most often: no answer" in called.err


def test_the_reason_of_a_failure_is_shown_while_it_happens_and_once(annotate, server, Answer, completion):
    def flaky(body):
        number = len(server.ledger)
        if number % 4 == 2:
            return Answer({"error": {"message": f"filtered, request {number}"}}, 422)
        return Answer(completion("I will not" if number == 3 else "1"))

    server.script = flaky
    called = annotate("--concurrency", "1")
    shown = [line for line in called.err.splitlines() if line.startswith("no grade for query ")]
    assert called.code == 0, "few pairs failed"
    assert sum(json.loads(called.out)["failures"].values()) > 2
    assert len(shown) == 2, shown
    assert "status 422: " in shown[0]
    assert "filtered, request" in shown[0]
    assert "no label in 'I will not'" in shown[1]
    assert called.err.index(shown[0]) < called.err.index("pairs, ")


@pytest.mark.parametrize("field", ["model", "system_fingerprint"])
def test_a_model_that_changes_mid_run_stops_it_and_the_option_goes_on(
    annotate, server, Answer, completion, field, tmp_path
):
    count = itertools.count()
    server.script = lambda body: Answer(completion("1") | {field: "old" if next(count) < 2 else "new"})
    stopped = annotate("--concurrency", "2")
    assert stopped.code == 1
    assert "'old' became 'new'" in stopped.err
    assert "--allow-drift" in stopped.err
    assert 3 <= len(server.ledger) <= 2 + 1 + 2
    sent = len(server.ledger)
    assert annotate("--concurrency", "2").code == 1
    assert len(server.ledger) == sent, "a run that stopped for a change asks nothing when it is started again"
    outcome = json.loads(annotate("--allow-drift").out)
    assert outcome["asked"] == outcome["pairs"] - sent, "what was answered is kept"
    assert outcome["failures"] == {}


def test_a_model_that_changed_between_two_runs_is_seen_at_once(annotate, server, Answer, completion):
    server.script = lambda body: Answer(completion("1", model="old"))
    annotate("--limit", "3")
    server.script = lambda body: Answer(completion("1", model="new"))
    called = annotate("--concurrency", "1")
    assert (called.code, len(server.ledger)) == (1, 4)


def test_a_reply_that_does_not_name_its_model_is_no_change(annotate, server, Answer, completion):
    count = itertools.count()
    server.script = lambda body: Answer(
        completion("1") | ({"model": None, "system_fingerprint": None} if next(count) % 2 else {})
    )
    assert annotate().code == 0


def test_a_fleet_is_one_judge_in_any_order(labelkit, pool, server, tmp_path):
    other = type(server)()
    try:
        base = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "openai", "--model", "m", "--json")
        first = json.loads(labelkit(*base, "--base-url", server.url, "--base-url", other.url).out)
        second = json.loads(labelkit(*base, "--base-url", other.url, "--base-url", server.url).out)
    finally:
        other.close()
    assert first["asked"] == first["pairs"] == len(server.ledger) + len(other.ledger)
    assert second["asked"] == 0
    assert other.ledger
