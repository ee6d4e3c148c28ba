"""The admin token that an operator has chosen, before it is stored."""

from __future__ import annotations

from ops.errors import SettingError
from ops.secret import Secret


def check_admin_token(token: Secret, variable: str) -> None:
    """Refuse a token that the server would refuse at its start.

    Parameters:
        token: as it was given.
        variable: where it was given.

    Raises:
        SettingError: it could be guessed, or never be sent.
    """
    from ops.index.startup import MAKE_TOKEN_HINT, token_problem  # brings the whole index with it

    problem = token_problem(token.reveal())
    if problem is not None:
        raise SettingError(
            f"the admin token that is given in {variable} cannot be used",
            why=f"it {problem}",
            todo=f"unset {variable}, so that one is generated, or {MAKE_TOKEN_HINT}",
        )
