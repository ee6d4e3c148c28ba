"""Client files: the configuration of pip, uv and twine for one user of the index."""

from __future__ import annotations

import configparser
import ipaddress
import json
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ops.clients.env_sh import env_sh
from ops.clients.handover import archive
from ops.errors import ParameterError, RunbookError
from ops.private_files import private_folder, replace_file
from ops.secret import Secret

REPOSITORY = "private"
"""Name of the index in uv and twine: ``uv publish --index private``, ``twine upload --repository private``."""


def is_loopback(url: str) -> bool:
    """True if the host of *url* is a loopback address."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_public_index(url: str) -> None:
    """Refuse the URL of a public index that clients cannot use, or that holds credentials.

    Raises:
        ParameterError: it is not the URL of a simple API (PEP 503).
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        good = False
    # It becomes a line of pip.conf.
    if not good or not url.isprintable() or " " in url:
        raise ParameterError(
            "public_index cannot be used",
            why="it is not the URL of a simple API, or holds credentials",
            todo="give its URL, ending in /simple/",
        )


@dataclass(frozen=True, kw_only=True)
class Login:
    """Address of an index, and the credentials of a user.

    Parameters:
        url: the root of the index, ending in a slash.
        username: the user; None for requests without credentials.
        password: the user's.
        public_index: a second index for pip to search, or an empty string. See the warning in :func:`pip_conf`.

    Raises:
        RunbookError: a client cannot send this name or password.
    """

    url: str
    username: str | None = None
    password: Secret | None = None
    public_index: str = ""

    def __post_init__(self) -> None:
        if self.username is not None:
            _require_sendable("the user name", self.username)
        if self.password is not None:
            _require_sendable("the password", self.password.reveal())

    @property
    def index_url(self) -> str:
        """URL of the simple API (PEP 503)."""
        return f"{self.url}simple/"


@dataclass(frozen=True)
class ClientFiles:
    """Folder with the configuration of all clients.

    Parameters:
        folder: the folder.
        zipped: True to also write a zip file of everything, to hand over. An existing one is always updated.
    """

    folder: Path
    zipped: bool = False

    @property
    def netrc(self) -> Path:
        """User name and password, for pip and uv."""
        return self.folder / "netrc"

    @property
    def pip_conf(self) -> Path:
        """Index of pip."""
        return self.folder / "pip.conf"

    @property
    def uv_toml(self) -> Path:
        """Index of uv, for installing and publishing."""
        return self.folder / "uv.toml"

    @property
    def pypirc(self) -> Path:
        """Repository and credentials of twine."""
        return self.folder / ".pypirc"

    @property
    def env_sh(self) -> Path:
        """Shell script that makes a shell use all of these."""
        return self.folder / "env.sh"

    @property
    def archive(self) -> Path:
        """Zip file of all of these, with a page of instructions."""
        return self.folder / "handover.zip"

    def contents(self, login: Login) -> dict[Path, bytes]:
        """Contents of each file for *login*."""
        texts = {
            self.netrc: netrc(login),
            self.pip_conf: pip_conf(login),
            self.uv_toml: uv_toml(login),
            self.pypirc: pypirc(login),
            self.env_sh: shell_script(login),
        }
        contents = {path: text.encode() for path, text in texts.items()}
        if self.zipped or self.archive.exists():
            contents[self.archive] = archive(
                {path.name: content for path, content in contents.items()},
                username=login.username or "",
                url=login.url,
                name=self.archive.name,
                loopback=is_loopback(login.url),
            )
        return contents

    def outdated(self, login: Login) -> list[Path]:
        """Files that :meth:`write` would write: missing, different, or readable by other users."""
        return [path for path, content in self.contents(login).items() if not _is(path, content)]

    def write(self, login: Login) -> list[Path]:
        """Write outdated files, each atomically and with mode 0600, and return them.

        Raises:
            RunbookError: the folder cannot be written.
        """
        outdated = self.outdated(login)
        contents = self.contents(login)
        try:
            private_folder(self.folder)
            self.folder.chmod(0o700)
            for path in outdated:
                replace_file(path, contents[path])
        except OSError as error:
            raise RunbookError(
                "the client configuration could not be written",
                why=f"{error.strerror or error}: {error.filename or self.folder}",
                todo="set the parameter `folder` to a folder that you can write to",
            ) from None
        return outdated

    def password(self) -> Secret | None:
        """Password in the files; None if there is none, or it cannot be read."""
        login = self.login()
        return login.password if login else None

    def login(self) -> Login | None:
        """Login last passed to :meth:`write`, read from the files; None if that fails."""
        repository = _section(self.pypirc, REPOSITORY)
        password = repository.get("password")
        try:
            return Login(
                url=repository["repository"],
                username=repository.get("username"),
                password=Secret(password) if password else None,
                public_index=_section(self.pip_conf, "global").get("extra-index-url", ""),
            )
        except (KeyError, RunbookError):
            return None


def _section(path: Path, name: str) -> dict[str, str]:
    """Section of an INI file; empty if there is none, or it cannot be read."""
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
        return dict(parser[name])
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError):
        return {}


def netrc(login: Login) -> str:
    """Credentials for pip and uv, in a separate file that ``NETRC`` names instead of ``~/.netrc``.

    Both read quotes and backslashes like Python's netrc module since 3.11.
    """
    if login.username is None or login.password is None:
        return ""
    host = urlsplit(login.url).hostname
    return f"machine {host}\nlogin {_token(login.username)}\npassword {_token(login.password.reveal())}\n"


def pip_conf(login: Login) -> str:
    """Configuration of pip, with this index as the only one.

    pip installs the newest version that any of its indexes has. With a public one in addition to this index, anyone can
    publish a newer version of a private name there and get it installed ("dependency confusion"). No server can prevent
    that, so there is no second index by default.
    """
    lines = ["[global]", f"index-url = {login.index_url}"]
    if login.public_index:
        lines.append(f"extra-index-url = {login.public_index}")
    return "\n".join(lines) + "\n"


def uv_toml(login: Login) -> str:
    """Configuration of uv, with this index first: uv takes a project only from the first index that has it."""
    return (
        f"publish-url = {json.dumps(login.url)}\n"
        'trusted-publishing = "never"\n\n'
        "[[index]]\n"
        f'name = "{REPOSITORY}"\n'
        f"url = {json.dumps(login.index_url)}\n"
        f"publish-url = {json.dumps(login.url)}\n"
        'authenticate = "always"\n'
    )


def pypirc(login: Login) -> str:
    """The repository ``private`` for twine, whose parser does not interpolate ``%``."""
    lines = ["[distutils]", "index-servers =", f"    {REPOSITORY}", "", f"[{REPOSITORY}]", f"repository = {login.url}"]
    if login.username is not None and login.password is not None:
        lines += [f"username = {login.username}", f"password = {login.password.reveal()}"]
    return "\n".join(lines) + "\n"


def shell_script(login: Login) -> str:
    """Script that makes every pip, uv and twine in a shell use the index.

    It sets ``UV_INDEX`` rather than ``UV_CONFIG_FILE``, which would hide the ``[tool.uv]`` of every project. twine has
    no variable for its configuration file, so it alone gets the password from the environment.
    """
    files = {"PIP_CONFIG_FILE": "pip.conf"}
    needed = ["pip.conf", "uv.toml", ".pypirc"]
    variables = {
        "PIP_INDEX_URL": login.index_url,
        # One space is pip's only way to override the machine's other configuration files with nothing.
        "PIP_EXTRA_INDEX_URL": login.public_index or " ",
        "UV_INDEX": f"{REPOSITORY}={login.index_url}",
        "UV_PUBLISH_URL": login.url,
        "TWINE_REPOSITORY_URL": login.url,
    }
    credentials = netrc(login)
    if login.username is not None and login.password is not None:
        files["NETRC"] = "netrc"
        needed.append("netrc")
        variables |= {
            # uv reads the password from netrc, but without a name it first tries trusted publishing, for seconds.
            "UV_PUBLISH_USERNAME": login.username,
            "TWINE_USERNAME": login.username,
            "TWINE_PASSWORD": login.password.reveal(),
        }
    line = credentials.splitlines()[1] if credentials else ""
    return env_sh(files=files, variables=variables, needed=needed, netrc_line=line)


def _token(value: str) -> str:
    """Value in netrc: quoted only if necessary, because older readers do not understand quotes."""
    if value.isascii() and value.replace("-", "").replace("_", "").replace(".", "").isalnum():
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _require_sendable(what: str, value: str) -> None:
    """Refuse a value that one of the clients cannot send, without showing it."""
    problem = ""
    if not value.isprintable():
        problem = "it contains a line break, a tab or another invisible character"
    elif value != value.strip():
        problem = "it begins or ends with a space, which .pypirc does not keep"
    elif not _survives_latin_1(value):
        problem = "pip and twine send it in Latin-1, which lacks one of its characters or turns it into another"
    if problem:
        raise RunbookError(
            f"{what} cannot be used with every client",
            why=problem,
            todo="use only ASCII letters, digits and signs",
        )


def _survives_latin_1(value: str) -> bool:
    """True if a server that decodes UTF-8, or else Latin-1, reads this value from a client that sends Latin-1."""
    try:
        sent = value.encode("latin-1")
    except UnicodeEncodeError:
        return False
    try:
        return sent.decode("utf-8") == value
    except UnicodeDecodeError:
        return True


def _is(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content and stat.S_IMODE(path.stat().st_mode) == 0o600
    except OSError:
        return False
