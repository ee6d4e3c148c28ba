"""Trusted publishing: CI jobs get short-lived tokens of the index by proving which repository they run for.

They are listed in a TOML file that the team reviews, and that is applied as a whole.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ops.admin_api import AdminApi
from ops.errors import IndexRequestError, ParameterError, RunbookError
from ops.http_client import HttpClient
from ops.plan import DRY_RUN, Change, Finding, Outcome, Plan, proven, require_approved
from ops.polling import until_equal
from ops.preflight import preflight_of_index as preflight
from ops.secret import Secret
from ops.table import Table
from ops.targets import Target
from ops.targets.index_rules import checked_trust
from ops.workspace import shown

API_TOKENS = {"github": "GITHUB_TOKEN", "gitlab": "GITLAB_TOKEN"}
"""Environment variables with the API tokens for looking up private repositories."""

_NO_FILE = "No file was named, so nothing is changed."
_NOT_AN_ID_TOKEN = "eyJhbGciOiJub25lIn0.e30."  # noqa: S105 - unsigned: {"alg": "none"}
_KEYS = {"github": ".well-known/jwks", "gitlab": "oauth/discovery/keys"}


@dataclass(frozen=True, kw_only=True)
class TrustChange:
    """The jobs to trust, as described by the notebook's parameters.

    Parameters:
        target: the target of the index.
        file: the TOML file; None to only look.
        wanted: its content; empty to only look.
    """

    target: Target
    file: Path | None = None
    wanted: Mapping[str, Any] = field(default_factory=dict)


def describe(target: Target, *, file: str = "") -> TrustChange:
    """Read the file. Does not contact the index.

    Parameters:
        target: the target of the index.
        file: path of the TOML file; empty to only look.

    Raises:
        ParameterError: it cannot be read, or is not TOML.
    """
    if not file:
        return TrustChange(target=target)
    path = Path(file).expanduser().absolute()
    try:
        wanted = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        why = error.strerror or "" if isinstance(error, OSError) else str(error)
        raise ParameterError(
            f"{shown(path)} cannot be read", why=why, todo="start from deployments/trusted.example.toml"
        ) from None
    if unknown := sorted(wanted.keys() - {"audience", "issuers", "jobs"}):
        why = "only audience, [[issuers]] and [[jobs]] can be in it"
        raise ParameterError(f"{shown(path)} has the unknown entry {unknown[0]!r}", why=why, todo="correct it")
    for key in ("issuers", "jobs"):
        entries = wanted.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            why = f"each of them begins with a line [[{key}]]"
            raise ParameterError(f"the {key} in {shown(path)} cannot be read", why=why, todo="correct it")
    return TrustChange(target=target, file=path, wanted=wanted)


def plan(change: TrustChange) -> Plan:
    """Compare what is trusted with the file. Looks up the ids of repositories that the file omits.

    Raises:
        NotDeployedError: there is no index.
        ParameterError: the index would refuse the file, or a job's repository cannot be looked up.
    """
    deployment, admin = AdminApi.of(change.target)
    with admin:
        now = admin.trust()
    wanted = _completed(change.wanted, now) if change.file else now
    changes = [Change("audience", now["audience"] or "none", _then(now, wanted, "audience"))]
    for key, name in (("issuers", "url"), ("jobs", "name")):
        before, after = ({item[name]: item for item in trust[key]} for trust in (now, wanted))
        named = f"{key.removesuffix('s')} {{}}".format
        changes += [_change(named(item), before.get(item), after.get(item)) for item in sorted({*before, *after})]
    held = "" if change.file else _NO_FILE
    return Plan(_caption(change), tuple(changes), change.target.place, deployment.url, held)


def apply(change: TrustChange, *, dry_run: bool = False) -> Outcome:
    """Replace what is trusted with the file, if it differs. Tokens of jobs that are no longer trusted end at once.

    Raises:
        BusyError: another run holds the target for too long.
        IndexRequestError: the index refused the file; nothing was changed.
        ApprovalError: another plan was approved for this run; nothing was changed.
    """
    target = change.target
    if dry_run or change.file is None:
        return Outcome(_caption(change), (), DRY_RUN if dry_run else _NO_FILE, target.place)
    with target.lock():
        require_approved(lambda: plan(change))
        deployment, admin = AdminApi.of(target)
        with admin:
            now = admin.trust()
            wanted = _completed(change.wanted, now)
            pending = plan(change).pending
            if pending:
                now = admin.replace_trust(wanted, version=now["version"])
    done = tuple((pending_change.thing, pending_change.then) for pending_change in pending)
    note = f"{'' if done else 'Everything was in place already. '}Version {now['version']} is in effect."
    return Outcome(_caption(change), done, note, target.place, deployment.url)


def verify(change: TrustChange, *, dry_run: bool = False) -> Table:
    """Send requests as a CI job would, without a login, and fetch each issuer's keys.

    Raises:
        VerificationError: the index says something else, or accepts an unsigned ID token.
    """
    deployment, admin = AdminApi.of(change.target)
    with admin:
        trust = admin.trust()
    expected = trust["audience"] if trust["jobs"] else "404, since no job is trusted"
    findings = []
    with HttpClient(deployment.url) as http:
        seen = until_equal(lambda: _audience(http), expected)
        findings.append(Finding("the audience, without a login", expected, seen, seen == expected))
        response = http.request("POST", "_/oidc/mint-token", json={"token": _NOT_AN_ID_TOKEN})
        refused = f"{response.status_code}"
        findings.append(Finding("an ID token that nobody signed", "422", refused, refused == "422"))
    for issuer in trust["issuers"]:
        keys = _keys(issuer)
        findings.append(Finding(f"keys of {issuer['url']}, from here", "some", keys, dry_run or keys != "none"))
    todo = "correct the issuer's url in the file, and check the log of the index: runbook status"
    return proven("What a CI job sees", findings, todo=todo)


def _caption(change: TrustChange) -> str:
    return f"Trusted CI jobs on the target {change.target.place}"


def _then(now: Mapping[str, Any], wanted: Mapping[str, Any], key: str) -> str:
    return "" if now[key] == wanted[key] else f"set to {wanted[key]}"


def _change(thing: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Change:
    if after is None:
        return Change(thing, _described(before or {}), "trust no more", "-")
    if before is None:
        return Change(thing, "not trusted", f"trust: {_described(after)}", "+")
    return Change(thing, _described(before), "" if before == after else f"change to: {_described(after)}")


def _described(item: Mapping[str, Any]) -> str:
    if "kind" in item:
        return str(item["kind"])
    where = f"{item['repository'] or 'repository'} ({item['repository_id']} of owner {item['owner_id']})"
    limits = [f"{name} {item[name]}" for name in ("environment", "workflow") if item[name]]
    limits += ["protected refs only"] if item["protected_ref"] else []
    rights = f"publisher of {', '.join(item['projects'])}" if item["projects"] else item["role"]
    return f"{rights}; {', '.join([where, *limits])}"


def _completed(wanted: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a file with all fields, as the index stores it. Missing ids are filled in from those already
    trusted, or else from the issuer's API by name. A name that now belongs to someone else does not change them.
    """
    kinds = {str(issuer.get("url")): str(issuer.get("kind")) for issuer in wanted.get("issuers", ())}
    known = {(job["name"], job["issuer"], job["repository"]): job for job in now["jobs"]}
    jobs = []
    for given in wanted.get("jobs", ()):
        job = {
            "repository": "",
            "environment": "",
            "workflow": "",
            "protected_ref": False,
            "projects": None,
            **given,
        }
        numbers = {name: str(job[name]) for name in ("repository_id", "owner_id") if job.get(name)}
        if len(numbers) < 2:
            key = (job.get("name"), job.get("issuer"), job["repository"])
            found = known.get(key) or _looked_up(str(job.get("issuer")), kinds, str(job["repository"]))
            numbers = {name: str(found[name]) for name in ("repository_id", "owner_id")} | numbers
        jobs.append(job | numbers)
    return checked_trust({**wanted, "jobs": jobs})


def _looked_up(issuer: str, kinds: Mapping[str, str], repository: str) -> dict[str, Any]:
    """The ids of a repository and its owner, from its issuer's API."""
    kind, address = kinds.get(issuer, ""), urlsplit(issuer)
    if kind not in API_TOKENS or not repository:
        raise ParameterError(
            "a job has no ids, and they cannot be looked up",
            why=f"its repository is {repository!r}, of the issuer {issuer!r}",
            todo="set repository_id and owner_id, or repository and an issuer that is among the issuers",
        )
    origin = f"{address.scheme}://{address.netloc}"
    if kind == "github":
        public = address.netloc == "token.actions.githubusercontent.com"
        root, path = ("https://api.github.com/" if public else f"{origin}/api/v3/"), f"repos/{repository}"
        owner = "owner"
    else:
        root, path, owner = f"{issuer.rstrip('/')}/api/v4/", f"projects/{quote(repository, safe='')}", "namespace"
    token = os.environ.get(API_TOKENS[kind])
    try:
        with HttpClient(root, token=Secret(token) if token else None) as http:
            response = http.request("GET", path)
        found = response.json() if response.ok else {}
        return {"repository_id": found["id"], "owner_id": found[owner]["id"]}
    except (IndexRequestError, ValueError, KeyError, TypeError):
        raise RunbookError(
            f"the ids of the repository {repository} could not be looked up",
            why=f"{root}{path} does not return them",
            todo=f"write repository_id and owner_id into the file, or set {API_TOKENS[kind]} for a private repository",
        ) from None


def _audience(http: HttpClient) -> str:
    response = http.request("GET", "_/oidc/audience")
    if response.status_code == 404:
        return "404, since no job is trusted"
    return str(response.json().get("audience")) if response.ok else f"{response.status_code}"


def _keys(issuer: Mapping[str, Any]) -> str:
    try:
        with HttpClient(f"{issuer['url'].rstrip('/')}/") as http:
            response = http.request("GET", _KEYS[issuer["kind"]])
        keys = response.json()["keys"] if response.ok else []
    except (IndexRequestError, ValueError, KeyError, TypeError):
        return "none"
    return f"{len(keys)}" if keys else "none"


__all__ = ["apply", "describe", "plan", "preflight", "verify"]
