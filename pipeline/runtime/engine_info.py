"""engine.json: the description of an engine; written, and checked when it is read."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from pipeline.core.contract import LOGITS, TOTAL, GraphContract
from pipeline.core.errors import Problem, UserError, one_line
from pipeline.core.files import readable, write_json
from pipeline.core.layout import ENGINE_INFO
from pipeline.core.profiles import AXES, Profiles
from pipeline.core.tables.engines import KINDS, EngineKind
from pipeline.core.tables.keys import Optimization

# raised where older code could misread a new file: 2 has caches of windows only, 3 states besides the caches
FORMAT, WINDOWS_FORMAT, STATES_FORMAT = FORMATS = 1, 2, 3
LEVELS = [level.value for level in Optimization]


@dataclass(frozen=True)
class EngineInfo:
    """The contents of engine.json. raw: the whole file as parsed JSON."""

    kind: EngineKind
    contract: GraphContract
    profiles: Profiles
    raw: dict[str, Any]


def write(out: Path, kind: EngineKind, profiles: Profiles, contract: GraphContract, **more: Any) -> None:
    """Write `out`/engine.json: the keys of all engines, and `more`, those of this kind."""
    assert KINDS[kind].info_keys.keys() <= more.keys()
    common = {"profiles": profiles.to_json(), "signature": asdict(contract)}
    form = STATES_FORMAT if contract.states else WINDOWS_FORMAT if contract.windows else FORMAT
    write_json(out / ENGINE_INFO, {"format": form, "kind": kind.value, **more, **common})


def read(folder: Path) -> EngineInfo:
    """Read `folder`/engine.json. Raises UserError when it is missing, damaged, of another format, of an unknown kind,
    or lacks a key or has a wrong value."""
    path = folder / ENGINE_INFO
    with readable(path):
        text = path.read_bytes() if path.exists() else None
    if text is None:
        fix = f"build it with dvc repro, or go back to the last one that was finished: dvc checkout {folder}"
        raise UserError(Problem(f"there is no engine in {folder}", "point", fix))
    again = rebuild(folder)
    try:
        raw = json.loads(text)
    except ValueError as error:  # not JSON, or not UTF-8
        raise UserError(
            Problem(f"this is not JSON: {error}", str(path), f"dvc checkout {folder}; or {again}")
        ) from error
    found = raw.get("format") if isinstance(raw, dict) else None
    if found not in FORMATS:
        what = f"the engine was built by another version of kvforge: it has format {found}, "
        what += f"this one reads {', '.join(map(str, FORMATS))}"
        raise UserError(Problem(what, str(path), again))
    kinds = {kind.value: kind for kind in EngineKind}
    if not isinstance(raw.get("kind"), str) or raw["kind"] not in kinds:
        what = f"unknown kind of engine {raw.get('kind')!r}; it must be one of {', '.join(kinds)}"
        raise UserError(Problem(what, f"{path}: kind", again))
    kind = kinds[raw["kind"]]
    missing = [key for key in ("profiles", "signature", *KINDS[kind].info_keys) if key not in raw]
    if missing:
        raise UserError([Problem(f"the key {key} is missing", f"{path}: {key}", again) for key in missing])
    problems = [Problem(what, f"{path}: {key}", again) for key, what in _wrong(raw, KINDS[kind].info_keys)]
    read: dict[str, Any] = {}
    for key, parse in (("signature", _contract), ("profiles", Profiles.from_json)):
        try:
            read[key] = parse(raw[key])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            said = f"it lacks the key {error}" if isinstance(error, KeyError) else one_line(error)
            problems.append(Problem(f"{key} is damaged: {said}", f"{path}: {key}", again))
    if problems:
        raise UserError(problems)
    return EngineInfo(kind, read["signature"], read["profiles"], raw)


def _wrong(raw: dict[str, Any], keys: Mapping[str, type]) -> Iterator[tuple[str, str]]:
    """Yield each key with a wrong value, and what is wrong with it."""
    for key, wanted in keys.items():
        value: Any = raw[key]
        fits = isinstance(value, wanted) and not isinstance(value, bool)
        if not fits:
            yield key, f"{key} is {json.dumps(value)[:100]}, not of type {wanted.__name__}"
        elif key == "optimization" and value not in LEVELS:
            yield key, f"optimization is {value!r}; it must be one of {', '.join(LEVELS)}"
        elif key == "threads" and value < 0:
            yield key, f"threads is {value}; it must be 0 or more"
        elif key in ("needs", "onnxruntime"):
            try:
                Version(value)
            except InvalidVersion:
                yield key, f"{key} is {value!r}, not a version"
        elif key in ("targets", "provider_options"):
            items = value if key == "targets" else value.values()
            if not all(isinstance(item, str) for item in items):
                yield key, f"{key} holds {json.dumps(value)[:100]}; its values must be text"


def too_old(folder: Path, info: EngineInfo, here: str) -> Problem | None:
    """Why ONNX Runtime of the version `here` cannot run an engine; None when it can."""
    needs = str(info.raw["needs"])
    if Version(here).release >= Version(needs).release:
        return None
    what = f"the engine needs ONNX Runtime {needs} or later, this is {here} (built with {info.raw['onnxruntime']})"
    fix = f"pip install 'onnxruntime>={needs}', or rebuild it with this version: {rebuild(folder)}"
    return Problem(what, str(folder / ENGINE_INFO), fix)


def rebuild(folder: Path) -> str:
    """The command that rebuilds the engine in `folder`."""
    return f"dvc repro engine@{folder.absolute().parent.name}"


def _contract(raw: dict[str, Any]) -> GraphContract:
    """Parse the contract. Raises KeyError, TypeError, AttributeError or ValueError for a damaged one."""
    contract = GraphContract.from_dict(raw)
    inputs, outputs = ({tensor.name for tensor in tensors} for tensors in (contract.inputs, contract.outputs))
    if LOGITS not in outputs:
        raise ValueError(f"there is no output {LOGITS}")
    for tensor in (*contract.inputs, *contract.outputs):
        if not isinstance(tensor.dtype, str) or not all(type(d) is int or d in (*AXES, TOTAL) for d in tensor.shape):
            raise ValueError(f"tensor {tensor.name} is {tensor.dtype} of shape {list(tensor.shape)}")
    if not contract.aliases or not set(contract.aliases) <= outputs or not set(contract.aliases.values()) <= inputs:
        raise ValueError("aliases names tensors that are not there")
    if type(contract.logits.shape[-1]) is not int:
        raise ValueError(f"the vocabulary is {contract.logits.shape[-1]!r}")
    for tensor in contract.caches:
        window = contract.windows.get(tensor.name)
        if window is not None and not (type(window) is int and 0 < window <= int(tensor.shape[2])):
            raise ValueError(f"the window of {tensor.name} is {window!r}, it has {tensor.shape[2]} slots")
    if type(contract.cache_size) is not int:
        raise ValueError(f"cache_size is {contract.cache_size!r}")
    return contract
