"""A repository whose stages are done at once, for tests of what builds points and not of what a point is."""

import subprocess
import sys
from pathlib import Path

from tests.support import repository

# Stages of the same names that are done at once.
DVC_YAML = """\
stages:
  verify:
    foreach: ${points}
    do:
      cmd: python stage.py ${key} accuracy.json
      deps:
        - stage.py
      outs:
        - artifacts/${key}/accuracy.json:
            cache: false
  bench:
    foreach: ${points}
    do:
      cmd: python stage.py ${key} bench.json
      deps:
        - artifacts/${key}/accuracy.json
      outs:
        - artifacts/${key}/bench.json:
            cache: false
"""
# What they run: it writes the report, and which python ran it; the point called bad fails.
STAGE = """\
import json, pathlib, sys
point, file = sys.argv[1:]
folder = pathlib.Path("artifacts", point)
folder.mkdir(parents=True, exist_ok=True)
if point == "bad":
    sys.exit("error: the point called bad fails")
(folder / "python").write_text(sys.executable)
(folder / file).write_text(json.dumps({"accuracy.json": {"passed": True}, "bench.json": {"decode_tok_s": 12.5}}[file]))
"""


def make(folder: Path, *, cached: bool = False) -> Path:
    """Fill `folder`: conf/, params.yaml, dvc.yaml, and DVC's own files. cached: whether outputs go into its cache."""
    folder.mkdir(exist_ok=True)
    repository.make(folder)
    (folder / "dvc.yaml").write_text(DVC_YAML.replace("cache: false", f"cache: {str(cached).lower()}"))
    (folder / "stage.py").write_text(STAGE)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], cwd=folder, check=True)
    return folder
