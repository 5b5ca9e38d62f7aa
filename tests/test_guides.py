"""The guides in docs/ promise what their programs print."""
import re
from pathlib import Path

import pytest
from implementation import run_script

pytestmark = pytest.mark.ours_only("the guides describe what the real gevent does not have")

ROOT = Path(__file__).resolve().parent.parent
GUIDES = (
    "docs/asyncio.md", "docs/dns.md", "docs/monitoring.md", "docs/patching.md", "docs/pywsgi.md", "docs/taskgroup.md",
    "docs/websocket.md",
)

PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTS = re.compile(r"# prints: (.*)$", re.MULTILINE)


def programs():
    for guide in GUIDES:
        for number, source in enumerate(PROGRAM.findall((ROOT / guide).read_text(encoding="utf-8")), 1):
            yield pytest.param(source, id=f"{Path(guide).stem}-{number}")


@pytest.mark.parametrize("source", list(programs()))
def test_program_of_a_guide_prints_what_it_says(source):
    completed = run_script(source)
    assert completed.stdout.splitlines() == PRINTS.findall(source)
    assert completed.stderr == ""
