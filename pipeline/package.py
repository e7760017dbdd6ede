"""Package a built point: a folder, or a .tar, that runs without kvforge.

    python -m pipeline.package smollm2 packages/smollm2
    python -m pipeline.package smollm2 smollm2.tar

It holds the model, its tokenizer, a runner of one file, a model card with the proof and the licence, and checksums.
A point whose engine was not verified, or changed since, is refused. docs/packaging.md says what is in a package.
"""

import re
import tempfile
from pathlib import Path

from pipeline.core import errors, layout, usage
from pipeline.core.errors import Problem, UserError
from pipeline.core.files import atomic_folder, atomic_path, read_json
from pipeline.packaging import contents, readiness
from pipeline.runtime import engine_info

ARTIFACTS = Path("artifacts")
TAR = ".tar"


def package(point: Path, out: Path) -> None:
    """Package a point's folder as the folder `out`, or as a tar file where it ends in .tar.

    Raises UserError when `out` exists, or the point cannot be packaged; nothing is left then.
    """
    problems = list(readiness.problems(point, engine_info.read(point / layout.ENGINE)))
    if out.exists():
        problems.append(Problem(f"{out} exists", "OUT", "remove it, or give another name"))
    elif out.suffix != TAR and re.search(r"\.(zip|gz|tgz|bz2|xz|zst|7z)$", out.name):
        problems.append(Problem(f"{out} is neither a folder nor a .tar", "OUT", "give a name that ends in .tar"))
    if problems:
        raise UserError(problems)
    toolchain = Path(layout.TOOLCHAIN)
    cpu = read_json(toolchain).get("cpu") if toolchain.exists() else None
    if out.suffix != TAR:
        with atomic_folder(out) as folder:
            contents.write(point, point.name, folder, cpu)
        return
    with atomic_path(out) as tar, tempfile.TemporaryDirectory(dir=tar.parent) as scratch:
        folder = Path(scratch)
        contents.write(point, point.name, folder, cpu)
        contents.archive(folder, out.stem, tar)


def main() -> None:
    """Run the command."""
    parser = usage.Parser(main, "package", "POINT OUT")
    parser.add_required("point", "name of a built point, a folder in artifacts/")
    parser.add_required("out", "the folder to make, or a file that ends in .tar")
    given = parser.parse()
    point, out = ARTIFACTS / given.point, Path(given.out)
    engine_info.read(point / layout.ENGINE)
    if (point / layout.VERIFY).exists() and (changed := readiness.changed(given.point, ARTIFACTS)):
        raise UserError(changed)
    package(point, out)
    size = sum(path.stat().st_size for path in ([out] if out.is_file() else out.rglob("*")) if path.is_file())
    print(f"{out}: {size / 2**20:,.1f} MiB; python check.py compares its files with their checksums")


if __name__ == "__main__":
    errors.run(main)
