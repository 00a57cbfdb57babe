"""A worker of vLLM 0.32 that runs vLLM's own LLaVA though our plugin is loaded; for `worker_cls`, which is no
part of any key of vLLM's."""

from typing import Any

from vllm import ModelRegistry
from vllm.model_executor.model_loader import utils as loading
from vllm.v1.worker.cpu_worker import CPUWorker

__all__ = ["STOCK_WORKER", "StockWorker"]

STOCK_WORKER = "tests.engine.stock.StockWorker"


class StockWorker(CPUWorker):
    """Undoes our registration before the model is built."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        architecture = "LlavaForConditionalGeneration"
        ModelRegistry.register_model(architecture, f"vllm.model_executor.models.llava:{architecture}")
        loading._MODEL_ARCH_BY_HASH.clear()
        super().load_model(*args, **kwargs)
        assert type(self.model_runner.get_model()).__name__ == architecture
