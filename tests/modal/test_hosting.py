"""Hosting across deployments: settings stay unless changed explicitly, and no protection is lowered silently."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import modal
import pytest
from grpclib import Status

from ops import provision, upgrade
from ops.errors import ParameterError, ProtectionError
from ops.revisions import commit_of
from ops.settings import ADMIN_FUNCTION, SERVER_FUNCTION, Hosting, IndexLimits, Settings
from ops.targets.modal import ModalTarget
from ops.targets.modal_hosting import HostingPlan, deployed_hosting
from ops.targets.modal_versions import AppVersions
from ops.workspace import PROJECT_ROOT, Workspace
from tests.modal.conftest import DEPLOYMENT, create_secret, deploy, run_modal
from tests.modal.test_target import clone
from tests.standin.control_plane import ControlPlane

HOSTED = {
    "PYPI_PROXY_AUTH": "1",
    "PYPI_MIN_CONTAINERS": "1",
    "PYPI_MAX_CONTAINERS": "2",
    "PYPI_REGION": "eu",
    "PYPI_CUSTOM_DOMAIN": "packages.example.org",
    "PYPI_STARTUP_SECONDS": "90",
    "PYPI_MEMORY": "512",
}
AS_HOSTED = Hosting.from_environment(HOSTED)


def as_hosted(plane: ControlPlane) -> bool:
    """Whether the last test left it deployed."""
    if plane.apps.named("pypiserver") is None:
        return False
    server, admin = (plane.function(name).definition for name in (SERVER_FUNCTION, ADMIN_FUNCTION))
    domains = [domain.name for domain in server.webhook_config.custom_domains]
    return (
        admin.webhook_config.requires_proxy_auth,
        server.autoscaler_settings.min_containers,
        list(server.scheduler_placement.regions),
        domains,
    ) == (True, 1, ["eu"], ["packages.example.org"])


@pytest.fixture
def hosted(plane: ControlPlane) -> ControlPlane:
    """An index deployed by the plain command from a shell with variables."""
    if not as_hosted(plane):
        create_secret(plane)
        deploy(plane, DEPLOYMENT, PYPI_LOWER_PROTECTION="region", **HOSTED)
    return plane


@pytest.fixture
def target(client: Mapping[str, str], workspace: Workspace) -> ModalTarget:
    del client
    return ModalTarget(workspace=workspace)


def plan(target: ModalTarget, lower_protection: str = "") -> dict[str, tuple[str, str]]:
    """The plan's rows about hosting: the current value and the change."""
    changes = provision.plan(target, lower_protection=lower_protection).changes
    return {change.thing: (change.now, change.to_do) for change in changes if change.thing.startswith("hosting")}


def test_every_setting_of_someone_elses_deployment_can_be_read_from_modal(
    hosted: ControlPlane, target: ModalTarget
) -> None:
    del hosted, target
    told = deployed_hosting(Settings(), "")
    assert told is not None
    assert Hosting(**told) == AS_HOSTED
    assert set(told) == set(Hosting.names())


def test_a_plain_deployment_without_variables_keeps_every_setting(hosted: ControlPlane) -> None:
    version = len(hosted.apps.by_id[hosted.function("server").app_id].versions)
    deploy(hosted)
    asked = hosted.function("server").definition
    assert asked.autoscaler_settings.min_containers == 1
    assert list(asked.scheduler_placement.regions) == ["eu"]
    assert [domain.name for domain in asked.webhook_config.custom_domains] == ["packages.example.org"]
    assert hosted.function("register_user").definition.webhook_config.requires_proxy_auth
    assert len(hosted.apps.by_id[hosted.function("server").app_id].versions) == version, "nothing to deploy, even"


def test_a_plain_deployment_prints_its_changes(hosted: ControlPlane) -> None:
    done = run_modal(hosted, "deploy", str(DEPLOYMENT), PYPI_MIN_CONTAINERS="0")
    assert done.returncode == 0, done.stderr
    assert "hosting min_containers: 1 -> 0" in done.stderr
    assert hosted.function("register_user").definition.webhook_config.requires_proxy_auth


def test_a_plain_deployment_that_lowers_a_protection_is_refused(
    hosted: ControlPlane,
) -> None:
    done = run_modal(hosted, "deploy", str(DEPLOYMENT), PYPI_PROXY_AUTH="0", PYPI_MIN_CONTAINERS="0")
    assert done.returncode == 1
    assert "Nothing was deployed: the deployment would lower a protection." in done.stderr.replace("\n", " ")
    assert "PYPI_LOWER_PROTECTION=proxy_auth" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert hosted.function("register_user").definition.webhook_config.requires_proxy_auth
    assert hosted.function("server").definition.autoscaler_settings.min_containers == 1


def test_a_plain_deployment_reads_the_environment_it_was_given(hosted: ControlPlane) -> None:
    hosted.environments.append("staging")
    create_secret(hosted, environment="staging")
    done = run_modal(hosted, "deploy", "--env", "staging", str(DEPLOYMENT), PYPI_SCALEDOWN_SECONDS="60")
    assert done.returncode == 0, done.stderr
    staging = hosted.function("server", environment="staging").definition
    assert list(staging.scheduler_placement.regions) == [], "staging is deployed for the first time"
    done = run_modal(hosted, "deploy", "--env", "staging", str(DEPLOYMENT))
    assert done.returncode == 0, done.stderr
    staging = hosted.function("server", environment="staging").definition
    assert staging.autoscaler_settings.scaledown_window == 60


def limits_of(plane: ControlPlane, app: str = "pypiserver") -> IndexLimits:
    """The limits passed to containers."""
    return IndexLimits.from_environment(plane.image_environment(plane.function("server", app=app).definition.image_id))


LIMITED = {
    "PYPI_PROJECT_QUOTA_BYTES": "1000000",
    "PYPI_TOTAL_QUOTA_BYTES": "5000000",
    "PYPI_UPLOADS_PER_USER": "3",
    "PYPI_AUDIT_DAYS": "30",
    "PYPI_AUDIT_BYTES": "70000",
    "PYPI_PAGE_MAX_AGE_SECONDS": "60",
}
AS_LIMITED = IndexLimits.from_environment(LIMITED)


def test_limits_not_given_to_a_deployment_stay(hosted: ControlPlane, target: ModalTarget) -> None:
    deploy(hosted, DEPLOYMENT, PYPI_APP_NAME="limited", **LIMITED)
    assert limits_of(hosted, "limited") == AS_LIMITED
    done = run_modal(hosted, "deploy", str(DEPLOYMENT), PYPI_APP_NAME="limited", PYPI_AUDIT_DAYS="60")
    assert done.returncode == 0, done.stderr
    assert limits_of(hosted, "limited") == IndexLimits(**{**vars(AS_LIMITED), "audit_days": 60})
    assert "hosting audit_days: 30 -> 60" in done.stderr
    assert "quota" not in done.stderr
    del target


def test_the_plan_shows_limits_that_stay_and_each_that_changes(
    hosted: ControlPlane, target: ModalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(hosted, DEPLOYMENT, **LIMITED)
    (row,) = plan(target).values()
    assert "total_quota_bytes 5000000" in row[0]
    assert row[1] == "", "nothing to do"
    monkeypatch.setenv("PYPI_TOTAL_QUOTA_BYTES", "0")
    assert plan(target) == {"hosting total_quota_bytes": ("5000000", "5000000 -> 0")}
    provision.apply(target)
    assert limits_of(hosted) == IndexLimits(**{**vars(AS_LIMITED), "total_quota_bytes": 0})


def test_limits_without_a_tag_are_shown_as_not_known(hosted: ControlPlane, target: ModalTarget) -> None:
    app = hosted.apps.named("pypiserver")
    assert app is not None
    told = dict(app.tags)
    app.tags = {"team": "packaging"}
    shown = plan(target)
    app.tags = told
    assert set(shown) == {f"hosting {name}" for name in IndexLimits.names()}
    assert shown["hosting audit_days"] == ("not known", "not known -> 400")


CHANGED: Mapping[str, str] = {
    **HOSTED,
    **LIMITED,
    "PYPI_SCALEDOWN_SECONDS": "61",
    "PYPI_TARGET_REQUESTS": "7",
    "PYPI_MAX_REQUESTS": "8",
    "PYPI_REQUEST_SECONDS": "3601",
    "PYPI_CPU": "0.25",
    "PYPI_VERIFY_ATTESTATIONS": "1",
}
"""Every setting of a deployment, each with a non-default value."""


@pytest.mark.slow
def test_every_setting_survives_a_deployment_from_ci_an_upgrade_and_both_kinds_of_rollback(
    hosted: ControlPlane,
    target: ModalTarget,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del target
    defaults = {**Hosting().variables(), **IndexLimits().variables()}
    assert set(CHANGED) == set(defaults)
    assert all(value != defaults[name] for name, value in CHANGED.items())
    root = clone(tmp_path, {"deployments/trusted_root.json": '{"certificateAuthorities": [{}]}'})
    monkeypatch.chdir(root)
    releases = AppVersions(Settings(app_name="changed"), "", root=root)

    def deployed() -> dict[str, str]:
        told = hosted.image_environment(hosted.function("server", app="changed").definition.image_id)
        return {name: told[name] for name in CHANGED}

    with monkeypatch.context() as variables:  # as in the deployment workflow
        for name, value in CHANGED.items():
            variables.setenv(name, value)
        releases.deploy("ci")
    assert deployed() == CHANGED
    releases.deploy("upgrade", revision="HEAD")
    assert deployed() == CHANGED
    for plan in ("starter", "team"):
        monkeypatch.setattr(hosted.apps, "plan", plan)
        releases.rollback("1")
        assert deployed() == CHANGED, plan
    assert releases.hosting().differences().changes == ()
    # A setting that differed in the earlier version is rolled back with it, and reported.
    monkeypatch.setenv("PYPI_SCALEDOWN_SECONDS", "62")
    releases.deploy("other")
    releases.rollback("1")
    assert "hosting scaledown_seconds: 62 -> 61" in capsys.readouterr().err
    assert deployed() == CHANGED


def test_an_upgrade_shows_and_makes_the_operators_changes_and_lowers_only_named_protections(
    hosted: ControlPlane, target: ModalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModalTarget, "outdated", lambda *_, **__: "runs another commit")
    monkeypatch.setenv("PYPI_REGION", "none")
    described = upgrade.Upgrade(target=target, commit=commit_of(PROJECT_ROOT, "HEAD"), test=lambda *_: None)
    published = hosted.called.count("AppPublish")
    with pytest.raises(ProtectionError, match="lower a protection"):
        upgrade.apply(described)
    assert hosted.called.count("AppPublish") == published, "there must be nothing to roll back"
    monkeypatch.setenv("PYPI_LOWER_PROTECTION", "region")
    (row,) = [change for change in upgrade.plan(described).changes if change.thing.startswith("hosting")]
    assert row.to_do == "eu -> none"
    assert ("hosting region", "eu -> none") in upgrade.apply(described).done
    assert list(hosted.function("server").definition.scheduler_placement.regions) == []


def test_a_deployment_keeps_foreign_tags_of_the_app(hosted: ControlPlane, target: ModalTarget) -> None:
    app = modal.App.lookup("pypiserver")
    app.set_tags({**app.get_tags(), "team": "packaging"})
    deploy(hosted)
    assert app.get_tags()["team"] == "packaging"
    assert IndexLimits.from_environment(app.get_tags()) == limits_of(hosted)
    del target


def test_a_deployment_that_cannot_read_the_limits_deploys_nothing(hosted: ControlPlane) -> None:
    published = hosted.called.count("AppPublish")
    hosted.fail("AppGetTags", Status.PERMISSION_DENIED, "you may not")
    done = run_modal(hosted, "deploy", str(DEPLOYMENT))
    assert done.returncode == 1
    assert "you may not" in done.stderr
    assert hosted.called.count("AppPublish") == published


def test_the_plan_shows_unchanged_hosting(hosted: ControlPlane, target: ModalTarget) -> None:
    del hosted
    (row,) = plan(target).items()
    assert row[0] == "hosting"
    assert "proxy_auth 1" in row[1][0]
    assert "region eu" in row[1][0]
    assert row[1][1] == "", "nothing to do"


def test_the_plan_shows_each_difference_as_a_row(
    hosted: ControlPlane, target: ModalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    del hosted
    monkeypatch.setenv("PYPI_MIN_CONTAINERS", "0")
    monkeypatch.setenv("PYPI_CUSTOM_DOMAIN", "none")
    monkeypatch.setenv("PYPI_REGION", "")
    assert plan(target) == {
        "hosting min_containers": ("1", "1 -> 0"),
        "hosting custom_domain": ("packages.example.org", "packages.example.org -> none"),
    }


@pytest.mark.parametrize(
    ("variable", "value", "name"), [("PYPI_PROXY_AUTH", "0", "proxy_auth"), ("PYPI_REGION", "us", "region")]
)
def test_a_protection_is_lowered_only_when_named(
    hosted: ControlPlane, target: ModalTarget, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, name: str
) -> None:
    monkeypatch.setenv(variable, value)
    (row,) = plan(target).values()
    assert "refused: it lowers a protection" in row[1]
    called = len(hosted.called)
    with pytest.raises(ProtectionError) as caught:
        provision.apply(target)
    assert f'lower_protection="{name}"' in caught.value.todo
    assert list(caught.value.changes) == [name]
    assert "AppPublish" not in hosted.called[called:]
    assert not plan(target, name)[f"hosting {name}"][1].count("refused")


def test_an_unknown_protection_is_refused(target: ModalTarget, hosted: ControlPlane) -> None:
    del hosted
    with pytest.raises(ParameterError, match="proxy-auth is no protection"):
        provision.plan(target, lower_protection="proxy-auth")


def test_naming_a_protection_lowers_it_and_only_it(
    hosted: ControlPlane, target: ModalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYPI_PROXY_AUTH", "0")
    outcome = provision.apply(target, lower_protection="proxy_auth")
    assert ("hosting proxy_auth", "1 -> 0") in outcome.done
    assert not hosted.function("register_user").definition.webhook_config.requires_proxy_auth
    assert list(hosted.function("server").definition.scheduler_placement.regions) == ["eu"]


def test_scaling_set_since_the_deployment_is_kept_too(hosted: ControlPlane, target: ModalTarget) -> None:
    del target
    function = modal.Function.from_name("pypiserver", SERVER_FUNCTION)
    function.autoscaler.update(max_containers=7)
    told = deployed_hosting(Settings(), "")
    assert told is not None
    assert told["max_containers"] == 7
    hosted.fail("FunctionGetSchedulingParams", Status.PERMISSION_DENIED, "you may not")
    told = deployed_hosting(Settings(), "")
    assert told is not None
    assert told["max_containers"] == 2, "the deployed value, where no other is reported"


def test_settings_modal_does_not_report_are_shown_as_not_known_and_never_lost_silently(
    hosted: ControlPlane, target: ModalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    del hosted, target
    known = {name: value for name, value in vars(AS_HOSTED).items() if name not in {"proxy_auth", "custom_domain"}}
    monkeypatch.setattr("ops.targets.modal_hosting.deployed_hosting", lambda *_: known)
    changes = {change.name: change for change in HostingPlan.of(Settings(), "", {}).differences().changes}
    assert changes["proxy_auth"].arrow == "not known -> 0"
    assert set(changes) == {"proxy_auth", "custom_domain"}
    assert all(change.refused for change in changes.values())
    told = {"PYPI_PROXY_AUTH": "1", "PYPI_CUSTOM_DOMAIN": "none"}
    assert not any(change.refused for change in HostingPlan.of(Settings(), "", told).differences().changes)


def test_the_first_deployment_shows_its_settings(target: ModalTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYPI_REGION", "eu")
    differences = HostingPlan.of(Settings(app_name="not-yet"), "", {"PYPI_REGION": "eu"}).differences()
    assert [(change.name, change.arrow) for change in differences.changes] == [("region", "not deployed -> eu")]
    differences.require_allowed()
    del target
