"""Which of transformers' causal LMs build and pass, each as a tiny random model: docs/coverage.md."""
