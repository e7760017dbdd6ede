"""Find what is wrong with a checkpoint folder from its files alone, without importing model code.

Reads config.json, the index of the shards and the header of each safetensors file; not the weights themselves.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.core.errors import Problem, UserError
from pipeline.core.files import is_pointer, lfs_pointer, read_json, readable, unreadable
from pipeline.packed.methods import METHODS, quantization, unsupported
from pipeline.text.stop_tokens import GENERATION, end_tokens

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
WEIGHTS = "model.safetensors"  # transformers reads this file, or else the shards that the index names
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
SMALL_FILES = (".json", ".jinja", ".model", ".tiktoken", ".txt")  # tokenizer, chat template, generation config
FLOATS = ("F64", "F32", "F16", "BF16")
PRECISIONS = f"give a checkpoint in fp32, fp16 or bf16, or one of {', '.join(METHODS)}"
FOREIGN_CODE = re.compile(r'"([^"]+)--')  # "owner/name--file.Class"
SHOWN = 3  # names in a message; the rest are counted
CONVERT = (
    'convert it once: python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('{folder}', use_safetensors=False).save_pretrained('{folder}-safetensors')\" "
    "(only if you trust the file: loading a pickle runs its code)"
)
MERGE = (
    'merge it into its base model and give the result: python -c "from peft import AutoPeftModelForCausalLM as M; '
    "M.from_pretrained('{folder}').merge_and_unload().save_pretrained('{folder}-merged')\" "
    "and copy its tokenizer files there"
)


def check(folder: Path, *, trusted: bool) -> None:
    """Raise UserError with every problem of a checkpoint folder; `trusted`: the code in it will run."""
    with readable(folder, "model.path"):
        found = list(_problems(folder, trusted))
    if found:
        raise UserError(found)


def _problems(folder: Path, trusted: bool) -> Iterator[Problem]:
    if not folder.is_dir():
        fix = "give the folder that holds config.json; a GGUF file needs model.source=gguf"
        yield Problem(f"{folder} is a file, not a folder", "model.path", fix)
        return
    adapter = _adapter(folder)
    if adapter is not None:
        yield adapter
        return
    if not (folder / CONFIG).exists():
        yield Problem(f"{folder} has no {CONFIG}", "model.path", "give a folder made by save_pretrained")
        return
    try:
        config = read_json(folder / CONFIG)
    except UserError as error:
        yield from error.problems
        config = {}
    else:
        yield from config_problems(config, str(folder / CONFIG), trusted=trusted)
    if config.get("transformers_weights") is None:  # a file name of its own: transformers looks for it
        yield from _weights(folder, quantized=bool(quantization(config)))
    if _exists(folder / GENERATION):
        try:
            end_tokens(folder / GENERATION)
        except UserError as error:
            yield from error.problems
    for path in sorted(folder.iterdir()):
        if path.suffix in SMALL_FILES and path.name not in (CONFIG, INDEX, GENERATION):
            try:
                if is_pointer(path):
                    yield lfs_pointer(path)
            except OSError as error:
                yield unreadable(path, error)


def config_problems(config: dict[str, Any], where: str, *, trusted: bool) -> Iterator[Problem]:
    """Problems that a model's configuration shows by itself; `where` names the file, `trusted`: its code will run."""
    code = config.get("auto_map")
    if not isinstance(config.get("model_type"), str) and not (code and trusted):
        fix = 'give the architecture, for example "model_type": "llama"'
        yield Problem(f"{CONFIG} has no model_type", where, fix)
    foreign = FOREIGN_CODE.findall(json.dumps(code)) if trusted else []
    if foreign:  # transformers takes that repository's newest commit, whatever model.revision is
        what = f"auto_map takes code from another repository, {foreign[0]}, whose revision is not fixed"
        fix = f'put that code beside {CONFIG}, and remove "{foreign[0]}--" from auto_map'
        yield Problem(what, where, fix)
    if given := quantization(config):
        method = given["quant_method"]
        for what in unsupported(given):
            yield Problem(f"the checkpoint's weights are quantized by {method}: {what}", where, PRECISIONS)
        if code and trusted:
            what = f"the checkpoint is quantized by {method} and has code of its own"
            yield Problem(what, where, "give one in fp32, fp16 or bf16")


def _adapter(folder: Path) -> Problem | None:
    if not (folder / ADAPTER).exists():
        return None
    complete = (folder / CONFIG).exists() and any((folder / name).exists() for name in (WEIGHTS, INDEX))
    if complete:
        fix = f"{MERGE.format(folder=folder)}, or remove {ADAPTER} to build the model without it"
        return Problem(f"{folder} holds a model and an adapter", str(folder / ADAPTER), fix)
    return adapter_problem(str(folder), folder / ADAPTER)


def adapter_problem(name: str, path: Path) -> Problem:
    """Return the problem of an adapter that is given as a model; `path`: its adapter_config.json."""
    base = read_json(path).get("base_model_name_or_path") or "a base model that it does not name"
    return Problem(f"{name} is an adapter of {base}, not a model", str(path), MERGE.format(folder=name))


def _weights(folder: Path, *, quantized: bool) -> Iterator[Problem]:
    if _exists(folder / WEIGHTS):
        yield from _header(folder / WEIGHTS, set(), quantized)
    elif (folder / INDEX).exists():
        try:
            index = read_json(folder / INDEX)
        except UserError as error:
            yield from error.problems
            return
        shards = index.get("weight_map")
        if not isinstance(shards, dict) or not shards:
            yield Problem(f"{INDEX} has no weight_map", str(folder / INDEX), "download it again")
            return
        if not isinstance(index.get("metadata"), dict):  # transformers expects it
            fix = 'download it again, or add "metadata": {}'
            yield Problem(f"{INDEX} has no metadata", str(folder / INDEX), fix)
        wanted: dict[str, set[str]] = {}
        for tensor, file in shards.items():
            wanted.setdefault(str(file), set()).add(tensor)
        missing = sorted(file for file in wanted if not _exists(folder / file))
        if missing:
            what = f"{len(missing)} of {len(wanted)} shards are missing: {shorten(missing)}"
            yield Problem(what, str(folder / INDEX), "download them into the folder")
        for file in sorted(set(wanted) - set(missing)):
            yield from _header(folder / file, wanted[file], quantized)
    else:
        yield _no_weights(folder)


def _no_weights(folder: Path) -> Problem:
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        what = f"{folder} has neither {WEIGHTS} nor {INDEX}, which lists the tensors of {shorten(others)}"
        return Problem(what, "model.path", f"download {INDEX}, or rename the only file to {WEIGHTS}")
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    what = f"{folder} holds pickled weights ({', '.join(pickles)})" if pickles else f"{folder} holds no weights"
    fix = CONVERT.format(folder=folder) if pickles else "put the model's *.safetensors files there"
    return Problem(f"{what}, and only safetensors are loaded", "model.path", fix)


def _header(path: Path, wanted: set[str], quantized: bool) -> Iterator[Problem]:
    """Problems of a file that is cut short, lacks tensors of the index, or holds weights that are not floats."""
    try:
        if is_pointer(path):
            yield lfs_pointer(path)
            return
        with safe_open(path, framework="numpy") as tensors:
            names = list(tensors.keys())
            kinds = {name: tensors.get_slice(name).get_dtype() for name in names if name.endswith("weight")}
    except SafetensorError as error:
        what = f"{path} is cut short or corrupt ({path.stat().st_size:,} bytes): {error}"
        yield Problem(what, str(path), "download it again")
        return
    except OSError as error:
        yield unreadable(path, error)
        return
    if absent := sorted(wanted.difference(names)):
        what = f"{path} lacks {len(absent)} tensors that {INDEX} promises: {shorten(absent)}"
        yield Problem(what, str(path), "download both again")
    packed = sorted(name for name, kind in kinds.items() if kind not in FLOATS)
    if packed and not quantized:  # else config.json has been reported
        shown = [f"{name} ({kinds[name]})" for name in packed]
        yield Problem(f"{path} holds quantized weights: {shorten(shown)}", str(path), PRECISIONS)


def _exists(path: Path) -> bool:
    return path.is_file()  # False for a link into a cache whose file is gone


def shorten(names: list[str]) -> str:
    """The first few names, and how many there are besides."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
