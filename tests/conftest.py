"""Environment of every test: an empty home, and none of this machine's settings.

Hypothesis generates the same examples in each run, without a time limit: a result must depend on
the code, not on the machine. ``pytest --hypothesis-profile=random`` tries new ones.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from ops.workspace import HOME_VARIABLE, Workspace

_FOREIGN = ("PIP_", "UV_", "TWINE_", "MODAL_", "JUPYTER", "IPYTHON", "NETRC", "AUTH_TOKEN", "RUNBOOK_", "INDEX_")
_KEPT = ("PIP_CERT", "UV_CACHE_DIR", "PIP_CACHE_DIR")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_XDG = ("XDG_CONFIG_HOME", "XDG_DATA_HOME")
_INDEXES = ("INDEX", "FIND_LINKS", "TRUSTED_HOST", "INSECURE_HOST", "CONFIG_FILE")

DOWNLOADS = {
    **{
        name: value
        for name, value in os.environ.items()
        if name in _PROXIES or (name.startswith(("PIP_", "UV_")) and any(part in name for part in _INDEXES))
    },
    **{name: f"{os.environ.get(name, '')},127.0.0.1,localhost" for name in ("NO_PROXY", "no_proxy")},
}
"""Variables for access to public packages, for tests that download some."""


settings.register_profile("random", deadline=None)
settings.register_profile("same", deadline=None, derandomize=True)
settings.load_profile("same")

# Tests started in a shell's background, and their children, would otherwise ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with slow tests first, so that no worker is left alone with them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def newcomer(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty HOME and a workspace in it; without the clients' settings of the user who runs the tests.

    The usual umask, too: the command sets another one for its process, which may be that of the tests.
    """
    umask = os.umask(0o022)
    home = tmp_path_factory.mktemp("home")
    for name in os.environ:
        if name.startswith(_FOREIGN) and name not in _KEPT:
            monkeypatch.delenv(name)
    for name in (*_PROXIES, *_XDG):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv(HOME_VARIABLE, str(home / "runbook"))
    yield home
    os.umask(umask)


@pytest.fixture
def workspace(newcomer: Path) -> Workspace:
    """The workspace named by the environment."""
    return Workspace(newcomer / "runbook")


@pytest.fixture
def count_calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[object, str], list[tuple[Any, ...]]]:
    """Replace an attribute with one that records its calls and passes them on."""

    def count(owner: object, name: str) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []
        original = getattr(owner, name)

        def noted(*arguments: Any, **named: Any) -> Any:
            calls.append(arguments)
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, noted)
        return calls

    return count
