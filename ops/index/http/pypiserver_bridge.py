"""pypiserver underneath, through its own extension points: its upload API decides, our publisher does.

Nothing of pypiserver is changed: a ``Backend``, a ``RunConfig`` that returns it, and an ``auther``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

import pypiserver
from pypiserver.backend import Backend, BackendProxy, IBackend
from pypiserver.bottle_wrapper import HTTPError, HTTPResponse, request
from pypiserver.config import Config, RunConfig
from pypiserver.core import PkgFile

from ops.index.config import Options
from ops.index.errors import NotFound, PackageIndexError, Unauthorized
from ops.index.packages.filenames import normalize, parse, same_version
from ops.index.packages.inspection import DeferredError
from ops.index.packages.models import File
from ops.index.packages.releases import Releases, Uploader
from ops.index.packages.repository import Repository
from ops.index.packages.staging import Staged
from ops.index.packages.uploads import Publisher

if TYPE_CHECKING:
    from ops.index.auth.authenticator import Authenticator

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

ADDRESS = "ops.index.address"
"""The key of the WSGI environment under which a layer in front may leave from where the request comes."""

DEFERRED = "ops.index.deferred"
"""The key under which is found why nothing was answered: the upload has to be inspected at length first."""

AUTHORIZATION = "ops.index.authorization"
"""The key under which it leaves the value of the Authorization header, if pypiserver is not to see the password."""

_CONFIRMED = "ops.index.identity"

_PLAIN = "text/plain; charset=utf-8"
_ERRORS = (400, 401, 403, 404, 405, 409, 413, 500)
_log = logging.getLogger(__name__)


def create_wsgi(
    publisher: Publisher, releases: Releases, repository: Repository, authenticator: Authenticator, options: Options
) -> WSGIApp:
    """Stock pypiserver's WSGI application, on our storage and users. Importing it takes a quarter of a second.

    Parameters:
        publisher: takes uploads.
        releases: takes removals.
        catalogue: knows the files.
        authenticator: knows the users.
        options: has the realm.
    """

    def auther(_username: str, _password: str) -> bool:
        # Asked after the body: who was removed or demoted while it arrived is not who came.
        try:
            request.environ[_CONFIRMED] = authenticator.confirm(_authorization(), _address())
        except PackageIndexError as error:
            raise _answer(error) from error
        return True

    def identify() -> Uploader:
        identity: Uploader | None = request.environ.get(_CONFIRMED)
        if identity is None:
            raise _answer(Unauthorized(realm=options.realm))
        return identity

    def plain(error: HTTPError) -> str:
        """One line for pip, uv and twine to show, instead of a page."""
        error.content_type = _PLAIN
        if error.status_code == 401:
            error.headers["WWW-Authenticate"] = Unauthorized(realm=options.realm).headers["WWW-Authenticate"]
        if error.status_code >= 500:
            _log.error("pypiserver failed", exc_info=error.exception)
            return "the index failed; try again, or ask its operator\n"
        return " ".join(str(error.body or error.status_line).split()) + "\n"

    class OurConfig(RunConfig):  # type: ignore[misc] # pypiserver has no types
        """pypiserver's configuration, except for where packages are."""

        def get_backend(self, arg: str) -> IBackend:  # noqa: ARG002 - there is only one
            """The backend that every request uses."""
            return BackendProxy(RepositoryBackend(self, publisher, releases, repository, identify))

    stock = Config.default_with_overrides(
        roots=[repository.directory],
        authenticate=["download", "list", "update"],
        password_file=None,
        disable_fallback=True,
        # Its own look whether a file exists would refuse the same bytes too, and comes too early to be true.
        overwrite=True,
        backend_arg="simple-dir",
        log_stream=None,
        # Formatted at each request otherwise, from everything that is known about it.
        log_req_frmt="request",
        log_res_frmt="response",
        log_err_frmt="error",
        welcome_msg="pypiserver",
    )
    app: Any = pypiserver.app_from_config(OurConfig(**{**dict(stock), "auther": auther}))
    for status in _ERRORS:
        app.error(status)(plain)
    wsgi: WSGIApp = app
    return wsgi


class RepositoryBackend(Backend):  # type: ignore[misc] # likewise
    """pypiserver's view of our catalogue.

    Parameters:
        config: pypiserver's.
        publisher: takes uploads.
        releases: takes removals.
        catalogue: knows the files.
        identify: who sends the current request.
    """

    def __init__(
        self,
        config: RunConfig,
        publisher: Publisher,
        releases: Releases,
        repository: Repository,
        identify: Callable[[], Uploader],
    ) -> None:
        super().__init__(config)
        self._publisher = publisher
        self._releases = releases
        self._repository = repository
        self._identify = identify

    def add_package(self, filename: str, stream: IO[bytes]) -> None:
        """Publish a distribution or a signature; the same bytes again are a success."""
        identity, address = self._identify(), _address()
        try:
            if filename.endswith(".asc"):
                self._publisher.publish_signature(filename, stream, identity=identity, address=address)
            else:
                form = _Form(request.forms)
                self._publisher.publish(
                    filename,
                    stream,
                    form=form,
                    identity=identity,
                    address=address,
                    deferring=isinstance(stream, Staged),
                )
        except DeferredError as deferred:
            request.environ[DEFERRED] = deferred
            raise HTTPResponse("", 503) from None
        except PackageIndexError as error:
            raise _answer(error) from error

    def remove_package(self, pkg: PkgFile) -> None:
        """Remove a file, if the user is an admin."""
        name = parse((pkg.relfn_unix or "").rpartition("/")[2])
        try:
            if name is None:
                raise NotFound("there is no such file here; the project's page below simple/ lists its files")
            self._releases.remove(name.project, filename=name.filename, identity=self._identify(), address=_address())
        except PackageIndexError as error:
            raise _answer(error) from error

    def exists(self, filename: str) -> bool:
        """Whether a file of this name is listed, in any folder."""
        name = parse(filename)
        found = None if name is None else self._repository.find(name)
        return found is not None and found.rpartition("/")[2] == filename

    def get_all_packages(self) -> Iterator[PkgFile]:
        """Every file."""
        for path in self._repository.paths():
            name = parse(path.rpartition("/")[2])
            if name is not None:
                yield self._package(name.project, name.version, path)

    def find_project_packages(self, project: str) -> Iterator[PkgFile]:
        """The files of one project, by its name in any spelling."""
        for file in self._files(project):
            yield self._package(file.project, file.version, file.path)

    def find_version(self, name: str, version: str) -> Iterator[PkgFile]:
        """The files of one release, both in any spelling; one of each name, as :meth:`remove_package` takes all."""
        found = {file.filename: file for file in self._files(name) if same_version(file.version, version)}
        for file in found.values():
            yield self._package(file.project, file.version, file.path)

    def get_projects(self) -> Iterable[str]:
        """The normalized names of all projects."""
        return self._repository.projects()

    def package_count(self) -> int:
        """How many files there are."""
        return len(self._repository)

    def digest(self, pkg: PkgFile) -> str | None:
        """The digest that was computed when the file came."""
        file = self._repository.file(pkg.relfn_unix or "")
        return None if file is None else f"sha256={file.sha256}"

    def _files(self, project: str) -> tuple[File, ...]:
        found = self._repository.project(normalize(project))
        return () if found is None else found.files

    def _package(self, project: str, version: str, path: str) -> PkgFile:
        root = str(self._repository.directory)
        return PkgFile(pkgname=project, version=version, fn=f"{root}/{path}", root=root, relfn=path)


class _Form(Mapping[str, str]):
    """The fields of the request's form."""

    def __init__(self, fields: Any) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        return str(self._fields[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def _address() -> str:
    environ = request.environ
    return str(environ.get(ADDRESS) or environ.get("REMOTE_ADDR") or "")


def _authorization() -> bytes:
    environ = request.environ
    given: bytes | None = environ.get(AUTHORIZATION)
    return str(environ.get("HTTP_AUTHORIZATION", "")).encode("latin-1") if given is None else given


def _answer(error: PackageIndexError) -> HTTPResponse:
    """The error as pypiserver's framework sends it."""
    status = error.status_for(request.headers.get("User-Agent", ""))
    return HTTPResponse(error.body, status, headers={"Content-Type": _PLAIN, **error.headers})
