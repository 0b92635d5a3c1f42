"""Twenty payloads in every text that reaches a page: in a real browser nothing runs, nothing is asked for, and no
element stands there that is not ours.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from payloads import PAYLOADS, payloads

from labelkit.exchange.exporting import Exported, readme
from labelkit.exchange.hub import publish
from labelkit.exchange.options import PublishOptions
from labelkit.quality.options import ReportOptions
from labelkit.quality.report import report
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Example, Judge, Judgement, Label, Passage, Query
from labelkit.storage.dataset import AUDIT, records_to_table, write_tables
from labelkit.storage.folders import file_sha256, writing
from labelkit.storage.foreign_text import without_controls
from labelkit.storage.manifest import DatasetFacts, Manifest, Source

NUMBERS = range(len(PAYLOADS))
FOREIGN = """[...document.querySelectorAll('*')].filter(one =>
  (!one.nonce && /^(script|iframe|frame|object|embed|form|input|base|link|video|audio|source|math|details|button)$/i
    .test(one.localName) && !(one.localName === 'button' && facts)) ||
  [...one.attributes].some(a => /^on/i.test(a.name) || (/^(href|src|srcset|srcdoc|action|data)$/i.test(a.name) &&
    !/^(#|means\\.svg|dev-\\d+\\.svg)/.test(a.value)))).map(one => one.outerHTML)"""
"""JavaScript for the elements of a page that no page of ours has; `facts` is that of the review page."""


class Trap:
    """A server that writes down what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        trap = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                trap.asked.append(self.path)
                self.send_response(204)
                self.send_header("Access-Control-Allow-Origin", "*")
                self.end_headers()

            def log_message(self, *words: Any) -> None:
                """The test reads `asked`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def trap() -> Iterator[Trap]:
    trap = Trap()
    yield trap
    trap.close()


@pytest.fixture(scope="module")
def texts(trap: Trap) -> list[str]:
    return payloads(trap.url)


@pytest.fixture
def inert(page: Any, trap: Trap) -> Callable[[Path], None]:
    """Open a page and see that nothing in it runs."""

    def check(path: Path) -> None:
        open_page(page, path)
        assert traces(page, trap) == []
        assert page.run(FOREIGN.replace("facts", "false")) == []

    return check


def open_page(page: Any, path: Path) -> None:
    page.call("Page.navigate", url=path.resolve().as_uri())
    page.wait("document.readyState === 'complete' && location.protocol === 'file:'")
    page.run("new Promise(done => setTimeout(done, 100))")


def traces(page: Any, trap: Trap) -> list[str]:
    """What a payload left that was run."""
    title = ["title"] if page.run("document.title") == "broken" else []
    found: list[str] = title + page.dialogs + trap.asked
    return found


def as_page(markdown: str, path: Path) -> Path:
    """Markdown as a web page, HTML in it allowed and no policy that would stop a script."""
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)
    path.write_text(f'<!doctype html><meta charset="utf-8"><title>card</title><body>{html}', encoding="utf-8")
    return path


def front_matter(card: str) -> tuple[dict[str, Any], str]:
    """The metadata of a card and its Markdown, cut where the Hub cuts."""
    _, head, body = card.split("---\n", 2)
    return yaml.safe_load(head), body


@pytest.mark.parametrize("number", NUMBERS)
def test_a_payload_that_is_taken_for_markup_leaves_a_trace(
    page: Any, trap: Trap, texts: list[str], tmp_path: Path, number: int
) -> None:
    """Else the tests below would show nothing."""
    open_page(page, as_page(f"{texts[number]}\n\n<b>x</b>", tmp_path / "page.html"))
    found = traces(page, trap) + page.run(FOREIGN.replace("facts", "false"))
    trap.asked.clear()
    (tmp_path / "raw.html").write_text(f'<!doctype html><title>raw</title><p title="{texts[number]}">{texts[number]}')
    open_page(page, tmp_path / "raw.html")
    found += traces(page, trap) + page.run(FOREIGN.replace("facts", "false"))
    trap.asked.clear()
    page.dialogs.clear()
    assert found


def hostile_dataset(folder: Path, texts: list[str], number: int) -> Path:
    """A dataset with all payloads in its texts and ids, and one of them in everything that there is once."""
    text = texts[number]
    person = Judge(judge_id=f"human-{text}", kind="human", name=f"person {text}")
    model = Judge(
        judge_id=text, kind="llm", name=text, model_answered=text, revision=text, engine=text, engine_version=text,
        dtype=text, method=text, prompt_name=text, prompt_version=text, prompt_sha256=text, decoding=text,
        reading=text, label_grades=(0, 1, 2, 3),
    )  # fmt: skip
    names = [f"p{place}{each}" for place, each in enumerate(texts)]
    examples, judgements = [], []
    for place, each in enumerate(texts):
        query_id, pair = f"q{place}{each}", (names[place], names[place - 1])
        labels = [Label(passage_id=name, grade=3, source="human", judge_id=person.judge_id) for name in pair]
        examples.append(Example(query_id=query_id, query=each, positives=tuple(labels), negatives=(), ignored=()))
        for number, name in enumerate(pair):
            for judge, grade, score in ((person, 3, None), (model, place % 4, place / 7 + number)):
                judgements.append(
                    Judgement(query_id=query_id, passage_id=name, judge_id=judge.judge_id, grade=grade, score=score)
                )
    with writing(folder, "dataset", f"labelkit mix {text}") as draft:
        write_tables(
            draft,
            examples=examples,
            corpus=[Passage(passage_id=name, title=each, text=each) for name, each in zip(names, texts, strict=True)],
            queries=[Query(query_id=one.query_id, text=one.query) for one in examples],
            judgements=sorted(judgements, key=lambda row: (row.query_id, row.passage_id)),
            judges=[person, model],
        )
        draft.inputs = {text: "0" * 64}
        draft.facts = DatasetFacts.model_validate(
            {text: 1, "note": text, "source": Source(licence=text, revision=text)}
        )
    finding = {"name": text, "severity": text, "found": 1, "what": text, "cure": text}
    audit = {
        "dataset": file_sha256(folder / "manifest.json"),
        "command": text,
        "evaluations": {text: text},
        "findings": [finding, finding | {"found": None}],
    }
    (folder / AUDIT).write_text(json.dumps(audit))
    return folder


def folder_name(text: str) -> str:
    """A payload as far as the name of a folder can hold it."""
    return text.replace("/", "").encode()[:100].decode(errors="ignore")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_data_card_is_inert_and_its_metadata_is_what_was_given(
    inert: Callable[[Path], None], texts: list[str], tmp_path: Path, number: int
) -> None:
    text = texts[number]
    dataset = hostile_dataset(tmp_path / folder_name(text), texts, number)
    given = PublishOptions(
        license=text,
        language=(text, "no"),
        source=(text,),
        title=text,
        note=f"{text}\n\n{text}",
        dry_run=True,
        allow=("leaking",),
    )
    card = publish(dataset, text, given).card
    metadata, body = front_matter(card)
    plain = without_controls(text)
    assert (metadata["pretty_name"], metadata["license"]) == (plain, plain)
    assert (metadata["language"], metadata["source_datasets"]) == ([plain, "no"], [plain])
    assert set(metadata) == {
        "pretty_name", "license", "language", "annotations_creators", "source_datasets", "size_categories",
        "task_categories", "tags", "configs",
    }  # fmt: skip
    inert(as_page(body, tmp_path / "card.html"))


ATTACKED = {"attempts": 2, "successes": 1, "rate": {"value": 0.5, "low": 0.1, "high": 0.9}}
ESTIMATE = {"value": 0.5, "low": 0.1, "high": 0.9}


@pytest.mark.parametrize("number", NUMBERS[::4])
def test_the_report_is_inert(inert: Callable[[Path], None], texts: list[str], tmp_path: Path, number: int) -> None:
    text = " ".join(texts[number:] + texts[:number])
    dataset = hostile_dataset(tmp_path / folder_name(text), [*texts, text], len(texts))
    where = {"prompt": text, "defence": text}
    attacks = {
        "command": text, "model": text, "engine": text,
        "attacks": [where | ATTACKED | {"attack": text, "score_rise": ESTIMATE, "others_rise": ESTIMATE}],
        "clean": [where | {"pairs": 1} | dict.fromkeys(("kappa", "auc", "kappa_lost", "auc_lost"), ESTIMATE)],
    }  # fmt: skip
    (tmp_path / "attacks.json").write_text(json.dumps(attacks))
    options = ReportOptions(attacks=(tmp_path / "attacks.json",))
    report([dataset], tmp_path / "report.html", options, command=text)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    missing = [
        name for name in ("agreement", "bias", "attacks", "disagreements", "audit") if f'id="{name}"' not in page
    ]
    assert missing == []
    inert(tmp_path / "report.html")
    without_policy = page.replace('http-equiv="Content-Security-Policy"', "")
    assert without_policy != page
    (tmp_path / "open.html").write_text(without_policy, encoding="utf-8")
    inert(tmp_path / "open.html")


@pytest.mark.parametrize("number", NUMBERS)
def test_the_report_of_a_bakeoff_is_inert(
    inert: Callable[[Path], None], texts: list[str], tmp_path: Path, number: int
) -> None:
    from trainer.bakeoffs.report import write_report
    from trainer.bakeoffs.runner import UNTRAINED, RunResult

    text, measures = texts[number], ("nDCG@10", "RR@10", "AP@100", "R@100")

    def made(regime: str, objective: str, worth: float) -> RunResult:
        values = {text: {key: {f"q{n}": worth + n / 100 for n in range(10)} for key in measures}}
        dev = [] if regime == UNTRAINED else [[{"step": 1.0, "value": worth}, {"step": 2.0, "value": worth}]]
        return RunResult(regime, objective, 0, 1.0, 1, dev, values)

    results = [made(UNTRAINED, "", 0.1)]
    results += [made(regime, name, worth) for worth, regime in ((0.2, text), (0.3, "llm")) for name in (text, "x")]
    write_report(tmp_path, results, text, command=text)
    inert(tmp_path / "report.html")
    without_policy = (tmp_path / "report.html").read_text().replace('http-equiv="Content-Security-Policy"', "")
    (tmp_path / "open.html").write_text(without_policy, encoding="utf-8")
    inert(tmp_path / "open.html")
    inert(as_page((tmp_path / "README.md").read_text(encoding="utf-8"), tmp_path / "readme.html"))
    for chart in tmp_path.glob("*.svg"):
        inert(chart)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_cards_of_a_model_and_of_an_export_are_inert(
    inert: Callable[[Path], None], texts: list[str], tmp_path: Path, number: int
) -> None:
    from labelkit.statistics.intervals import Estimate
    from labelkit.statistics.paired import PairedTest
    from trainer.config.fit_config import FitConfig
    from trainer.retrieval.evaluate import Compared, EvalResult, Measured
    from trainer.training.fit import StageReport
    from trainer.training.model_card import model_card

    text = texts[number]
    mean = {"nDCG@10": Estimate(0.5, 0.4, 0.6)}
    test = {"nDCG@10": PairedTest(Estimate(0.1, 0.0, 0.2), 0.01, 0.02, None)}
    measured = (Measured(text, text, mean, {}, None, {}), Measured(f"{text}2", text, mean, {}, None, {}))
    compared = (Compared(text, f"{text}2", text, test),)
    stage = StageReport(1, 1.0, 0.0, [{"step": 1, "loss": 1.0}], {"queries": 2, "queries_left_out": 0}, [])
    facts = DatasetFacts(positives_per_query={text: 1.0})
    manifest = Manifest[DatasetFacts](
        schema_version=1, kind="dataset", command=text, labelkit_version="1", inputs={}, rows={"train": 2},
        facts=facts, files={},
    )  # fmt: skip
    config = FitConfig(model=text, objective="lsepair")
    result = EvalResult(1, "exact", (), (text, f"{text}2"), measured, compared)
    card = model_card(text, config, text, folder_name(text), manifest, [stage], result)
    metadata, body = front_matter(card)
    assert metadata["base_model"] == without_controls(text)
    assert metadata["tags"] == ["sentence-transformers", "dense-retrieval", "multi-positive", "lsepair"]
    inert(as_page(body, tmp_path / "model.html"))
    _, body = front_matter(readme(text, "beir", Exported({text: 1}, {"labels": 1}, ("ids",)), command=text))
    inert(as_page(body, tmp_path / "export.html"))


@pytest.fixture
def reviewed(texts: list[str], tmp_path: Path) -> Iterator[str]:
    """The address of a review of one pair a payload, each judged by a judge of that name."""
    data = tmp_path / "data"
    data.mkdir()
    corpus = [{"_id": f"p{n:02}", "title": text, "text": text} for n, text in enumerate(texts)]
    queries = [{"_id": f"q{n:02}", "text": text} for n, text in enumerate(texts)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judges = [Judge(judge_id=f"m{n:02}", kind="llm", name=text) for n, text in enumerate(texts)]
    judged = [
        Judgement(query_id=f"q{n:02}", passage_id=f"p{n:02}", judge_id=judge.judge_id, grade=1)
        for n, judge in enumerate(judges)
    ]
    with writing(tmp_path / "labels", "labels", "test") as draft:
        draft.write_table("judgements", records_to_table(judged, JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table(judges, JUDGE_SCHEMA))
    (guide := tmp_path / "guide.md").write_text("\n\n".join(texts), encoding="utf-8")
    command = [
        "review",
        tmp_path / "labels",
        "-o",
        tmp_path / "anna",
        "--name",
        texts[0],
        "--texts",
        data,
        "--guidelines",
        guide,
    ]
    arguments = [sys.executable, "-m", "labelkit", *map(str, command), "--no-browser"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        words = process.stderr.readline() if process.stderr else ""
        assert words.startswith("open "), words
        yield words.split()[1]
        process.kill()


def test_the_review_page_is_inert(page: Any, trap: Trap, texts: list[str], reviewed: str) -> None:
    page.goto(reviewed)
    seen = []
    for _ in texts:
        seen.append((page.run("now.query"), page.run("now.pairs[0].title"), page.run("now.pairs[0].text")))
        assert page.run("now.pairs[0].html") is not None
        assert seen[-1][0] in page.run("document.getElementById('query').textContent")
        page.run("document.getElementById('note').value = now.pairs[0].text")
        page.press("1")
        page.wait(f"now.graded === {len(seen)} && !busy")
        page.run(f"open({len(seen) - 1})")
        page.wait(f"now.screen === {len(seen) - 1} && !busy")
        assert page.run("now.answers[0].note").split() == seen[-1][0].split()
        page.press("j")
        page.wait("document.querySelector('.judges').textContent.includes(': 1')")
        assert page.run("document.querySelector('.judges').textContent") == f"{seen[-1][0]}: 1"
        assert page.run(FOREIGN.replace("facts", "true")) == []
        page.press("m")
        assert page.run("document.querySelector('.text').textContent") == seen[-1][0]
        assert page.run(FOREIGN.replace("facts", "true")) == []
        page.press("m")
        page.press("ArrowRight")
        page.wait(f"now.screen === {len(seen) % len(texts)} && !busy")
    assert sorted(seen) == sorted((text, text, text) for text in texts)
    assert traces(page, trap) == []
    assert all(url.startswith(reviewed) for url in page.requests)
