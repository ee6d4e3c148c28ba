"""Names and hosting of an index, set by variables."""

from __future__ import annotations

from typing import Any

import pytest

from ops.settings import Hosting, IndexLimits, Settings, refuse_unknown_variables


def test_the_defaults_work_and_so_does_everything_that_modal_accepts() -> None:
    assert Settings.from_environment({}) == Settings()
    assert Hosting.from_environment({}) == Hosting()
    Settings(app_name="a.b_c-1", packages_volume="x" * 57, secret_key="_TOKEN_2")
    Hosting(
        min_containers=3,
        max_containers=3,
        scaledown_seconds=1200,
        cpu=2,
        region="us-east-1",
        custom_domain="a.b-c.example",
    )


@pytest.mark.parametrize(
    "variables",
    [
        {"PYPI_MAX_CONTAINERS": "0"},
        {"PYPI_MAX_CONTAINERS": "-1"},
        {"PYPI_MAX_CONTAINERS": "1.5"},
        {"PYPI_MAX_CONTAINERS": "many"},
        {"PYPI_MIN_CONTAINERS": "-1"},
        {"PYPI_MIN_CONTAINERS": "2"},
        {"PYPI_MIN_CONTAINERS": "4", "PYPI_MAX_CONTAINERS": "3"},
        {"PYPI_SCALEDOWN_SECONDS": "1"},
        {"PYPI_SCALEDOWN_SECONDS": "1201"},
        {"PYPI_TARGET_REQUESTS": "0"},
        {"PYPI_TARGET_REQUESTS": "300"},
        {"PYPI_MAX_REQUESTS": "1001"},
        {"PYPI_REQUEST_SECONDS": "86401"},
        {"PYPI_STARTUP_SECONDS": "0"},
        {"PYPI_CPU": "0"},
        {"PYPI_CPU": "nan"},
        {"PYPI_CPU": "inf"},
        {"PYPI_CPU": "65"},
        {"PYPI_MEMORY": "127"},
        {"PYPI_MEMORY": "1e9"},
        {"PYPI_REGION": "eu,us"},
        {"PYPI_REGION": "EU"},
        {"PYPI_CUSTOM_DOMAIN": "https://packages.example.com"},
        {"PYPI_CUSTOM_DOMAIN": "packages.example.com/simple"},
        {"PYPI_CUSTOM_DOMAIN": "packages.example.com:443"},
        {"PYPI_CUSTOM_DOMAIN": "packages"},
        {"PYPI_CUSTOM_DOMAIN": "-.example.com"},
        {"PYPI_PROXY_AUTH": "2"},
        {"PYPI_PROXY_AUTH": "true"},
    ],
)
def test_impossible_hosting_is_refused_by_the_variable_s_name(variables: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(variables))} is ") as caught:
        Hosting.from_environment(variables)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"), [("memory", 1000.5), ("memory", "256"), ("cpu", "1"), ("max_containers", None)]
)
def test_hosting_set_in_code_is_checked_too(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^PYPI_{name.upper()} is "):
        Hosting(**{name: value})


def test_the_variables_of_a_deployment_are_checked_before_they_are_compared() -> None:
    with pytest.raises(ValueError, match="PYPI_PROXY_AUTH is 7"):
        Hosting.given({"PYPI_PROXY_AUTH": "7"})


@pytest.mark.parametrize(
    "variables",
    [
        {"PYPI_APP_NAME": "my index"},
        {"PYPI_APP_NAME": "x" * 65},
        {"PYPI_APP_NAME": "ap-" + "x" * 22},
        {"PYPI_PACKAGES_VOLUME": "x" * 58},
        {"PYPI_PACKAGES_VOLUME": "a/b"},
        {"PYPI_CREDENTIALS_VOLUME": "pypiserver-data"},
        {"PYPI_SECRET_NAME": "é"},
        {"PYPI_SECRET_KEY": "AUTH-TOKEN"},
        {"PYPI_SECRET_KEY": "1TOKEN"},
    ],
)
def test_a_name_that_modal_does_not_accept_is_refused(variables: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(variables))} is "):
        Settings.from_environment(variables)


def test_space_around_a_value_is_ignored() -> None:
    assert Hosting.from_environment({"PYPI_MAX_CONTAINERS": " 3\n"}).max_containers == 3
    assert Settings.from_environment({"PYPI_APP_NAME": "two "}).app_name == "two"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("PYPI_MAX_CONTAINER", "PYPI_MAX_CONTAINERS"),
        ("PYPI_PROXYAUTH", "PYPI_PROXY_AUTH"),
        ("PYPI_APPNAME", "PYPI_APP_NAME"),
        ("PYPI_TOTAL_QUOTA", "PYPI_TOTAL_QUOTA_BYTES"),
        ("PYPI_", "PYPI_"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is not a setting of the index: the nearest one is {nearest}"):
        refuse_unknown_variables({name: "1"})


def test_variables_of_others_are_ignored() -> None:
    refuse_unknown_variables({"PYPI_RUNBOOK_HOME": "/x", "PYPI_TOKEN": "x", "PYPISERVER_X": "1", "PATH": "/bin"})
    refuse_unknown_variables(
        {**Settings().variables(), **Hosting().variables(), **IndexLimits().variables(), "PYPI_LOWER_PROTECTION": ""}
    )


def test_limits_come_from_variables_and_back() -> None:
    assert IndexLimits.from_environment({}) == IndexLimits()
    limits = IndexLimits(project_quota_bytes=10, total_quota_bytes=20, uploads_per_user=0, audit_days=1, audit_bytes=2)
    assert IndexLimits.from_environment(limits.variables()) == limits


@pytest.mark.parametrize(
    "variables",
    [
        {"PYPI_PROJECT_QUOTA_BYTES": "-1"},
        {"PYPI_TOTAL_QUOTA_BYTES": "10G"},
        {"PYPI_UPLOADS_PER_USER": "1.5"},
        {"PYPI_AUDIT_DAYS": "-5"},
        {"PYPI_PAGE_MAX_AGE_SECONDS": "3601"},
        {"PYPI_PROJECT_QUOTA_BYTES": "20", "PYPI_TOTAL_QUOTA_BYTES": "10"},
    ],
)
def test_an_impossible_limit_is_refused_by_the_variable_s_name(variables: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(variables))):
        IndexLimits.from_environment(variables)
