"""OpenVINO: the model by transformers' OpenVINO exporter, weights compressed by NNCF; its cache grows inside."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13

from benchmarks.peers import TILE, Peer, Rows, chunks, nll, nlls

MODEL = "openvino_model.xml"
# what stands between a compressed constant and the operator that uses it
UNPACKING = {"Convert", "Subtract", "Multiply", "Reshape", "Transpose", "FakeConvert"}


class System(Peer):
    """See Peer. `precision`: fp32, bf16, int8 or int4. `cache`: its type where it is not that of `precision`.

    On a CPU with AMX OpenVINO computes in bf16 unless it is told otherwise, and in products with compressed weights it
    rounds activations to 8 bits in groups of 32. So its users get the rows bf16 (of the fp32 model), int8 and int4;
    fp32 is fp32 throughout.
    """

    version = f"openvino {version('openvino')}"

    def __init__(self, folder: Path, options: dict[str, Any], threads: int) -> None:
        self.core = ov.Core()
        self.model = self.core.read_model(folder / MODEL)
        _help_fusion(self.model)
        self.inputs = {name for port in self.model.inputs for name in port.get_names()}
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        self.bf16 = options["precision"] == "bf16"
        if options["precision"] == "fp32":
            settings |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        if "cache" in options:
            settings["KV_CACHE_PRECISION"] = options["cache"]
        self.settings = settings
        last = self.model.clone()
        _keep_last(last)
        self.request = self._request(last)

    def _request(self, model: ov.Model) -> ov.InferRequest:
        return self.core.compile_model(model, "CPU", self.settings).create_infer_request()

    @staticmethod
    def build(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
        import nncf
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.exporters import OpenVINOConfig, OpenVINOExporter
        from transformers.exporters.utils import decompose_for_generation

        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        sample = torch.arange(16).reshape(2, 8)
        inputs = {"input_ids": sample, "attention_mask": torch.ones_like(sample)}
        part, example = decompose_for_generation(model, inputs, multi_token_decode=True)["decode"]
        exported = OpenVINOExporter().export(part, example, OpenVINOConfig(dynamic=True))
        program = exported.components["model"].program
        if options["precision"] == "int8":
            program = nncf.compress_weights(program)
        if options["precision"] == "int4":
            mode = nncf.CompressWeightsMode.INT4_ASYM
            program = nncf.compress_weights(program, mode=mode, group_size=32)
        ov.save_model(program, folder / MODEL, compress_to_fp16=False)

    def begin(self, batch: int, cache: int) -> None:
        self.request.reset_state()
        self.position = 0

    def step(self, tokens: Rows) -> list[int]:
        return self._run(tokens)[:, -1].argmax(-1).tolist()

    def _run(self, tokens: Rows) -> np.ndarray:
        ids = np.array(tokens)
        batch, count = ids.shape
        positions = np.arange(self.position, self.position + count)
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones((batch, self.position + count), np.int64),
            "position_ids": np.ascontiguousarray(np.broadcast_to(positions, ids.shape)),
            "beam_idx": np.arange(batch, dtype=np.int32),
        }
        self.position += count
        feeds = {name: value for name, value in feeds.items() if name in self.inputs}
        return self.request.infer(feeds, share_inputs=True, share_outputs=True)["logits"]

    def end(self) -> None:
        self.request.reset_state()

    def nll(self, windows: Rows) -> float:
        total = 0.0
        request, self.request = self.request, self._request(self.model)
        for row in windows:
            self.begin(1, len(row))
            total += nll(self._run([row])[0, :-1], row[1:])
        self.request = request
        return total

    def fill(self, used: int, slots: int) -> None:
        self.begin(1, slots)
        rng = np.random.default_rng(0)
        for state in self.request.query_state():
            heads, head_dim = state.state.shape[1], state.state.shape[3]
            some = rng.standard_normal((1, heads, TILE, head_dim), np.float32)
            state.state = ov.Tensor(np.ascontiguousarray(np.tile(some, (1, 1, -(-used // TILE), 1))[:, :, :used]))
        self.position = used
        self.token_bytes = sum(_token_bytes(state.state, self.settings) for state in self.request.query_state())

    def cache_bytes(self) -> float:
        return self.token_bytes

    def read(self, tokens: Sequence[int], chunk: int) -> list[float]:
        request, self.request = self.request, self._request(self.model)
        self.begin(1, len(tokens))
        found = []
        for part, targets in chunks(tokens, chunk):
            found += nlls(self._run([part])[0, : len(targets)], targets).tolist()
        self.request = request
        return found

    def weight_bytes(self) -> int:
        total = sum(
            node.get_byte_size() for node in self.model.get_ops() if node.get_type_name() == "Constant" and _read(node)
        )
        return total // 2 if self.bf16 else total  # halved when the model is compiled


def _token_bytes(state: ov.Tensor, settings: dict[str, Any]) -> int:
    """Bytes of a token's keys or values. A state is shown in fp32 whatever it is held in; with 8 bits each head has a
    scale and an offset in fp32."""
    heads, head_dim = state.shape[1], state.shape[3]
    return heads * (head_dim + 8 if settings.get("KV_CACHE_PRECISION") == "u8" else head_dim * 4)


def _help_fusion(model: ov.Model) -> None:
    """Repeat keys and values for their query heads by constant numbers. The exporter computes the shapes, and then the
    CPU plugin does not see attention with a cache in place: it copies the whole cache each step."""
    for node in model.get_ops():
        if node.get_type_name() == "Broadcast" and node.input_value(0).get_node().get_type_name() == "Unsqueeze":
            (reshape,) = [port.get_node() for port in node.output(0).get_target_inputs()]
            heads, kv_heads = (
                shaped.get_output_partial_shape(0)[1] for shaped in (reshape, node.input_value(0).get_node())
            )
            if reshape.get_type_name() == "Reshape":
                repeats = [1, 1, heads.get_length() // kv_heads.get_length(), 1, 1]
                repeated = opset13.broadcast(node.input_value(0), repeats, broadcast_spec="BIDIRECTIONAL")
                reshape.input(0).replace_source_output(repeated.output(0))
    model.validate_nodes_and_infer_types()


def _keep_last(model: ov.Model) -> None:
    """Compute logits at the last token only, as OpenVINO GenAI has it before it runs a model."""
    head = model.output("logits").get_node().input_value(0).get_node()
    assert head.get_type_name() == "MatMul"
    last = opset13.slice(head.input_value(0), [-1], [2**31 - 1], [1], [1])
    head.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


def _read(constant: Any) -> bool:
    """Whether a decode step reads all of a constant: not if every use of it is a lookup of rows."""
    uses = [port.get_node() for output in constant.outputs() for port in output.get_target_inputs()]
    return any(_read(node) if node.get_type_name() in UNPACKING else node.get_type_name() != "Gather" for node in uses)
