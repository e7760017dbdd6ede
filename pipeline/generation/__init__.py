"""Run several prompts through one session, and guess tokens that repeat the prompt."""
