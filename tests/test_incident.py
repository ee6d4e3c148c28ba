"""An incident: a bad release is found and revoked, and its publisher locked."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from ops import incident, onboard
from ops.admin_api import AdminApi
from ops.clients import ClientFiles, Login, Twine, Uv
from ops.errors import ConfirmationError, ParameterError, RunbookError, VerificationError
from ops.http_client import HttpClient
from ops.polling import until, until_equal
from ops.targets import Target
from tests.index.archives import wheel, wheel_name
from tests.index.issuer import FakeIssuer

pytest_plugins = ["tests.operations"]

BAD, GOOD = wheel_name("spam", "1.1"), wheel_name("spam", "1.0")


def login_of(target: Target, username: str) -> Login:
    onboard.apply(onboard.describe(target, username=username))
    login = ClientFiles(target.client_folder(username)).login()
    assert login is not None
    return login


def http(login: Login) -> HttpClient:
    return HttpClient(login.url, username=login.username, password=login.password)


@pytest.fixture
def mallory(served: Target, tmp_path: Path) -> Login:
    """A publisher with a token, whose second release is bad; bob has downloaded it."""
    login = login_of(served, "mallory")
    files = ClientFiles(tmp_path / "mallory")
    files.write(login)
    for name, version in ((GOOD, "1.0"), (BAD, "1.1")):
        (tmp_path / name).write_bytes(wheel("spam", version))
        assert Twine(files, login).upload([tmp_path / name])[0] == 200
    _, admin = AdminApi.of(served)
    with admin:
        admin.create_token("mallory", label="laptop")
    with http(login_of(served, "bob")) as client:
        assert client.request("GET", f"packages/{BAD}", headers={"User-Agent": "pip/26.3"}).status_code == 200
    return login


@pytest.mark.slow
def test_a_bad_release_is_found_revoked_and_its_publisher_locked(
    served: Target, mallory: Login, tmp_path: Path
) -> None:
    named = {"project": "Spam", "version": "1.1", "reason": "sends passwords away", "lock_publisher": True}
    looked = incident.describe(served, **named)  # type: ignore[arg-type]
    files = incident.files(looked)
    assert [file.filename for file in files] == [BAD]
    assert "mallory" in repr(incident.uploaded(files))
    assert GOOD in repr(incident.recent_uploads(looked))
    assert incident.plan(looked).pending == ()
    assert not incident.apply(looked).changed
    assert "not revoked yet" in repr(incident.notice(looked, files))

    meant = incident.describe(served, **named, confirm="spam 1.1")  # type: ignore[arg-type]
    plan = incident.plan(meant)
    assert [change.thing for change in plan.pending] == [f"file {BAD}", "user mallory"]
    assert len(incident.apply(meant).done) == 2
    assert "refused (403)" in repr(incident.verify(meant))

    bob = login_of(served, "bob")
    with http(bob) as client:
        refusal = client.request("GET", f"packages/{BAD}")
        assert (refusal.status_code, "sends passwords away" in refusal.text) == (403, True)
        assert client.request("GET", f"packages/{GOOD}").status_code == 200
    locked = ClientFiles(tmp_path / "uv")
    locked.write(bob)
    uv = Uv(locked, bob)
    pinned = f"spam @ {bob.url}packages/{BAD}#sha256={files[0].sha256}"  # as in a lock file
    refused = uv.install(pinned, python=uv.make_environment(tmp_path / "environment"))
    assert refused.returncode != 0
    assert "403" in refused.output
    with http(mallory) as client:
        assert client.request("GET", "simple/").status_code == 401
    _, admin = AdminApi.of(served)
    with admin:
        user = admin.user("mallory")
        assert user is not None
        assert (user.role, admin.tokens("mallory")) == ("reader", [])

    assert incident.plan(meant).pending == ()
    assert not incident.apply(meant).changed

    served.stop()  # writes the counts of the last minute
    assert ("bob", "pip") in {row[1:4:2] for row in incident.downloaded(meant, files).rows}
    notice = repr(incident.notice(meant, files))
    assert notice.startswith("To: bob")
    assert files[0].sha256 in notice


@pytest.mark.slow
def test_a_publisher_who_lost_the_rights_before_loses_the_password_too(served: Target, mallory: Login) -> None:
    """Whoever stole it could still download everything."""
    _, admin = AdminApi.of(served)
    with admin:
        for token in admin.tokens("mallory"):
            admin.revoke_token(token.id)
        admin.register("mallory", role="reader")
    named = {"project": "spam", "version": "1.1", "lock_publisher": True, "confirm": "spam 1.1"}
    meant = incident.describe(served, **named)  # type: ignore[arg-type]
    assert incident.apply(meant).changed
    with http(mallory) as client:
        assert client.request("GET", "simple/").status_code == 401
    assert incident.plan(meant).pending == ()


def test_a_ci_job_that_published_it_is_found_with_its_run_and_trusted_no_more(served: Target) -> None:
    deployment, admin = AdminApi.of(served)
    with FakeIssuer() as issuer, HttpClient(deployment.url) as http, admin:
        admin.replace_trust(issuer.trust(), version=0)

        def mint() -> requests.Response:
            return http.request("POST", "_/oidc/mint-token", json={"token": issuer.id_token()})

        login = ("__token__", until(mint, lambda response: response.ok).json()["token"])
        form = {":action": "file_upload", "protocol_version": "1", "name": "spam", "version": "1.1"}
        content = {"content": (BAD, wheel("spam", "1.1"))}
        sent = requests.post(deployment.url, auth=login, data=form, files=content, timeout=60)
        assert sent.status_code == 200, sent.text

        meant = incident.describe(served, project="spam", version="1.1", lock_publisher=True, confirm="spam 1.1")
        by = incident.uploaded(incident.files(meant)).rows[0][4]
        assert by.startswith("token m")
        assert by.endswith(f", CI run {issuer.url}/acme/spam/actions/runs/4711")
        assert [change.thing for change in incident.plan(meant).pending] == [f"file {BAD}", "CI job spam-release"]
        assert incident.apply(meant).done[-1] == ("CI job spam-release", "trusted no more; its tokens have ended")
        assert "not trusted" in repr(incident.verify(meant))
        assert admin.trust()["jobs"] == []
        assert until_equal(lambda: requests.get(deployment.url, auth=login, timeout=60).status_code, 401) == 401
        assert not mint().ok
        assert not incident.apply(meant).changed


def test_without_a_release_the_last_uploads_are_shown_and_nothing_is_changed(served: Target) -> None:
    nothing = incident.describe(served, confirm="")
    assert incident.files(nothing) == []
    assert incident.plan(nothing).pending == ()
    assert not incident.apply(nothing).changed
    assert "no release is named" in repr(incident.verify(nothing))
    assert "Nothing was uploaded" in repr(incident.recent_uploads(nothing))


@pytest.mark.slow
def test_a_file_that_is_still_available_fails_the_verification(
    served: Target, mallory: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    del mallory
    monkeypatch.setattr("ops.polling.SECONDS", 0.0)
    monkeypatch.setattr(incident, "_change", lambda *_: None)
    meant = incident.describe(served, project="spam", version="1.1", confirm="spam 1.1")
    incident.apply(meant)
    with pytest.raises(VerificationError, match="responded with 200"):
        incident.verify(meant)


def test_a_missing_release_is_reported(served: Target) -> None:
    with pytest.raises(RunbookError, match=r"no file of spam 9\.9"):
        incident.plan(incident.describe(served, project="spam", version="9.9"))


@pytest.mark.parametrize("confirm", ["spam", "spam 1.0", "1.1 spam", "spam 1.1 1.2", "yes"])
def test_confirming_another_release_changes_nothing(target: Target, confirm: str) -> None:
    with pytest.raises(ConfirmationError, match="nothing was changed"):
        incident.describe(target, project="spam", version="1.1", confirm=confirm)


@pytest.mark.parametrize(
    "values",
    [{"project": "spam"}, {"version": "1.1"}, {"project": "spam", "version": "1.1", "reason": "two\nlines"}],
)
def test_invalid_parameters_are_refused_with_one_sentence(target: Target, values: dict[str, str]) -> None:
    with pytest.raises(ParameterError):
        incident.describe(target, **values)  # type: ignore[arg-type]
