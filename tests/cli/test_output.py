"""Output files are written in place, and no result is lost after the run."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from silly.cli.command import Failure
from silly.cli.output import Output
from tests.conftest import open_descriptors

pytestmark = pytest.mark.no_engine

TEXT = "the result\n" * 10


def written(path: Path | str) -> None:
    output = Output(str(path), "--json")
    output.write(TEXT)
    output.discard()


def test_a_new_file_remains_only_if_it_was_written(tmp_path: Path) -> None:
    before = open_descriptors()
    path = tmp_path / "new.json"
    Output(str(path), "--json").discard()
    assert list(tmp_path.iterdir()) == []
    written(path)
    assert path.read_text() == TEXT
    assert list(tmp_path.iterdir()) == [path]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    Output(str(path), "--json").discard()
    assert path.read_text() == TEXT
    assert open_descriptors() == before


def test_an_existing_file_keeps_its_identity(tmp_path: Path) -> None:
    path, other = tmp_path / "runs.json", tmp_path / "hard"
    path.write_text("before" * 100)
    path.chmod(0o600)
    other.hardlink_to(path)
    before = path.stat()
    written(path)
    after = path.stat()
    assert path.read_text() == other.read_text() == TEXT
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_stays_one(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    path, link = folder / "1.json", tmp_path / "latest.json"
    if exists:
        path.write_text("before")
    link.symlink_to(path)
    Output(str(link), "--json").discard()
    assert path.exists() is exists
    written(link)
    assert link.readlink() == path
    assert path.read_text() == TEXT


def test_devices_and_pipes_are_not_replaced(tmp_path: Path) -> None:
    written("/dev/null")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(path.read_text()))
    reader.start()
    written(path)
    reader.join()
    assert found == [TEXT]


WRITE = """
import sys
from silly.cli.output import Output
output = Output(sys.argv[1], "--json")
output.write("written")
output.discard()
"""


def test_a_file_in_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "result.json"
    path.touch()
    path.chmod(0o666)
    folder.chmod(0o555)
    code = WRITE
    if os.getuid() == 0:  # permissions do not apply to root
        code = f"import os; import silly.cli.output; os.setgid(65534); os.setuid(65534)\n{code}"
    command = [sys.executable, "-c", code, "result.json"]
    subprocess.run(command, check=True, timeout=30, cwd=folder)
    assert path.read_text() == "written"


def test_a_mount_point(tmp_path: Path) -> None:
    path, host = tmp_path / "out.json", tmp_path / "host.json"
    path.touch()
    host.touch()
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    text = 'mount --bind "$1" "$2" || exit 77; exec "$0" -c "$3" "$2"'
    done = subprocess.run(
        [*command, text, sys.executable, str(host), str(path), WRITE],
        check=False, timeout=30, capture_output=True,
    )  # fmt: skip
    if done.returncode in (1, 77) and b"Traceback" not in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 0, done.stderr.decode()
    assert host.read_text() == "written"


def test_unwritable_paths_are_reported_before_the_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "where"):
        with pytest.raises(Failure, match=r"^--json: cannot write '.*': "):
            Output(str(path), "--json")
    assert list(tmp_path.iterdir()) == []


def test_a_file_moved_or_removed_during_the_run_is_recreated(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for change in (path.unlink, lambda: path.rename(tmp_path / "moved")):
        path.write_text("before")
        output = Output(str(path), "--json")
        change()
        output.write(TEXT)
        output.discard()
        assert path.read_text() == TEXT
    assert (tmp_path / "moved").read_text() == "before"


def test_an_unwritable_result_is_saved_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    output = Output("/dev/full", "--json")
    with pytest.raises(Failure, match="No space left on device; the result is in '") as caught:
        output.write(TEXT)
    output.discard()
    (saved,) = tmp_path.iterdir()
    assert str(saved) in str(caught.value)
    assert saved.read_text() == TEXT
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(Failure, match="No space left on device; the result is lost: No such file"):
        Output("/dev/full", "--json").write(TEXT)


def test_paths_of_the_same_file(tmp_path: Path) -> None:
    path, link = tmp_path / "result", tmp_path / "link"
    link.symlink_to(path)
    outputs = [Output(str(each), "--json") for each in (path, link, tmp_path / "other")]
    assert outputs[0].is_same(outputs[1])
    assert not outputs[0].is_same(outputs[2])
    nulls = [Output("/dev/null", "--json") for _ in range(2)]
    assert not nulls[0].is_same(nulls[1])
    for output in (*outputs, *nulls):
        output.discard()
    assert [each.name for each in tmp_path.iterdir()] == ["link"]
