"""M²PT: learned tokens in the layers of vision encoder and language model; a projector trained further."""

from training.m2pt.loop import train_m2pt

__all__ = ["train_m2pt"]
