"""The HTTP side of Passepartout: vLLM's OpenAI server plus the task. `engine/` runs in vLLM's processes."""
