"""The methods that M²PT is compared with: LoRA and prompt tuning (both PEFT's own), and full fine-tuning."""

from training.baselines.job import train_baseline
from training.baselines.saved import Saved, load_saved

__all__ = ["Saved", "load_saved", "train_baseline"]
