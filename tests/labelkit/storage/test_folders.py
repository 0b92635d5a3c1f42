"""Written folders: whole or not there, and damage is seen."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from labelkit.errors import ArtifactError
from labelkit.storage.folders import (
    file_sha256,
    known_sha256,
    manifest_kind,
    read_manifest,
    read_table,
    writing,
)
from labelkit.storage.manifest import Facts, document_sha256

REPOSITORY = Path(__file__).parents[3]
TABLE = pa.table({"id": ["a", "b"], "n": [1, 2]})

KILLED = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa
from labelkit.storage import folders
with folders.writing(Path(sys.argv[1]), "thing", "make thing") as draft:
    draft.write_table("rows", pa.table({"id": ["new"]}))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def write(target: Path, kind: str = "thing", table: pa.Table = TABLE) -> Path:
    with writing(target, kind, "make thing") as draft:
        draft.write_table("rows", table)
        draft.inputs["corpus"] = "sha"
        draft.facts = Facts.model_validate({"x": 1})
    return target


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kill_a_writer(target: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, target], cwd=REPOSITORY)
    assert done.returncode == -signal.SIGKILL


def test_what_was_written_is_read_with_its_manifest(tmp_path):
    folder = write(tmp_path / "deep" / "thing")
    manifest = read_manifest(folder, "thing")
    assert manifest.rows == {"rows": 2}
    assert manifest.inputs == {"corpus": "sha"}
    assert manifest.facts.as_json() == {"x": 1}
    assert manifest.command == "make thing"
    assert read_table(folder, "rows") == TABLE
    assert manifest_kind(folder) == "thing"
    assert [path.name for path in folder.parent.iterdir()] == ["thing"]


def test_a_killed_writer_leaves_nothing_that_can_be_read(tmp_path):
    kill_a_writer(tmp_path / "thing")
    assert not (tmp_path / "thing").exists()
    with pytest.raises(ArtifactError, match="is not finished; to finish it, run the command that began it: make thing"):
        read_manifest(tmp_path / "thing", "thing")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"thing.unfinished", "thing.lock", "thing.holder"}
    with pytest.raises(ArtifactError, match="is not finished"):
        read_manifest(tmp_path / "thing.unfinished", "thing")


def test_a_killed_writer_leaves_the_old_artifact_as_it_was(tmp_path):
    folder = write(tmp_path / "thing")
    before = contents(folder)
    kill_a_writer(folder)
    assert contents(folder) == before
    read_manifest(folder, "thing")


SWAPPED = """
import os, signal
from labelkit.storage import outputs
exchange = outputs.exchange
def exchange_and_die(one, other):
    exchange(one, other)
    os.kill(os.getpid(), signal.SIGKILL)
outputs.exchange = exchange_and_die
"""


def test_a_writer_killed_right_after_the_swap_leaves_the_new_artifact(tmp_path):
    folder = write(tmp_path / "thing")
    child = f"import sys{SWAPPED}" + KILLED.replace("    os.kill(os.getpid(), signal.SIGKILL)", "    pass")
    done = subprocess.run([sys.executable, "-c", child, folder], cwd=REPOSITORY)
    assert done.returncode == -signal.SIGKILL
    read_manifest(folder, "thing")
    assert read_table(folder, "rows").num_rows == 1


def test_the_next_writer_clears_what_a_killed_one_left(tmp_path):
    kill_a_writer(tmp_path / "thing")
    write(tmp_path / "thing")
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_an_exception_leaves_the_old_artifact_and_no_rest(tmp_path):
    folder = write(tmp_path / "thing")
    before = contents(folder)
    with pytest.raises(ZeroDivisionError), writing(folder, "thing", "make") as draft:
        draft.write_table("rows", TABLE.slice(0, 1 // 0))
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_complete_artifact_is_replaced_whole(tmp_path):
    folder = write(tmp_path / "thing")
    with writing(folder, "thing", "make") as draft:
        draft.write_table("others", TABLE)
    assert set(contents(folder)) == {"others.parquet", "manifest.json"}


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "thing").mkdir()
    assert set(read_manifest(write(tmp_path / "thing"), "thing").files) == {"rows.parquet"}


def test_a_foreign_folder_or_file_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("mine", "file"):
        with pytest.raises(ArtifactError, match=f"{tmp_path / name} exists and is not a labelkit thing"):
            write(tmp_path / name)
    assert contents(tmp_path) == {"mine/file": b"mine", "file": b"mine"}


def test_an_artifact_of_another_kind_is_left_alone_and_not_read(tmp_path):
    before = contents(write(tmp_path / "other", "other"))
    with pytest.raises(ArtifactError, match="contains a other, not a thing"):
        write(tmp_path / "other")
    with pytest.raises(ArtifactError, match="contains a other, but a thing is needed"):
        read_manifest(tmp_path / "other", "thing")
    assert contents(tmp_path / "other") == before


@pytest.mark.parametrize("change", ["flip", "cut", "grow", "remove"])
def test_a_changed_byte_is_noticed_with_the_name_of_its_file(tmp_path, change):
    folder = write(tmp_path / "thing")
    path = folder / "rows.parquet"
    data = bytearray(path.read_bytes())
    if change == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"flip": data, "cut": data[:-1], "grow": data + b"0"}.get(change, data))
    if change == "remove":
        path.unlink()
    with pytest.raises(ArtifactError, match=r"rows\.parquet changed since it was written; make it again: make thing"):
        read_manifest(folder, "thing")


def test_page_checksums_see_a_flipped_byte_that_the_manifest_was_not_asked_about(tmp_path):
    folder = write(tmp_path / "thing", table=pa.table({"id": [f"passage {number}" for number in range(1000)]}))
    path = folder / "rows.parquet"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    read_manifest(folder, "thing", verify=False)
    with pytest.raises(ArtifactError, match=r"rows\.parquet cannot be read"):
        read_table(folder, "rows")


def test_another_schema_version_is_refused(tmp_path):
    folder = write(tmp_path / "thing")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["schema_version"] = 99
    (folder / "manifest.json").write_text(json.dumps(manifest | {"sha256": document_sha256(manifest)}))
    with pytest.raises(ArtifactError, match="has schema version 99; this labelkit reads 1"):
        read_manifest(folder, "thing")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"kind": "thing", "schema_version": 1}'])
def test_a_damaged_manifest_is_one_line(tmp_path, content):
    folder = write(tmp_path / "thing")
    (folder / "manifest.json").write_bytes(content)
    for read in (lambda: read_manifest(folder, "thing"), lambda: read_manifest(folder, manifest_kind(folder))):
        with pytest.raises(ArtifactError, match=str(folder)) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_folder_with_a_damaged_manifest_is_not_overwritten_with_a_traceback(tmp_path):
    folder = write(tmp_path / "thing")
    (folder / "manifest.json").write_bytes(b"{")
    with pytest.raises(ArtifactError, match=str(folder)):
        write(folder)


def test_missing_and_unfinished_folders_are_told_apart(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist, but a thing is needed here"):
        read_manifest(tmp_path / "no", "thing")
    folder = write(tmp_path / "thing")
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"has no manifest\.json: it is not a finished thing; run the command"):
        read_manifest(folder, "thing")


def test_the_same_tables_give_the_same_bytes(tmp_path):
    assert contents(write(tmp_path / "one")) == contents(write(tmp_path / "two"))


def test_a_manifest_of_an_earlier_release_says_so(tmp_path):
    with writing(tmp_path / "things", "thing", "make thing"):
        pass
    path = tmp_path / "things" / "manifest.json"
    document = json.loads(path.read_text())
    del document["sha256"]
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match="was written by an earlier release; run the command that made"):
        read_manifest(tmp_path / "things", "thing")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside", "", "a//b", "linked/outside", "a\nb"])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path, name):
    folder = write(tmp_path / "thing")
    (tmp_path / "outside").write_text("private")
    (folder / "linked").symlink_to(tmp_path)
    document = json.loads((folder / "manifest.json").read_text())
    document["files"][name] = file_sha256(tmp_path / "outside")
    (folder / "manifest.json").write_text(json.dumps(document | {"sha256": document_sha256(document)}))
    for read in (read_manifest, known_sha256):
        with pytest.raises(ArtifactError, match="is not the name of a file inside"):
            read(*((folder, "thing") if read is read_manifest else (folder,)))
