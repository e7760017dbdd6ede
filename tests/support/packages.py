"""Points that can be packaged, without the minutes that their proof takes."""

import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pipeline.core import layout

CHAT = (
    "{{ bos_token }}{% for message in messages %}\n"
    "    {% if message.role == 'system' and message.content == 'no' %}{{ raise_exception('no system') }}{% endif %}\n"
    "<|{{ message.role }}|>{% generation %}{{ message.content | trim }}{% set x = 1 %}{% endgeneration %}"
    "{{ x }}{{ eos_token }}\n"
    "{% if loop.last %}{% break %}{% endif %}{% endfor %}{{ {'<a>': 'ü'} | tojson }}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def add_tokenizer(folder: Path) -> None:
    """Give a folder a byte-level tokenizer of fewer than 512 tokens, with a start token and a chat template."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(
        ["What is a cache? A cache keeps what a later step needs. Be brief, be quick."] * 9, trainer
    )
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=made, chat_template=CHAT, **special).save_pretrained(folder)


def add_reports(point: Path) -> None:
    """Give a built point the reports of a verified one; test_smollm2.py packages a point with real ones."""
    case = {"passed": True, "logits_error": 1e-6, "failures": []}
    cases = {"one token": case, "token ids": {"not_run": "no library reads this tokenizer"}}
    quality = {"text": "/home/me/book.txt", "tokens": 256}
    report = {"passed": True, "quality": quality, "notes": [], "skipped": {}, "artifacts": {"engine": cases}}
    (point / layout.VERIFY).write_text(json.dumps(report))
    figures = {"perplexity": 12.5, "perplexity_original": 12.25, "predicted_tokens": 248, "mean_kl": 2e-3}
    (point / layout.ACCURACY).write_text(json.dumps({"passed": True, "engine": figures}))
    bench = {"prefill_s": 0.5, "decode_tok_s": 20.0, "step_ms": 50.0, "load_s": 0.25, "peak_mb": 70.5, "model_mb": 0.5}
    (point / layout.BENCH).write_text(json.dumps(bench))


def ready(tiny: Path, folder: Path, *, speaks: bool = False) -> Path:
    """Copy a built point to `folder`, with reports and, if it `speaks`, with a tokenizer."""
    shutil.copytree(tiny, folder, symlinks=True)
    add_reports(folder)
    if speaks:
        add_tokenizer(folder / layout.ENGINE)
    return folder
