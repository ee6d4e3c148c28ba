"""Shell script that makes pip, uv and twine use the index: ``env.sh``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

FOLDER_VARIABLE = "INDEX_FOLDER"
"""Variable with the folder, for shells that do not know which file they are reading."""

_CLEARED = (
    # Each would take precedence over the files, or send a package or a credential elsewhere.
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"),
    *("UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX_STRATEGY", "UV_NO_INDEX"),
    *("UV_INDEX_PRIVATE_USERNAME", "UV_INDEX_PRIVATE_PASSWORD"),
    *("UV_PUBLISH_INDEX", "UV_PUBLISH_TOKEN", "UV_PUBLISH_PASSWORD", "UV_PUBLISH_CHECK_URL"),
    "TWINE_REPOSITORY",
    # Variables set by this script before, including user name and password.
    *("NETRC", "PIP_CONFIG_FILE", "UV_INDEX", "UV_PUBLISH_URL", "UV_PUBLISH_USERNAME"),
    *("TWINE_REPOSITORY_URL", "TWINE_USERNAME", "TWINE_PASSWORD"),
)

_TEMPLATE = """\
# Lets pip, uv and twine use the index in the shell that reads this file:  . /path/to/this/folder/env.sh
# bash and zsh find the folder themselves. In any other shell, first set:  {variable}=/path/to/this/folder
# If anything is missing, nothing is set. A shell that has read this file keeps the values until it reads it again.
unset {cleared}
_index_file=
_index_wrong=
if [ -n "${{BASH_VERSION-}}" ]; then
    _index_file=${{BASH_SOURCE-}}
    (return 0) 2>/dev/null || _index_wrong='it was run, but the shell itself must read it:  . /path/to/env.sh'
elif [ -n "${{ZSH_VERSION-}}" ]; then
    eval 'zmodload zsh/parameter && _index_file="${{${{funcsourcetrace[@]:0:1}}%:*}}"'
elif [ -n "${{{variable}-}}" ]; then
    _index_file=${variable}/env.sh
fi
unset {variable}
if [ -z "$_index_wrong" ] && [ ! -f "$_index_file" ]; then
    _index_wrong='this shell does not know where the file is; first set:  {variable}=/path/to/its/folder'
fi
case $_index_file in
    /*) _index_folder=${{_index_file%/*}} ;;
    */*) _index_folder=$PWD/${{_index_file%/*}} ;;
    *) _index_folder=$PWD ;;
esac
for _index_name in {names}; do
    if [ -z "$_index_wrong" ] && ! {{ [ -f "$_index_folder/$_index_name" ] && [ -r "$_index_folder/$_index_name" ] &&
        [ -s "$_index_folder/$_index_name" ]; }}; then
        _index_wrong="$_index_folder/$_index_name is missing, empty or unreadable; get a new copy of the folder"
    fi
done
{check}if [ -z "$_index_wrong" ]; then
{exports}    unset _index_file _index_folder _index_name _index_line _index_wrong
else
    printf 'env.sh: nothing was set, and pip and uv would ask the public index: %s.\\n' "$_index_wrong" >&2
    unset _index_file _index_folder _index_name _index_line _index_wrong
    false
fi
"""

_CHECK = """\
if [ -z "$_index_wrong" ]; then
    _index_line=
    {{ IFS= read -r _index_line && IFS= read -r _index_line; }} <"$_index_folder/netrc" || _index_line=
    [ "$_index_line" = {line} ] || _index_wrong="$_index_folder/netrc is another user's; set the folder of this file"
fi
"""


def env_sh(
    *, files: Mapping[str, str], variables: Mapping[str, str], needed: Sequence[str], netrc_line: str = ""
) -> str:
    """Script for bash, zsh and POSIX shells. It sets all variables, or none if a file is missing.

    It finds its own folder, which may be moved. If the file in ``PIP_CONFIG_FILE`` does not exist, pip silently uses
    the public index: so the script checks for it, and also sets the index by a variable.

    Parameters:
        files: variables that name a file in the folder, with the file's name.
        variables: other variables, with their values.
        needed: names of all files that must exist and not be empty.
        netrc_line: the second line of the file ``netrc``, which identifies the user; empty if there is no such file.
    """
    exports = "".join(f'    export {name}="$_index_folder/{file}"\n' for name, file in files.items())
    exports += "".join(f"    export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    return _TEMPLATE.format(
        variable=FOLDER_VARIABLE,
        cleared=" ".join(_CLEARED),
        names=" ".join(needed),
        check=_CHECK.format(line=shlex.quote(netrc_line)) if netrc_line else "",
        exports=exports,
    )
