"""`make bench`: this project beside its peers, on one model, in one interleaved run. See docs/benchmarks.md.

What is covered: prefill and decode speed, memory, time to build, perplexity, and the share of the machine's memory
bandwidth that each system reaches. What is not: serving many users, sampling, anything on a GPU.
"""
