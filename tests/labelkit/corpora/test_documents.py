"""Documents of every form become text with headings, and sections become passages of a bounded length."""

import io
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_documents import pdf_file, word_file

from labelkit.corpora.documents import markup
from labelkit.corpora.documents.conversion import converted
from labelkit.corpora.documents.converted import Converted, Refused
from labelkit.corpora.documents.pdf import joined
from labelkit.corpora.documents.sections import sections_of, title_of
from labelkit.corpora.documents.splitting import PassageSplitter, Piece
from labelkit.corpora.documents.token_counts import open_tokenizer
from labelkit.records import full_text


def made(content: str | bytes, ending: str) -> Converted:
    return converted(content.encode() if isinstance(content, str) else content, ending)


def outline(document: Converted, file_name: str = "file") -> list[tuple[str, str]]:
    """Title with headings, and text, of each section."""
    title = title_of(document, file_name)
    sections = sections_of(document, title)
    return [(" > ".join([title, *one.headings]), document.text[one.start : one.end].strip()) for one in sections]


def test_markdown_keeps_text_code_and_tables_without_addresses() -> None:
    text = """Before ![badge](https://example.com/b.svg)
all, see [the rules](https://example.com/rules).

- [Leave](#leave)
- [Sick leave](#sick-leave)
- [Other](#other)

# Leave

Employees may **take**
30 days. <script>steal()</script>

```sh
# no heading
ls
```

## Sick leave

| days | who |
|------|:---:|
| 3    | all |
"""
    assert outline(made(text, ".md")) == [
        ("Leave", "Before all, see the rules."),
        ("Leave", "Employees may take 30 days.\n\n```sh\n# no heading\nls\n```"),
        ("Leave > Sick leave", "| days | who |\n| --- | --- |\n| 3 | all |"),
    ]


def test_the_title_is_the_only_highest_heading_or_stated_or_the_name_of_the_file() -> None:
    two = "# One\n\na\n\n# Two\n\nb"
    assert outline(made(f"---\ntitle: 'Hand book'\n---\n{two}", ".md")) == [
        ("Hand book > One", "a"),
        ("Hand book > Two", "b"),
    ]
    assert outline(made(two, ".md"), "hand_book-v2")[0] == ("hand book v2 > One", "a")
    assert outline(made(f"# Top\n\n#{two.replace('# Two', '## Two')}", ".md")) == [
        ("Top > One", "a"),
        ("Top > Two", "b"),
    ]


def test_a_heading_without_text_is_a_text_only_if_nothing_is_below_it() -> None:
    assert outline(made("# Top\n\n## Empty\n\n## Part\n\n### Inner\n\ntext", ".md")) == [
        ("Top", "## Empty"),
        ("Top > Part > Inner", "text"),
    ]


def test_a_page_gives_its_main_part() -> None:
    page = """<html><head><title>Tea - Site</title><style>p {}</style></head><body>
<header>Site name</header><nav><a href="/">Home</a></nav>
<main><header><h1>Green tea<a class="headerlink" href="#tea">¶</a></h1></header>
<p>Water below 100&nbsp;&deg;C &amp; a <a href="https://example.com">cup</a>
of tea.</p><pre><code class="language-py">if x:
    pour()</code></pre>
<table><tr><th>tea</th><th>minutes</th></tr><tr><td>green</td><td>2</td></tr></table></main>
<footer>Imprint</footer><script>track()</script></body></html>"""
    assert outline(made(page, ".html")) == [
        (
            "Green tea",
            "Water below 100 °C & a cup of tea.\n\n```py\nif x:\n    pour()\n```\n\n"
            "| tea | minutes |\n| --- | --- |\n| green | 2 |",
        )
    ]


def test_an_old_page_gives_its_text_without_menus_and_layout_tables() -> None:
    menu = "".join(f"<li><a href='{n}.html'>Page {n}</a></li>" for n in range(8))
    page = f"""<title>Old page</title><body><table><tr><td><ul>{menu}</ul></td><td><p>First.</p><p>Second.</p>
<table><tr><th>a</th></tr><tr><td>1</td></tr></table></td></tr></table>"""
    assert outline(made(page, ".htm")) == [("Old page", "First.\n\nSecond.\n\n| a |\n| --- |\n| 1 |")]


def test_restructured_text_with_what_sphinx_adds() -> None:
    text = """
Teapots
=======

.. toctree::

   other

.. function:: pour(cup, *, slowly=False)

   Fill a :class:`~tea.Cup` with :ref:`green tea <green>` in |version|.

   .. versionadded:: 3.2 The argument *slowly*.

   .. code-block:: python
      :linenos:

      pour(cup)

.. include:: /etc/passwd
.. raw:: html

   <script>steal()</script>

.. only:: html

   Shown on pages.

Cups
----

.. note:: Cups are hot.
"""
    assert outline(made(text, ".rst")) == [
        (
            "Teapots",
            "pour(cup, *, slowly=False)\n\nFill a Cup with green tea in version.\n\n"
            "New in version 3.2 The argument slowly.\n\n```\npour(cup)\n```\n\nShown on pages.",
        ),
        ("Teapots > Cups", "Note\n\nCups are hot."),
    ]


def test_a_word_document_with_headings_and_a_table() -> None:
    assert outline(made(word_file(), ".docx")) == [
        ("Travel policy > Trains", "Second class.\n\n| km | class |\n| --- | --- |\n| 500 | first |"),
        ("Travel policy > Planes", "Only if a train takes a day."),
    ]


def test_a_pdf_file_has_paragraphs_without_headers_page_numbers_and_hyphens() -> None:
    found = outline(made(pdf_file(), ".pdf"))
    assert [title for title, _ in found] == [
        "Kettle manual > 1 Heating",
        "Kettle manual > 2 Cleaning",
        "Kettle manual > 3 Storage",
    ]
    assert found[1][1] == (
        "The kettle heats the water to the temperature that the tea needs, and it is a well-known device in every "
        "kitchen where tea is brewed more than once on any given day of the whole long year. This is the end.\n\n"
        "A new paragraph begins after a short line, and it continues on the next line of the page, too, so that it is "
        "one paragraph.\n\nMore about cleaning."
    )


def test_a_hyphen_stays_in_a_word_that_has_one_elsewhere_and_before_a_capital() -> None:
    assert joined(["a well-", "known Anglo-", "Saxon de-", "vice"], {"well-known"}) == (
        "a well-known Anglo- Saxon device"
    )


def test_a_notebook_gives_texts_and_code_without_outputs() -> None:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Brew\n", "\n", "Heat \ud800water."]},
        {
            "cell_type": "code",
            "execution_count": 1,
            "metadata": {},
            "outputs": [{"output_type": "stream", "name": "stdout", "text": "secret"}],
            "source": "pour()  # ```",
        },
    ]
    about = {"language_info": {"name": "python"}}
    notebook = json.dumps({"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 4})
    assert outline(made(notebook, ".ipynb")) == [("Brew", "Heat water.\n\n````python\npour()  # ```\n````")]


def test_plain_text_in_several_encodings_with_paragraphs_in_one_line() -> None:
    prose = (
        "Employees may take thirty days of leave per year, and they\nask their manager early, at best in the spring.\n"
    )
    table = "name                    days            manager            \nAnn                     30              Bob"
    text = f"{prose}\n{table}\x07\x1b[31m\n\n\n\nLeave caf\u00e9 cr\u00e8me br\u00fbl\u00e9e for the colleagues.\n"
    found = [made(text.encode(encoding), ".txt").text for encoding in ("utf-8-sig", "utf-16")]
    found.append(made(text.replace("\x07\x1b[31m", "").encode("latin-1"), ".txt").text)
    assert found[0] == found[1]
    assert found[0].split("\n\n") == [
        prose.replace("\n", " ").strip(),
        "name                    days            manager\nAnn                     30              Bob[31m",
        "Leave café crème brûlée for the colleagues.",
    ]
    assert found[2].startswith(prose.replace("\n", " ").strip())


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("word/document.xml", "w") as member:
        for _ in range((markup.UNPACKED_BYTES >> 20) + 1):
            member.write(bytes(1 << 20))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "ending", "kind"),
    [
        (b"  \n", ".md", "empty"),
        (b"...\n---", ".md", "no text"),
        (b"\x89PNG\x00\x01", ".txt", "not text"),
        (b"PK\x03\x04 nothing", ".docx", "damaged"),
        (b"%PDF-1.7 nothing", ".pdf", "damaged"),
        (b'{"cells": 1}', ".ipynb", "damaged"),
        (b"not JSON", ".ipynb", "damaged"),
        (b"<html><body><nav>Home</nav></body></html>", ".html", "no text"),
    ],
)
def test_a_document_that_cannot_be_read_has_a_reason(content: bytes, ending: str, kind: str) -> None:
    with pytest.raises(Refused) as refused:
        converted(content, ending)
    assert refused.value.kind == kind
    assert refused.value.reason
    assert "\n" not in refused.value.reason


@pytest.mark.parametrize(
    ("content", "ending"), [(b"<div>" * 3_000 + b"deep", ".html"), (b"> " * 3_000 + b"deep", ".md")]
)
def test_deeply_nested_documents_are_read_or_refused(content: bytes, ending: str) -> None:
    try:
        found = converted(content, ending).text
    except Refused:
        return
    assert "deep" in found


def test_encrypted_pdf_files_and_zip_bombs_are_refused() -> None:
    with pytest.raises(Refused, match="encrypted"):
        converted(pdf_file(password="b"), ".pdf")
    with pytest.raises(Refused, match="unpacks to 257 MB in 1 files, over 256 MB"):
        converted(bomb(), ".docx")


WIDE = PassageSplitter(open_tokenizer(None), 4096)
NARROW = PassageSplitter(open_tokenizer(None), 48)


def pieces(splitter: PassageSplitter, text: str, title: str = "Tea") -> list[Piece]:
    document = made(text, ".md")
    return [piece for one in sections_of(document, title) for piece in splitter.pieces(document, one, title)]


def test_parts_of_code_blocks_and_tables_can_be_read_alone() -> None:
    code = "\n".join(f"x{n} = {n}" for n in range(30))
    rows = "".join(f"| tea{n} | {n} |\n" for n in range(30))
    text = f"A sentence. Another sentence.\n\n```py\n{code}\n```\n\n| name | minutes |\n| --- | --- |\n{rows}"
    found = pieces(PassageSplitter(open_tokenizer(None), 96), text)
    in_code = [piece.text for piece in found if "x1" in piece.text or " = " in piece.text]
    in_table = [piece.text for piece in found if "| tea" in piece.text]
    assert len(in_code) > 1
    assert len(in_table) > 1
    assert all(one.count("```") == 2 and "```py\n" in one for one in in_code)
    assert all("| name | minutes |\n| --- | --- |\n| tea" in one for one in in_table)
    assert [line for one in in_code for line in one.split("\n") if " = " in line] == code.split("\n")
    assert [line for one in in_table for line in one.split("\n") if "| tea" in line] == rows.strip().split("\n")


def test_passages_end_at_sentences() -> None:
    text = " ".join(f"Sentence number {n} of the `text` has a full stop." for n in range(40))
    found = pieces(NARROW, text)
    assert len(found) > 8
    assert all(piece.text.startswith("Sentence") and piece.text.endswith(".") for piece in found)


BLOCKS = st.one_of(
    st.text(max_size=300),
    st.lists(st.sampled_from(["tea", "cups", "Wärme", "茶を飲む", "x" * 90, "."]), max_size=90).map(" ".join),
    st.integers(1, 25).map(lambda count: "```py\n" + "\n".join(f"x{n} = {n}" for n in range(count)) + "\n```"),
    st.integers(1, 25).map(
        lambda count: "| name | minutes |\n|---|---|\n" + "\n".join(f"| tea {n} | {n} |" for n in range(count))
    ),
    st.text("# -*`|\n\\ab", max_size=60),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(BLOCKS, max_size=5).map("\n\n".join), st.sampled_from(["Tea", "A very long title of tea " * 9]))
def test_passages_are_bounded_in_order_and_complete(text: str, title: str) -> None:
    try:
        document = made(f"# Top\n\nstart\n\n{text}", ".md")
    except Refused:
        return
    end = 0
    covered = ""
    for section in sections_of(document, "Top"):
        named = NARROW.title(title, section.headings)
        for piece in NARROW.pieces(document, section, named):
            assert NARROW.count(full_text(named, piece.text)) <= 48
            assert document.text[piece.start : piece.end] in piece.text
            assert piece.start >= end
            end = piece.end
            covered += document.text[piece.start : piece.end]
    whole = "".join(document.text[one.start : one.end] for one in sections_of(document, "Top"))
    assert letters(whole) == letters(covered)


def letters(text: str) -> str:
    """The letters of a text, without the languages of its code blocks, which are repeated and not covered."""
    return "".join(character for character in text.replace("```py\n", "") if character.isalnum())


def test_titles_keep_the_document_and_the_last_headings() -> None:
    headings = [f"heading number {n}" for n in range(9)]
    title = NARROW.title("Handbook", headings)
    assert title.startswith("Handbook > ")
    assert title.endswith(" > heading number 8")
    assert NARROW.count(title) <= 16
    assert NARROW.count(NARROW.title("many words " * 40, [])) <= 16


def test_offsets_are_in_the_converted_text() -> None:
    document = made("# Tea\n\nGreen tea.\n\n## Cups\n\nRound cups.", ".md")
    found = [
        document.text[piece.start : piece.end]
        for piece in pieces(WIDE, "# Tea\n\nGreen tea.\n\n## Cups\n\nRound cups.")
    ]
    assert found == ["Green tea.", "Round cups."]


def test_the_tokenizer_of_a_model_folder_has_its_window(tmp_path: Path) -> None:
    from labelkit.corpora.documents.token_counts import find_tokenizer
    from labelkit.errors import DataError

    with pytest.raises(DataError, match=r"contains no tokenizer\.json"):
        find_tokenizer(str(tmp_path))
    open_tokenizer(None).save(str(tmp_path / "tokenizer.json"))
    assert find_tokenizer(str(tmp_path)).window == 512
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 128}')
    assert find_tokenizer(str(tmp_path / "tokenizer.json")).window == 128
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    assert find_tokenizer(str(tmp_path)).window == 256
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer .* cannot be loaded"):
        find_tokenizer(str(tmp_path))
    with pytest.raises(DataError, match="is not a folder and cannot be fetched"):
        find_tokenizer("some/model-that-is-not-there")
