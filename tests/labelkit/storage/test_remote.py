"""Datasets in buckets: fetched, sent with the manifest last, and never mixed with what is not ours."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from labelkit.errors import ArtifactError, DataError, MissingPackageError, RemoteError
from labelkit.storage.remote import delivered, file_system, local


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of an S3 server on this machine, as s3fs finds it by the environment."""
    server = pytest.importorskip("moto.server", reason="an S3 server: pip install 'moto[server]'")
    pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test-only-0123")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    fsspec.filesystem("s3").clear_instance_cache()
    fsspec.filesystem("s3").makedirs("bucket", exist_ok=True)  # one server state a process
    yield "s3://bucket"
    running.stop()
    fsspec.filesystem("s3").clear_instance_cache()


def made(folder: Path, kind: str = "export", **files: str) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    (folder / "manifest.json").write_text(json.dumps({"kind": kind, "files": sorted(files)}))


def send(location: str, **files: str) -> None:
    with delivered(location, "export") as folder:
        made(folder, **files)


def test_a_local_path_is_left_alone(tmp_path):
    assert local("some/where") == Path("some/where")
    with delivered(str(tmp_path / "out"), "export") as folder:
        assert folder == tmp_path / "out"


def test_what_was_sent_is_fetched(memory):
    send("memory://store/set", a="1", b="2")
    folder = local("memory://store/set")
    assert {path.name: path.read_text() for path in folder.iterdir() if path.name != "manifest.json"} == {
        "a": "1",
        "b": "2",
    }


def test_an_unchanged_folder_is_not_fetched_again(memory):
    send("memory://store/set", a="1")
    (local("memory://store/set") / "mark").write_text("kept")
    assert (local("memory://store/set") / "mark").exists()
    send("memory://store/set", a="1", b="2")
    assert not (local("memory://store/set") / "mark").exists()
    assert (local("memory://store/set") / "b").read_text() == "2"


def test_the_manifest_comes_last_and_the_old_one_goes_first(memory, monkeypatch):
    send("memory://store/set", a="1", old="1")
    steps = []
    put, remove = type(memory).put_file, type(memory).rm_file

    def put_file(self: Any, one: str, two: str) -> None:
        steps.append(f"put {Path(two).name}")
        put(self, one, two)

    def rm_file(self: Any, path: str) -> None:
        steps.append(f"rm {Path(path).name}")
        remove(self, path)

    monkeypatch.setattr(type(memory), "put_file", put_file)
    monkeypatch.setattr(type(memory), "rm_file", rm_file)
    send("memory://store/set", a="2", b="2")
    assert steps == ["rm manifest.json", "put a", "put b", "put manifest.json", "rm old"]


def test_a_single_file_is_fetched_anew_each_time(memory):
    memory.pipe_file("/store/grades.tsv", b"one")
    assert local("memory://store/grades.tsv").read_text() == "one"
    memory.pipe_file("/store/grades.tsv", b"two")
    assert local("memory://store/grades.tsv").name == "grades.tsv"
    assert local("memory://store/grades.tsv").read_text() == "two"


def test_what_is_not_ours_is_not_replaced(memory):
    memory.pipe_file("/store/mine/notes.txt", b"keep")
    with pytest.raises(ArtifactError, match="contains no labelkit export"):
        send("memory://store/mine", a="1")
    with delivered("memory://store/pool", "pool") as folder:
        made(folder, "pool", a="1")
    with pytest.raises(ArtifactError, match="contains a pool, not a export"):
        send("memory://store/pool", a="1")
    assert memory.cat_file("/store/mine/notes.txt") == b"keep"


def test_what_somebody_put_beside_an_export_is_not_removed_with_it(memory):
    send("memory://store/set", a="1")
    memory.pipe_file("/store/set/checkpoints/best.bin", b"days")
    with pytest.raises(ArtifactError, match=r"set contains checkpoints/best\.bin beside the export"):
        send("memory://store/set", a="2")
    assert memory.cat_file("/store/set/checkpoints/best.bin") == b"days"
    assert memory.cat_file("/store/set/a") == b"1"


def test_a_failed_command_sends_nothing(memory):
    def fail() -> None:
        with delivered("memory://store/set", "export") as folder:
            made(folder, a="1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert memory.store == {}


@pytest.mark.parametrize(
    ("location", "error", "message"),
    [
        ("memory://nothing/here", DataError, "does not exist"),
        ("odd://bucket/x", DataError, "odd"),
        ("s3://bucket/x", RemoteError, "s3://bucket/x: "),
    ],
)
def test_what_cannot_be_reached_is_one_line(memory, monkeypatch, location, error, message):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with pytest.raises(error, match=message) as caught:
        local(location)
    assert "\n" not in str(caught.value)


def test_a_missing_file_system_says_what_to_install(monkeypatch):
    def absent(*arguments: object, **more: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(MissingPackageError, match=r"run: pip install 'fsspec>=\S+' 's3fs>=\S+'"):
        file_system("s3://bucket/x")


def test_the_commands_go_through_s3(bucket, labelkit, pool, beir, tmp_path):
    labelkit("annotate", pool, "-o", tmp_path / "labels", "--engine", "scripted", "--model", "overlap")
    human = beir / "qrels" / "test.tsv"
    called = labelkit("mix", "--data", beir, "--human", human, "--llm", tmp_path / "labels", "-o", tmp_path / "dataset")
    assert called.code == 0, called.err
    called = labelkit("export", tmp_path / "dataset", "--to", "beir", "-o", f"{bucket}/out")
    assert called.code == 0, called.err
    assert labelkit("verify", f"{bucket}/out").code == 0
    called = labelkit("import", f"{bucket}/out", "--from", "beir", "--judge", "x", "-o", tmp_path / "back")
    assert called.code == 0, called.err
    assert labelkit("pool", f"{bucket}/out", "-o", tmp_path / "pool2").code == 0
    labels = tmp_path / "labels"
    assert labelkit("mix", "--data", f"{bucket}/out", "--llm", labels, "-o", tmp_path / "again").code == 0


@pytest.mark.parametrize("name", ["/{victim}", "../{victim}", "x/../../{victim}", "a\nb", "..\\up"])
def test_an_object_whose_name_leads_elsewhere_is_refused(memory, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    memory.pipe_file(f"/store/set/{name.format(victim=victim)}", b"theirs")
    with pytest.raises(ArtifactError, match="is not the name of a file inside"):
        local("memory://store/set")
    assert victim.read_text() == "mine"
    fetched = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert fetched == []


def test_an_object_key_that_is_an_absolute_path_overwrites_nothing(bucket, tmp_path):
    victim = tmp_path / "authorized_keys"
    victim.write_text("mine")
    files, place = file_system(bucket)
    files.pipe_file(f"{place}/data/corpus.jsonl", b"{}")
    files.pipe_file(f"{place}/data/{victim}", b"theirs")
    with pytest.raises(ArtifactError, match="is not the name of a file inside"):
        local(f"{bucket}/data")
    assert victim.read_text() == "mine"
