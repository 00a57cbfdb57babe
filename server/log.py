"""Our logger, below vLLM's, so that vLLM's handlers and levels hold for it in every process."""

import logging

__all__ = ["logger"]

logger = logging.getLogger("vllm.passepartout")
