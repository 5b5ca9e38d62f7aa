"""The wheel of `make shim`: programs that require the distribution gevent are installed beside greenrust."""
import importlib.metadata
import subprocess
import sys

import gevent
import pytest
from implementation import IS_GREENRUST

pytestmark = pytest.mark.ours_only("it stands for the real gevent")


def test_requirement_is_met_by_a_distribution_without_modules():
    assert IS_GREENRUST
    distribution = importlib.metadata.distribution("gevent")
    assert distribution.version == gevent.__version__ + "+greenrust"
    assert distribution.requires[0] == "greenrust"
    assert all(".dist-info" in str(path) for path in distribution.files)
    assert {path.parts[0] for path in importlib.metadata.files("greenrust") if path.suffix == ".py"} == {"gevent"}


@pytest.mark.parametrize("name", ["locust", "gevent-websocket", "geventhttpclient", "gipc", "grequests", "zerorpc"])
def test_programs_that_require_gevent_are_installed_by_pip(name):
    requirements = importlib.metadata.requires(name)
    assert any(requirement.startswith("gevent") for requirement in requirements), requirements


def test_pip_finds_nothing_missing():
    completed = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
