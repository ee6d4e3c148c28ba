"""Commands on tokens: create, list and revoke."""

from __future__ import annotations

import argparse


def create(options: argparse.Namespace) -> int:
    """Create a token into a file or the target's secret store."""
    from ops import user_tokens
    from ops.cli.targets import opened

    request = user_tokens.TokenRequest(
        owner=options.owner, role=options.role, projects=tuple(options.project), days=options.days, label=options.label
    )
    print(user_tokens.create(opened(options), request, path=options.out, secret=options.secret))
    return 0


def tokens(options: argparse.Namespace) -> int:
    """List the tokens."""
    from ops import user_tokens
    from ops.cli.targets import opened

    print(user_tokens.tokens(opened(options), options.owner))
    return 0


def revoke(options: argparse.Namespace) -> int:
    """Revoke a token."""
    from ops import user_tokens
    from ops.cli.targets import opened

    print(user_tokens.revoke(opened(options), options.id))
    return 0
