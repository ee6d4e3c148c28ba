"""Parsing the file names of distributions."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packaging.utils import canonicalize_name
from pypiserver.pkg_helpers import guess_pkgname_and_version

from ops.index.packages.filenames import (
    can_be_listed,
    is_project,
    is_safe,
    normalize,
    parse,
    project_of,
    projects_of,
    same_version,
    version_key,
)

SUFFIXES = [".whl", ".tar.gz", ".zip", ".egg", ".tgz", ".tar.bz2", ".exe", ".asc", "-py3-none-any.whl", ""]
likely = st.builds(
    lambda pieces, suffix: "".join(pieces) + suffix,
    st.lists(
        st.sampled_from(
            [
                "foo",
                "Bar",
                "-",
                "_",
                ".",
                "1",
                "1.0",
                "2!",
                "+local",
                "rc1",
                "post",
                "py3",
                "none",
                "any",
                "x86_64",
                "-1",
            ]
        ),
        max_size=9,
    ),
    st.sampled_from(SUFFIXES),
)
filenames = likely | st.text(max_size=40)


@pytest.mark.parametrize(
    ("filename", "project", "version", "form"),
    [
        ("foo-1.0-py3-none-any.whl", "foo", "1.0", "wheel"),
        ("Foo_Bar.Baz-1.0-py3-none-any.whl", "foo-bar-baz", "1.0", "wheel"),
        ("foo-1!2.0+local.1-1x-cp311-abi3-manylinux_2_17_x86_64.whl", "foo", "1!2.0+local.1", "wheel"),
        ("foo-1.0.post1.dev2-cp310.cp311-none-any.whl", "foo", "1.0.post1.dev2", "wheel"),
        ("foo_bar-1.0.tar.gz", "foo-bar", "1.0", "sdist"),
        ("foo-bar-1.0rc1.tar.gz", "foo-bar", "1.0rc1", "sdist"),
        ("foo-1.0-1.tar.gz", "foo", "1.0.post1", "sdist"),
        ("foo-2to3-1.0.zip", "foo-2to3", "1.0", "sdist"),
        ("foo-1.0.tar.bz2", "foo", "1.0", "sdist"),
        ("foo-1.0-py3.8.egg", "foo", "1.0", "egg"),
        ("foo-1.0.win32-py2.7.exe", "foo", "1.0", "other"),
        ("foo-1.0.linux-x86_64.tar.gz", "foo", "1.0", "other"),
        ("foo__bar-1.0-py3-none-any.whl", "foo-bar", "1.0", "other"),
        ("foo-not.a.version.tar.gz", "foo", "not.a.version", "other"),
    ],
)
def test_a_file_name_gives_project_version_and_form(filename: str, project: str, version: str, form: str) -> None:
    name = parse(filename)
    assert name is not None
    assert (name.project, name.version, name.form) == (project, version, form)


@pytest.mark.parametrize(
    "filename", ["", "README.md", "foo-1.0.tar.gz.asc", ".foo-1.0.tar.gz", "foo-1.0 (1).tar.gz", "a/b-1.0.zip", "x.whl"]
)
def test_other_files_are_not_distributions(filename: str) -> None:
    assert parse(filename) is None
    assert project_of(filename) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Foo.Bar-1.0.tar.gz", "foo_bar-1.0.tar.gz"),
        ("foo-bar-1.0.0.tar.gz", "foo_bar-1.tar.gz"),
        ("foo-1.0-cp310.cp311-none-any.whl", "FOO-1.0.0-cp311.cp310-none-any.whl"),
        ("foo-1.0-1.tar.gz", "foo-1.0.post1.tar.gz"),
        ("foo-1.0_RC.1-py3-none-any.whl", "foo-1.0rc1-py3-none-any.whl"),
    ],
)
def test_two_spellings_of_one_name_have_one_key(one: str, other: str) -> None:
    assert parse(one) is not None
    assert parse(one).key == parse(other).key  # type: ignore[union-attr] # checked above


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("foo-1.0.tar.gz", "foo-1.0.zip"),
        ("foo-1.0.tar.gz", "foo-1.0.1.tar.gz"),
        ("foo-1.0-py3-none-any.whl", "foo-1.0-1-py3-none-any.whl"),
        ("foo-1.0-py3-none-any.whl", "foo-1.0-py2.py3-none-any.whl"),
        ("foo-1.0.tar.gz", "foo-1.0+local.tar.gz"),
        ("foo-bar-1.0.tar.gz", "foobar-1.0.tar.gz"),
    ],
)
def test_different_files_have_different_keys(one: str, other: str) -> None:
    assert parse(one).key != parse(other).key  # type: ignore[union-attr] # both are names


@settings(max_examples=1500, deadline=None)
@given(filename=filenames)
@example("foo-1.0-py3-none-any.whl")
@example("foo-5.tar.gz")
@example("foo-bar.x-5.tar.gz")
@example("_foo-5-py3-none-any.whl")
@example("foo+bar!-5.tar.gz")
@example("_.zip")
@example("a" * 250 + ".zip")
def test_the_fast_parser_agrees_with_the_full_one(filename: str) -> None:
    name = parse(filename)
    assert project_of(filename) == (None if name is None else name.project)
    if name is not None:
        assert name.project == normalize(name.project)
        assert can_be_listed(name.project), "otherwise its page could not be requested"


@given(st.lists(filenames | st.just("a\nfoo-1.0-py3-none-any.whl"), max_size=5))
@example(["Foo._Bar-1.0-py3-none-any.whl", "foo-bar-1.0.tar.gz", "foo-1.0-py3-none-any.whl\n"])
@example(["foo-1.0-py3-none-any.whl\r", "\n", ""])
@example([])
def test_parsing_many_file_names_at_once_gives_the_same_projects(filenames: list[str]) -> None:
    assert projects_of(filenames) == [project_of(filename) for filename in filenames]


@settings(max_examples=1500, deadline=None)
@given(filename=filenames)
def test_everything_that_pypiserver_lists_is_listed(filename: str) -> None:
    """Among names that pypiserver accepts: only safe characters, and not hidden."""
    guess = guess_pkgname_and_version(filename)
    listed = guess is not None and bool(guess[0]) and is_safe(filename) and not filename.endswith(".asc")
    assert (parse(filename) is not None) == listed


@given(name=st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True))
def test_normalization_agrees_with_packaging(name: str) -> None:
    assert is_project(name)
    assert can_be_listed(name)
    assert normalize(name) == canonicalize_name(name)


@given(name=st.text(max_size=30))
def test_a_safe_name_is_one_plain_path_component(name: str) -> None:
    if is_safe(name):
        assert name
        assert name.isascii()
        assert name.isprintable()
        assert not name.startswith(".")
        assert not set(name) & set("/\\\0 %?#&<>\"'")


def test_a_too_long_name_is_not_safe() -> None:
    assert is_safe("a" * 240)
    assert not is_safe("a" * 241)


def test_versions_are_sorted_and_compared_as_versions() -> None:
    versions = ["1.10", "1.9", "1.9rc1", "1.9.post1", "1!0.1", "unknown", "1.9.dev1", "1.9+local"]
    assert sorted(versions, key=version_key) == [
        "unknown", "1.9.dev1", "1.9rc1", "1.9", "1.9+local", "1.9.post1", "1.10", "1!0.1",
    ]  # fmt: skip
    assert same_version("1.0", "1.0.0")
    assert not same_version("1.0", "1.0.1")
    assert same_version("odd", "odd")


def test_ten_thousand_names_are_parsed_quickly() -> None:
    """Grouping them is a part of every start. The bound is generous; the figure is about 15 ms."""
    names = [f"some-project{n % 100}-1.{n}.0.tar.gz" for n in range(5000)]
    names += [f"some_project{n % 100}-1.{n}-cp312-cp312-manylinux_2_17_x86_64.whl" for n in range(5000)]
    began = time.process_time()
    assert all(project_of(name) is not None for name in names)
    assert time.process_time() - began < 1


def test_a_too_long_version_or_name_is_invalid_and_costs_nothing() -> None:
    """Python cannot read numbers of more than 4,300 digits: a request that names one must not fail."""
    digits = "9" * 5000
    assert not same_version(digits, "1.0")
    assert same_version(digits, digits)
    assert version_key(digits) == (False, digits)
    for filename in (f"foo-{digits}.tar.gz", f"foo-{digits}-py3-none-any.whl", f"foo-1.0-{digits}-py3-none-any.whl"):
        assert parse(filename) is None
        assert project_of(filename) is None
