"""README.md of a package: a model card with sizes, speed, the proof and the licence."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.contract import GraphContract
from pipeline.core.schema import Bench, Model, Source
from pipeline.packaging.licence import UNKNOWN, Licence
from pipeline.runtime.engine_info import EngineInfo

MB = 2**20


@dataclass(frozen=True)
class Facts:
    """What a card is made of. verify, accuracy, bench: the reports of the point. options: of bench. cpu: where bench
    ran, None where that is not known."""

    name: str
    model: Model
    precision: str
    engine: EngineInfo
    licence: Licence
    verify: dict[str, Any]
    accuracy: dict[str, Any]
    bench: dict[str, Any]
    options: Bench
    cpu: str | None
    sizes: dict[str, int]  # file -> bytes
    speaks: bool  # has a tokenizer


def write(facts: Facts) -> str:
    """The card."""
    sections = (_head, _run, _sizes, _speed, _proof, _licence)
    return _front_matter(facts) + "\n".join(section(facts) for section in sections)


def original(model: Model) -> str:
    """Name the original model without a path of this machine."""
    if model.source is Source.hub:
        return f"[{model.id}](https://huggingface.co/{model.id}), revision {model.revision}"
    if model.source is Source.random:
        return f"a {model.architecture} with random weights"
    package = f" of the Python package {model.package}" if model.package else ""
    return f"{Path(str(model.path)).name}{package}"


def _front_matter(facts: Facts) -> str:
    licence = facts.licence
    head: dict[str, Any] = {"license": licence.name, **dict(licence.more)}
    if licence.name == "other" and not licence.more and licence.texts:
        head |= {"license_name": "see-file", "license_link": licence.texts[0].name}
    head |= {"pipeline_tag": "text-generation", "tags": ["onnx", "onnxruntime", "kvforge"]}
    if facts.model.source is Source.hub:
        head["base_model"] = facts.model.id
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"


def _head(facts: Facts) -> str:
    return (
        f"# {facts.name}\n\n"
        f"An ONNX model with a key-value cache of a fixed size, for ONNX Runtime on the CPU. The original is "
        f"{original(facts.model)}. Made and verified by kvforge.\n"
    )


def _run(facts: Facts) -> str:
    prompt = '"What is a cache?"' if facts.speaks else '--tokens "1 2 3"'
    note = "" if facts.speaks else "\nThe model has no tokenizer: prompts and answers are token ids.\n"
    return (
        "## Run\n\n```console\n$ pip install -r requirements.txt\n"
        f"$ python run.py {prompt}\n$ python check.py\n```\n\n"
        "`run.py --help` lists the options. `check.py` compares all files with SHA256SUMS, offline.\n" + note
    )


def _table(rows: dict[str, str]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())


def _sizes(facts: Facts) -> str:
    contract, profiles = facts.engine.contract, facts.engine.profiles
    rows = {
        "model": f"{_model_bytes(facts) / MB:,.1f} MiB",
        "precision": facts.precision,
        "cache": f"{contract.cache_size:,} tokens of prompt and answer together",
        "cache of one prompt": f"{cache_bytes(contract) / MB:,.1f} MiB",
        "prompts at once": f"up to {profiles.max('batch')}",
        "vocabulary": f"{contract.logits.shape[-1]:,} tokens",
        "ONNX Runtime": f"{facts.engine.raw['needs']} or later; built with {facts.engine.raw['onnxruntime']}",
    }
    return f"## Sizes\n\n{_table(rows)}"


def _model_bytes(facts: Facts) -> int:
    return sum(size for name, size in facts.sizes.items() if name.startswith("model."))


def cache_bytes(contract: GraphContract) -> int:
    """Bytes of all caches and states of one row."""
    width = {"float32": 4, "float16": 2}
    return sum(prod(tensor.sized(batch=1)) * width[tensor.dtype] for tensor in (*contract.caches, *contract.states))


def _speed(facts: Facts) -> str:
    bench = facts.bench
    if "decode_tok_s" not in bench:
        return f"## Speed\n\nNot measured: {bench.get('skipped', 'there is no report')}.\n"
    rows = {
        "measured with": f"{facts.options.batch} prompt(s) of {facts.options.prompt} tokens",
        "decode": f"{bench['decode_tok_s']:,.1f} tokens per second ({bench['step_ms']:,.2f} ms a step)",
        "prefill": f"{bench['prefill_s']:,.4f} s",
        "load": f"{bench['load_s']:,.2f} s",
        "peak memory": f"{bench['peak_mb']:,.0f} MiB",
        "measured on": facts.cpu or "not recorded",
    }
    return f"## Speed\n\n{_table(rows)}"


QUALITY = {  # figure of accuracy.json -> what it is, and its form
    "perplexity": ("perplexity", "{:.3f}"),
    "perplexity_original": ("perplexity of the original", "{:.3f}"),
    "predicted_tokens": ("measured on, tokens", "{:,.0f}"),
    "mean_kl": ("mean KL divergence from the original, nats", "{:.1e}"),
    "top1": ("same most probable token as the original", "{:.2%}"),
    "greedy_agreement": ("greedy tokens equal to the original's, worst prompt", "{:.2%}"),
    "logits_error": ("largest difference of a logit, in standard deviations", "{:.1e}"),
    "cache_error": ("largest relative difference in a cache", "{:.1e}"),
}


def _proof(facts: Facts) -> str:
    cases = facts.verify["artifacts"]["engine"]
    ran = {name: case for name, case in cases.items() if "not_run" not in case}
    figures = facts.accuracy["engine"]
    rows = {text: form.format(figures[key]) for key, (text, form) in QUALITY.items() if key in figures}
    lines = [
        "## Proof\n",
        "The model was compared with the original in fp32: logits, caches and greedy text, for prompts alone, in "
        "ragged batches and in chunks, up to the last slot of the cache. "
        f"{sum(case['passed'] for case in ran.values())} of {len(ran)} cases passed. "
        "reports/verify.json has every case and its gates.\n",
        _table(rows),
    ]
    left_out = [f"* not run: {name}: {case['not_run']}\n" for name, case in cases.items() if "not_run" in case]
    lines += ["".join(left_out)] if left_out else []
    notes = [f"* {note}\n" for note in facts.verify.get("notes", [])]
    return "\n".join(lines + (["".join(notes)] if notes else []))


def _licence(facts: Facts) -> str:
    licence = facts.licence
    files = ", ".join(path.name for path in licence.texts)
    text = f"{licence.name}, from {licence.source}." + (f" Its text: {files}." if files else "")
    if licence.name == UNKNOWN:
        text = f"Unknown: {licence.source}. Ask the model's publisher before you pass it on."
    return f"## Licence of the model\n\n{text}\n"
