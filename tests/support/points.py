"""Points for tests: composed by the real configuration, built by the real stages, in a folder of the test's own."""

import hashlib
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.in_process import composed as composed  # tests take all that makes points from here
from benchmarks.in_process import run
from benchmarks.in_process import write_point as write_point
from pipeline import engine, export, quantize, simplify, wrap
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from tests.support import common, dvc_yaml

ROOT = Path(__file__).parents[2]
STAGES = (wrap, export, simplify, quantize, engine)


def build(folder: Path, overrides: list[str], last: ModuleType = engine, **sections: dict[str, Any]) -> GraphContract:
    """Build a tiny point in `folder` up to a stage; `sections` replace whole sections of its params."""
    write_point(folder, composed(["experiment=tiny", *overrides]) | sections)
    for stage in STAGES[: STAGES.index(last) + 1]:
        run(stage, folder)
    return GraphContract.load(folder / layout.WRAPPED / layout.CONTRACT)


def build_once(
    folder: Path, overrides: list[str], last: ModuleType = engine, **sections: dict[str, Any]
) -> GraphContract:
    """Build a point of random weights as `build` does, but copy what a stage made of equal params in another test.

    Not for tests that change how a stage works or look at what it prints. The copy may be changed.
    """
    params = composed(["experiment=tiny", *overrides]) | sections
    assert params["model"]["source"] == "random", "a checkpoint's files may change under an equal path"
    write_point(folder, params)
    made_of = ""
    for stage in STAGES[: STAGES.index(last) + 1]:
        name = stage.__name__.rpartition(".")[2]
        # test_dvc_yaml.py holds that a stage reads these sections and no others
        read = {section: params.get(section) for section in sorted(dvc_yaml.params(name, None))}
        made_of = hashlib.sha256(json.dumps([made_of, name, read]).encode()).hexdigest()
        (out,) = dvc_yaml.declared(name)["outs"]
        with common.once(f"{name}-{made_of[:16]}") as (kept, made):
            if not made:
                run(stage, folder)
                shutil.copytree(folder / out, kept)
            else:
                shutil.copytree(kept, folder / out)
    return GraphContract.load(folder / layout.WRAPPED / layout.CONTRACT)
