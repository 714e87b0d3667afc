"""Execute notebooks and save them with their outputs: python notebooks/execute.py [--into FOLDER] [NOTEBOOK ...]."""

import argparse
import os
import sys
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 600  # per cell
N_COLOURS = 256  # per image: visually equal at a third of the file size
PNG = "image/png"


class ThisInterpreter(AsyncKernelManager):
    """Start the kernel with the interpreter that runs this file, independent of installed kernels."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """Return the specification of the only kernel."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        # without "curve", other users of the machine could read the messages of kernel and client
        encrypted = {"supported_encryption": "curve"}
        return KernelSpec(argv=command, display_name="Python 3", language="python", metadata=encrypted)


def execute(path: Path) -> nbformat.NotebookNode:
    """Run all cells from top to bottom in a new kernel with the notebook's folder as working directory.

    Args:
        path: the notebook; it is not changed.

    Returns:
        The notebook with the outputs of this run, compressed images, and without values that differ between runs, such
        as times.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_manager_class=ThisInterpreter,
        resources={"metadata": {"path": path.absolute().parent}},
        timeout=TIMEOUT_SECONDS,
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute(transport_encryption="auto")
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if PNG in output.get("data", {}):
            output.data[PNG] = b64encode(with_few_colours(b64decode(output.data[PNG]))).decode()
    notebook.metadata["language_info"] = {"name": "python"}  # without the Python version of this machine
    return notebook


def with_few_colours(png: bytes) -> bytes:
    """Return the image with a colour palette."""
    output, image = BytesIO(), Image.open(BytesIO(png)).convert("RGB")
    image.quantize(N_COLOURS, method=Image.Quantize.MAXCOVERAGE).save(output, "PNG", optimize=True)
    return output.getvalue()


def main() -> None:
    """Execute the given notebooks, or all of this folder; a notebook that fails is not changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all notebooks of this folder")
    parser.add_argument("--into", type=Path, help="output folder; default: in place")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on two cores become very slow under other load
    for path in options.notebooks or sorted(HERE.glob("*.ipynb")):
        print(path.name, flush=True)
        nbformat.write(execute(path), (options.into or path.parent) / path.name)


if __name__ == "__main__":
    main()
