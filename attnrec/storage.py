"""Files that are whole or absent: written beside, then renamed; a folder's manifest is written last."""

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
    """Files could not be written; the message says what to do."""


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target` that becomes `target` when the block ends well.

    When the block raises, nothing is left behind. A process killed inside it leaves a `.tmp-*` folder,
    which readers ignore. Where another writer finished `target` first, theirs stays.

    Raises:
        StorageError: when the disk is full or a file may not grow further.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent / f"{TEMPORARY}{target.name}-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        yield folder
        _rename(folder, target)
    except OSError as error:
        raise _explained(error, target) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, never a part."""
    beside = path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON with sorted keys, so that equal content gives equal bytes."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")


def save_tensors(tensors: "Mapping[str, Tensor]", path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as one safetensors file, so that a reader sees the old file or the new one, never a part.

    Raises:
        StorageError: when the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    beside = path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(own, beside, metadata)
        beside.replace(path)
    except OSError as error:
        raise _explained(error, path) from error
    except SafetensorError as error:
        raise StorageError(errno.EIO, f"could not write {path} ({error}); free some space and run again") from error
    finally:
        beside.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def is_done(folder: Path) -> bool:
    """Say whether a stage's folder is finished: its manifest is there."""
    return (folder / MANIFEST).is_file()


def _rename(folder: Path, target: Path) -> None:
    if target.exists() and not is_done(target):
        shutil.rmtree(target)
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_done(target):
            raise


def _explained(error: OSError, path: Path) -> OSError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(error.errno, f"no room to write {path}; free some space and run again")
    return error
