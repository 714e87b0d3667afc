"""Files and folders are written atomically."""

import errno
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from attnrec.storage import MANIFEST, StorageError, is_done, new_folder, read_json, write_json, write_text


def write_manifest(folder, content):
    with new_folder(folder) as target:
        write_json(target / MANIFEST, content)


def test_a_folder_appears_when_the_block_ends(tmp_path):
    with new_folder(tmp_path / "deep" / "out") as folder:
        (folder / "data").write_text("x")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "data").read_text() == "x"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_a_block_that_raises_leaves_no_files(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out") as folder:
        (folder / "data").write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_done_when_it_contains_a_manifest(tmp_path):
    (tmp_path / "out").mkdir()
    assert not is_done(tmp_path / "out")
    assert not is_done(tmp_path / "absent")
    write_manifest(tmp_path / "out", {"n": 1})
    assert is_done(tmp_path / "out")


def test_an_incomplete_folder_is_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "partial").write_text("x")
    write_manifest(tmp_path / "out", {"n": 1})
    assert [path.name for path in (tmp_path / "out").iterdir()] == [MANIFEST]


def test_of_two_writers_the_first_to_finish_wins(tmp_path):
    with new_folder(tmp_path / "out") as slow:
        write_manifest(tmp_path / "out", "fast")
        write_json(slow / MANIFEST, "slow")
    assert read_json(tmp_path / "out" / MANIFEST) == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_equal_content_gives_equal_bytes(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1, "y": [2]})
    write_json(tmp_path / "b.json", {"y": [2], "x": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_json(tmp_path / "a.json") == {"x": 1, "y": [2]}


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    write_text(tmp_path / "pointer", "old")
    write_text(tmp_path / "pointer", "new é")

    def raise_disk_full(_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", raise_disk_full)
    with pytest.raises(StorageError, match=r"no space to write .*pointer; free some space"):
        write_text(tmp_path / "pointer", "newer")
    assert (tmp_path / "pointer").read_text(encoding="utf-8") == "new é"
    assert [path.name for path in tmp_path.iterdir()] == ["pointer"]


def test_other_os_errors_are_raised_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "out") as folder:
        (folder / "absent" / "data").write_text("x")
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "absent" / "data", "x")


def test_a_file_size_limit_raises_a_storage_error_and_leaves_no_files(tmp_path):
    program = f"""
import resource, signal
from pathlib import Path
from attnrec.storage import StorageError, new_folder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with new_folder(Path({str(tmp_path / "out")!r})) as folder:
        (folder / "data").write_bytes(b"x" * 5000)
except StorageError as error:
    print("StorageError:", error)
"""
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert completed.stdout.startswith("StorageError:")
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_do_not_fit_leave_the_old_file_and_raise(tmp_path):
    code = """
import resource, signal, sys, torch
from pathlib import Path
from attnrec.storage import StorageError, save_tensors
path = Path(sys.argv[1])
save_tensors({"a": torch.ones(4)}, path)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save_tensors({"a": torch.zeros(10_000)}, path)
except StorageError as error:
    print(error)
"""
    path = tmp_path / "weights.safetensors"
    output = subprocess.check_output([sys.executable, "-c", code, str(path)], text=True)
    assert "run again" in output
    assert load_file(path)["a"].tolist() == [1, 1, 1, 1]
    assert list(tmp_path.iterdir()) == [path]
