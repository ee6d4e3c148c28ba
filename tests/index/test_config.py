"""Settings given in code."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ops.index.config import Options

NUMBERS = [field.name for field in fields(Options) if field.type in {"int", "float"}]
WHOLE = [field.name for field in fields(Options) if field.type == "int"]


def refused(name: str, value: Any) -> str:
    with pytest.raises(ValueError, match=f"^{name}") as caught:
        Options(**{name: value})
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_cannot_be_negative_none_or_text(name: str) -> None:
    for value in (-1, float("nan"), float("inf"), "1", None, True):
        assert "use" in refused(name, value)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_number_has_no_fraction(name: str) -> None:
    assert "whole number" in refused(name, 1000.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("realm", ""),
        ("realm", 'a"b'),
        ("realm", "a\r\nb"),
        ("bcrypt_rounds", 3),
        ("bcrypt_rounds", 18),
        ("login_failures", 0),
        ("login_window_seconds", 0),
        ("refresh_seconds", 0),
        ("max_upload_bytes", 0),
        ("upload_threads", 0),
        ("instance", None),
        ("page_max_age_seconds", 3601),
        ("scratch_directory", Path("/nowhere/at/all")),
        ("least_free_bytes", -1),
        ("least_free_bytes", 1.5),
        ("scratch_directory", "/tmp"),
        ("trusted_proxies", "127.0.0.1"),
        ("trusted_proxies", ["127.0.0.1"]),
        ("trusted_proxies", (4,)),
        ("trusted_proxies", ("proxy.internal",)),
    ],
)
def test_an_impossible_setting_is_refused_by_name(name: str, value: Any) -> None:
    refused(name, value)


def test_valid_settings_are_accepted(tmp_path: Path) -> None:
    assert (
        Options(refresh_seconds=2, trusted_proxies=("10.0.0.0/8", "*"), scratch_directory=tmp_path).refresh_seconds == 2
    )


def test_a_project_quota_that_never_applies_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^project_quota_bytes cannot be 20: it would never apply"):
        Options(project_quota_bytes=20, total_quota_bytes=10)
    Options(project_quota_bytes=20)
    Options(project_quota_bytes=20, total_quota_bytes=20)
