"""Commands on a target: status, history, rollback and stop, and the tokens of its users."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from ops.errors import ParameterError

if TYPE_CHECKING:
    from ops.targets import Target


def opened(options: argparse.Namespace) -> Target:
    """The target named by the options."""
    from ops.targets import open_target

    target = options.target or "local"
    if target == "local" and options.environment:
        raise ParameterError(
            "the local target has no environments",
            why=f"--environment {options.environment} was given without --target modal",
            todo=f"add: --target modal --environment {options.environment}",
        )
    return open_target(target, environment=options.environment)


def show_status(options: argparse.Namespace) -> int:
    """Show what runs, where, and for whom."""
    from ops.status import installation, status, status_json
    from ops.targets import known_places

    if options.json:
        named = [(options.target, options.environment)] if options.target else known_places()
        print(json.dumps([status_json(*place) for place in named], indent=2, ensure_ascii=False))
        return 0
    target = opened(options)
    print(installation() if target.name == "local" else status(target))
    return 0


def show_history(options: argparse.Namespace) -> int:
    """List the deployments."""
    from ops.rollback import current, history

    print(current(opened(options)) if options.current else history(opened(options)))
    return 0


def rollback(options: argparse.Namespace) -> int:
    """Deploy an earlier version, and verify that it works."""
    from ops import provision, rollback

    target = opened(options)
    print(rollback.roll_back(target, version=options.to))
    print(f"\n{provision.verify(target)}")
    return 0


def stop(options: argparse.Namespace) -> int:
    """Stop the local index."""
    del options
    from ops.targets import open_target

    target = open_target("local")
    with target.lock():
        stopped = target.stop()
    print("The index was stopped; its data stays." if stopped else "No index is running on this machine.")
    return 0


def create_token(options: argparse.Namespace) -> int:
    """Create a token into a file or the target's secret store."""
    from ops import user_tokens

    request = user_tokens.TokenRequest(
        owner=options.owner, role=options.role, projects=tuple(options.project), days=options.days, label=options.label
    )
    print(user_tokens.create(opened(options), request, path=options.out, secret=options.secret))
    return 0


def list_tokens(options: argparse.Namespace) -> int:
    """List the tokens."""
    from ops import user_tokens

    print(user_tokens.tokens(opened(options), options.owner))
    return 0


def revoke_token(options: argparse.Namespace) -> int:
    """Revoke a token."""
    from ops import user_tokens

    print(user_tokens.revoke(opened(options), options.id))
    return 0
