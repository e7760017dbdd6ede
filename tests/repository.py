"""A repository for tests: the project's conf/ and a params.yaml with one point, in a folder of the test's own."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARAMS = "# what has been asked for\npoints:\n  smollm2: []\n"


def make(folder: Path) -> Path:
    """Fill `folder`."""
    shutil.copytree(ROOT / "conf", folder / "conf")
    (folder / "params.yaml").write_text(PARAMS)
    return folder
