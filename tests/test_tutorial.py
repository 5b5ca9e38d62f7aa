"""The six programs of the tutorial do what the tutorial says, each in a process of its own."""
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.mark.timeout(120)
def test_demonstration_of_the_six_programs_passes():
    completed = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "demo.py")], capture_output=True, text=True, timeout=110
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
