"""Atomic writes: files and folders are written under a temporary name in the same folder, then renamed.

Readers see the old content or the new one, never a part. A folder is complete when it contains its manifest.
"""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"


class StorageError(OSError):
    """Files could not be written; the message suggests a fix."""


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a new temporary folder and rename it to `target` when the block succeeds.

    If the block raises, the temporary folder is deleted. If the process is killed, a `.tmp-*` folder remains, which
    readers ignore. If another process has completed `target` in the meantime, its version is kept.

    Args:
        target: the folder to create. An incomplete folder of that name (without a manifest) is replaced.

    Raises:
        StorageError: when the disk is full, or a quota or file size limit is reached.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = _temporary_path(target)
    folder.mkdir()
    try:
        yield folder
        _rename(folder, target)
    except OSError as error:
        raise _with_advice(error, target) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    temporary = _temporary_path(path)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _with_advice(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON atomically. Keys are sorted, so that equal content gives equal bytes."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")


def save_tensors(tensors: "Mapping[str, Tensor]", path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as one safetensors file atomically.

    Args:
        tensors: by name; they are copied to the CPU.
        path: the file to write.
        metadata: text entries for the header of the file.

    Raises:
        StorageError: when the disk is full, or a quota or file size limit is reached.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = _temporary_path(path)
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(copies, temporary, metadata)
        temporary.replace(path)
    except OSError as error:
        raise _with_advice(error, path) from error
    except SafetensorError as error:
        raise StorageError(errno.EIO, f"could not write {path} ({error}); free some space and run again") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def is_done(folder: Path) -> bool:
    """Return whether `folder` is complete, which means that it contains a manifest."""
    return (folder / MANIFEST).is_file()


def _temporary_path(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")


def _rename(folder: Path, target: Path) -> None:
    if target.exists() and not is_done(target):
        shutil.rmtree(target)
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_done(target):
            raise


def _with_advice(error: OSError, path: Path) -> OSError:
    """Return a StorageError for a full disk, a quota or a size limit, else `error` itself."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(error.errno, f"no space to write {path}; free some space and run again")
    return error
