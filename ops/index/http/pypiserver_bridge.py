"""Bridge to pypiserver, through its public interfaces: it interprets an upload, our publisher performs it.

pypiserver decides by ``:action`` what is requested, which file belongs to which signature and whether their names
are package names, and calls its ``Backend`` with the result. It neither parses the body, which is done on arrival,
nor asks for credentials, which were verified before. Importing this module takes a quarter of a second.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

import packaging.metadata  # noqa: F401 - imported here, so that the first upload does not wait for it
import pypiserver
from pypiserver.backend import Backend, IBackend
from pypiserver.bottle_wrapper import Bottle, FileUpload, HTTPError, request
from pypiserver.config import Config, RunConfig
from pypiserver.core import PkgFile

from ops.index.errors import BadRequest, NotFound, PackageIndexError
from ops.index.http.upload_form import UploadForm
from ops.index.packages.filenames import normalize, parse, same_version
from ops.index.packages.inspector import DeferredError
from ops.index.packages.releases import Releases, Uploader
from ops.index.packages.repository import Repository
from ops.index.packages.staged import Staged
from ops.index.packages.uploads import Publisher

_UPLOAD: Final = "ops.index.upload"
"""Key of the current upload in the WSGI environment (PEP 3333 leaves such keys to servers)."""

_READ: Final = frozenset({":action", "name", "version"})
"""Fields that pypiserver reads; bottle would copy each field three times."""

_logger = logging.getLogger(__name__)


class _Upload(NamedTuple):
    form: UploadForm
    identity: Uploader
    address: str


class Pypiserver:
    """Stock pypiserver on our storage.

    Parameters:
        publisher: performs uploads.
        releases: performs removals.
        repository: has the files.
    """

    def __init__(self, publisher: Publisher, releases: Releases, repository: Repository) -> None:
        class OurConfig(RunConfig):  # type: ignore[misc] # pypiserver has no types
            """pypiserver's configuration with another backend."""

            def get_backend(self, arg: str) -> IBackend:  # noqa: ARG002 - there is only one
                """The backend of every request."""
                return RepositoryBackend(self, publisher, releases, repository)

        stock = Config.default_with_overrides(
            roots=[repository.directory],
            authenticate=[],
            password_file=".",  # noqa: S106 - none
            disable_fallback=True,
            # Its own check for existing files would refuse identical bytes too, and comes too early to be reliable.
            overwrite=True,
            backend_arg="simple-dir",
            log_stream=None,
            # Otherwise formatted for each request, with all its details.
            log_req_frmt="request",
            log_res_frmt="response",
            log_err_frmt="error",
            welcome_msg="pypiserver",
        )
        self._app: Bottle = pypiserver.app_from_config(OurConfig(**dict(stock)))
        self._app.catchall = False  # let the publisher's exceptions through
        self._app.add_hook("before_request", _add_form)
        for status in (400, 404):
            self._app.error(status)(_sentence)

    def handle(self, form: UploadForm, identity: Uploader, address: str) -> None:
        """Perform the action of a form.

        Parameters:
            form: complete.
            identity: of the user who sends it.
            address: of the client, for the audit log.

        Raises:
            DeferredError: its file has to be inspected at length first.
            PackageIndexError: it is refused.
        """
        if (":action", "doc_upload") in form.fields:
            # pypiserver would report success and drop it.
            raise BadRequest("this index stores only wheels and sdists, not documentation; host that elsewhere")
        environ = {
            "REQUEST_METHOD": "POST",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_TYPE": "" if form.multipart else form.content_type,
            "CONTENT_LENGTH": str(len(form.plain)),
            "wsgi.input": io.BytesIO(form.plain),
            "wsgi.errors": sys.stderr,
            "wsgi.url_scheme": "http",
            _UPLOAD: _Upload(form, identity, address),
        }
        status = 500

        def start_response(line: str, _headers: object, _error: object = None) -> None:
            nonlocal status
            status = int(line[:3])

        try:
            text = b"".join(self._app(environ, start_response)).decode("utf-8", "replace")
        except (PackageIndexError, DeferredError):
            raise
        except Exception as error:
            _logger.exception("an upload failed")
            raise PackageIndexError("the index failed; try again, or ask its operator") from error
        if status == 404:
            raise NotFound(text)
        if status != 200:
            raise BadRequest(text)


class RepositoryBackend(Backend):  # type: ignore[misc] # likewise
    """pypiserver's view of the repository.

    Parameters:
        config: pypiserver's.
        publisher: performs uploads.
        releases: performs removals.
        repository: has the files.
    """

    def __init__(self, config: RunConfig, publisher: Publisher, releases: Releases, repository: Repository) -> None:
        super().__init__(config)
        self._publisher = publisher
        self._releases = releases
        self._repository = repository

    def add_package(self, filename: str, stream: Staged) -> None:
        """Publish a distribution or a signature; identical bytes succeed again."""
        form, identity, address = _current()
        if filename.endswith(".asc"):
            self._publisher.publish_signature(stream, identity=identity, address=address)
        else:
            self._publisher.publish(stream, form=dict(form.fields), identity=identity, address=address)

    def remove_package(self, pkg: PkgFile) -> None:
        """Remove a file, if the user is an admin."""
        _, identity, address = _current()
        filename = pkg.relfn_unix.rpartition("/")[2]
        self._releases.remove(pkg.pkgname, filename=filename, identity=identity, address=address)

    def find_version(self, name: str, version: str) -> Iterator[PkgFile]:
        """The files of one release, in any spelling; one per name, because :meth:`remove_package` removes all."""
        project = self._repository.project(normalize(name))
        files = () if project is None else project.files
        found = {file.filename: file.path for file in files if same_version(file.version, version)}
        for path in found.values():
            yield self._package(path)

    def get_all_packages(self) -> Iterator[PkgFile]:
        """Every file."""
        return map(self._package, self._repository.paths())

    def exists(self, filename: str) -> bool:
        """True if a file of this name is listed, in any folder."""
        name = parse(filename)
        found = None if name is None else self._repository.find(name)
        return found is not None and found.rpartition("/")[2] == filename

    def _package(self, path: str) -> PkgFile:
        name = parse(path.rpartition("/")[2])
        assert name is not None  # noqa: S101 - the repository has no other
        root = str(self._repository.directory)
        return PkgFile(pkgname=name.project, version=name.version, fn=f"{root}/{path}", root=root, relfn=path)


def _current() -> _Upload:
    upload: _Upload = request.environ[_UPLOAD]
    return upload


def _add_form() -> None:
    """Add the form, which was parsed as it arrived, to pypiserver's request."""
    form, post = _current().form, request.POST
    for name, value in form.fields:
        if name in _READ:
            post[name] = value
    for name, staged in form.files:
        post[name] = FileUpload(staged, name, staged.filename)


def _sentence(error: HTTPError) -> str:
    """The refusal as one line, instead of a page."""
    return " ".join(str(error.body or error.status_line).split())
