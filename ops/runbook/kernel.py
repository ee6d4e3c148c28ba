"""Kernels for notebooks: this interpreter, independent of the user's Jupyter configuration."""

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

_SOCKET_FOLDER_BYTES = 80
"""Length of a path that leaves room for a socket's name; macOS allows 104 bytes in all."""


class OwnKernelSpecs(KernelSpecManager):
    """A kernel spec manager with one kernel: ``python3``, run by ``sys.executable``.

    Ignores a ``python3`` kernel of another interpreter in the user's home or on JUPYTER_PATH: with no directory to
    search, jupyter_client falls back to the kernel of the running interpreter.
    """

    def _kernel_dirs_default(self) -> list[str]:
        return []


def kernel_manager(scratch: Path, log: Any) -> AsyncKernelManager:
    """Create a kernel manager.

    The kernel listens on Unix sockets next to its connection file: nobody else can connect, and no other program can
    take a port between its choice and the kernel's start. In a folder whose path is too long for them, it uses TCP.

    Parameters:
        scratch: a temporary folder for the connection file, so that HOME need not be writable.
        log: the logger for jupyter_client.
    """
    ipc = len(os.fsencode(scratch)) < _SOCKET_FOLDER_BYTES
    return AsyncKernelManager(
        kernel_name=KERNEL_NAME,
        kernel_spec_manager=OwnKernelSpecs(data_dir=str(scratch), log=log),
        connection_file=str(scratch / "kernel.json"),
        transport="ipc" if ipc else "tcp",
        # ipykernel 7.3 and newer warn at each start about unencrypted TCP.
        transport_encryption="auto" if not ipc and zmq.has("curve") else "disabled",
        log=log,
    )


def kernel_environment(scratch: Path, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of a kernel: *base* without settings that would make results depend on the user.

    IPython's profile and Jupyter's folders are empty ones in *scratch*. The programs installed next to this interpreter
    come first on PATH, as in an activated virtual environment.
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
    # debugpy, imported by ipykernel, otherwise prints a warning about frozen modules.
    variables["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    variables["PATH"] = kernel_path(variables.get("PATH", ""))
    return variables


def kernel_path(path: str) -> str:
    """A PATH that starts with the programs next to this interpreter, as in an activated environment."""
    own = str(Path(sys.executable).parent)
    return os.pathsep.join([own, *(part for part in path.split(os.pathsep) if part != own)])
