"""Put a package together: the engine's files, the runner, the card, the reports and the checksums."""

import shutil
import tarfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.core import layout
from pipeline.core.files import read_json, write_json
from pipeline.core.schema import Bench, Model, Precision, Quantize, section
from pipeline.packaging import agreement, card, check, licence, run
from pipeline.runtime import engine_info

PACKAGES = ("onnxruntime", "numpy", "tokenizers", "jinja2")  # all that run.py imports
REPORTS = (layout.VERIFY, layout.ACCURACY, layout.BENCH)
CARD, REQUIREMENTS = "README.md", "requirements.txt"


def write(point: Path, name: str, out: Path, cpu: str | None = None) -> None:
    """Fill the empty folder `out` with the package of a point. Raises UserError when the runner disagrees with kvforge.

    name: of the package, in its card. cpu: the processor that bench ran on.
    """
    for path in sorted((point / layout.ENGINE).iterdir()):
        shutil.copyfile(path, out / path.name)  # a link of DVC's becomes a file, and a read-only one writable
    for module in (run, check):
        shutil.copyfile(str(module.__file__), out / Path(str(module.__file__)).name)
    agreement.check(out)
    found = licence.find(section(Model, point), point / layout.CHECKPOINT)
    for text in found.texts:
        shutil.copyfile(text, out / text.name)
    (out / "reports").mkdir()
    for report in REPORTS:
        if (point / report).exists():
            write_json(out / "reports" / report, _without_paths(read_json(point / report)))
    pinned = [f"{package}=={version(package)}\n" for package in PACKAGES]
    _write(out / REQUIREMENTS, "".join(pinned))
    facts = card.Facts(
        name=name,
        model=section(Model, point),
        precision=_precision(point),
        engine=engine_info.read(out),
        licence=found,
        verify=read_json(point / layout.VERIFY),
        accuracy=read_json(point / layout.ACCURACY),
        bench=read_json(point / layout.BENCH) if (point / layout.BENCH).exists() else {},
        options=section(Bench, point),
        cpu=cpu,
        sizes={path.name: path.stat().st_size for path in out.iterdir()},
        speaks=(out / "tokenizer.json").exists(),
    )
    _write(out / CARD, card.write(facts))
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    _write(out / check.SUMS, "".join(f"{check.sha256(out / file)}  {file}\n" for file in files))


def _precision(point: Path) -> str:
    compute, weights = section(Precision, point).compute, section(Quantize, point).weights
    return compute.value if weights.value == "none" else f"{weights.value} weights, computed in {compute.value}"


def _without_paths(report: dict[str, Any]) -> dict[str, Any]:
    """A report without the folder of the text that quality was measured on."""
    quality = report.get("quality") or {}
    return report | {"quality": quality | {"text": Path(quality["text"]).name}} if quality.get("text") else report


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def archive(folder: Path, root: str, out: Path) -> None:
    """Write a folder to the tar file `out`, under the name `root`; equal folders give equal bytes."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime = entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(folder, root, recursive=False, filter=plain)
        for path in sorted(folder.rglob("*")):
            tar.add(path, f"{root}/{path.relative_to(folder).as_posix()}", recursive=False, filter=plain)
