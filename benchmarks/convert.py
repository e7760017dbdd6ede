"""Make what each system loads, once: kept until the checkpoint, the lock file or the peer's module changes.

python -m benchmarks.convert MODULE CHECKPOINT FOLDER OPTIONS     one conversion, in a process of its own
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import peers
from benchmarks.systems import System, gguf

HERE = Path(__file__).parent
NOTE = "built.json"
LONGEST_S = 1800


def checkpoint(scratch: Path) -> Path:
    """The GGUF file as a Hugging Face folder in fp32, which most systems convert from."""
    folder = scratch / "checkpoint"
    if not (folder / "config.json").exists():
        from pipeline.checkpoint.loading import load
        from pipeline.checkpoint.tokenizer import load_tokenizer
        from pipeline.core.schema import Model, Source

        model = Model(source=Source.gguf, path=str(gguf()))
        partial = folder.with_suffix(".partial")
        load(model, gguf()).save_pretrained(partial)
        tokenizer = load_tokenizer(model, gguf())
        assert tokenizer is not None
        tokenizer.save_pretrained(partial)
        partial.rename(folder)
    return folder


def converted(system: System, source: Path, scratch: Path) -> tuple[Path, float | None, str]:
    """(what the system loads, seconds it took to make, why there is none). Logs go to scratch/logs."""
    if system.folder:
        return system.folder, None, ""
    if not system.builds:
        return (gguf() if system.module == "llamacpp" else source), None, ""
    folder = scratch / "models" / system.slug
    made_with = digest(HERE / "requirements.lock", module_file(system), gguf(), json.dumps(system.options))
    note = folder / NOTE
    if note.exists() and (known := json.loads(note.read_text()))["made_with"] == made_with:
        return folder, known["build_s"], known["why"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"converting {system}", file=sys.stderr)
    start = time.perf_counter()
    why = _convert(system, source, folder, scratch / "logs" / f"{system.slug}.convert")
    seconds = round(time.perf_counter() - start, 1)
    note.write_text(json.dumps({"made_with": made_with, "build_s": seconds, "why": why}))
    return folder, seconds, why


def _convert(system: System, source: Path, folder: Path, log: Path) -> str:
    """Run it in a process of its own; returns why it failed, or nothing."""
    arguments = [system.module, str(source), str(folder), json.dumps(system.options)]
    with log.open("wb") as output:
        try:
            code = subprocess.run(
                [sys.executable, "-m", "benchmarks.convert", *arguments],
                stdout=output,
                stderr=output,
                timeout=LONGEST_S,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
            ).returncode
        except subprocess.TimeoutExpired:
            return f"the conversion took more than {LONGEST_S} s"
    if code == 0:
        return ""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"the conversion failed: {lines[-1][:250] if lines else f'exit code {code}'}"


def module_file(system: System) -> Path:
    """The module of peers/ that runs a system."""
    return HERE / "peers" / f"{system.module}.py"


def digest(*parts: Path | str) -> str:
    """Over files' bytes and texts."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.read_bytes() if isinstance(part, Path) else part.encode())
    return total.hexdigest()


def model_files(path: Path) -> list[Path]:
    """The files of what a system loads."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def model_hash(path: Path) -> str:
    """Over names and bytes of all files."""
    total = hashlib.sha256()
    for file in model_files(path):
        if file.name != NOTE:
            with file.open("rb") as stream:
                total.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


if __name__ == "__main__":
    module, source, folder, options = sys.argv[1:]
    peers.peer_class(module).build(Path(source), Path(folder), json.loads(options))
