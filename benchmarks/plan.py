"""The plan of `python -m pipeline.plan` beside what builds took: peak memory of every stage, and disk.

Builds each model in a clone of this repository's last commit, in .bench/plan. Writes plan.json and plan.md. Stages that
take less than SMALLEST are left out: libraries are most of it. Random weights of a real model's sizes take what the
real ones do; `verify` reads less text than by default, in as many rows.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCRATCH = Path(".bench/plan").resolve()
GB = 2**30
SMALLEST = GB // 4
LESS_TEXT = ("verify.quality.tokens=2048", "verify.quality.window=128", "verify.greedy_tokens=16")
RANDOM = ("model.source=local", "model.package=null", "verify.quality.added_repetition=1", *LESS_TEXT)


@dataclass(frozen=True)
class Build:
    """A model, and how it is built. config: of random weights, which are saved as a folder in bf16."""

    name: str
    overrides: tuple[str, ...]
    architecture: str = ""
    config: tuple[tuple[str, Any], ...] = ()


TINYLLAMA = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
EXPERTS = {
    "hidden_size": 1024,
    "moe_intermediate_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
BUILDS = (
    Build("SmolLM2-135M, the default point", ()),
    Build("SmolLM2-135M, int4", ("precision=int4",)),
    Build("Llama, 1.1 billion, fp32", RANDOM, "llama", tuple(TINYLLAMA.items())),
    Build("Qwen3-MoE, 0.7 billion, fp32", RANDOM, "qwen3_moe", tuple(EXPERTS.items())),
)


def checkpoint(build: Build, folder: Path) -> Path:
    """Save random weights in bf16, unless they are there."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        config = AutoConfig.for_model(build.architecture, **dict(build.config))
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def measure(build: Build, number: int) -> dict[str, Any]:
    """Plan a build, make it, and return both: bytes by stage, and of the disk."""
    overrides = [*build.overrides, f"point=p{number}"]
    if build.architecture:
        overrides.append(f"model.path={checkpoint(build, SCRATCH.parent / build.architecture)}")
    repository = SCRATCH / f"p{number}"  # one each: DVC's cache holds nothing of another then
    shutil.rmtree(repository, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", ".", repository], check=True)  # noqa: S607  # the user's git
    planned = subprocess.run(
        [sys.executable, "-m", "pipeline.plan", "--json", *overrides], cwd=repository, check=True, capture_output=True
    )
    (plan,) = json.loads(planned.stdout)
    with (SCRATCH / f"p{number}.log").open("wb") as log:
        subprocess.run(
            [sys.executable, "-m", "pipeline", *overrides], cwd=repository, check=True, stdout=log, stderr=log
        )
    lines = (repository / "artifacts/history.jsonl").read_text(encoding="utf-8").splitlines()
    peaks = {run["stage"]: run["peak"] for run in map(json.loads, lines)}
    disk = sum(_size(repository / folder) for folder in (f"artifacts/p{number}", ".dvc/cache"))
    shutil.rmtree(repository)
    stages = {name: {"planned": plan["stages"][name]["memory"], "measured": peak} for name, peak in peaks.items()}
    return {"build": build.name, "stages": stages, "disk": {"planned": plan["new_disk"], "measured": disk}}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not _linked(path, folder))


def _linked(path: Path, top: Path) -> bool:
    return any(part.is_symlink() for part in (path, *path.parents) if part.is_relative_to(top))


def markdown(found: list[dict[str, Any]]) -> Iterator[str]:
    """The table of plan.md."""
    yield "# Plans and builds\n"
    yield "<!-- Made by `python -m benchmarks.plan`. -->\n"
    yield "What `python -m pipeline.plan` says of a build, and what the build took, from 0.25 GB on.\n"
    yield "Experts that no token chooses are not read, and random weights choose few: a plan counts all of them.\n"
    yield "| build | | planned GB | measured GB | planned / measured |\n| --- | --- | ---: | ---: | ---: |"
    for result in found:
        rows = {**result["stages"], "disk": result["disk"]}
        for name, row in rows.items():
            planned, measured = row["planned"], row["measured"]
            if measured >= SMALLEST:
                cells = (f"{planned / GB:.2f}", f"{measured / GB:.2f}", f"{planned / measured:.2f}")
                yield f"| {result['build']} | {name} | {' | '.join(cells)} |"


def main() -> None:
    """Build all, or those whose numbers are given, and write both files; results of others are kept."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    path = HERE / "plan.json"
    known = {row["build"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    for number in map(int, sys.argv[1:] or range(len(BUILDS))):
        known[BUILDS[number].name] = measure(BUILDS[number], number)
    found = [known[build.name] for build in BUILDS if build.name in known]
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (HERE / "plan.md").write_text("\n".join(markdown(found)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
