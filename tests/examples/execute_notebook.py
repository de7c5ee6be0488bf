"""Executes the notebook of examples/, and writes it with what came out.

    python -m tests.examples.execute_notebook

It is executed as the test does it: from top to bottom, in an empty folder and with a local broker of its own, by the
interpreter that runs this.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parents[2] / "examples" / "replay.ipynb"

# Its last cell ends long before.
_CELL_TIMEOUT_S = 120

_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def read() -> NotebookNode:
    """The notebook as it is in the repository."""
    return nbformat.read(NOTEBOOK, as_version=4)


def executed(folder: Path) -> NotebookNode:
    """The notebook with the outputs that it has now.

    Raises:
        CellExecutionError: A cell raised.
    """
    notebook = read()
    # Of no folder, so that the kernel is this interpreter, and not what somebody installed as "python3".
    kernels = KernelSpecManager(kernel_dirs=[])
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    environment |= {"EDGESERVE_HOME": str(folder / "home"), "IPYTHONDIR": str(folder / "ipython")}
    # Sockets that nobody else on the machine can reach, in a folder of their own, as their paths must be short.
    with tempfile.TemporaryDirectory() as sockets:
        kernel = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=kernels,
            connection_file=str(Path(sockets, "kernel.json")),
            transport="ipc",
            ip=str(Path(sockets, "kernel")),
        )
        client = NotebookClient(
            notebook,
            km=kernel,
            timeout=_CELL_TIMEOUT_S,
            record_timing=False,
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute(env=environment, cleanup_kc=True)  # or the kernel would live on, as its manager is ours
    # What is left out says which machine it was.
    notebook.metadata = NotebookNode({"kernelspec": _KERNEL, "language_info": {"name": "python"}})
    return notebook


def main() -> None:
    """Execute it, and write it."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(Path(folder))
    nbformat.write(notebook, NOTEBOOK)
    print(f"{NOTEBOOK.name}: {NOTEBOOK.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
