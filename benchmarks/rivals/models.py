"""Tiny checkpoints of every type, prompts of different lengths, and what the original makes of them.

The configurations are those of `make coverage`, but for sizes that a tool takes for something else or has no kernel
for. The reference is the original in fp32, each row alone, unpadded and without a cache.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.coverage.configurations import VOCABULARY as USUAL
from benchmarks.coverage.configurations import tiny

VOCABULARY = 250  # no other matrix has this size: onnxruntime-genai's builder knows the head by its own
# ONNX Runtime's GroupQueryAttention rotates a multiple of 16 positions of a head, of these the half
WIDER = {"phi": {"hidden_size": 128}, "nemotron": {"head_dim": 32}}
LENGTHS = (5, 12, 9)  # of the prompts, in one batch
STEPS = 16
SLOTS = 64  # of a cache
PAD = 0
FIRST = 8  # tokens below have a meaning
TIE = 1e-3  # standard deviations of the logits that two best tokens may be apart: rounding decides between them

Rows = list[list[int]]


def original(kind: str) -> PreTrainedModel:
    """Return the model of a type with random weights, the same in every process; no weight is left at 1 or 0."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **_resized(tiny(kind)) | WIDER.get(kind, {}))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if (parameter == parameter.flatten()[0]).all():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def _resized(changes: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with this module's vocabulary."""
    return {
        key: _resized(value) if isinstance(value, dict) else VOCABULARY if "vocab" in key and value == USUAL else value
        for key, value in changes.items()
    }


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write the checkpoint, and a tokenizer: builders ask for one."""
    model.save_pretrained(folder)
    words = [f"w{token}" for token in range(VOCABULARY)]
    model_of_words = WordLevel({word: token for token, word in enumerate(words)}, unk_token=words[1])
    tokenizer = Tokenizer(model_of_words)
    tokenizer.pre_tokenizer = Whitespace()
    special = {"pad_token": words[PAD], "bos_token": words[1], "eos_token": words[2]}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.save_pretrained(folder)


def prompts() -> Rows:
    """Return one row of tokens for each length."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(FIRST, VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]


def greedy(model: PreTrainedModel, rows: Rows) -> Rows:
    """Return the original's own continuation of each row."""
    texts = [list(row) for row in rows]
    for text in texts:
        for _ in range(STEPS):
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([text]), use_cache=False).logits
            text.append(int(logits[0, -1].argmax()))
    return [text[len(row) :] for row, text in zip(rows, texts, strict=True)]


def generated(model: PreTrainedModel, rows: Rows) -> Rows:
    """Return what transformers' generate makes of each row alone: it gives a few models other positions, and who builds
    on it cannot know better."""
    model.generation_config = GenerationConfig()
    settings = GenerationConfig(do_sample=False, pad_token_id=PAD, max_new_tokens=STEPS)
    answers = []
    for row in rows:
        ids, mask = padded_left([row])
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        answers.append(output[0, len(row) :].tolist())
    return answers


def unused(rows: Rows) -> int:
    """Return a token that is in none of the rows: for a runtime that must be told of one that ends a text."""
    return next(token for token in range(FIRST, VOCABULARY) if not any(token in row for row in rows))


def padded_left(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows in one tensor, padded on the left, and its mask; int64 [batch, longest]."""
    longest = max(map(len, rows))
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def first_wrong(model: PreTrainedModel, rows: Rows, answers: Rows) -> str:
    """Tell which token of the answers is not the original's greedy choice after all before it; "" for none."""
    for index, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        if len(answer) != STEPS:
            return f"row {index} has {len(answer)} tokens, not {STEPS}"
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([row + answer[:-1]]), use_cache=False).logits[0, len(row) - 1 :]
        chosen = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
        behind = (logits.max(1).values - chosen) / logits.std(1)
        if len(wrong := (behind > TIE).nonzero()):
            first = int(wrong[0])
            return f"row {index}, token {first} is not the original's (its logit is {behind[first]:.3f} s.d. lower)"
    return ""
