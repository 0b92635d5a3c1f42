"""The report: whole, self-contained, and with the numbers of the commands that it names."""

import json
import re
from html.parser import HTMLParser

import pytest
from present import present

from labelkit.statistics.charts import Interval, bars, curve, grid, intervals

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Checks that every tag is closed, and collects ids, links and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {value for name, value in given.items() if name == "id" and value}
        self.links += [value for name, value in given.items() if name in ("href", "src", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Shapes of a chart close themselves."""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def labels(labelkit, beir, pool, tmp_path):
    folder = tmp_path / "labels"
    for method in ("graded", "binary", "relsel"):
        command = ("annotate", pool, "-o", folder, "--engine", "scripted", "--model", "overlap", "--method", method)
        assert labelkit(*command, "--add-judge", *(["--permutations", 2] if method == "relsel" else [])).code == 0
    return folder


def page_of(path) -> tuple[Page, str]:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not re.search(r"https?://|@import|url\(|<script|\bnan\b|\bNone\b|Estimate\(", text)
    return page, text


def test_a_report_on_labels_has_every_section_that_they_can_fill(labelkit, labels, beir, tmp_path):
    human = beir / "qrels" / "test.tsv"
    command = ("report", labels, "-o", tmp_path / "report.html", "--human", human, "--data", beir)
    called = labelkit(*command)
    assert called.code == 0, called.err
    page, text = page_of(tmp_path / "report.html")
    assert {"judges", "agreement", "bias", "disagreements", "provenance"} <= page.ids
    assert page.ids.isdisjoint({"dataset", "calibration", "attacks", "audit"})
    agreed = json.loads(labelkit("agree", labels, "--human", human, "--json").out)
    for one in agreed["comparisons"]:
        if one["reference_kind"] == "human":
            assert f"{one['pairs']:,} pairs, {one['queries']:,} queries" in text
            assert f"{one['figures']['kappa']['value']:.2f}" in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    first = text
    assert labelkit(*command).code == 0
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == first


def test_a_report_on_a_dataset_brings_its_own_texts_and_people(labelkit, labels, beir, tmp_path):
    human = beir / "qrels" / "test.tsv"
    mixed = labelkit("mix", "--data", beir, "--human", human, "--llm", labels, "-o", tmp_path / "dataset")
    assert mixed.code == 0, mixed.err
    assert labelkit("report", tmp_path / "dataset", "-o", tmp_path / "report.html").code == 0
    page, text = page_of(tmp_path / "report.html")
    assert {"dataset", "agreement", "disagreements"} <= page.ids
    assert "Number of queries by positives from source human" in text
    # The commands that the page names work as they stand, and give its numbers.
    for command in re.findall(r"From <code>labelkit ([^<]+)</code>", text):
        assert labelkit(*command.split()).code == 0, command


def test_attacks_are_shown_and_damage_is_named(labelkit, labels, beir, tmp_path):
    human = beir / "qrels" / "test.tsv"
    command = ("redteam", beir, "--human", human, "--engine", "scripted", "--model", "overlap", "--defence", "none")
    report = ["report", labels, "-o", tmp_path / "report.html"]
    for prompts in (("graded", "binary"), ("relsel",)):
        attacks = tmp_path / prompts[0]
        assert labelkit(*command, "-o", attacks, *(word for name in prompts for word in ("--prompt", name))).code == 0
        report += ["--attacks", attacks / "attacks.json"]
    assert labelkit(*report).code == 0
    page, _ = page_of(tmp_path / "report.html")
    assert page.words.count("query stuffing") == 3
    assert all(f"Prompt {name}" in page.words for name in ("graded", "binary", "relsel"))
    attacks /= "attacks.json"
    attacks.write_text("{}")
    assert "is not a file of labelkit redteam" in labelkit(*report, "--attacks", attacks).err


def test_hostile_texts_stay_text(labelkit, write_beir, tmp_path):
    # A text that begins as a chart does is a text all the same.
    hostile = '<svg onload=x> <script>alert(1)</script> & "quotes" why cats'
    beir = write_beir(tmp_path / "hostile", {"p1": ("", hostile)}, {"q1": "<b>why</b> cats"}, {"q1": {"p1": 0}})
    human = beir / "qrels" / "test.tsv"
    command = ("annotate", beir, "-o", tmp_path / "labels", "--engine", "scripted", "--model", "overlap")
    assert labelkit(*command).code == 0
    report = ("report", tmp_path / "labels", "-o", tmp_path / "report.html", "--human", human, "--data", beir)
    assert labelkit(*report).code == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<svg onload" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "default-src 'none'" in text


def test_folders_that_make_no_report_are_refused(labelkit, labels, pool, tmp_path):
    called = labelkit("report", pool, "-o", tmp_path / "report.html")
    assert (called.code, "contains a pool" in called.err) == (2, True)
    assert labelkit("report", tmp_path / "no", "-o", tmp_path / "report.html").code == 1
    assert not (tmp_path / "report.html").exists()


def test_charts_draw_what_they_are_given():
    drawn = bars(["0", "1"], [3, 12], "grade", "a < b")
    heights = [float(height) for height in re.findall(r'class="bar"[^>]* height="([\d.]+)"', drawn)]
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.1)
    assert "a &lt; b" in drawn
    whiskers = intervals([Interval("x", 0.5, 0.0, 1.0), Interval("y", None, None, None)], 0, 1, "t")
    start, end = map(float, present(re.search(r'class="whisker" x1="([\d.]+)".*? x2="([\d.]+)"', whiskers)).groups())
    middle = float(present(re.search(r'class="dot s0" cx="([\d.]+)"', whiskers))[1])
    assert middle == pytest.approx((start + end) / 2, abs=0.1)
    assert "undefined" in whiskers
    assert grid(["a"], ["b", "c"], [[1, None]], "t", "share").count("<rect") == 1
    line = curve({"one": [(0, 0), (1, 1)]}, "x", "y", "t", diagonal=True)
    assert len(present(re.search(r'points="([^"]+)"', line))[1].split()) == 2


def test_the_provenance_is_a_table_and_people_have_no_price(labelkit, labels, beir, tmp_path):
    human = beir / "qrels" / "test.tsv"
    assert labelkit("report", labels, "-o", tmp_path / "report.html", "--human", human, "--data", beir).code == 0
    _, text = page_of(tmp_path / "report.html")
    assert "<tr><th>rows: judgements</th><td>21</td></tr>" in text
    assert '"schema_version"' not in text
    (person,) = re.findall(r'<tr>(?:(?!</tr>).)*<td data-name="kind">human</td>.*?</tr>', text, re.DOTALL)
    assert "unknown" not in person
    assert "agrees best with" in text
    assert "agreement may be slight or no better than chance. Grade more pairs by hand" in text
    assert labelkit("report", labels, "-o", tmp_path / "alone.html").code == 0
    line = f"labelkit review {labels} -o my-grades --name me --pairs 50"
    assert f"Grade 50 of the pairs by hand ({line})" in page_of(tmp_path / "alone.html")[1]


def test_nothing_is_cut_on_a_narrow_screen(labelkit, labels, beir, tmp_path, page):
    human = beir / "qrels" / "test.tsv"
    assert labelkit("report", labels, "-o", tmp_path / "report.html", "--human", human, "--data", beir).code == 0
    page.call("Page.navigate", url=(tmp_path / "report.html").as_uri())
    page.wait("document.readyState === 'complete' && document.title.startsWith('Reliability')")
    page.picture(tmp_path / "narrow.png", dark=False, width=420)
    wide = (
        "[document.documentElement, ...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth)"
    )
    assert page.run(f"{wide}.length") == 0
    smallest = (
        "Math.min(...[...document.querySelectorAll('svg text')].map(one => parseFloat(getComputedStyle(one).fontSize)"
        " * one.closest('svg').clientWidth / one.closest('svg').viewBox.baseVal.width))"
    )
    assert page.run(smallest) >= 10.5
    page.picture(tmp_path / "wide.png", dark=False, width=1400)
    assert page.run("Math.min(...[...document.querySelectorAll('.charts svg')].map(e => e.clientWidth))") > 300
