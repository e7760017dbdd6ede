"""PyTorch through transformers: `cache` growing or static, `compiled` (in what `mode`) or not; `device`, `dtype`."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from benchmarks.peers import Peer, Rows, nll


class System(Peer):
    """See Peer. As transformers' own generate() does it, the prompt is read uncompiled, steps are compiled."""

    version = f"torch {torch.__version__}, transformers {transformers.__version__}"

    def __init__(self, folder: Path, options: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.options = options
        self.device = options.get("device", "cpu")
        dtype = getattr(torch, options.get("dtype", "float32"))
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(self.device)
        self.decode = self.model.forward
        if options.get("compiled"):
            torch._dynamo.config.recompile_limit = 64  # one graph a batch and cache size
            self.decode = torch.compile(self.model.forward, fullgraph=True, dynamic=False, mode=options.get("mode"))

    def begin(self, batch: int, cache: int) -> None:
        static = self.options["cache"] == "static"
        self.cache = StaticCache(self.model.config, max_cache_len=cache) if static else DynamicCache()
        self.position = 0

    def step(self, tokens: Rows) -> list[int]:
        ids = torch.tensor(tokens, device=self.device)
        forward = self.decode if ids.shape[1] == 1 else self.model.forward
        positions = torch.arange(self.position, self.position + ids.shape[1], device=self.device)[None]
        out = forward(input_ids=ids, position_ids=positions, past_key_values=self.cache, logits_to_keep=1)
        self.position += ids.shape[1]
        return out.logits[:, -1].argmax(-1).tolist()

    def end(self) -> None:
        del self.cache

    def nll(self, windows: Rows) -> float:
        total = 0.0
        for row in windows:
            logits = self.model(input_ids=torch.tensor([row], device=self.device), use_cache=False).logits
            total += nll(logits[0, :-1].cpu().numpy(), row[1:])
        return total

    def weight_bytes(self) -> int:
        table, head = self.model.get_input_embeddings().weight, self.model.get_output_embeddings().weight
        return sum(p.nbytes for p in self.model.parameters()) - (0 if head is table else table.nbytes)
