#!/usr/bin/env python3
"""Build a wheel named gevent that holds no module and requires greenrust.

Usage: build_shim.py FOLDER     prints the path of the wheel

pip knows distributions by name: `pip install locust` fetches the distribution gevent though greenrust is installed, and
the two would overwrite each other's files. With this wheel the requirement is met, by a version that says what
it stands for. Equal sources give equal bytes.
"""
import base64
import hashlib
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The extras of the real gevent that have a counterpart.
EXTRAS = ["dnspython", "monitor", "recommended"]


def gevent_version() -> str:
    """Return the version of gevent that the package follows."""
    for line in (ROOT / "python/gevent/__init__.py").read_text(encoding="utf-8").splitlines():
        if line.startswith("__version__ = "):
            return line.split('"')[1]
    raise SystemExit("python/gevent/__init__.py has no __version__")


def metadata(version: str) -> str:
    """Return the content of METADATA."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        "Metadata-Version: 2.1",
        "Name: gevent",
        f"Version: {version}",
        "Summary: Stands for gevent where greenrust is installed in its place; holds no module",
        f"Requires-Python: {project['requires-python']}",
        "Requires-Dist: greenrust",
    ]
    for extra in EXTRAS:
        lines += [f"Provides-Extra: {extra}", f'Requires-Dist: greenrust[{extra}]; extra == "{extra}"']
    return "\n".join(lines) + "\n"


def record_line(name: str, content: bytes) -> str:
    """Return a file's line of RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


def build(folder: Path) -> Path:
    """Write the wheel into *folder* and return its path."""
    version = gevent_version() + "+greenrust"
    info = f"gevent-{version}.dist-info"
    files = {
        f"{info}/METADATA": metadata(version),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: build_shim.py\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(record_line(name, text.encode()) for name, text in files.items())
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"gevent-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, text in files.items():
            wheel.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print(build(Path(sys.argv[1])))
