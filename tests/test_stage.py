"""pipeline.stage: how a stage ends, and that only a stage's process goes without a garbage collector."""

import subprocess
import sys

import pytest

from tests.repository import ROOT

MISTAKE = "raise UserError(Problem('wrong', 'key', 'mend it'))"


@pytest.mark.parametrize(
    ("body", "code", "out", "err"),
    [("print('done')", 0, "done\nname: ", ""), (MISTAKE, 1, "", "error: wrong"), ("1 / 0", 1, "", "ZeroDivisionError")],
)
def test_what_was_said_is_seen_and_the_exit_code_tells(body: str, code: int, out: str, err: str) -> None:
    """Also through pipes, which Python flushes late; time and memory are reported of a stage that came to its end."""
    script = f"from pipeline import stage\nfrom pipeline.errors import *\ndef main(): {body}\nstage.run('name', main)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code
    assert done.stdout.startswith(out)
    assert bool(done.stdout) == bool(out)
    assert err in done.stderr


def test_the_collector_stays_on_where_pipeline_is_a_library() -> None:
    """It is off behind `python -m pipeline.NAME` alone."""
    code = "import gc, pipeline; print(gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "True\n"
