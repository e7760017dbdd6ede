"""The greedy text of an artifact for people: what it continued each of verify's prompts with."""

from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedTokenizerBase as Tokenizer

from pipeline.proof.results import Result, Written
from pipeline.text.tokens import load_tokenizer

ALONE = "greedy "  # of the cases in which a prompt has a batch to itself: greedy 0, greedy 1


def texts_of(cases: Mapping[str, Result], folder: Path) -> list[dict[str, str]]:
    """For each prompt that the artifact continued alone: {"prompt", "text"}, and "original" where the original writes
    something else. Numbers of tokens stand for text where the model has no tokenizer.

    cases: of one artifact, by name. folder: holds the tokenizer.
    """
    alone = [case for name, case in cases.items() if name.startswith(ALONE) and name.removeprefix(ALONE).isdigit()]
    found = [case.written[0] for case in alone if case.written]
    tokenizer = load_tokenizer(folder) if found else None
    return [_text(written, tokenizer) for written in found]


def _text(written: Written, tokenizer: Tokenizer | None) -> dict[str, str]:
    def decoded(tokens: list[int], **options: bool) -> str:
        return str(tokenizer.decode(tokens, **options)) if tokenizer else " ".join(map(str, tokens))

    def continued(tokens: list[int]) -> str:
        # decoded with the prompt, as a first token by itself may lose its leading space
        return decoded([*written.prompt, *tokens])[len(decoded(written.prompt)) :]

    shown = {"prompt": decoded(written.prompt, skip_special_tokens=True), "text": continued(written.tokens)}
    return shown if written.tokens == written.original else shown | {"original": continued(written.original)}
