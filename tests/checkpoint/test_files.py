"""Damaged and unsuitable checkpoint folders: one problem each, with the file, before anything is loaded."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import run
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.checkpoint import files as checkpoint_files
from pipeline.core.errors import Problem, UserError
from pipeline.text.stop_tokens import end_tokens
from tests.support.points import ROOT

CONFIG = {"model_type": "llama", "vocab_size": 8}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
SHARDS = {"a.weight": "one.safetensors", "b.weight": "two.safetensors"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small but complete checkpoint, as far as its files tell."""
    configure(tmp_path, {})
    save_file({"a.weight": np.zeros((64, 64), np.float32)}, tmp_path / "model.safetensors")
    return tmp_path


def configure(folder: Path, more: dict[str, Any]) -> None:
    """Write config.json with more keys; None removes one."""
    kept = {key: value for key, value in (CONFIG | more).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def shard(folder: Path) -> None:
    """Split the weights into two files and an index."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": SHARDS}))
    for tensor, file in SHARDS.items():
        save_file({tensor: np.zeros(4, np.float32)}, folder / file)


def problem(folder: Path, *, trusted: bool = False) -> Problem:
    """The one problem of a folder."""
    with pytest.raises(UserError) as error:
        checkpoint_files.check(folder, trusted=trusted)
    (found,) = error.value.problems
    assert found.fix
    return found


def test_complete_folders_pass(folder: Path) -> None:
    """One file, and shards with their index; null and {} as quantization_config are none."""
    checkpoint_files.check(folder, trusted=True)
    configure(folder, {"quantization_config": {}, "auto_map": {"AutoConfig": "own.Config"}})
    shard(folder)
    checkpoint_files.check(folder, trusted=True)


def cut(path: Path) -> None:
    """Keep the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pack(path: Path) -> None:
    """Store a weight as whole numbers."""
    save_file({name: tensor.astype(np.int8) for name, tensor in load_file(path).items()}, path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "git-lfs pointer": (lambda path: path.write_bytes(POINTER), "is a git-lfs pointer"),
    "cut in half": (cut, "cut short or corrupt"),
    "cut within its header": (lambda path: path.write_bytes(path.read_bytes()[:20]), "cut short or corrupt"),
    "empty": (lambda path: path.write_bytes(b""), "cut short or corrupt"),
    "a page of HTML": (lambda path: path.write_text("<html>404</html>" * 99), "cut short or corrupt"),
    "packed": (pack, "holds quantized weights: a.weight (I8)"),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("sharded", [False, True])
def test_damaged_weights(folder: Path, name: str, sharded: bool) -> None:
    """The file is named, in the only file and in a shard."""
    damage, says = DAMAGE[name]
    if sharded:
        shard(folder)
    path = folder / ("one.safetensors" if sharded else "model.safetensors")
    damage(path)
    found = problem(folder)
    assert says in found.what
    assert found.where == str(path)


def test_every_damaged_file_is_reported(folder: Path) -> None:
    """All at once: an unreadable configuration and both shards."""
    shard(folder)
    for file in ("config.json", *SHARDS.values()):
        (folder / file).write_bytes(POINTER)
    with pytest.raises(UserError) as error:
        checkpoint_files.check(folder, trusted=False)
    assert [Path(found.where).name for found in error.value.problems] == ["config.json", *SHARDS.values()]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "merges.txt", "chat_template.jinja"])
def test_a_tokenizer_that_was_not_fetched(folder: Path, name: str) -> None:
    """Every file that is used may be a pointer; one that is no pointer is left alone."""
    (folder / name).write_text("{}")
    checkpoint_files.check(folder, trusted=False)
    (folder / name).write_bytes(POINTER)
    assert problem(folder).where == str(folder / name)


def test_missing_shards(folder: Path) -> None:
    """A shard that is not there, or a link into a cache whose file is gone, is named and counted."""
    shard(folder)
    (folder / "two.safetensors").unlink()
    (folder / "two.safetensors").symlink_to(folder / "gone")
    found = problem(folder)
    assert found.what == "1 of 2 shards are missing: two.safetensors"
    assert found.where == str(folder / "model.safetensors.index.json")


def test_a_shard_without_its_tensors(folder: Path) -> None:
    """A shard of another checkpoint is seen by its names."""
    shard(folder)
    save_file({"c.weight": np.zeros(4, np.float32)}, folder / "one.safetensors")
    assert "lacks 1 tensors that model.safetensors.index.json promises: a.weight" in problem(folder).what


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": []}'])
def test_an_index_that_is_none(folder: Path, index: str) -> None:
    """Not JSON, no object, no map."""
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(index)
    assert problem(folder).where.endswith("index.json")


def test_an_index_without_metadata(folder: Path) -> None:
    """transformers would end in a KeyError."""
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": SHARDS}))
    assert "has no metadata" in problem(folder).what


def test_weights_under_another_name(folder: Path) -> None:
    """transformers reads model.safetensors or what the index names, and nothing else."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    assert "neither model.safetensors nor model.safetensors.index.json" in problem(folder).what


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[]", "holds a list, not a JSON object"),
        (b"{}", "has no model_type"),
        (b'{"auto_map": {"AutoConfig": "own.Config"}}', "has no model_type"),
        (POINTER, "is a git-lfs pointer"),
    ],
)
def test_config_json_that_is_none(folder: Path, content: bytes, says: str) -> None:
    """Not JSON, not text, no object, without an architecture, never fetched."""
    (folder / "config.json").write_bytes(content)
    found = problem(folder)
    assert says in found.what
    assert found.where == str(folder / "config.json")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{broken", "is not valid JSON"),
        (b"[]", "holds a list, not a JSON object"),
        (POINTER, "is a git-lfs pointer"),
        (b'{"eos_token_id": "</s>"}', 'eos_token_id is "</s>"; it must be a token id, a list of token ids, or null'),
        (b'{"eos_token_id": 2.0}', "eos_token_id is 2.0;"),
        (b'{"eos_token_id": true}', "eos_token_id is true;"),
        (b'{"eos_token_id": [1, [2]]}', "eos_token_id is [1, [2]];"),
        (b'{"eos_token_id": {"a": 1}}', 'eos_token_id is {"a": 1};'),
    ],
)
def test_a_generation_config_that_is_damaged(folder: Path, content: bytes, says: str) -> None:
    """transformers would ignore it, and its end tokens would be lost; or take what is not a token."""
    (folder / "generation_config.json").write_bytes(content)
    found = problem(folder)
    assert says in found.what
    assert found.where.startswith(str(folder / "generation_config.json"))


@pytest.mark.parametrize(("stated", "ids"), [("2", {2}), ("[1, 2]", {1, 2}), ("null", set()), ("[]", set())])
def test_end_tokens(folder: Path, stated: str, ids: set[int]) -> None:
    """One, several, none."""
    path = folder / "generation_config.json"
    path.write_text(f'{{"eos_token_id": {stated}, "temperature": 0.6}}')
    checkpoint_files.check(folder, trusted=False)
    assert end_tokens(path) == ids


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors"])
def test_a_file_that_the_system_cannot_read(folder: Path, name: str) -> None:
    """Another user's file, a bad disk; here memory that is not mapped."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/proc/self/mem")
    assert problem(folder).what == f"{folder / name} cannot be read: Input/output error"


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 3}, "gptq"),
        ({"quant_method": "awq", "version": "gemv"}, "awq"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "compressed-tensors"),
        ({"quant_method": "one of next year"}, "one of next year"),
    ],
)
@pytest.mark.parametrize("level", ["top", "text"])
def test_quantized_checkpoints_are_refused_by_name(
    folder: Path, given: dict[str, Any], method: str, level: str
) -> None:
    """From config.json alone, once: packed weights are not reported again."""
    part = {"quantization_config": given}
    configure(folder, part if level == "top" else {"text_config": part})
    pack(folder / "model.safetensors")
    found = problem(folder)
    assert found.what.startswith(f"the checkpoint's weights are quantized by {method}: ")
    assert "fp32, fp16 or bf16" in found.fix


@pytest.mark.parametrize("config", [True, False])
def test_an_adapter_is_named_with_its_base(folder: Path, config: bool) -> None:
    """A PEFT adapter, with or without a copy of the base's config.json."""
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/base", "peft_type": "LORA"}')
    if not config:
        (folder / "config.json").unlink()
    found = problem(folder)
    assert "is an adapter of someone/base" in found.what
    assert "merge_and_unload" in found.fix


def test_an_adapter_beside_a_model_is_not_dropped(folder: Path) -> None:
    """transformers would apply it only where peft is installed."""
    (folder / "adapter_config.json").write_text("{}")
    assert "holds a model and an adapter" in problem(folder).what


def test_code_of_another_repository(folder: Path) -> None:
    """Only when code is run; a class in the folder's own files is fine."""
    configure(folder, {"auto_map": {"AutoModelForCausalLM": "someone/else--code.Model", "AutoConfig": "own.Config"}})
    checkpoint_files.check(folder, trusted=False)
    assert "from another repository, someone/else," in problem(folder, trusted=True).what


def test_a_file_is_not_a_folder(folder: Path) -> None:
    """The weights themselves are given instead of their folder."""
    assert "is a file, not a folder" in problem(folder / "model.safetensors").what


def test_no_heavy_package_is_imported() -> None:
    """Compose finds these problems in a fraction of a second, so without torch and transformers."""
    code = "import sys; from pipeline.config import sources; print({'torch', 'transformers'} & set(sys.modules))"
    out = run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"
