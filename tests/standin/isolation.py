"""Processes with their own mounts: their own files at the paths of a container."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bind:
    """A directory mounted at *target*."""

    source: Path
    target: str
    read_only: bool = False


@functools.cache
def missing() -> str | None:
    """Reason why a process cannot have its own mounts here, or None."""
    for program in ("unshare", "mount", "chroot"):
        if shutil.which(program) is None:
            return f"the program {program} is missing"
    probe = [*_namespace(), "sh", "-c", "mount -t tmpfs none /mnt && mount --rbind /tmp /mnt"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        reason = done.stderr.strip() or f"exit code {done.returncode}"
        return f"a mount namespace needs root or user namespaces, and neither is to be had: {reason}"
    return None


def _namespace() -> list[str]:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--mount", "--propagation", "private"]


def command(
    arguments: Sequence[str], *, root: Path, binds: Sequence[Bind], hide: Sequence[Path], keep: Sequence[Path]
) -> list[str]:
    """The command line that runs *arguments* in its own root directory.

    The new root has every top-level directory of this machine except those that contain a bind. The started process
    becomes *arguments* by ``exec``, so that its id is the container's, and it dies with its parent.

    Parameters:
        root: an empty directory to build the root in; visible only to that process.
        binds: directories and where they are mounted. The first is the working directory.
        hide: directories to show as empty.
        keep: directories that stay visible although a bind covers a parent.
    """
    tops = {Path(bind.target).parts[1] for bind in binds}
    lines = [
        "set -eu",
        f"mount -t tmpfs -o mode=755 none {shlex.quote(str(root))}",
        f"cd {shlex.quote(str(root))}",
    ]
    for top in sorted(Path("/").iterdir()):
        if top.name in tops:
            continue
        if top.is_symlink():
            lines.append(f"ln -s {shlex.quote(str(top.readlink()))} .{shlex.quote(str(top))}")
        elif top.is_dir():
            quoted = shlex.quote(str(top))
            lines += [f"mkdir .{quoted}", f"mount --rbind {quoted} .{quoted}"]
    for bind in binds:
        source, target = shlex.quote(str(bind.source)), shlex.quote(bind.target)
        lines += [f"mkdir -p .{target}", f"mount --bind {source} .{target}"]
    for path in keep:
        if path.parts[1] in tops:
            quoted = shlex.quote(str(path))
            lines += [f"mkdir -p .{quoted}", f"mount --rbind {quoted} .{quoted}"]
    lines += [f"mount -o remount,bind,ro .{shlex.quote(bind.target)}" for bind in binds if bind.read_only]
    lines += [
        f"mount -t tmpfs none .{shlex.quote(str(path))}" for path in hide if path.parts[1] not in tops and path.is_dir()
    ]
    died = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    inner = f"cd {shlex.quote(binds[0].target)} && exec {shlex.join(arguments)}"
    lines.append(f"exec chroot . {shlex.join([*died, 'sh', '-c', inner])}")
    return [*_namespace(), "sh", "-c", "\n".join(lines)]


def interpreter_prefixes(python: Path) -> list[Path]:
    """The directories that *python* needs: its environment and its base installation."""
    asked = "import sys; print(sys.prefix); print(sys.base_prefix)"
    if python == Path(sys.executable):
        return [Path(sys.prefix), Path(sys.base_prefix)]
    out = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True, timeout=20).stdout
    return [Path(line) for line in out.split()]


def base_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that inherits only the search path."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": "/root", **extra}
