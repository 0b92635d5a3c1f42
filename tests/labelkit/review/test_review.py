"""People's grades: chosen honestly, given blind in a real browser, kept by the journal."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from present import present

from labelkit.exchange.importing import import_grades
from labelkit.exchange.options import ImportOptions
from labelkit.judging.journal import Journal
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge, Judgement
from labelkit.review.choosing import (
    JudgedPair,
    Said,
    by_chance,
    by_disagreement,
    choose,
    open_judged,
    said_about,
)
from labelkit.review.options import ReviewOptions
from labelkit.storage import tables
from labelkit.storage.dataset import records_to_table
from labelkit.storage.folders import writing
from labelkit.storage.labels import read_labels

EVIL = (
    "</p><script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\"> {\"a\": 1} \u202e"
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    passages = [{"_id": f"p{n}", "title": f"Title {n}", "text": f"passage {n} " * 20} for n in range(6)]
    passages.append({"_id": "evil", "title": "<b>bold</b>", "text": EVIL})
    queries = [{"_id": f"q{n}", "text": f"what passage is {n} <i>here</i>"} for n in range(2)]
    for name, rows in (("corpus", passages), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Two models on eight pairs; they differ most on (q1, evil)."""
    pairs = [(f"q{n % 2}", f"p{n // 2}") for n in range(7)] + [("q1", "evil")]
    judges = [Judge(judge_id=f"m{n}", kind="llm", name=f"model-{n}", label_grades=(0, 1, 2, 3)) for n in (1, 2)]
    rows = [
        Judgement(
            query_id=qid, passage_id=pid, judge_id=judge.judge_id, probs=(0.7, 0.1, 0.1, 0.1), score=0.6,
            grade=3 if pid == "evil" and judge is judges[0] else 0,
        )
        for judge in judges
        for qid, pid in sorted(pairs)
    ]  # fmt: skip
    with writing(tmp_path / "labels", "labels", "test") as draft:
        draft.write_table("judgements", records_to_table(rows, JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table(judges, JUDGE_SCHEMA))
    return tmp_path / "labels"


class Session:
    """A running `labelkit review`."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "labelkit", "review", *map(str, arguments), "--no-browser"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.words = ""
        while not self.words.startswith("open "):
            self.words = present(self.process.stderr).readline()
            assert self.words, "it ended"
        self.url = self.words.split()[1]

    def end(self) -> str:
        words = present(self.process.stderr).read()
        assert self.process.wait(30) == 0, words
        return words

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, content, {"Content-Type": "application/json", **headers}, method=method)
        with urlopen(request) as answer:
            return json.load(answer)

    def answer(self, index: int) -> Any:
        """The answer on a screen with one pair."""
        return self.ask(f"screen/{index}")["answers"][0]

    def status(self, url: str, body: Any = None, **headers: str) -> int:
        content = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(url, content, headers)) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code


@pytest.fixture
def start(data: Path, labels: Path, tmp_path: Path) -> Iterator[Callable[..., Session]]:
    running: list[Session] = []

    def run(*more: object) -> Session:
        running.append(Session(labels, "-o", tmp_path / "anna", "--name", "anna", "--texts", data, *more))
        return running[-1]

    yield run
    for session in running:
        session.process.kill()
        session.process.wait()
        present(session.process.stderr).close()


def grades(folder: Path) -> dict[tuple[str, str], int | None]:
    return {(row.query_id, row.passage_id): row.grade for row in read_labels(folder)[0]}


def test_pairs_are_graded_by_keyboard_and_become_human_judgements(start, page, tmp_path):
    session = start("--pairs", 4)
    page.goto(session.url)
    first = page.run("now.query + now.pairs[0].text")
    page.press("3")
    page.wait("now.screen === 1 && !busy")
    assert page.run("now.query + now.pairs[0].text") != first
    page.press("0")
    page.wait("now.screen === 2 && !busy")
    page.press("ArrowLeft")
    page.wait("now.screen === 1 && now.answers[0].grade === '0' && !busy")
    page.press("1")
    page.wait("now.screen === 2 && now.graded === 2 && !busy")
    page.press("ArrowRight")
    page.wait("now.screen === 3 && !busy")
    page.press("2")
    page.wait("now.screen === 2 && now.graded === 3 && !busy")
    page.run("document.getElementById('grade-0').click()")
    page.wait("document.getElementById('status').textContent.startsWith('All pairs have an answer')")
    page.press("f")
    page.wait("document.getElementById('status').textContent.includes('Press f again')")
    page.press("f")
    page.wait("document.body.innerText.includes('4 answers are saved')")
    assert "4 pairs graded by anna, 0 cannot tell" in session.end()
    judgements, (judge,), manifest = read_labels(tmp_path / "anna")
    assert sorted(present(row.grade) for row in judgements) == [0, 1, 2, 3]
    assert (judge.kind, judge.name, judge.prompt_name) == ("human", "anna", "graded")
    assert present(manifest.facts.review).as_json() == {
        "by": "random", "unit": "pair", "seed": 0, "pairs": 4, "of": 8,
    }  # fmt: skip
    assert all(url.startswith(session.url) for url in page.requests)
    assert len(page.requests) > 5


def test_the_judges_are_shown_after_the_grade_only_and_lock_it(start, page):
    session = start("--by", "disagreement")
    page.goto(session.url)
    assert page.run("now.pairs[0].text").startswith("</p><script>")
    assert "model-1" not in page.run("document.documentElement.outerHTML") + json.dumps(page.run("now"))
    page.press("j")
    page.wait("document.getElementById('status').textContent === 'grade the pair first, then show the judges'")
    page.press("2")
    page.wait("now.screen === 1 && !busy")
    page.press("ArrowLeft")
    page.wait("now.screen === 0 && !busy")
    page.press("j")
    page.wait("document.querySelector('.judges').textContent === 'model-1: 3 · model-2: 0'")
    page.press("0")
    assert page.run("now.answers[0].grade") == "2"
    assert session.status(session.url + "pair/0/grade", {"grade": "0"}) == 409
    assert session.answer(0)["grade"] == "2"


def test_a_text_is_shown_and_never_run(start, page):
    session = start("--by", "disagreement")
    page.goto(session.url)
    assert page.run("document.title") == "labelkit review"
    assert EVIL in page.run("document.querySelector('.text').textContent")
    assert page.run("document.querySelector('article h2').textContent") == "<b>bold</b>"
    assert page.run("document.querySelectorAll('article img, article script, h1 i').length") == 0


MARKDOWN = """## Steps

A **bold** [passage](javascript:alert(1)) about `code` and <b>no markup</b>.

1. first
2. second ![image](http://127.0.0.1/x)
"""


@pytest.fixture
def formatted(data: Path, labels: Path) -> Path:
    """The text of every passage becomes Markdown."""
    rows = [json.loads(line) for line in (data / "corpus.jsonl").read_text().splitlines()]
    (data / "corpus.jsonl").write_text("".join(json.dumps({**row, "text": MARKDOWN}) + "\n" for row in rows))
    return data


def test_markdown_is_shown_as_markdown_and_the_words_of_the_query_are_marked(start, page, formatted):
    page.goto(start("--language", "english").url)
    page.wait("!!document.querySelector('.text h2') && !busy")
    shown = "document.querySelector('.text')"
    assert page.run(f"{shown}.querySelectorAll('strong, code, ol li').length") == 4
    assert page.run(f"{shown}.querySelectorAll('b, img, [href], [src]').length") == 0
    assert "<b>no markup</b>" in page.run(f"{shown}.textContent")
    assert page.run("[...document.querySelectorAll('article mark')].map(one => one.textContent)") == ["passage"]
    page.press("m")
    assert page.run(f"{shown}.textContent") == MARKDOWN
    assert page.run(f"{shown}.querySelectorAll(':not(mark)').length") == 0
    page.press("m")
    assert page.run(f"{shown}.querySelectorAll('strong').length") == 1


@pytest.mark.parametrize("unit", ["pair", "query"])
def test_on_a_phone_every_grade_shows_its_meaning_and_nothing_is_cut(start, page, tmp_path, unit):
    (tmp_path / "guide.md").write_text("# Rules\n\n" + "- a rule that is as long as a line of a phone or longer\n" * 30)
    session = start("--unit", unit, "--guidelines", tmp_path / "guide.md")
    page.picture(tmp_path / "phone.png", dark=False, width=420, height=800)
    page.goto(session.url)
    page.wait("!!document.querySelector('.text') && !busy")
    assert page.run("document.documentElement.scrollWidth") <= 420
    seen = """name => {
        const {top, bottom, left, right, width} = document.querySelector(name).getBoundingClientRect();
        const node = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
        return top >= 0 && bottom <= innerHeight && left >= 0 && right <= 420 && width > 100 && !!node.closest(name);
    }"""
    for number in range(4):
        assert page.run(f"({seen})('#grade-{number} span')")
        assert page.run(f"parseFloat(getComputedStyle(document.querySelector('#grade-{number} span')).fontSize)") >= 12
    assert not page.run("document.getElementById('guidelines').checkVisibility()")
    page.press("g")
    assert page.run(f"({seen})('#guidelines')")
    assert all(page.run(f"({seen})('#grade-{number} span')") for number in range(4))


def test_guidelines_stand_beside_the_passage_on_a_wide_screen(start, page, tmp_path):
    (tmp_path / "guide.md").write_text("# Rules\n\n- Judge what the *passage* says.")
    page.picture(tmp_path / "wide.png", dark=False, width=1366)
    page.goto(start("--guidelines", tmp_path / "guide.md").url)
    assert page.run("document.querySelector('#guidelines em').textContent") == "passage"
    beside = "document.getElementById('guidelines').getBoundingClientRect().left"
    assert page.run(beside) > page.run("document.querySelector('main').getBoundingClientRect().right") - 20
    page.press("g")
    assert not page.run("document.getElementById('guidelines').checkVisibility()")


def test_the_passages_of_a_query_are_graded_on_one_screen_and_locked_together(start, page):
    session = start("--unit", "query")
    page.goto(session.url)
    page.wait("document.querySelectorAll('article').length === now.pairs.length && !busy")
    count = page.run("now.pairs.length")
    assert count == 4
    page.press("j")
    page.wait("document.getElementById('status').textContent.startsWith('grade every passage first')")
    page.press("3")
    page.wait("now.graded === 1 && current === 1 && !busy")
    page.run("document.querySelectorAll('article')[3].click(); scrollTo(0, 0)")
    page.press("c")
    page.wait("!busy")
    if page.run("now.graded") == 1:  # it was out of sight, so that the key only brings it into view
        page.press("c")
    page.wait("now.graded === 2 && current === 1 && !busy")
    assert page.run("[...document.querySelectorAll('.head b')].map(one => one.textContent)") == [
        "grade 3", "", "", "cannot tell",
    ]  # fmt: skip
    assert "model-1" not in json.dumps(page.run("now"))
    for graded in (3, 4):
        page.press("1")
        page.wait(f"now.graded === {graded} && !busy")
    page.wait("now.screen === 1")
    page.press("ArrowLeft")
    page.wait("now.screen === 0 && !busy")
    page.press("j")
    page.wait("[...document.querySelectorAll('.judges')].every(one => one.textContent.includes('model-1: '))")
    assert session.status(session.url + "pair/0/grade", {"grade": "0"}) == 409
    assert session.status(session.url + "pair/3/grade", {"grade": "0"}) == 409
    assert session.status(session.url + "pair/3/grade", {"grade": "cannot tell", "note": "late"}) == 200
    assert session.ask("screen/0")["answers"][3]["note"] == "late"


def test_a_note_is_typed_without_grading_and_is_stored_with_the_answer(start, page):
    session = start()
    page.goto(session.url)
    page.press("n")
    for key in "no 3f":
        page.press(key)
    page.press("Enter")
    page.wait("document.getElementById('status').textContent.startsWith('The note is stored when you grade')")
    assert page.run("now.graded") == 0
    page.press("c")
    page.wait("now.screen === 1 && !busy")
    assert session.answer(0) | {"judges": []} == {
        "grade": "cannot tell",
        "note": "no 3f",
        "locked": False,
        "judges": [],
    }
    assert page.run("document.getElementById('note').value") == ""
    page.press("ArrowLeft")
    page.wait("now.screen === 0 && !busy")
    page.press("n")
    page.press("!")
    page.run("document.getElementById('grade-1').click()")
    page.wait("now.screen === 1 && !busy")
    assert session.answer(0)["note"] in ("no 3f!", "!no 3f")
    assert session.answer(0)["grade"] == "1"


def test_finish_asks_and_another_key_stays(start, page):
    session = start("--pairs", 3)
    page.goto(session.url)
    page.press("f")
    page.wait("document.getElementById('status').textContent.startsWith('3 of 3 pairs have no answer. Press f again')")
    page.press("2")
    page.wait("now.screen === 1 && !busy")
    page.press("f")
    page.wait("document.getElementById('status').textContent.startsWith('2 of 3 pairs')")
    page.press("Escape")
    page.wait("document.getElementById('status').textContent === ''")
    assert session.process.poll() is None
    page.press("f")
    page.press("f")
    page.wait("document.body.innerText.includes('1 answers are saved')")
    assert "2 pairs are left; run the same command again to resume" in session.end()


@pytest.mark.parametrize("dark", [False, True])
def test_both_colour_schemes_can_be_read(start, page, tmp_path, dark):
    page.goto(start("--seed", 1).url)
    page.wait("!!document.querySelector('mark')")
    page.picture(tmp_path / "page.png", dark=dark)
    assert (tmp_path / "page.png").stat().st_size > 5000
    contrast = page.run(CONTRAST)
    assert set(contrast) == {"h1", ".text", ".label", "#grade-0", "#tools button", "mark"}
    assert min(contrast.values()) >= 4.5, contrast


CONTRAST = """
(() => {
  const light = color => {
    const part = color.match(/[\\d.]+/g).slice(0, 3).map(Number).map(c => c / 255)
      .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const ground = node => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$/.test(color)) return color;
    }
  };
  const found = {};
  for (const name of ["h1", ".text", ".label", "#grade-0", "#tools button", "mark"]) {
    const node = document.querySelector(name);
    const [a, b] = [light(getComputedStyle(node).color), light(ground(node))];
    found[name] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return found;
})()
"""
"""WCAG contrast of what is read against what it stands on."""


def test_a_killed_session_goes_on_with_every_grade(start, tmp_path):
    session = start()
    for index in range(3):
        session.ask(f"pair/{index}/grade", {"grade": str(index)})
    session.ask("screen/1/show", {})
    session.process.kill()
    again = start()
    assert [again.answer(index)["grade"] for index in range(4)] == ["0", "1", "2", None]
    assert again.ask("screen/0")["next"] == 3
    assert again.status(again.url + "pair/1/grade", {"grade": "3"}) == 409
    again.ask("pair/0/grade", {"grade": "3"})
    again.ask("finish", {})
    again.end()
    assert sorted(map(present, grades(tmp_path / "anna").values())) == [1, 2, 3]


def test_strangers_are_not_answered(start):
    session = start()
    root = session.url.removesuffix("/").rpartition("/")[0]
    assert session.status(session.url) == 200
    assert session.status(f"{root}/") == 404
    assert session.status(f"{root}/{'x' * 32}/") == 404
    assert session.status(f"{root}/{'x' * 32}/screen/0") == 404
    assert session.status(session.url, Host="evil.example") == 404
    assert session.url.startswith("http://127.0.0.1:")


def test_a_wrong_request_changes_nothing(start):
    session = start()
    wrong = {
        "screen/99": (None, 404),
        "screen/x": (None, 404),
        "pair/99/grade": ({"grade": "1"}, 404),
        "pair/0/grade": ({"grade": "7"}, 400),
        "pair/1/grade": ({}, 400),
        "pair/2/grade": ({"grade": "1", "note": "x" * 4001}, 400),
        "pair/3/grade": ({"grade": "1", "note": 1}, 400),
        "screen/0/show": ({}, 409),
    }
    for path, (body, status) in wrong.items():
        assert session.status(session.url + path, body) == status, path
    assert session.ask("screen/0")["graded"] == 0


BODIES = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b'{"grade": "\xff"}',
    "a list": b'["2"]',
    "a text": b'"2"',
    "a number": b'{"grade": 2}',
    "null": b"null",
    "a nested grade": b'{"grade": ["2"]}',
    "a lone surrogate": b'{"grade": "\\ud800"}',
    "not finite": b'{"grade": NaN}',
    "many digits": b'{"grade": ' + b"9" * 3000 + b"}",
    "deep": b"[" * 4000,
}


def sent_raw(session: Session, request: bytes) -> int:
    """The status of the answer to these bytes."""
    host, port = session.url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        answer = connection.makefile("rb").readline().split()
    return int(answer[1])


def test_a_malformed_body_or_request_is_refused_without_a_traceback(start):
    session = start()
    path = session.url.partition("//")[2].partition("/")[2]
    for name, body in BODIES.items():
        head = f"POST /{path}pair/0/grade HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        assert sent_raw(session, head.encode() + body) == 400, name
    head = f"POST /{path}pair/0/grade HTTP/1.1\r\nHost: localhost\r\nContent-Type: x; charset=none\r\n"
    assert sent_raw(session, f"{head}Content-Length: 1\r\n\r\n1".encode()) == 400
    assert sent_raw(session, f"{head}Content-Length: 90000\r\n\r\n".encode() + b" " * 90000) == 413
    for target, host, status in (
        (f"{path}screen/{'9' * 5000}", "localhost", 404),
        (f"{path}screen/%ff", "localhost", 404),
        ("%ed%a0%80/", "localhost", 404),
        (path, "[::", 404),
        (path, "localhost:x", 404),
    ):
        assert sent_raw(session, f"GET /{target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()) == status, target[-20:]
    assert sent_raw(session, b"\xff\xfe\x00\r\n\r\n") == 400
    assert session.ask("screen/0")["graded"] == 0
    session.ask("pair/0/grade", {"grade": "2"})
    session.ask("finish", {})
    assert "Traceback" not in session.end()


def test_the_page_may_load_nothing_from_elsewhere(start):
    session = start()
    with urlopen(session.url) as answer:
        policy = answer.headers["Content-Security-Policy"]
        content = answer.read().decode()
    assert policy.startswith("default-src 'none'; connect-src 'self'; style-src 'nonce-")
    assert "http" not in content.replace("http-equiv", "")
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_second_session_on_the_same_folder_is_refused(start, labels, data, tmp_path):
    start()
    command = [
        "-m",
        "labelkit",
        "review",
        labels,
        "-o",
        tmp_path / "anna",
        "--name",
        "bob",
        "--texts",
        data,
    ]
    other = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    assert other.returncode == 1
    assert "is held by process" in other.stderr


def test_agreement_takes_the_grades_as_a_person_s(start, labels, tmp_path):
    session = start()
    for index in range(8):
        session.ask(f"pair/{index}/grade", {"grade": "3" if index < 4 else "0"})
    session.ask("finish", {})
    session.end()
    command = [sys.executable, "-m", "labelkit", "agree", str(labels), str(tmp_path / "anna"), "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    against = [one for one in found["comparisons"] if one["reference_kind"] == "human"]
    assert {one["judge"] for one in against} == {"model-1", "model-2"}
    assert {one["reference"] for one in against} == {"anna"}


def in_order(key, pairs, seed):
    """Passage ids in the order of `key`."""
    return [pair.passage_id for pair in sorted(pairs, key=lambda pair: key(pair, seed))]


def test_a_random_order_is_drawn_by_the_seed_and_does_not_depend_on_the_judges():
    pairs = [JudgedPair("q", f"p{n}", n % 4, 1.0) for n in range(40)]
    order = in_order(by_chance, pairs, 1)
    assert sorted(order) == sorted(pair.passage_id for pair in pairs)
    assert order == in_order(by_chance, [pair._replace(gap=0) for pair in reversed(pairs)], 1)
    assert order != in_order(by_chance, pairs, 2)
    assert order != sorted(order)
    firsts = {in_order(by_chance, pairs, seed)[0] for seed in range(200)}
    assert len(firsts) > 35


def test_disagreement_comes_first_then_doubt():
    pairs = [
        JudgedPair("q", name, gap, sure) for name, gap, sure in (("same", 0, 1.0), ("far", 3, 1.0), ("near", 1, 1.0))
    ]
    assert in_order(by_disagreement, pairs, 0) == ["far", "near", "same"]
    doubted = [JudgedPair("q", "sure", 0, 0.9), JudgedPair("q", "unsure", 0, 0.6)]
    assert in_order(by_disagreement, doubted, 0) == ["unsure", "sure"]


def test_the_difference_and_the_lowest_confidence_of_judges_are_those_of_their_answers(tmp_path, data):
    """Read from a labels folder by the same code as a review."""
    judges = [Judge(judge_id=name, kind="llm", name=name, label_grades=(0, 3)) for name in "ab"]
    rows = [
        Judgement(query_id="q0", passage_id="p0", judge_id="a", grade=0, probs=(0.9, 0.1)),
        Judgement(query_id="q0", passage_id="p0", judge_id="b", grade=3, probs=(0.3, 0.7)),
        Judgement(query_id="q0", passage_id="p1", judge_id="a", grade=3),
        Judgement(query_id="q0", passage_id="p1", judge_id="b", failure="no label"),
        Judgement(query_id="q0", passage_id="p2", judge_id="b", failure="no label"),
    ]
    with writing(tmp_path / "two", "labels", "test") as draft:
        draft.write_table("judgements", records_to_table(rows, JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table(judges, JUDGE_SCHEMA))
    with tables.temporary() as db:
        open_judged(db, tmp_path / "two", data)
        chosen, count = choose(db, ReviewOptions(name="anna", by="disagreement", pairs=5))
        assert (chosen, count) == ([[("q0", "p0")], [("q0", "p1")]], 2)
        assert said_about(db, ("q0", "p0")) == [Said("a", 0, None), Said("b", 3, None)]


def test_human_grades_in_the_labels_are_not_reviewed(tmp_path, data):
    (tmp_path / "g.tsv").write_text("q0 0 p0 1\n")
    import_grades(tmp_path / "g.tsv", tmp_path / "human", ImportOptions(judge="h", kind="human"))
    command = [
        "-m",
        "labelkit",
        "review",
        tmp_path / "human",
        "-o",
        tmp_path / "x",
        "--name",
        "a",
        "--texts",
        data,
    ]
    called = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    assert called.returncode == 1
    assert "has no judged pair" in called.stderr


def test_the_pool_behind_the_labels_must_be_there(labels, tmp_path):
    command = ["-m", "labelkit", "review", labels, "-o", tmp_path / "x", "--name", "a"]
    called = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    assert called.returncode == 2
    assert "by --texts" in called.stderr


def test_the_journal_keeps_every_answer(start, tmp_path):
    session = start()
    for grade in ("1", "2"):
        session.ask("pair/0/grade", {"grade": grade})
    session.ask("finish", {})
    session.end()
    with Journal(tmp_path / "anna") as journal:
        assert [json.loads(record[2])["text"] for record in journal.records()] == ["1", "2"]
