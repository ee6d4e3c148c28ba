"""Login of a CI job at a private package index, without a stored secret.

Exchanges the job's ID token for a token of the index that lives for 15 minutes, and writes it where pip, uv and twine
find it; never to the log. Needs Python 3.9 or newer, and nothing else. On GitHub the job needs the permission
``id-token: write``; on GitLab an ID token in the variable ``<AUDIENCE>_ID_TOKEN``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote, urlsplit

AUDIENCE = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
"""An audience that an index may ask for. An ID token for a cloud's, such as ``sts.amazonaws.com``, would let whoever
controls the index act as this job there."""

OTHERS = {"pypi", "testpypi"}
"""Audiences of public indexes: likewise."""

TOKEN = re.compile(r"[A-Za-z0-9_.-]{1,500}")
"""A token. A line break in it would set other variables of later steps."""


def main() -> None:
    """Log in, and write a netrc and a file of variables."""
    parser = argparse.ArgumentParser(description="Log in at a private package index with the job's ID token.")
    parser.add_argument("--url", required=True, help="root of the index, with https")
    parser.add_argument("--name", default="private", help="name of the index in uv's configuration (%(default)s)")
    parser.add_argument("--out", type=Path, help="file of export lines to write, for other systems than GitHub")
    options = parser.parse_args()
    url = options.url.rstrip("/")
    if urlsplit(url).scheme != "https":
        sys.exit("index-login: the url must begin with https://")
    audience = str(ask(f"{url}/_/oidc/audience").get("audience") or "")
    if not AUDIENCE.fullmatch(audience) or audience in OTHERS:
        sys.exit(f"index-login: {urlsplit(url).hostname} asks for an ID token that is not for an index like it")
    minted = str(ask(f"{url}/_/oidc/mint-token", body={"token": id_token(audience)}).get("token") or "")
    if not TOKEN.fullmatch(minted):
        sys.exit(f"index-login: {urlsplit(url).hostname} answered with something that is not a token")
    if "GITHUB_ACTIONS" in os.environ:
        sys.stdout.write(f"::add-mask::{minted}\n")  # the runner takes this line out of the log
    folder = Path(os.environ.get("RUNNER_TEMP") or Path.cwd())
    netrc = folder / "index-netrc"
    write(netrc, f"machine {urlsplit(url).hostname}\nlogin __token__\npassword {minted}\n")
    index = re.sub(r"[^A-Z0-9]", "_", options.name.upper())
    variables = {
        "NETRC": str(netrc),
        "PIP_INDEX_URL": f"{url}/simple/",
        "UV_INDEX": f"{options.name}={url}/simple/",
        f"UV_INDEX_{index}_USERNAME": "__token__",
        f"UV_INDEX_{index}_PASSWORD": minted,
        "TWINE_REPOSITORY_URL": f"{url}/",
        "TWINE_USERNAME": "__token__",
        "TWINE_PASSWORD": minted,
    }
    if "GITHUB_ENV" in os.environ:
        with open(os.environ["GITHUB_ENV"], "a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in variables.items())
    elif options.out:
        write(options.out, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
    else:
        sys.exit("index-login: name a file for the variables with --out")
    sys.stdout.write(f"index-login: logged in at {url} for 15 minutes\n")


def id_token(audience: str) -> str:
    """The ID token of this job, for the index."""
    request_url = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL")
    if request_url:
        secret = os.environ["ACTIONS_ID_TOKEN_REQUEST_TOKEN"]
        return str(ask(f"{request_url}&audience={quote(audience)}", secret=secret)["value"])
    variable = re.sub(r"[^A-Z0-9]", "_", audience.upper()) + "_ID_TOKEN"
    if variable in os.environ:
        return os.environ[variable]
    sys.exit(
        "index-login: this job has no ID token. On GitHub give it `permissions: id-token: write`; on GitLab\n"
        f"`id_tokens: {variable}: aud: {audience}`"
    )


def ask(url: str, *, body: dict[str, str] | None = None, secret: str = "") -> dict[str, str]:
    """The JSON object at a URL; exits with the index's own message if there is none."""
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    if secret:
        headers["Authorization"] = f"Bearer {secret}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as response:  # noqa: S310 - https
            content = json.load(response)
    except urllib.error.HTTPError as error:
        sys.exit(f"index-login: {urlsplit(url).hostname} responded with {error.code}: {said(error.read())}")
    except (OSError, ValueError) as error:
        sys.exit(f"index-login: {urlsplit(url).hostname} could not be reached: {error}")
    return content if isinstance(content, dict) else sys.exit("index-login: the response is not a JSON object")


def said(body: bytes) -> str:
    """The descriptions in an error of the index."""
    try:
        return "; ".join(str(error["description"]) for error in json.loads(body)["errors"])
    except (ValueError, KeyError, TypeError):
        return body[:300].decode("utf-8", "replace")


def write(path: Path, text: str) -> None:
    """Write a file that only this user can read."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()
