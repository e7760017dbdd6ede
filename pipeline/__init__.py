"""kvforge: a Hugging Face causal LM in; a static-KV-cache ONNX model and an inference engine out."""
