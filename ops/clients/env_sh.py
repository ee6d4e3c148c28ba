"""The file that a shell reads so that pip, uv and twine use the index: ``env.sh``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

FOLDER_VARIABLE = "INDEX_FOLDER"
"""Names the folder to a shell that cannot tell which file it reads."""

_CLEARED = (
    # Each would win over the files, or send a package or a credential elsewhere.
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"),
    *("UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX_STRATEGY", "UV_NO_INDEX"),
    *("UV_INDEX_PRIVATE_USERNAME", "UV_INDEX_PRIVATE_PASSWORD"),
    *("UV_PUBLISH_INDEX", "UV_PUBLISH_TOKEN", "UV_PUBLISH_PASSWORD", "UV_PUBLISH_CHECK_URL"),
    "TWINE_REPOSITORY",
    # What an earlier reading of this file set, its user's name and password among it.
    *("NETRC", "PIP_CONFIG_FILE", "UV_INDEX", "UV_PUBLISH_URL", "UV_PUBLISH_USERNAME"),
    *("TWINE_REPOSITORY_URL", "TWINE_USERNAME", "TWINE_PASSWORD"),
)

_TEMPLATE = """\
# Lets pip, uv and twine use the index in the shell that reads this file:  . /path/to/this/folder/env.sh
# bash and zsh find the folder themselves. Tell any other shell first:  {variable}=/path/to/this/folder
# Where anything is missing nothing is set. A shell that has read this keeps what it read until it reads it again.
unset {cleared}
_index_file=
_index_wrong=
if [ -n "${{BASH_VERSION-}}" ]; then
    _index_file=${{BASH_SOURCE-}}
    (return 0) 2>/dev/null || _index_wrong='it was run, and has to be read by the shell itself:  . /path/to/env.sh'
elif [ -n "${{ZSH_VERSION-}}" ]; then
    eval 'zmodload zsh/parameter && _index_file="${{${{funcsourcetrace[@]:0:1}}%:*}}"'
elif [ -n "${{{variable}-}}" ]; then
    _index_file=${variable}/env.sh
fi
unset {variable}
if [ -z "$_index_wrong" ] && [ ! -f "$_index_file" ]; then
    _index_wrong='this shell cannot tell where the file lies; say so first:  {variable}=/path/to/its/folder'
fi
case $_index_file in
    /*) _index_folder=${{_index_file%/*}} ;;
    */*) _index_folder=$PWD/${{_index_file%/*}} ;;
    *) _index_folder=$PWD ;;
esac
for _index_name in {names}; do
    if [ -z "$_index_wrong" ] && ! {{ [ -f "$_index_folder/$_index_name" ] && [ -r "$_index_folder/$_index_name" ] &&
        [ -s "$_index_folder/$_index_name" ]; }}; then
        _index_wrong="$_index_folder/$_index_name is missing, empty or not readable; get the folder anew"
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
    [ "$_index_line" = {line} ] || _index_wrong="$_index_folder/netrc is of another user; give the folder of this file"
fi
"""


def env_sh(
    *, files: Mapping[str, str], variables: Mapping[str, str], needed: Sequence[str], netrc_line: str = ""
) -> str:
    """A script for bash, zsh and POSIX shells that sets variables where all that they name is there, and else none.

    It finds its own folder, so that it works wherever that lies. pip goes to the public index in silence where the file
    does not exist that ``PIP_CONFIG_FILE`` names: hence it is looked for, and the index is told by a variable besides.

    Parameters:
        files: the variables that name a file of the folder, with the file's name.
        variables: the other variables, with their values.
        needed: the names of all files that must be there and not empty.
        netrc_line: the second line of the file ``netrc``, which tells this user's folder from another's; empty when
            there is no such file.
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
