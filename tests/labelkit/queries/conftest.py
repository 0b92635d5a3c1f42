"""A corpus of six documents of two passages each, and prompts that the scripted writer fulfils."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rig import Sent, Server, completion

from labelkit.queries.options import WriteOptions

DOCUMENTS = {
    "Nature": (
        "molten basalt erupts through fissures and builds shield mountains over thousands of years in Iceland",
        "compressed snowfall becomes bluish ice that slides downhill carving valleys and leaving boulders behind",
    ),
    "Food": (
        "sourdough needs flour water and patience because wild yeast raises bread slowly overnight inside baskets",
        "worker honeybees ventilate their combs evaporating nectar until thick honey remains sealed beneath wax",
    ),
    "Music": (
        "violinists tune their instruments before rehearsal while the conductor studies complicated scores alone",
        "organ builders voice each pipe by ear filing the metal until its tone blends with all neighbouring ranks",
    ),
    "Trade": (
        "container cranes unload freighters around the clock and customs officers inspect refrigerated cargo daily",
        "electric locomotives regenerate power while braking downhill and return current into overhead catenary",
    ),
    "Craft": (
        "ceramicists fire stoneware twice first bisque then glaze reaching thirteen hundred degrees within kilns",
        "librarians catalogue manuscripts digitise fragile parchment and lend translations to distant universities",
    ),
    "Health": (
        "anaesthetists monitor breathing throughout surgery adjusting sedatives when pressure drops unexpectedly low",
        "dentists polish enamel remove plaque and recommend fluoride varnish against cavities in younger patients",
    ),
}
PASSAGES = {
    f"d{number}": (title, text)
    for number, (title, text) in enumerate((title, text) for title, texts in DOCUMENTS.items() for text in texts)
}


@pytest.fixture
def corpus(tmp_path: Path, write_beir: Callable[..., Path]) -> Path:
    """A collection with a corpus and one query of its own."""
    return write_beir(tmp_path / "data", PASSAGES, {"own": "how hot does a kiln get"}, {})


@pytest.fixture
def options() -> Callable[..., WriteOptions]:
    """Options of a scripted writer, which is its own judge: four questions, no other register."""

    def make(**changes: Any) -> WriteOptions:
        scripted: dict[str, Any] = {"model": "overlap", "engine": "scripted", "passages": 4, "registers": "question"}
        return WriteOptions(**scripted | changes)

    return make


@pytest.fixture
def server_of_texts() -> Iterator[Callable[..., tuple[str, list[dict[str, Any]]]]]:
    """Start a server that writes texts; returns its address and the list of the requests that arrived.

    `of(number)` says what the answer to a request has: `text`, or `passage`, a function from the passage's words to a
    text, and `finish_reason`; or `refuse`, the message of a refusal. By default,
    the text has three words of its passage and one other word.
    """
    started: list[Server] = []

    def start(of: Callable[[int], dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
        ledger: list[dict[str, Any]] = []

        def plan(number: int, body: dict[str, Any]) -> Sent:
            ledger.append(body)
            given = of(len(ledger) - 1)
            if "refuse" in given:
                return Sent(json.dumps({"error": {"message": given["refuse"]}}).encode(), status=400)
            words = body["messages"][-1]["content"].removeprefix("Passage: ").partition("\n\n")[0].split()
            write = given.get("passage", lambda words: " ".join([*words[:3], "zebra"]))
            choice: dict[str, Any] = {"message": {"role": "assistant", "content": given.get("text") or write(words)}}
            choice |= {"index": 0, "finish_reason": given.get("finish_reason", "stop")}
            return Sent(json.dumps(completion(body) | {"choices": [choice]}).encode())

        started.append(Server(plan))
        return started[-1].url, ledger

    yield start
    for server in started:
        server.close()
