"""Finding a tritonserver, and saying what is missing."""

import importlib.util
import os
from pathlib import Path

import pytest

from launcher import triton_install
from launcher.errors import StartError


@pytest.fixture
def no_triton_on_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_one_that_was_named_is_used(tmp_path):
    named = program(tmp_path / "my-triton", "exit 0")
    assert triton_install.find(named).binary == named
    with pytest.raises(StartError, match=r"nope is not a program"):
        triton_install.find(tmp_path / "nope")


def test_one_on_path_comes_before_the_package(monkeypatch, tmp_path):
    binary = program(tmp_path / "tritonserver", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert triton_install.find(None) == triton_install.Installation(binary)


@pytest.mark.usefixtures("no_triton_on_path")
def test_the_packages_server_gets_links_and_libraries():
    found = triton_install.find(None)
    assert found.binary.name == "tritonserver"
    assert found.stub.resolve().name == triton_install.STUB
    assert (found.stub.parent / "libtriton_python.so").exists()
    assert (
        found.environment["LD_LIBRARY_PATH"].split(os.pathsep)[0].endswith("nvidia_pytriton.libs")
    )
    assert triton_install.find(None) == found  # links that exist are left as they are
    triton_install.check(found)


@pytest.mark.usefixtures("no_triton_on_path")
def test_no_server_at_all_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StartError, match="pip install 'mig-gateway\\[process\\]'"):
        triton_install.find(None)


@pytest.mark.usefixtures("no_triton_on_path")
def test_numpy_2_is_refused_before_every_inference_fails(monkeypatch):
    monkeypatch.setattr(triton_install.importlib.metadata, "version", lambda name: "2.1.0")
    with pytest.raises(StartError, match=r"numpy 2.1.0 is too new"):
        triton_install.find(None)


def test_a_missing_libpython_says_which_package_has_it(monkeypatch, tmp_path):
    monkeypatch.setattr(triton_install, "_loaded_library", lambda name: None)
    monkeypatch.setattr(
        triton_install.sysconfig,
        "get_config_var",
        lambda name: "libpython9.9.so.1.0" if name == "INSTSONAME" else str(tmp_path),
    )
    with pytest.raises(StartError, match=r"libpython9\.9\.so\.1\.0 is missing.*install libpython"):
        triton_install.find_libpython()


def test_a_stub_that_does_not_run_is_told(tmp_path):
    words = "stub: error while loading shared libraries: libpython3.12.so.1.0"
    stub = program(tmp_path / "stub", f"echo '{words}' >&2; exit 127")
    with pytest.raises(StartError, match=r"cannot run here: stub: error while loading"):
        triton_install.check(triton_install.Installation(tmp_path / "x", stub=stub))
