"""Zip file with a user's client files and a page of instructions, to hand over."""

from __future__ import annotations

import html
import io
import re
import shlex
import stat
import zipfile
from collections.abc import Mapping

from ops.clients.env_sh import FOLDER_VARIABLE

PAGE = "README.html"

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Fixed, so that equal files make equal archives."""

_TEMPLATE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Your access to a private Python package index</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem }}
pre {{ background: #eee; color: #111; padding: .6rem; overflow-x: auto }}
</style>
<h1>Your access to a private Python package index</h1>
<p>The index is at <code>{url}</code>{note}. You are its user <code>{username}</code>. Anyone with these files has your
password: keep them to yourself, and delete the zip file once it is unpacked.</p>
<h2>Unpack</h2>
<pre>unzip {archive} -d ~
chmod 700 ~/{folder}
chmod 600 ~/{folder}/* ~/{folder}/.pypirc</pre>
<p>The folder works wherever it is. Nothing outside it is changed.</p>
<h2>Use</h2>
<p>In each bash or zsh session:</p>
<pre>. ~/{folder}/env.sh</pre>
<p>In any other POSIX shell, first set the folder: <code>{variable}=~/{folder}</code>. If a file is missing, the
script says so and sets nothing: fix that before you install anything. Then:</p>
<table>
<tr><th scope="row">pip</th><td><pre>pip install your-package</pre></td></tr>
<tr><th scope="row">uv</th><td><pre>uv pip install your-package
uv publish dist/*</pre></td></tr>
<tr><th scope="row">twine</th><td><pre>twine upload --verbose dist/*</pre></td></tr>
<tr><th scope="row">poetry</th><td><pre>poetry source add --priority=primary private {index}
POETRY_HTTP_BASIC_PRIVATE_USERNAME="$TWINE_USERNAME" \\
POETRY_HTTP_BASIC_PRIVATE_PASSWORD="$TWINE_PASSWORD" poetry add --source private your-package
POETRY_REPOSITORIES_PRIVATE_URL="$TWINE_REPOSITORY_URL" \\
POETRY_HTTP_BASIC_PRIVATE_USERNAME="$TWINE_USERNAME" \\
POETRY_HTTP_BASIC_PRIVATE_PASSWORD="$TWINE_PASSWORD" poetry publish -r private</pre></td></tr>
<tr><th scope="row">hatch</th><td><pre>HATCH_INDEX_REPO="$TWINE_REPOSITORY_URL" HATCH_INDEX_USER="$TWINE_USERNAME" \\
HATCH_INDEX_AUTH="$TWINE_PASSWORD" hatch publish</pre></td></tr>
<tr><th scope="row">flit</th><td><pre>flit publish --pypirc ~/{folder}/.pypirc --repository private</pre></td></tr>
</table>
<p>For a CI job, store the contents of these files as secrets, write them to a folder, and source
<code>env.sh</code> in each step.</p>
<p>If the index responds with 401, your password was changed or the index has moved: ask its operator for a new
zip file.</p>
</html>
"""


def archive(contents: Mapping[str, bytes], *, username: str, url: str, name: str, loopback: bool) -> bytes:
    """Zip file with one private folder (modes 0700 and 0600).

    Parameters:
        contents: the files of the folder, by name.
        username: their user.
        url: the root of the index, ending in a slash.
        name: file name of the archive.
        loopback: True if the URL is a loopback address.
    """
    folder = "index-" + (re.sub(r"[^A-Za-z0-9._-]+", "-", username).strip("-") or "user")
    page = _TEMPLATE.format(
        url=html.escape(url),
        index=html.escape(shlex.quote(f"{url}simple/")),
        note=", which only programs on the operator's machine can reach" if loopback else "",
        username=html.escape(username),
        folder=folder,
        archive=name,
        variable=FOLDER_VARIABLE,
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(_entry(f"{folder}/", stat.S_IFDIR | 0o700), b"")
        for file, content in {PAGE: page.encode(), **contents}.items():
            packed.writestr(_entry(f"{folder}/{file}", stat.S_IFREG | 0o600), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _entry(path: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(path, _EPOCH)
    entry.create_system = 3  # Unix, which has modes
    entry.external_attr = mode << 16 | (0x10 if stat.S_ISDIR(mode) else 0)
    return entry
