"""The names that an index goes by, and the defaults of every setting.

Needs nothing but the standard library: the deployment imports it inside and outside the container.
"""

from __future__ import annotations

from dataclasses import dataclass

APP_NAME = "pypiserver"
"""The Modal app."""

PACKAGES_VOLUME = "pypiserver-data"
PACKAGES_PATH = "/data/packages"

CREDENTIALS_VOLUME = "pypiserver-credentials"
CREDENTIALS_PATH = "/credentials"

SECRET_NAME = "pypi-auth-token"  # noqa: S105 - the name of a secret, not its value
SECRET_KEY = "AUTH_TOKEN"  # noqa: S105 - likewise

SERVER_FUNCTION = "server"
ADMIN_FUNCTION = "register_user"

LOCAL_HOST = "127.0.0.1"
LOCAL_PORT = 8765
"""Tried first when no port was asked for; the next free one is taken when it is in use."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The names of one index. Two indexes beside each other differ in them or in their target.

    Every field has the default that the documentation uses.
    """

    app_name: str = APP_NAME
    packages_volume: str = PACKAGES_VOLUME
    credentials_volume: str = CREDENTIALS_VOLUME
    secret_name: str = SECRET_NAME
    secret_key: str = SECRET_KEY
