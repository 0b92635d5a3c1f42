"""Each layout in which people have collections is read as it lies on their disk, plain and compressed."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelkit.corpora.beir import read_data
from labelkit.corpora.corpus import corpus_rows, read_corpus
from labelkit.corpora.fields import Fields
from labelkit.corpora.layout import layout_of
from labelkit.corpora.places import local_collection
from labelkit.corpora.queries import read_queries
from labelkit.errors import DataError

PASSAGES = {
    "0": ("", "green tea is brewed below the boiling point"),
    "7": ("", 'they call it "hot" water, don\'t they'),
}
QUERIES = {"1185869": "how hot is the water for green tea", "2": "who calls it hot"}
QRELS = {"1185869": {"0": 1}, "2": {"7": 1}}


def assert_read(folder: Path, split: str, titles: Mapping[str, str] | None = None) -> None:
    """The folder contains the collection above; without `titles`, its passages have none."""
    data = read_data(folder, split)
    assert {pid: (one.title, one.text) for pid, one in data.corpus.items()} == {
        pid: ((titles or {}).get(pid, ""), text) for pid, (_, text) in PASSAGES.items()
    }
    assert {query_id: one.text for query_id, one in data.queries.items()} == QUERIES
    assert data.qrels == QRELS


def pairs() -> list[tuple[str, str, int]]:
    return [(query_id, pid, grade) for query_id, graded in QRELS.items() for pid, grade in graded.items()]


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="")


def ms_marco(folder: Path) -> str:
    """The passage collection in MS MARCO's own files: TSV without a header or quoting.

    https://microsoft.github.io/msmarco/Datasets: collection.tsv (pid, passage), queries.dev.small.tsv (qid, query),
    qrels.dev.small.tsv in the TREC form with tabs, and files of other splits beside them.
    """
    write_lines(folder / "collection.tsv", (f"{pid}\t{text}" for pid, (_, text) in PASSAGES.items()))
    write_lines(folder / "queries.dev.small.tsv", (f"{query_id}\t{text}" for query_id, text in QUERIES.items()))
    write_lines(folder / "queries.dev.tsv", (f"{query_id}\t{text}" for query_id, text in QUERIES.items()))
    write_lines(folder / "queries.train.tsv", ["121352\tdefine extreme"])
    write_lines(folder / "qrels.dev.small.tsv", (f"{query_id}\t0\t{pid}\t{grade}" for query_id, pid, grade in pairs()))
    write_lines(folder / "qrels.train.tsv", ["121352\t0\t7\t1"])
    return "dev.small"


def trec(folder: Path) -> str:
    """A TREC collection: documents and topics in SGML, qrels with four columns.

    https://trec.nist.gov/data/topics_eng/ and the README of the TIPSTER disks: <DOC> with <DOCNO> and <TEXT>;
    <top> with unclosed <num> and <title>.
    """
    documents = (
        f"<DOC>\n<DOCNO> {pid} </DOCNO>\n<TEXT>\n{text}\n</TEXT>\n</DOC>" for pid, (_, text) in PASSAGES.items()
    )
    write_lines(folder / "docs.trec", documents)
    topics = (
        f"<top>\n\n<num> Number: {query_id}\n<title> {text}\n\n<desc> Description:\nMore.\n\n</top>"
        for query_id, text in QUERIES.items()
    )
    write_lines(folder / "topics.robust04.txt", topics)
    write_lines(folder / "qrels.robust04.txt", (f"{query_id} 0 {pid} {grade}" for query_id, pid, grade in pairs()))
    return "robust04"


def dpr_passages(folder: Path) -> str:
    """The Wikipedia passages of DPR, psgs_w100.tsv: a header, cells quoted as in CSV, and the title in the last column.

    https://github.com/facebookresearch/DPR, section "Resources & Data Formats".
    """
    (folder / "psgs_w100.tsv").parent.mkdir(parents=True)
    with (folder / "psgs_w100.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["id", "text", "title"])
        writer.writerows((pid, text, f"title of {pid}") for pid, (_, text) in PASSAGES.items())
    write_lines(folder / "queries.tsv", (f"{query_id}\t{text}" for query_id, text in QUERIES.items()))
    write_lines(
        folder / "qrels" / "dev.tsv", ["qid\tpid\trelevance", *(f"{q}\t{p}\t{grade}" for q, p, grade in pairs())]
    )
    return "dev"


def comma_separated(folder: Path) -> str:
    """Tables exported from a spreadsheet: CSV with names of columns in capital letters and a line break in a cell."""
    folder.mkdir()
    rows: dict[str, list[Sequence[object]]] = {
        "corpus.csv": [["ID", "Text"], *([pid, text] for pid, (_, text) in PASSAGES.items())],
        "queries.csv": [["Question", "QID"], *([text, query_id] for query_id, text in QUERIES.items())],
        "qrels.test.csv": [["query_id", "doc_id", "grade"], *pairs()],
    }
    for name, table in rows.items():
        out = io.StringIO()
        csv.writer(out).writerows(table)
        (folder / name).write_bytes(b"\xef\xbb\xbf" + out.getvalue().encode())
    return "test"


def anserini(folder: Path) -> str:
    """The input of Anserini and Pyserini: JSONL with `id` and `contents`, here with numbers as ids.

    https://github.com/castorini/pyserini, docs/usage-index.md.
    """
    write_lines(folder / "corpus.jsonl", (json.dumps({"id": int(p), "contents": t}) for p, (_, t) in PASSAGES.items()))
    write_lines(folder / "queries.jsonl", (json.dumps({"qid": int(q), "query": text}) for q, text in QUERIES.items()))
    write_lines(
        folder / "qrels" / "test.jsonl",
        (json.dumps({"query-id": int(q), "corpus-id": int(p), "score": float(grade)}) for q, p, grade in pairs()),
    )
    return "test"


def json_arrays(folder: Path) -> str:
    """JSON files that are one array of objects."""
    folder.mkdir()
    tables = {
        "documents.json": [{"docid": int(pid), "text": text} for pid, (_, text) in PASSAGES.items()],
        "queries.json": [{"query_id": query_id, "query": text} for query_id, text in QUERIES.items()],
        "qrels.json": [{"query_id": q, "docid": int(pid), "label": grade} for q, pid, grade in pairs()],
    }
    for name, rows in tables.items():
        (folder / name).write_text(json.dumps(rows, indent=1))
    return "qrels"


def parquet(folder: Path) -> str:
    """Parquet with whole numbers as ids, sharded as on the Hub."""
    tables: dict[str, list[dict[str, Any]]] = {
        "corpus/corpus-00000-of-00002.parquet": [{"_id": 0, "title": "", "text": PASSAGES["0"][1], "vector": [0.5]}],
        "corpus/corpus-00001-of-00002.parquet": [{"_id": 7, "title": None, "text": PASSAGES["7"][1], "vector": [1.5]}],
        "queries/queries-00000-of-00001.parquet": [{"_id": int(q), "text": text} for q, text in QUERIES.items()],
        "qrels/test-00000-of-00001.parquet": [
            {"query-id": int(q), "corpus-id": int(pid), "score": grade} for q, pid, grade in pairs()
        ],
    }
    for name, rows in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    return "test"


LAYOUTS = [ms_marco, trec, dpr_passages, comma_separated, anserini, json_arrays, parquet]


def compress(folder: Path, ending: str) -> None:
    """Compress every file of a folder as users do, with the ending appended to its name."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        packed = gzip.compress(path.read_bytes())
        if ending == ".zst":
            packed = pa.compress(path.read_bytes(), codec="zstd", asbytes=True)
        path.with_name(path.name + ending).write_bytes(packed)
        path.unlink()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_a_layout_is_read_plain_and_compressed(tmp_path: Path, layout: Callable[[Path], str], ending: str) -> None:
    folder = tmp_path / "data"
    split = layout(folder)
    if ending:
        compress(folder, ending)
    titles = {pid: f"title of {pid}" for pid in PASSAGES} if layout is dpr_passages else None
    assert_read(folder, split, titles)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tidy_writes_every_layout_as_a_beir_folder(
    labelkit: Any, tmp_path: Path, layout: Callable[[Path], str]
) -> None:
    split = layout(tmp_path / "data")
    called = labelkit("tidy", tmp_path / "data", "-o", tmp_path / "clean")
    assert called.code == 0, called.err
    assert "0 lines removed" in called.err
    titles = {pid: f"title of {pid}" for pid in PASSAGES} if layout is dpr_passages else None
    assert sorted(path.name for path in (tmp_path / "clean").iterdir() if path.suffix == ".jsonl") == [
        "corpus.jsonl", "queries.jsonl", "set_aside.jsonl",
    ]  # fmt: skip
    read = read_data(tmp_path / "clean", split)
    assert {pid: one.title for pid, one in read.corpus.items()} == {
        pid: (titles or {}).get(pid, "") for pid in PASSAGES
    }
    assert read.qrels == QRELS


def test_an_unpacked_file_wins_over_its_compressed_copy(tmp_path: Path) -> None:
    split = anserini(tmp_path / "data")
    (tmp_path / "data" / "corpus.jsonl.gz").write_bytes(gzip.compress(b'{"id": 9, "contents": "old"}\n'))
    assert_read(tmp_path / "data", split)


def test_unusual_columns_are_named_by_flags(labelkit: Any, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_lines(folder / "corpus.jsonl", ['{"key": 4, "passage_of_text": "green tea", "heading": "Tea"}'])
    write_lines(folder / "queries.jsonl", ['{"_id": "q", "text": "tea"}'])
    refused = labelkit("pool", folder, "-o", tmp_path / "pool")
    assert refused.code == 1
    assert (
        "found 'key', 'passage_of_text', 'heading', wanted '_id' or 'id' or 'docid' for the passage id" in refused.err
    )
    assert refused.err.rstrip().endswith(": --id-field key")
    refused = labelkit("pool", folder, "-o", tmp_path / "pool", "--id-field", "key")
    assert refused.err.rstrip().endswith(": --text-field passage_of_text")
    flags = ["--id-field", "key", "--text-field", "passage_of_text", "--title-field", "heading"]
    called = labelkit("tidy", folder, "-o", tmp_path / "clean", *flags)
    assert called.code == 0, called.err
    assert json.loads((tmp_path / "clean" / "corpus.jsonl").read_text()) == {
        "_id": "4",
        "title": "Tea",
        "text": "green tea",
    }
    called = labelkit("pool", folder, "-o", tmp_path / "pool", *flags)
    assert called.code == 0, called.err
    judged = ["--engine", "scripted", "--model", "overlap"]
    assert labelkit("annotate", tmp_path / "pool", "-o", tmp_path / "labels", *judged).code == 0
    called = labelkit("mix", "--data", folder, "--llm", tmp_path / "labels", "-o", tmp_path / "dataset", *flags)
    assert called.code == 0, called.err


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "contains nothing"),
        (["corpus.jsonl"], r"queries\.jsonl does not exist: .* contains corpus\.jsonl, wanted queries\.jsonl or"),
        (["train-00000-of-00001.parquet"], r"corpus\.jsonl does not exist: .* read by labelkit import"),
        (
            ["a-corpus.jsonl", "b-corpus.jsonl", "queries.jsonl"],
            r"several corpora \(a-corpus\.jsonl, b-corpus\.jsonl\)",
        ),
    ],
)
def test_a_folder_that_is_no_collection_is_explained(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).write_text('{"_id": "1", "text": "x"}\n')
    with pytest.raises(DataError, match=message):
        layout_of(tmp_path)


def test_a_missing_folder_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-data").mkdir()
    with pytest.raises(DataError, match=r"give hf://datasets/BeIR/scifact"):
        layout_of(Path("BeIR/scifact"))
    with pytest.raises(DataError, match="mydata does not exist; beside it lies my-data"):
        layout_of(tmp_path / "mydata")


def test_a_missing_file_names_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "test.tsv.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"test\.tsv does not exist; beside it lies test\.tsv\.gz"):
        read_corpus(tmp_path / "test.tsv")
    with pytest.raises(DataError, match="is a folder, but a file is needed here"):
        read_corpus(tmp_path)


def test_damaged_files_are_one_line_with_their_name(tmp_path: Path) -> None:
    split = parquet(tmp_path / "data")
    (tmp_path / "data" / "corpus" / "corpus-00001-of-00002.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"corpus-00001-of-00002\.parquet cannot be read as Parquet"):
        read_data(tmp_path / "data", split)
    packed = gzip.compress(b'{"_id": "1", "text": "x"}\n' * 1000)
    (tmp_path / "corpus.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"corpus\.jsonl\.gz cannot be decompressed"):
        list(corpus_rows(tmp_path / "corpus.jsonl.gz"))
    (tmp_path / "corpus.json").write_text('[{"_id": "1", "text": "x"}, {"_id": ')
    with pytest.raises(DataError, match=r"corpus\.json cannot be read as JSON"):
        list(corpus_rows(tmp_path / "corpus.json"))
    (tmp_path / "corpus.csv").write_text('id,text\n1,"x\n')
    with pytest.raises(DataError, match=r"corpus\.csv:\d+: not valid CSV"):
        list(corpus_rows(tmp_path / "corpus.csv"))


def test_a_table_is_read_as_a_stream(tmp_path: Path) -> None:
    """The first rows come before the end of the file is read, which is broken."""
    rows = "".join(json.dumps({"_id": str(n), "text": "word " * 50}) + "\n" for n in range(100_000))
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(rows.encode(), 1)[:-200])
    stream = corpus_rows(tmp_path / "corpus.jsonl.gz")
    assert [next(stream)[1] for _ in range(3)] == ["0", "1", "2"]


def test_ids_that_are_no_ids_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1.5], "text": ["x"]}), tmp_path / "corpus.parquet")
    with pytest.raises(DataError, match=r"corpus\.parquet, row 1: field 'id' must be text, found 1\.5"):
        read_corpus(tmp_path / "corpus.parquet")
    with pytest.raises(DataError, match="wanted 'heading' for the title: --title-field"):
        read_corpus(tmp_path / "corpus.parquet", fields=Fields(title="heading"))


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_spreadsheet_of_another_country_is_read(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "corpus.csv"
    path.write_bytes(
        '\ufeffid;text\r\n1;"a; b,\tc\r\nd"\r\n'.replace("id;", f"id{mark}").replace("1;", f"1{mark}").encode()
    )
    assert read_corpus(path)["1"].text == "a; b,\tc\r\nd"
    path.write_bytes("id;text\n1;caf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"corpus\.csv:2: not UTF-8 .* iconv -f WINDOWS-1252"):
        read_corpus(path)


def test_files_of_two_forms_are_not_one_corpus(tmp_path: Path) -> None:
    for name in ("corpus.csv", "corpus.tsv", "queries.csv"):
        (tmp_path / name).write_text("id,text\n1,x\n".replace(",", "\t" if name.endswith("tsv") else ","))
    with pytest.raises(DataError, match=r"several corpora \(corpus\.csv, corpus\.tsv\); keep one of them"):
        layout_of(tmp_path)
    (tmp_path / "corpus.tsv").rename(tmp_path / "Corpus.csv")
    (tmp_path / "corpus.csv").unlink()
    for name in ("test.tsv", "test.jsonl"):
        (tmp_path / "qrels").mkdir(exist_ok=True)
        (tmp_path / "qrels" / name).write_text("q\td\t1\n")
    with pytest.raises(DataError, match=r"several files for the split 'test' \(test\.jsonl, test\.tsv\); keep one"):
        layout_of(tmp_path).files_of("test")


def test_two_query_files_share_queries_but_not_ids(tmp_path: Path) -> None:
    (tmp_path / "queries.dev.tsv").write_text("1\tone\n2\ttwo\n")
    (tmp_path / "queries.train.tsv").write_text("2\ttwo\n3\tthree\n")
    paths = (tmp_path / "queries.dev.tsv", tmp_path / "queries.train.tsv")
    assert list(read_queries(*paths)) == ["1", "2", "3"]
    paths[1].write_text("2\tother\n")
    with pytest.raises(DataError, match=r"queries\.train\.tsv:1: query id '2' is duplicated"):
        read_queries(*paths)


def test_ids_of_ir_datasets_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ir_datasets = pytest.importorskip("ir_datasets")
    from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries

    class Stream:
        def __init__(self, path: Path) -> None:
            self._path = path

        def stream(self) -> Any:
            return self._path.open("rb")

        def path(self, force: bool = True) -> Path:
            return self._path

    folder = tmp_path / "ms"
    split = ms_marco(folder)
    names = [folder / name for name in ("collection.tsv", f"queries.{split}.tsv", f"qrels.{split}.tsv")]
    docs, queries, qrels = (Stream(path) for path in names)
    made = ir_datasets.Dataset(
        TsvDocs(docs, namespace="tiny", lang="en"), TsvQueries(queries), TrecQrels(qrels, {1: "yes"})
    )
    ir_datasets.registry.register("tiny-for-tests/dev", made)
    monkeypatch.setenv("LABELKIT_CACHE", str(tmp_path / "cache"))
    found = local_collection("irds:tiny-for-tests/dev")
    assert_read(found, "dev")
    (folder / "collection.tsv").unlink()
    assert local_collection("irds:tiny-for-tests/dev") == found
    with pytest.raises(DataError, match="irds:no-such-id: ir_datasets has no data set of this id"):
        local_collection("irds:no-such-id")
