"""The kernel that notebooks run in: this very interpreter, and nothing of the user's Jupyter."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

KERNEL_NAME = "python3"


class OwnKernelSpecs(KernelSpecManager):
    """Knows one kernel: ``python3``, run by ``sys.executable``.

    A ``python3`` of another interpreter in the user's home, or on JUPYTER_PATH, is not seen: with no folder to look in,
    jupyter_client falls back on the kernel that ipykernel describes for the interpreter that asks.
    """

    def _kernel_dirs_default(self) -> list[str]:
        return []


def kernel_manager(scratch: Path, log: Any) -> AsyncKernelManager:
    """A manager for a kernel of its own.

    Parameters:
        scratch: a folder that is removed afterwards; the connection file lies there, so that HOME need not be writable.
        log: where jupyter_client's messages go.
    """
    return AsyncKernelManager(
        kernel_name=KERNEL_NAME,
        kernel_spec_manager=OwnKernelSpecs(data_dir=str(scratch), log=log),
        connection_file=str(scratch / "kernel.json"),
        # ipykernel 7.3 and newer warn at each start about messages in the clear over TCP.
        transport_encryption="auto" if zmq.has("curve") else "disabled",
        log=log,
    )


def kernel_environment(scratch: Path, base: Mapping[str, str]) -> dict[str, str]:
    """The variables that a kernel gets: *base*, without what would make its result depend on a user's settings.

    IPython's profile and start-up files, and Jupyter's folders, are empty ones in *scratch*; the clients installed
    beside this interpreter come first on PATH, as in an activated environment.
    """
    variables = dict(base)
    for name, folder in (
        ("IPYTHONDIR", "ipython"),
        ("JUPYTER_CONFIG_DIR", "jupyter/config"),
        ("JUPYTER_DATA_DIR", "jupyter/data"),
        ("JUPYTER_RUNTIME_DIR", "jupyter/runtime"),
        ("MPLCONFIGDIR", "matplotlib"),
    ):
        (scratch / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        variables[name] = str(scratch / folder)
    for name in ("JUPYTER_PATH", "JUPYTER_CONFIG_PATH", "PYTHONSTARTUP", "PYTHONINSPECT"):
        variables.pop(name, None)
    # debugpy, which ipykernel imports, writes a warning about frozen modules to the terminal otherwise.
    variables["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    own = str(Path(sys.executable).parent)
    variables["PATH"] = os.pathsep.join(
        [own, *(part for part in variables.get("PATH", "").split(os.pathsep) if part != own)]
    )
    return variables
