"""A tiny Qwen2 with random weights, and a chat-completions server on loopback."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from labelkit.commands.console import show_log
from labelkit.engines import Message, Reply, Request, Settings, open_engine
from labelkit.records import Judgement
from labelkit.storage.labels import read_labels

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = "grade the passage for this query from zero to three cats sleep in the day tea water mail carrier dogs"


@pytest.fixture(autouse=True)
def reports_on_screen() -> None:
    """Reports of the library go to standard error, as under the command line."""
    show_log()


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of width 64, head size 32, over a byte-level BPE of a few hundred tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    torch.set_num_threads(1)  # tiny matrices gain nothing from threads, and on a busy machine these wait for each other
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen"
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator([WORDS] * 5, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder: two layers of width 64, head size 32, over a few dozen words, reading 128 tokens."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models") / "tiny-reranker"
    folder.mkdir()
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS.split()), *letters, "?", "!", "."]
    (folder / "vocab.txt").write_text("\n".join([*words, *(f"##{letter}" for letter in letters)]) + "\n")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), model_max_length=128)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def peer_scores(tiny_reranker: Path) -> Callable[..., list[float]]:
    """Raw logits of sentence-transformers' own CrossEncoder for a query and some documents."""
    import torch
    from sentence_transformers import CrossEncoder

    encoder: Any = CrossEncoder(str(tiny_reranker), device="cpu")

    def scores(query: str, documents: list[str]) -> list[float]:
        found = encoder.predict([(query, one) for one in documents], activation_fn=torch.nn.Identity())
        return [float(one) for one in found]

    return scores


@pytest.fixture
def ask() -> Callable[..., Request]:
    """A request for one pair."""

    def request(
        query: str, passage: str, labels: tuple[str, ...] = ("0", "1", "2", "3"), system: str = "Grade the passage."
    ) -> Request:
        messages = (Message("system", system), Message("user", f"Query: {query}\n\nPassage: {passage}\n\nGrade:"))
        return Request(f"{query} | {passage}", query, messages, labels)

    return request


class Answer(NamedTuple):
    """What the server sends: a body (as JSON unless it is bytes), its status and headers."""

    body: Any
    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012
    length: int | None = None
    """Content-Length where it is to be a lie."""


class Server:
    """A chat-completions server: `script(body)` gives the answer of each request; every request is in the ledger."""

    def __init__(self) -> None:
        self.script: Callable[[dict[str, Any]], Answer] = lambda body: Answer(completion("2"))
        self.route: Callable[[str, dict[str, Any]], Answer] = lambda path, body: self.script(body)
        """Gives the answer where it depends on the path, too."""
        self.models: Callable[[], Answer] = lambda: Answer({}, 404)
        """The answer to a request for the list of models."""
        self.ledger: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.busy = self.most_busy = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer(server.models() if self.path == "/v1/models" else Answer({}, 404))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.ledger.append(body)
                    server.headers.append({name.lower(): value for name, value in self.headers.items()})
                    server.busy += 1
                    server.most_busy = max(server.most_busy, server.busy)
                answer = server.route(self.path, body)
                with lock:
                    server.busy -= 1
                self.answer(answer)

            def answer(self, answer: Answer) -> None:
                sent = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                length = len(sent) if answer.length is None else answer.length
                for name, value in {
                    "Content-Type": "application/json",
                    "Content-Length": length,
                    **answer.headers,
                }.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(sent)
                if answer.length is not None:
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        class Listener(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that hung up is no news."""

        self._http = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def completion(content: Any, top: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A chat completion with this content; `top` maps tokens to log-probabilities at its first token."""
    listed = [{"token": token, "logprob": value, "bytes": None} for token, value in (top or {}).items()]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content},
        "finish_reason": "stop",
        "logprobs": {"content": [{"token": content, "logprob": -0.1, "bytes": None, "top_logprobs": listed}]}
        if top
        else None,
    }
    usage = {"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 41}
    whole = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "served",
        "choices": [choice],
        "usage": usage,
    }
    return whole | {"system_fingerprint": "fp"} | changes


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on loopback; the engine's pauses between retries are cut to milliseconds."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("LABELKIT_API_KEY", raising=False)
    monkeypatch.setattr("labelkit.engines.client.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("labelkit.engines.client.LONGEST_PAUSE", 0.02)
    server = Server()
    yield server
    server.close()


@pytest.fixture(name="completion")
def completion_fixture() -> Callable[..., dict[str, Any]]:
    return completion


@pytest.fixture(name="Answer")
def answer_fixture() -> type[Answer]:
    return Answer


@pytest.fixture
def answer_all(server: Server, ask: Callable[..., Request]) -> Callable[..., dict[str, Reply]]:
    """Ask engine openai for these passages of one query, each answered once; replies by passage."""

    def run(*passages: str, concurrency: int | None = None, model: str = "m") -> dict[str, Reply]:
        engine = open_engine("openai", Settings(model, base_urls=(server.url,), concurrency=concurrency))
        replies = {reply.key: reply for reply in engine.run(ask("q", passage) for passage in passages)}
        engine.close()
        assert set(replies) == {f"q | {passage}" for passage in passages}
        return {key.removeprefix("q | "): reply for key, reply in replies.items()}

    return run


@pytest.fixture(scope="session")
def passage_of() -> Callable[[dict[str, Any]], str]:
    """The passage that the body of a request asks about."""
    return lambda body: body["messages"][1]["content"].split("Passage: ")[1].split("\n")[0]


@contextmanager
def serving(
    command: list[Any], port: int, ready: str, *, log: Path, variables: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A server in a process of its own, once it answers at the path `ready`; yields its address."""
    environment = {**(variables or {}), **os.environ}
    with log.open("wb") as output:
        child = subprocess.Popen(
            [str(part) for part in command], stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while not answers(f"http://127.0.0.1:{port}{ready}"):
            assert child.poll() is None, f"the server ended: {log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"the server did not start: {log.read_text()[-2000:]}"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.terminate()
        try:
            child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def vllm_server(
    model: Path, max_model_len: int, log: Path, *, dtype: str = "float32", runner: str = "auto", cache_bytes: int = 0
) -> Iterator[str]:
    """vLLM's own OpenAI server on a free port of loopback; yields its address. The cache has 1 GiB by default."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--dtype", dtype]
    command += ["--enforce-eager", "--max-model-len", max_model_len, "--host", "127.0.0.1", "--port", port]
    command += ["--max-num-batched-tokens", 2048, "--max-num-seqs", 16, "--runner", runner]
    command += ["--kv-cache-memory-bytes", cache_bytes] if cache_bytes else []
    cache = {} if cache_bytes else {"VLLM_CPU_KVCACHE_SPACE": "1"}  # the variable would override the option
    with serving(command, port, "/health", log=log, variables=cache | {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}) as url:
        yield url


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def llama_cpp_python() -> str | None:
    """The Python that has llama-cpp-python: this one, or the one that $LLAMA_CPP_PYTHON names."""
    return sys.executable if importlib.util.find_spec("llama_cpp") else os.environ.get("LLAMA_CPP_PYTHON")


@pytest.fixture(scope="session")
def llama_cpp_server() -> Callable[..., Any]:
    """llama.cpp's server on a free port of loopback, of llama-cpp-python; yields its address."""
    python = llama_cpp_python()
    if python is None:
        pytest.skip(
            "llama_cpp is not importable and LLAMA_CPP_PYTHON names no Python that has it; it has no wheel, and "
            "`pip install 'llama-cpp-python[server]'` compiles for 20 minutes, which is too long for CI"
        )

    @contextmanager
    def serve(model: Path, log: Path, *options: Any) -> Iterator[str]:
        port = free_port()
        command = [python, "-m", "llama_cpp.server", "--model", model, "--port", port, "--n_ctx", 2048, *options]
        with serving(command, port, "/v1/models", log=log) as url:
            yield url

    return serve


@pytest.fixture(name="vllm_server", scope="session")
def vllm_server_fixture() -> Callable[..., Any]:
    return vllm_server


@pytest.fixture(scope="session")
def annotated() -> Callable[..., dict[str, Judgement]]:
    """Judge a pool by the command, in a process of its own that gives its memory back; judgements by passage id."""

    def annotate(pool: Path, output: Path, *options: Any) -> dict[str, Judgement]:
        command = [sys.executable, "-m", "labelkit", "annotate", pool, "-o", output, *options]
        sized = any("kv_cache_memory_bytes" in str(option) for option in options)  # the variable would override it
        environment = {**({} if sized else {"VLLM_CPU_KVCACHE_SPACE": "1"}), **os.environ}
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        judgements, _, _ = read_labels(output)
        return {row.passage_id: row for row in judgements}

    return annotate
