"""What the binding refuses to run on: found out by the C shim, before any of CPython's structures is touched."""
import ctypes
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SHIM = Path(__file__).parent.parent / "crates" / "greenrust-python" / "src" / "thread_state" / "shim.c"


@pytest.mark.ours_only("it compiles a file of ours")
@pytest.mark.parametrize(
    ("definitions", "reason"),
    [
        ((), None),
        pytest.param(
            ("-DPy_GIL_DISABLED=1",),
            b"free-threaded builds of CPython are not supported yet: use the ordinary build",
            marks=pytest.mark.skipif(sys.version_info < (3, 13), reason="there is no such build before 3.13"),
        ),
    ],
    ids=["ordinary", "free-threaded"],
)
def test_shim_names_why_an_interpreter_is_refused(tmp_path, definitions, reason):
    # The headers of both builds are the same files, and this macro tells them apart. Only the function called below is
    # linked: the others name what the other build's interpreter has.
    library = tmp_path / "shim.so"
    exported = tmp_path / "exported"
    exported.write_text("{ global: greenrust_unsupported; local: *; };")
    link = ["-ffunction-sections", "-Wl,--gc-sections", f"-Wl,--version-script={exported}"]
    compiler = shlex.split(os.environ.get("CC", "cc"))
    include = sysconfig.get_path("include")
    options = ["-shared", "-fPIC", *link, f"-I{include}", *definitions]
    subprocess.run([*compiler, *options, SHIM, "-o", library], check=True)
    unsupported = ctypes.CDLL(str(library)).greenrust_unsupported
    unsupported.restype = ctypes.c_char_p
    assert unsupported() == reason
