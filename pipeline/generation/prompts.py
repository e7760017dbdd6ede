"""The prompts of a file: one a line, or JSON lines with a prompt or the messages of a chat."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import Problem, UserError

STDIN = "-"


@dataclass(frozen=True)
class Prompt:
    """One prompt: a text, or the messages of a chat. where: its file and line."""

    where: str
    text: str | None = None
    messages: tuple[dict[str, Any], ...] = ()


def read(file: str) -> list[Prompt]:
    """The prompts of a file, or of stdin for "-"; lines without text are skipped.

    A line that begins with { is JSON: {"prompt": TEXT} or {"messages": [{"role": ..., "content": ...}, ...]}.
    Raises UserError with everything that is wrong.
    """
    try:
        content = sys.stdin.read() if file == STDIN else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(Problem(f"{file} cannot be read: {reason}", "--batch", "give a text file, or -")) from error
    prompts: list[Prompt] = []
    problems: list[Problem] = []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        found = _parsed(line.removesuffix("\r"), f"{file}:{number}")
        if isinstance(found, Problem):
            problems.append(found)
        else:
            prompts.append(found)
    if not prompts and not problems:
        problems.append(Problem(f"{file} has no prompts", "--batch", "give a prompt a line"))
    if problems:
        raise UserError(problems)
    return prompts


def _parsed(line: str, where: str) -> Prompt | Problem:
    if not line.startswith("{"):
        return Prompt(where, line)
    fix = 'give {"prompt": TEXT} or {"messages": [{"role": "user", "content": TEXT}]}'
    try:
        value = json.loads(line)
    except ValueError as error:
        return Problem(f"the line begins with {{ and is not JSON: {error}", where, fix)
    match value:
        case {"prompt": str(text)} if text and "messages" not in value:
            return Prompt(where, text)
        case {"messages": [*messages]} if messages and "prompt" not in value and all(map(_is_message, messages)):
            return Prompt(where, messages=tuple(messages))
    return Problem("the line is neither a prompt nor the messages of a chat", where, fix)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str)
