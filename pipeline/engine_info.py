"""engine.json: what an engine folder says of itself, and whether this kvforge and this runtime can read it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from pipeline.errors import Problem, UserError
from pipeline.files import write_json
from pipeline.layout import ENGINE_INFO
from pipeline.session import Bounds
from pipeline.signature import Signature
from pipeline.spec import EngineKind, Shapes

FORMAT = 1  # counted up whenever a reader of before could misread what is written now
KEYS = {  # what each kind of engine is opened with, besides what all have
    EngineKind.onnxruntime: ("provider", "provider_options", "optimization", "threads", "onnxruntime", "needs"),
    EngineKind.tensorrt: ("version", "targets"),
    EngineKind.tensorrt_rtx: ("version", "targets"),
}


@dataclass(frozen=True)
class EngineInfo:
    """engine.json, read: the values in the form in which they are used, and `raw`, all that the file holds."""

    kind: EngineKind
    signature: Signature
    bounds: Bounds
    raw: dict[str, Any]


def write(out: Path, kind: EngineKind, profiles: dict[str, Shapes], signature: Signature, **more: Any) -> None:
    """Write `out`/engine.json: what all engines have, and `more` that belongs to this kind."""
    assert set(KEYS[kind]) <= more.keys()
    sizes = {name: asdict(ranges) for name, ranges in profiles.items()}
    info = {"format": FORMAT, "kind": kind.value, **more, "profiles": sizes, "signature": asdict(signature)}
    write_json(out / ENGINE_INFO, info)


def read(folder: Path) -> EngineInfo:
    """Read `folder`/engine.json. Raises UserError when it is missing, damaged, of another format, of an unknown kind,
    or lacks a key."""
    path = folder / ENGINE_INFO
    if not path.exists():
        fix = f"build it with dvc repro, or go back to the last one that was finished: dvc checkout {folder}"
        raise UserError(Problem(f"there is no engine in {folder}", "point", fix))
    again = rebuild(folder)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise UserError(
            Problem(f"this is not JSON: {error}", str(path), f"dvc checkout {folder}; or {again}")
        ) from error
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != FORMAT:
        what = f"the engine was built by another version of kvforge: it has format {found}, this one reads {FORMAT}"
        raise UserError(Problem(what, str(path), again))
    kinds = {kind.value: kind for kind in EngineKind}
    if raw.get("kind") not in kinds:
        what = f"unknown kind of engine {raw.get('kind')!r}; it must be one of {', '.join(kinds)}"
        raise UserError(Problem(what, f"{path}: kind", again))
    kind = kinds[raw["kind"]]
    missing = [key for key in ("profiles", "signature", *KEYS[kind]) if key not in raw]
    if missing:
        raise UserError([Problem(f"the key {key} is missing", f"{path}: {key}", again) for key in missing])
    try:
        return EngineInfo(kind, Signature.from_dict(raw["signature"]), _bounds(raw["profiles"]), raw)
    except (KeyError, TypeError, AttributeError) as error:
        what = f"profiles or signature lack a part, or have a value of the wrong type: {error}"
        raise UserError(Problem(what, str(path), again)) from error


def too_old(folder: Path, info: EngineInfo, here: str) -> Problem | None:
    """Why ONNX Runtime of the version `here` does not run what was built for `needs` or later; None when it does."""
    needs = str(info.raw["needs"])
    if Version(here).release >= Version(needs).release:
        return None
    what = f"the engine needs ONNX Runtime {needs} or later, this is {here} (built with {info.raw['onnxruntime']})"
    fix = f"pip install 'onnxruntime>={needs}', or build it again with this version: {rebuild(folder)}"
    return Problem(what, str(folder / ENGINE_INFO), fix)


def rebuild(folder: Path) -> str:
    """The command that builds the engine in `folder` again."""
    return f"dvc repro engine@{folder.absolute().parent.name}"


def _bounds(profiles: dict[str, Any]) -> Bounds:
    """The sizes that an engine takes."""
    return {name: {axis: (ends["min"], ends["max"]) for axis, ends in axes.items()} for name, axes in profiles.items()}
