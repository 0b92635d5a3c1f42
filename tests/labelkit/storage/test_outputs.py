"""Outputs that cannot simply be renamed: mount points, links, the current folder, full disks. And who holds one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from disks import bound, disk

from labelkit.errors import ArtifactError, DiskError, HeldError
from labelkit.storage import folders
from labelkit.storage.manifest import Facts
from labelkit.storage.outputs import claimed, place_of

TABLE = pa.table({"id": ["a", "b"]})


def write(target: Path, rows: int = 2, kind: str = "thing") -> None:
    with folders.writing(target, kind, f"make {kind}") as draft:
        draft.write_table("rows", TABLE.slice(0, rows))


@contextmanager
def writing_rows(target: Path) -> Iterator[folders.Draft]:
    with folders.writing(target, "thing", "make thing") as draft:
        draft.write_table("rows", TABLE)
        yield draft


def rows_in(target: Path) -> int:
    folders.read_manifest(target, "thing")
    rows: int = folders.read_table(target, "rows").num_rows
    return rows


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["volume", "a volume [1]"])
def test_a_bind_mount_is_written_in_place_again_and_again(tmp_path, name):
    volume, target = tmp_path / "real", tmp_path / name
    with bound(volume, target):
        assert place_of(target).in_place
        for rows in (2, 1, 0):
            write(target, rows)
            assert rows_in(target) == rows
            assert names(target) == ["manifest.json", "rows.parquet"]
            assert names(tmp_path) == sorted(["real", name])
    assert rows_in(volume) == 0


def test_a_fresh_disk_is_written_in_place_and_its_own_folder_stays(tmp_path):
    with disk(tmp_path / "disk", 4 << 20):
        (tmp_path / "disk" / "lost+found").mkdir()
        (tmp_path / "disk" / ".hidden").mkdir()
        write(tmp_path / "disk")
        write(tmp_path / "disk", 1)
        assert rows_in(tmp_path / "disk") == 1
        assert names(tmp_path / "disk") == [".hidden", "lost+found", "manifest.json", "rows.parquet"]


def test_what_stands_in_a_mount_point_and_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "mine").write_text("mine")
    with bound(tmp_path / "real", tmp_path / "volume"):
        with pytest.raises(ArtifactError, match="exists and is not a labelkit thing"):
            write(tmp_path / "volume")
        assert names(tmp_path / "volume") == ["mine"]


def test_an_error_leaves_a_mount_point_as_it_was(tmp_path):
    with bound(tmp_path / "real", tmp_path / "volume"):
        write(tmp_path / "volume")
        with pytest.raises(ZeroDivisionError), folders.writing(tmp_path / "volume", "thing", "make") as draft:
            draft.write_table("rows", TABLE.slice(0, 1 // 0))
        assert rows_in(tmp_path / "volume") == 2
        assert names(tmp_path / "volume") == ["manifest.json", "rows.parquet"]


KILLED = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa
from labelkit.storage import folders, outputs
renamed = []
rename = Path.rename
def rename_and_die(self, target):
    renamed.append(target)
    if len(renamed) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = rename_and_die
with folders.writing(Path(sys.argv[1]), "thing", "make thing") as draft:
    draft.write_table("rows", pa.table({"id": ["new"]}))
    draft.write_table("more", pa.table({"id": ["new"]}))
"""


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_killed_while_a_mount_point_is_refilled_no_reader_takes_a_part_and_the_command_makes_it(tmp_path, moment):
    volume = tmp_path / "volume"
    with bound(tmp_path / "real", volume):
        write(volume)
        killed = subprocess.run([sys.executable, "-c", KILLED, volume, str(moment)], check=False)
        assert killed.returncode == -9
        with pytest.raises(ArtifactError, match="has no manifest"):
            folders.read_manifest(volume, "thing")
        if moment > 1:  # before, nothing stands there yet
            with pytest.raises(ArtifactError, match="exists and is not a labelkit other"):
                write(volume, kind="other")
        write(volume, 1)
        assert rows_in(volume) == 1
        assert names(volume) == ["manifest.json", "rows.parquet"]


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    write(tmp_path / "disk" / "real")
    (tmp_path / "latest").symlink_to(Path("disk") / "real")
    (tmp_path / "again").symlink_to("latest")
    write(tmp_path / "again", 1)
    assert (tmp_path / "latest").readlink() == Path("disk/real")
    assert rows_in(tmp_path / "disk" / "real") == rows_in(tmp_path / "again") == 1
    assert names(tmp_path) == ["again", "disk", "latest"]
    assert names(tmp_path / "disk") == ["real"]


@pytest.mark.parametrize("output", ["gone", "gone/deep/out", "loop", "loop/out"])
def test_a_link_that_leads_nowhere_is_found_at_the_start(tmp_path, output):
    (tmp_path / "gone").symlink_to(tmp_path / "not mounted" / "out")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ArtifactError, match=r"is a link to .* which does not exist"):
        write(tmp_path / output)
    assert names(tmp_path) == ["gone", "loop"]


@pytest.mark.parametrize("output", [".", "../here", "../here/.", "{here}"])
def test_the_current_folder_is_written_in_place(tmp_path, monkeypatch, output):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    inode = here.stat().st_ino
    for rows in (2, 1):
        write(Path(output.format(here=here)), rows)
        assert rows_in(Path()) == rows
    assert here.stat().st_ino == inode
    assert names(tmp_path) == ["here"]
    assert names(here) == ["manifest.json", "rows.parquet"]


def test_the_current_folder_with_something_in_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ArtifactError, match=r"^\. exists and is not a labelkit thing"):
        write(Path())
    assert names(tmp_path) == ["mine"]


def test_a_parent_that_cannot_be_made_is_found_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"file/deep/out cannot be written: (Not a directory|File exists)"):
        write(tmp_path / "file" / "deep" / "out")


def test_parents_that_were_made_in_vain_go_again(tmp_path):
    with pytest.raises(ZeroDivisionError), folders.writing(tmp_path / "a" / "b" / "out", "thing", "make"):
        1 / 0  # noqa: B018
    assert names(tmp_path) == []


@pytest.mark.parametrize("output", ["disk", "disk/out", "disk/deep/out"])
def test_a_read_only_disk_is_found_at_the_start(tmp_path, output):
    with disk(tmp_path / "disk", 1 << 20):
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "disk"], check=True)
        with (
            pytest.raises(ArtifactError, match=r"cannot be written: Read-only file system"),
            claimed(tmp_path / output),
        ):
            pytest.fail("the work began")


@pytest.mark.parametrize("output", ["disk", "disk/out"])
def test_a_full_disk_is_found_at_the_start(tmp_path, output):
    with disk(tmp_path / "disk", 1 << 20):
        (tmp_path / "disk" / ".ballast").write_bytes(bytes(1 << 20))
        with (
            pytest.raises(ArtifactError, match=r"cannot be written: No space left on device"),
            claimed(tmp_path / output),
        ):
            pytest.fail("the work began")
        assert names(tmp_path / "disk") == [".ballast"]


def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(tmp_path):
    with disk(tmp_path / "disk", 1 << 20):
        target = tmp_path / "disk" / "out"
        write(target)
        told = r"out was not written: No space left on device; free the disk and run the same command again"
        with pytest.raises(DiskError, match=told), folders.writing(target, "thing", "make") as draft:
            (draft.path / "large").write_bytes(bytes(2 << 20))
        assert rows_in(target) == 2
        assert names(tmp_path / "disk") == ["out"]


def test_finished_files_are_kept_where_only_the_manifest_lacks_room(tmp_path):
    with disk(tmp_path / "disk", 1 << 20):
        target = tmp_path / "disk" / "out"
        told = r"its files are complete in .*out\.unfinished except for the manifest"
        with pytest.raises(DiskError, match=told), writing_rows(target) as draft:
            draft.facts = Facts.model_validate({"long": "x" * 2_000_000})
        assert folders.read_table(tmp_path / "disk" / "out.unfinished", "rows") == TABLE


def test_a_finished_folder_that_cannot_be_put_in_place_is_kept_and_named(tmp_path):
    """A mount that comes while the work is done: the folder could be replaced when it was looked at."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "kept").write_text("kept")
    target, made = tmp_path / "out", tmp_path / "out.unfinished"
    told = rf"out cannot be replaced: .* the finished folder is {made}: move it"
    with ExitStack() as late:
        with pytest.raises(ArtifactError, match=told), writing_rows(target):
            late.enter_context(bound(tmp_path / "real", target))
        assert rows_in(made) == 2
        assert names(target) == ["kept"]


def test_a_folder_whose_parent_may_not_be_written_is_written_in_place(tmp_path, monkeypatch):
    home = tmp_path / "parent" / "home"
    home.mkdir(parents=True)
    if os.geteuid() == 0:  # nothing is forbidden to root: what the system would answer others
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != home.parent)
    else:
        home.parent.chmod(0o500)
    write(home)
    write(home, 1)
    assert (rows_in(home), names(home), names(home.parent)) == (1, ["manifest.json", "rows.parquet"], ["home"])


HOLDER = """
import sys, time
from pathlib import Path
from labelkit.storage.outputs import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(target: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds an output."""
    command = [sys.executable, "-c", HOLDER, str(target)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        child.wait()


def test_the_second_process_is_told_who_holds_an_output_since_when_and_by_which_command(tmp_path):
    (tmp_path / "link").symlink_to("out")
    write(tmp_path / "out")
    with holder(tmp_path / "out") as child:
        told = (
            rf"is held by process {child.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\S*: -c \S*out; wait for it"
        )
        for name in ("out", "link"):
            with pytest.raises(HeldError, match=f"{name} {told}"):
                write(tmp_path / name, 1)
    assert rows_in(tmp_path / "out") == 2


def test_the_lock_of_a_killed_holder_is_free(tmp_path):
    with holder(tmp_path / "out"):
        pass
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_an_output_in_a_mount_is_held_inside_of_it(tmp_path):
    """Two containers see one volume under two paths."""
    one, other = tmp_path / "one", tmp_path / "other"
    with bound(tmp_path / "real", one), bound(tmp_path / "real", other), holder(one) as child:
        told = f"other is held by process {child.pid} "
        with pytest.raises(HeldError, match=told):
            write(other)


def test_a_thread_may_claim_again_what_it_holds(tmp_path):
    with claimed(tmp_path / "out"), claimed(tmp_path / "out", "thing"):
        write(tmp_path / "out")
        assert names(tmp_path) == ["out", "out.holder", "out.lock"]
    assert names(tmp_path) == ["out"]
