"""The saved prompt: bundle, store, the TVP frame, deep prompts. Imports neither vLLM nor transformers."""
