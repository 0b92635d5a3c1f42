"""Batches against a real server on loopback with files and batches, and against files for `vllm run-batch`."""

import email
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from labelkit.engines import Message, Request, Settings, client, open_engine, openai_batch
from labelkit.engines.tokenizers import most_prompt_tokens
from labelkit.errors import EngineError, NotYetError, UsageError
from labelkit.judging.journal import Journal
from labelkit.judging.reply_parser import RAN_OUT, Failure, read_label
from labelkit.storage.labels import read_labels

LABELS = ("0", "1", "2", "3")


class BatchServer:
    """Files and batches: every batch ends `polls` looks after it was made; every order and row is in the ledger."""

    def __init__(self, completion):
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Any] = {}
        self.orders: list[Any] = []
        self.rows: list[Any] = []
        self.chats: list[Any] = []
        """Bodies of single calls."""
        self.chat = lambda body: ({"error": {"message": "no such path"}}, 404)
        """Gives the body and the status of the answer to a single call."""
        self.polls = 1
        self.room = 10**9
        """Requests that may be enqueued."""
        self.answer = lambda row: {"response": {"status_code": 200, "body": completion("1")}, "error": None}
        self.status = lambda batch: "completed"
        self.on_order = lambda batch: None
        """Called when a batch exists and its order is not answered yet; a status that it returns is sent instead."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                content = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/files":
                    head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
                    parts: dict[Any, Any] = {
                        part.get_param("name", header="Content-Disposition"): part.get_payload(decode=True)
                        for part in email.message_from_bytes(head + content).walk()
                        if not part.is_multipart()
                    }
                    assert parts["purpose"].strip() == b"batch"
                    self.send({"id": server.keep(parts["file"])})
                elif self.path == "/v1/chat/completions":
                    server.chats.append(json.loads(content))
                    self.send(*server.chat(server.chats[-1]))
                else:
                    self.order(json.loads(content))

            def order(self, order):
                number = len(server.batches)
                rows = [json.loads(line) for line in server.files[order["input_file_id"]].splitlines()]
                batch = {**order, "id": f"batch_{number}", "created_at": 2e9 + number, "rows": rows, "looks": 0}
                batch["status"] = "in_progress" if server.enqueued() + len(rows) <= server.room else "failed"
                if batch["status"] == "failed":
                    told = f"Enqueued token limit reached. Limit: {server.room}"
                    batch["errors"] = {"data": [{"code": "token_limit_exceeded", "message": told}]}
                server.batches[batch["id"]] = batch
                server.orders.append(order)
                fault = server.on_order(batch)
                self.send({"error": self.headers["Authorization"]} if fault else public(batch), fault or 200)

            def do_GET(self):
                path, _, query = self.path.partition("?")
                if path == "/v1/batches":
                    newest = [public(batch) for batch in reversed(server.batches.values())]
                    after = query.partition("after=")[2]
                    start = 1 + [batch["id"] for batch in newest].index(after) if after else 0
                    self.send({"data": newest[start : start + 2], "has_more": start + 2 < len(newest)})
                elif path.endswith("/content"):
                    self.send(server.files[path.split("/")[3]])
                elif path.split("/")[3] in server.batches:
                    self.send(server.look(server.batches[path.split("/")[3]]))
                else:
                    self.send({}, 404)

            def send(self, body, status=200):
                sent = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, format, *args):
                """Quiet."""

        class Listener(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                """A client that was killed is no news."""

        self._http = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def keep(self, content):
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return name

    def enqueued(self):
        return sum(len(batch["rows"]) for batch in self.batches.values() if batch["status"] == "in_progress")

    def look(self, batch):
        batch["looks"] += 1
        if batch["status"] == "in_progress" and batch["looks"] >= self.polls:
            batch["status"] = self.status(batch)
            answered = [(row, self.answer(row)) for row in reversed(batch["rows"])]
            self.rows += [row["custom_id"] for row, answer in answered if answer is not None]
            lines = [json.dumps({"custom_id": row["custom_id"], **a}) for row, a in answered if a is not None]
            batch["output_file_id"] = self.keep("\n".join(lines).encode())
        return public(batch)

    def close(self):
        self._http.shutdown()
        self._http.server_close()


def public(batch):
    return {name: value for name, value in batch.items() if name not in ("rows", "looks")}


@pytest.fixture
def batches(completion, monkeypatch):
    for variable in ("OPENAI_API_KEY", "LABELKIT_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr("labelkit.engines.batch_services.FIRST_PAUSE", 0.001)
    monkeypatch.setattr(openai_batch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(openai_batch, "LATE_SECONDS", 0.0)
    server = BatchServer(completion)
    yield server
    server.close()


@pytest.fixture
def parts(batches, tmp_path):
    """Ask for so many pairs; replies in the lists in which they are returned."""

    def parts(count, start=0, **settings):
        base = {"base_urls": (batches.url,), "folder": tmp_path, "wait": True}
        engine = open_engine("openai-batch", Settings("m", **base | settings))
        message = (Message("user", "grade this"),)
        return list(engine.together(Request(f"k{n}", "q", message, LABELS) for n in range(start, count)))

    return parts


@pytest.fixture
def run(parts):
    """Ask for so many pairs; replies by key."""

    def run(*pairs, **settings):
        return {reply.key: reply for part in parts(*pairs, **settings) for reply in part}

    return run


def test_a_batch_is_submitted_waited_for_and_read(run, batches):
    batches.polls = 3
    replies = run(10)
    assert {reply.text for reply in replies.values()} == {"1"}
    assert {(reply.model, reply.fingerprint, reply.prompt_tokens) for reply in replies.values()} == {
        ("served", "fp", 40)
    }
    (order,) = batches.orders
    assert (order["endpoint"], order["completion_window"]) == ("/v1/chat/completions", "24h")
    (row, *_) = batches.batches["batch_0"]["rows"]
    assert (row["custom_id"], row["method"], row["url"]) == ("k0", "POST", "/v1/chat/completions")
    assert (row["body"]["logprobs"], row["body"]["model"]) == (True, "m")
    assert "structured_outputs" not in row["body"]


def test_without_wait_a_run_ends_at_once_and_the_next_collects(run, batches):
    batches.polls = 2
    for _ in range(2):
        with pytest.raises(NotYetError, match="10 requests are waiting in 1 batch; run the same command again"):
            run(10, wait=False)
    assert len(run(10, wait=False)) == 10
    assert len(batches.orders) == 1


def test_files_stay_within_requests_and_bytes(run, batches, monkeypatch):
    monkeypatch.setattr(openai_batch, "REQUESTS", 4)
    run(10)
    assert [len(batch["rows"]) for batch in batches.batches.values()] == [4, 4, 2]
    size = len(batches.files["file-2"]) // 2
    monkeypatch.setattr(openai_batch, "FILE_BYTES", 3 * size + 5)
    run(10)
    assert [len(batch["rows"]) for batch in list(batches.batches.values())[3:]] == [3, 3, 3, 1]
    inputs = [batches.files[order["input_file_id"]] for order in batches.orders[3:]]
    assert max(map(len, inputs)) <= 3 * size + 5


def test_the_replies_of_a_batch_are_returned_together_in_parts(parts, monkeypatch):
    monkeypatch.setattr(openai_batch, "TOGETHER", 4)
    assert [len(part) for part in parts(10)] == [4, 4, 2]
    assert [len(part) for part in parts(8)] == [4, 4]


def test_a_full_queue_is_waited_for_and_no_request_is_bought_twice(run, batches, monkeypatch):
    monkeypatch.setattr(openai_batch, "REQUESTS", 8)
    batches.room = 10
    batches.polls = 4
    assert len(run(24)) == 24
    assert sorted(batches.rows) == sorted(f"k{n}" for n in range(24))


def test_files_are_halved_until_one_fits_the_queue(run, batches, capsys):
    batches.room = 3
    assert len(run(13)) == 13
    assert sorted(batches.rows) == sorted(f"k{n}" for n in range(13))
    assert "over the server's limit on enqueued tokens" in capsys.readouterr().err
    batches.room = 0
    with pytest.raises(EngineError, match="below one request"):
        run(2)


def test_an_expired_batch_is_harvested_and_only_the_rest_goes_again(run, batches, capsys):
    states = itertools.chain(["expired"], itertools.repeat("completed"))
    whole = batches.answer
    batches.status = lambda batch: next(states)
    expired = {"response": None, "error": {"code": "batch_expired", "message": "too late"}}
    batches.answer = lambda row: expired if len(batches.orders) == 1 and int(row["custom_id"][1:]) >= 6 else whole(row)
    assert {reply.text for reply in run(10).values()} == {"1"}
    first, second = (batch["rows"] for batch in batches.batches.values())
    assert (len(first), {row["custom_id"] for row in second}) == (10, {"k6", "k7", "k8", "k9"})
    assert "expired, 6 of 10 answered" in capsys.readouterr().err


def test_lines_that_are_lost_damaged_strange_or_doubled_cost_nobody_else(run, batches, capsys, completion):
    def damage(batch):
        lines = batches.files[batch["output_file_id"]].splitlines()
        strange = [b"<html>", b"[1]", b'{"custom_id": 3}', b'{"custom_id": "elsewhere"}', b"[" * 100_000]
        batches.files[batch["output_file_id"]] = b"\n".join([*strange, lines[0], *lines[:-2], lines[-1][:-40]])

    look = batches.look
    damaged: list[Any] = []

    def look_once(batch):
        shown = look(batch)
        if shown["status"] == "completed" and not damaged:
            damaged.append(damage(batch))
        return shown

    batches.look = look_once
    replies = run(8)
    assert {reply.text for reply in replies.values()} == {"1"}
    assert [len(batch["rows"]) for batch in batches.batches.values()] == [8, 2]
    assert "6 of 8 answered, 6 lines of no request in it" in capsys.readouterr().err


def test_a_bad_row_fails_alone(run, batches, completion):
    whole = batches.answer
    rows = {
        "k0": {"response": {"status_code": 400, "body": {"error": {"message": "too long"}}}, "error": None},
        "k1": {"response": {"status_code": 200, "body": {"error": {"code": 400, "message": "no"}}}, "error": None},
        "k2": {"response": {"status_code": "200", "body": "3"}, "error": None},
    }
    batches.answer = lambda row: rows.get(row["custom_id"]) or whole(row)
    replies = run(6)
    assert all(replies[key].error is not None and replies[key].text is None for key in rows)
    assert "too long" in replies["k0"].error
    assert {replies[key].text for key in ("k3", "k4", "k5")} == {"1"}
    assert len(batches.orders) == 1


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": -1e6, "completion_tokens": 0}, {"prompt_tokens": 1e30, "completion_tokens": "x"}, None]
)
def test_a_batch_that_lies_about_tokens_is_charged_by_our_own_count(
    batches, completion, labelkit, pool, tmp_path, usage
):
    batches.answer = lambda row: {"response": {"status_code": 200, "body": completion("1", usage=usage)}}
    command = ["annotate", pool, "-o", tmp_path / "labels", "--engine", "openai-batch", "--model", "m"]
    command += ["--base-url", batches.url, "--wait", "--json", "--max-tokens", 10**6]
    called = labelkit(*command)
    assert called.code == 0, called.err
    outcome = json.loads(called.out)
    bodies = [row["body"] for batch in batches.batches.values() for row in batch["rows"]]
    own = sum(most_prompt_tokens([Message(**turn) for turn in body["messages"]]) + 2 for body in bodies)
    assert (outcome["tokens"], outcome["failures"]) == (own, {})
    with Journal(tmp_path / "labels") as journal:
        assert journal.aside() == {}


@pytest.mark.parametrize("answer", [{"data": [], "has_more": True}, {"data": 5}, [1], {"data": [None]}])
def test_a_list_of_batches_of_another_shape_is_one_line(run, batches, answer, monkeypatch):
    batches.on_order = lambda batch: 500
    handler = batches._http.RequestHandlerClass
    get = handler.do_GET
    monkeypatch.setattr(
        handler, "do_GET", lambda self: self.send(answer) if self.path.startswith("/v1/batches?") else get(self)
    )
    with pytest.raises(EngineError, match="the batch API sent an invalid answer"):
        run(2)


@pytest.fixture
def answering(batches, monkeypatch):
    """Answer requests to addresses that contain a text with a document and a status."""

    def replace(method, part, document, status=200):
        handler = batches._http.RequestHandlerClass
        usual = getattr(handler, method)

        def answer(self):
            if part not in self.path:
                return usual(self)
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            return self.send(document, status)

        monkeypatch.setattr(handler, method, answer)

    return replace


def test_an_upload_that_is_refused_with_status_200_is_said_in_the_words_of_the_server(run, batches, answering):
    """Before: an invalid answer without the field id, and from then on an invalid list at every run."""
    answering("do_GET", "/v1/batches?", {"data": None, "object": "list"})
    answering("do_POST", "/v1/files", {"success": False, "message": "no batches for this account", "code": 400})
    for _ in range(2):
        with pytest.raises(EngineError, match="no batches for this account"):
            run(2)
    assert batches.orders == []


@pytest.mark.parametrize(("status", "words"), [(404, "No such File"), (307, "redirects are not followed")])
def test_replies_that_cannot_be_downloaded_are_not_bought_again(run, batches, answering, status, words):
    answering("do_GET", "/content", {"error": {"message": "No such File object"}}, status)
    for _ in range(2):
        with pytest.raises(EngineError, match="is completed, but its replies cannot be downloaded") as raised:
            run(2)
        assert words in str(raised.value)
        assert "--base-url" not in str(raised.value)
    assert len(batches.orders) == 1


def test_an_end_without_words_is_said(run, batches, capsys):
    def odd(batch):
        batch["errors"] = {"data": [{"code": 7, "message": {"text": "no"}}]}
        return "expired"

    batches.status = odd
    assert len(run(2)) == 2
    assert "expired, 2 of 2 answered" in capsys.readouterr().err


def test_a_request_that_no_batch_answers_is_given_up(run, batches):
    whole = batches.answer
    batches.answer = lambda row: None if row["custom_id"] == "k1" else whole(row)
    replies = run(3)
    assert replies["k1"].error == "no answer in 3 batches"
    assert [len(batch["rows"]) for batch in batches.batches.values()] == [3, 1, 1]


def test_an_order_whose_answer_is_lost_is_found_and_not_given_twice(run, batches):
    batches.on_order = lambda batch: 500
    assert len(run(5)) == 5
    assert len(batches.orders) == 1


def test_a_batch_that_the_server_forgot_is_sent_again(run, batches):
    batches.polls = 5
    with pytest.raises(NotYetError):
        run(3, wait=False)
    batches.batches.clear()
    assert len(run(3)) == 3
    assert len(batches.orders) == 2


def test_a_404_of_a_server_without_batches_submits_nothing(run, batches, monkeypatch):
    batches.polls = 5
    with pytest.raises(NotYetError):
        run(3, wait=False)
    monkeypatch.setattr(batches._http.RequestHandlerClass, "do_GET", lambda self: self.send(b"<html>", 404))
    with pytest.raises(EngineError, match=r"/v1 has no batch API: status 404.*; judge with --engine openai, or"):
        run(3)
    assert len(batches.orders) == 1


UNDER_WAY = [
    "queued",
    "QUEUED",
    "In Progress",
    "RUNNING",
    "JOB_STATE_PENDING",
    "cancellation-requested",
    "baking",
    None,
    3,
]
FINAL = ["COMPLETED", "Completed", "SUCCESS", "JOB_STATE_SUCCEEDED"]


@pytest.mark.parametrize("status", [*UNDER_WAY, "baking", None, 3])
def test_only_a_known_final_word_ends_a_batch(run, batches, status, capsys):
    batches.status = lambda batch: status
    for _ in range(3):
        with pytest.raises(NotYetError):
            run(4, wait=False)
    assert len(batches.orders) == 1, "nothing is submitted again"
    assert ("unknown status" in capsys.readouterr().err) == (status in ("baking", None, 3))
    batches.batches["batch_0"]["status"] = "completed"
    assert {reply.text for reply in run(4).values()} == {"1"}
    assert len(batches.orders) == 1


@pytest.mark.parametrize("status", FINAL)
def test_a_final_word_in_any_case_and_of_any_vendor_ends_a_batch(run, batches, status):
    batches.status = lambda batch: status
    assert {reply.text for reply in run(4).values()} == {"1"}
    assert len(batches.orders) == 1


@pytest.mark.parametrize("status", ["FAILED", "error", "JOB_STATE_FAILED"])
def test_a_failed_batch_in_any_spelling_stops_the_run(run, batches, status):
    batches.status = lambda batch: status
    with pytest.raises(EngineError, match="the server refuses the batch"):
        run(3)
    assert len(batches.orders) == 1


@pytest.mark.parametrize("files", [{"output_file_id": None}, {"output_file_id": "", "error_file_id": ""}])
def test_a_completed_batch_without_files_is_not_submitted_again(run, batches, files):
    look = batches.look
    batches.look = lambda batch: look(batch) | files
    for _ in range(2):
        with pytest.raises(EngineError, match=r"batch_0 is completed, but .* nothing is submitted again"):
            run(3)
    assert len(batches.orders) == 1
    batches.look = look
    assert len(run(3)) == 3


def test_a_refused_batch_stops_the_run_with_the_reason(run, batches):
    def refuse(batch):
        batch["errors"] = {"data": [{"code": "invalid_model", "message": "no model m"}]}
        return "failed"

    batches.status = refuse
    with pytest.raises(EngineError, match="the server refuses the batch: no model m"):
        run(3)


def test_a_server_that_refuses_batches_is_one_line_without_the_key(run, batches, monkeypatch):
    monkeypatch.setenv("LABELKIT_API_KEY", "sk-canary")
    batches.on_order = lambda batch: 403
    with pytest.raises(EngineError, match=r"the batch API failed: .* refuses access: status 403") as stopped:
        run(1)
    assert "Bearer [secret]" in str(stopped.value)


def test_other_requests_of_a_batch_are_left_to_their_run(run, batches):
    batches.polls = 1
    with pytest.raises(NotYetError):
        run(6, wait=False)
    assert set(run(2)) == {"k0", "k1"}
    assert set(run(6, start=2)) == {"k2", "k3", "k4", "k5"}
    assert len(batches.orders) == 1


@pytest.mark.parametrize("time", range(20 if "LABELKIT_SOAK" in os.environ else 3))
def test_a_kill_between_submission_and_record_orphans_nothing(batches, pool, tmp_path, labelkit, time):
    """The server kills the client when the batch exists and its order is not answered; odd times before it exists."""
    command = ["annotate", pool, "-o", tmp_path / "labels", "--engine", "openai-batch", "--model", "m"]
    command += ["--base-url", batches.url, "--wait", "--json"]
    child = subprocess.Popen([sys.executable, "-m", "labelkit", *map(str, command)], stderr=subprocess.PIPE)
    killed = threading.Event()

    def kill(batch):
        if not killed.is_set():
            if time % 2:
                del batches.batches[batch["id"]]
            os.kill(child.pid, signal.SIGKILL)
            killed.set()

    batches.on_order = kill
    assert child.wait(timeout=60) == -signal.SIGKILL
    assert killed.is_set()
    called = labelkit(*command)
    assert called.code == 0, called.err
    outcome = json.loads(called.out)
    assert outcome["failures"] == {}
    assert len(batches.orders) == (2 if time % 2 else 1)
    assert len(batches.rows) == outcome["pairs"] == len(set(batches.rows))
    with Journal(tmp_path / "labels") as journal:
        assert journal.spent().replies == len(batches.rows)
    assert len(batches.chats) == 2, "one refused single call a run"


def test_a_run_that_is_not_done_says_so_and_leaves_no_labels(batches, pool, tmp_path, labelkit):
    command = ["annotate", pool, "-o", tmp_path / "labels", "--engine", "openai-batch", "--model", "m"]
    command += ["--base-url", batches.url]
    batches.polls = 2
    first = labelkit(*command)
    assert first.code == 75
    assert (
        "7 requests are waiting in 1 batch; run the same command again to collect the replies, or add --wait"
        in first.err
    )
    assert "error" not in first.err
    assert labelkit("verify", tmp_path / "labels").code == 1
    assert [labelkit(*command).code for _ in range(2)] == [75, 0]
    assert labelkit("verify", tmp_path / "labels").code == 0


def test_files_for_vllm_run_batch_go_and_come(tmp_path, pool, labelkit, completion):
    command = ["annotate", pool, "-o", tmp_path / "labels", "--engine", "openai-batch", "--model", "m"]
    command += ["--batch-dir", tmp_path / "exchange"]
    called = labelkit(*command)
    assert called.code == 75
    (requests,) = (tmp_path / "exchange").glob("*.requests.jsonl")
    replies = requests.with_name(requests.name.replace("requests", "replies"))
    assert f"vllm run-batch -i {requests} -o {replies} --model m" in called.err
    assert labelkit(*command).code == 75
    rows = [json.loads(line) for line in requests.read_text().splitlines()]
    assert rows[0]["body"]["structured_outputs"] == {"choice": list(LABELS)}
    body = {"status_code": 200, "request_id": "r", "body": completion("2")}
    lines = [json.dumps({"id": "x", "custom_id": row["custom_id"], "response": body, "error": None}) for row in rows]
    replies.write_text("\n".join(lines[:-1]))
    assert labelkit(*command).code == 75
    (second,) = set((tmp_path / "exchange").glob("*.requests.jsonl")) - {requests}
    assert [json.loads(line)["custom_id"] for line in second.read_text().splitlines()] == [rows[-1]["custom_id"]]
    second.with_name(second.name.replace("requests", "replies")).write_text(lines[-1])
    done = labelkit(*command, "--json")
    assert (done.code, json.loads(done.out)["failures"]) == (0, {})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"base_urls": ("http://127.0.0.1:1", "http://127.0.0.1:2")}, "give --base-url once"),
        ({"base_urls": ("http://example.com",)}, "unencrypted"),
        ({"folder": None}, "needs the folder"),
    ],
)
def test_wrong_settings_are_refused(batches, tmp_path, settings, reason):
    with pytest.raises(UsageError, match=reason):
        open_engine("openai-batch", Settings("m", **{"folder": tmp_path, "base_urls": (batches.url,)} | settings))


def refusing_gpt5(completion):
    """Answers single calls like gpt-5: it refuses the name of the limit, the temperature and log-probabilities."""

    def chat(body):
        for field in ("structured_outputs", "max_tokens", "temperature", "logprobs"):
            if field in body:
                code = "unknown_parameter" if field == "structured_outputs" else "unsupported_parameter"
                told = {"message": f"Unsupported parameter: '{field}'", "param": field, "code": code}
                return {"error": told}, 400
        return completion("1"), 200

    return chat


def test_a_single_call_shows_what_a_batch_must_not_send(batches, pool, tmp_path, labelkit, completion):
    """A batch of gpt-5 would come back after hours with a refusal on every line."""
    batches.chat = refusing_gpt5(completion)
    (tmp_path / "prices.toml").write_text("[m]\nprompt = 100.0\ncompletion = 200.0\nbatch = 0.5\n")
    command = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "openai-batch", "--model", "m", "--wait")
    called = labelkit(*command, "--base-url", batches.url, "--json", "--prices", tmp_path / "prices.toml")
    assert called.code == 0, called.err
    outcome = json.loads(called.out)
    assert (outcome["failures"], outcome["asked"]) == ({}, outcome["pairs"])
    assert len(batches.rows) == outcome["pairs"] - 1, "the answered call is the reply of its pair"
    sent = {frozenset(row["body"]) for batch in batches.batches.values() for row in batch["rows"]}
    assert sent == {frozenset({"model", "messages", "max_completion_tokens"})}
    # 40 tokens and 1: at the full price for the single call, at half the price for the others.
    full = (40 * 100 + 200) / 1e6
    assert outcome["usd"] == pytest.approx(full + (outcome["pairs"] - 1) * full / 2)
    judgements, (judge,), manifest = read_labels(tmp_path / "labels")
    assert {row.grade for row in judgements} == {1}
    expected = {"constraint": "none", "limit": "max_completion_tokens", "temperature": "none", "logprobs": 0}
    assert manifest.facts.sent == {judge.judge_id: expected}
    before = len(batches.chats)
    assert json.loads(labelkit(*command, "--base-url", batches.url, "--json").out)["asked"] == 0
    assert len(batches.chats) == before


def test_a_cap_that_allows_no_single_call_sends_none(batches, pool, tmp_path, labelkit, completion):
    batches.chat = refusing_gpt5(completion)
    command = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "openai-batch", "--model", "m", "--wait")
    called = labelkit(*command, "--base-url", batches.url, "--max-tokens", 100)
    assert called.code == 1
    assert "the caps allow no more requests" in called.err
    assert (batches.chats, batches.orders) == ([], [])


def test_a_batch_of_a_server_that_wants_json_is_read_from_json(batches, pool, tmp_path, labelkit, completion):
    def chat(body):
        if "response_format" not in body:
            return completion("Well, it depends"), 200
        return completion('{"answer": "1"}'), 200

    batches.chat = chat
    batches.answer = lambda row: {"response": {"status_code": 200, "body": chat(row["body"])[0]}, "error": None}
    command = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "openai-batch", "--model", "m", "--wait")
    assert labelkit(*command, "--base-url", batches.url).code == 0
    judgements, _, manifest = read_labels(tmp_path / "labels")
    assert {row.grade for row in judgements} == {1}
    assert list(manifest.facts.sent.values()) == [{"constraint": "json_schema"}]


def test_a_line_whose_length_ran_out_names_the_flag(run, batches):
    told = "Could not finish the message because max_tokens or model output limit was reached."
    batches.answer = lambda row: {"response": {"status_code": 400, "body": {"error": {"message": told}}}, "error": None}
    replies = run(2)
    assert {read_label(reply, LABELS) for reply in replies.values()} == {Failure(RAN_OUT)}
