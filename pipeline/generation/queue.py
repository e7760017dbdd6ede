"""Run any number of prompts through the rows of one session: a row whose text has ended takes the next prompt."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.runtime.session import Session
from pipeline.text.sampling import Row, Sampling


@dataclass
class Text:
    """One prompt and its answer. limit: most new tokens. ended: whether the answer so far ends the text."""

    index: int
    prompt: Sequence[int]
    limit: int
    ended: Callable[[], bool] = lambda: False
    new: list[int] = field(default_factory=list)


def run(session: Session, texts: Iterable[Text], sampling: Sampling, stop: frozenset[int]) -> Iterator[Text]:
    """Continue each text until a token of `stop`, which it does not get, its limit, or its own end; yield it then.

    The texts come in the order in which they end. A text's tokens depend on no other text.
    """
    waiting = iter(texts)
    vocab = int(session.contract.logits.shape[-1])
    rows: list[tuple[Text, Row] | None] = [None] * session.batch
    feed: list[list[int]] = [[] for _ in rows]
    while True:
        for number, held in enumerate(rows):
            if held is None and (text := next(waiting, None)) is not None:
                rows[number] = text, Row(sampling, text.prompt, vocab)
                session.lengths[number] = 0
                feed[number] = list(text.prompt)
        if not any(feed):
            return
        logits = session.step(feed)
        for number, held in enumerate(rows):
            if held is None:
                continue
            text, row = held
            last = len(feed[number]) - 1 if logits.shape[1] > 1 else 0
            token = row.choose(logits[number, last])
            feed[number] = [token]
            if token not in stop:
                text.new.append(token)
            if token in stop or text.ended() or len(text.new) == text.limit:
                rows[number], feed[number] = None, []
                yield text
