"""What an M²PT job learns: which tensors, their first values, and how the model and the bundle take them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from prompts.bundle import load_bundle
from prompts.deep import LayerChoice, choose_layers, xavier_prompts
from prompts.errors import ConfigError
from prompts.faults import fault
from prompts.manifest import TextSpec, VisionSpec
from training.backbone import DeepPrompts, LlavaBackbone
from training.config import M2ptConfig
from training.m2pt.reparametrisation import fold, fresh_mlp

__all__ = ["InTraining", "Layout", "Learned", "fresh", "layout_of"]

_MLP = ".mlp."


@dataclass(frozen=True)
class Layout:
    """Where prompts stand, as the bundle says it; None for a side that has none."""

    text: TextSpec | None
    vision: VisionSpec | None

    @property
    def text_length(self) -> int:
        """Rows before the first token."""
        return 0 if self.text is None else self.text.length


class InTraining:
    """Tensors by name, and how a checkpoint keeps them."""

    tensors: dict[str, Tensor]

    def state(self) -> dict[str, Tensor]:
        """The tensors as a checkpoint keeps them, on the CPU."""
        return {name: tensor.detach().cpu() for name, tensor in self.tensors.items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Takes the values of a checkpoint of the same config."""
        for name, tensor in self.tensors.items():
            tensor.copy_(state[name])


@dataclass(frozen=True)
class Learned(InTraining):
    """The tensors in training, float32: by their names in a bundle, and `text.mlp.*`, `vision.mlp.*`."""

    tensors: dict[str, Tensor]
    layout: Layout
    config: M2ptConfig

    def values(self) -> dict[str, Tensor]:
        """The bundle's tensors, MLPs folded away; gradients flow."""
        own = {name: tensor for name, tensor in self.tensors.items() if _MLP not in name}
        for side in ("text", "vision"):
            prefix = side + _MLP
            mlp = {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}
            if mlp:
                own[f"{side}.prompts"] = fold(own[f"{side}.prompts"], mlp)
        return own

    def deep(self) -> DeepPrompts:
        """As the backbone takes them; gradients flow."""
        values, prefix = self.values(), "projector."
        projector = {name.removeprefix(prefix): t for name, t in values.items() if name.startswith(prefix)}
        text, vision = self.layout.text, self.layout.vision
        return DeepPrompts(
            text=values.get("text.prompts"),
            vision=values.get("vision.prompts"),
            vision_mode=self.config.m2pt.mode,
            projector=projector or None,
            text_at=None if text is None else text.at,
            vision_at=None if vision is None else vision.at,
            lm_head=values.get("lm_head.weight"),
        )

    def groups(self) -> list[dict[str, Any]]:
        """AdamW's parameter groups, with each group's own peak learning rate as `peak`."""
        own = {
            "text": self.config.lr,
            "vision": self.config.m2pt.vision_lr or self.config.lr,
            "projector": self.config.m2pt.projector_lr or self.config.lr,
            "lm_head": self.config.m2pt.lm_head_lr or self.config.lr,
        }
        chosen: dict[str, list[Tensor]] = {}
        for name, tensor in self.tensors.items():
            chosen.setdefault(name.partition(".")[0], []).append(tensor)
        return [{"params": tensors, "lr": own[part], "peak": own[part]} for part, tensors in chosen.items()]


def layout_of(config: M2ptConfig, backbone: LlavaBackbone) -> Layout:
    """Where this job's prompts stand in this model.

    Raises:
        ConfigError: a layer is named that the model does not have.
    """
    options, faults = config.m2pt, list[str]()
    layers, hidden = backbone.text_shape
    tower_layers, tower_hidden = backbone.vision_shape
    text_at = _at("text_layers", options.text_layers, layers, faults)
    vision_at = _at("vision_layers", options.vision_layers, tower_layers, faults)
    if faults:
        raise ConfigError("train", faults)
    text = vision = None
    if options.text_length:
        text = TextSpec(layers=layers, length=options.text_length, hidden=hidden, at=text_at)
    if options.vision_length:
        vision = VisionSpec(
            layers=tower_layers,
            length=options.vision_length,
            hidden=tower_hidden,
            at=vision_at,
            mode=options.mode,
        )
    return Layout(text, vision)


def _at(field: str, which: LayerChoice, layers: int, faults: list[str]) -> tuple[int, ...] | None:
    """The bundle's `at`: None where every layer has prompts of its own."""
    try:
        chosen = choose_layers(which, layers)
    except ValueError as error:
        faults.append(f"m2pt.{field}: {error}")
        return None
    return None if len(chosen) == layers else chosen


def fresh(config: M2ptConfig, backbone: LlavaBackbone) -> Learned:
    """First values on the model's device, float32: prompts as `init` says, the model's projector and head.

    Raises:
        BundleError: `init_bundle` is no bundle.
        ConfigError: a layer is named that is none, a text of other length, a bundle of other shapes.
    """
    generator = torch.Generator().manual_seed(config.seed)
    layout = layout_of(config, backbone)
    options, tensors = config.m2pt, dict[str, Tensor]()
    if layout.text is not None:
        tensors["text.prompts"] = _fresh_text(config, layout.text, backbone, generator)
    if layout.vision is not None:
        drawn = xavier_prompts(layout.vision.layers, layout.vision.length, layout.vision.hidden, generator)
        tensors["vision.prompts"] = drawn[list(layout.vision.layer_indices)]
    if options.projector:
        for name, parameter in backbone.projector.named_parameters():
            tensors[f"projector.{name}"] = parameter.detach().float().clone()
    if options.lm_head:
        tensors["lm_head.weight"] = backbone.head_weight.detach().float().clone()
    if options.init_bundle is not None:
        tensors = _of_bundle(options.init_bundle, tensors, layout)
    if options.reparametrisation is not None:
        tensors |= _fresh_mlps(layout, options.reparametrisation, generator)
    on_device = {name: tensor.to(backbone.device).requires_grad_() for name, tensor in tensors.items()}
    return Learned(on_device, layout, config)


def _fresh_text(config: M2ptConfig, spec: TextSpec, backbone: LlavaBackbone, generator: Generator) -> Tensor:
    """(len(spec.layer_indices), P_t, d)."""
    options = config.m2pt
    if options.init_text is not None:
        whole = backbone.text_prompts_of(options.init_text, spec.length)
    elif options.init == "vocabulary":
        whole = backbone.text_prompts_of_vocabulary(spec.length, generator)
    else:
        whole = xavier_prompts(spec.layers, spec.length, spec.hidden, generator)
    return whole[list(spec.layer_indices)]


def _fresh_mlps(layout: Layout, width: int, generator: Generator) -> dict[str, Tensor]:
    sides = {"text": layout.text, "vision": layout.vision}
    return {
        side + _MLP + name: tensor
        for side, spec in sides.items()
        if spec is not None
        for name, tensor in fresh_mlp(spec.hidden, width, generator).items()
    }


def _of_bundle(folder: Path, begun: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The bundle's values in place of the first ones.

    Raises:
        BundleError: it is no bundle.
        ConfigError: it holds other tensors, or of other shapes, or at other layers.
    """
    bundle = load_bundle(folder)
    found = {name: tensor.float() for name, tensor in bundle.tensors.items()}
    expected = _described(begun, layout)
    came = _described(found, Layout(bundle.manifest.text, bundle.manifest.vision))
    if expected != came:
        cure = "give the lengths and layers that the bundle has"
        raise ConfigError("train", [fault("m2pt.init_bundle", expected=expected, came=came, cure=cure)])
    return found


def _described(tensors: dict[str, Tensor], layout: Layout) -> str:
    """Names, shapes and the layers where not all have prompts."""
    sides = {"text.prompts": layout.text, "vision.prompts": layout.vision}
    at = {name: spec.at for name, spec in sides.items() if spec is not None and spec.at is not None}
    return ", ".join(
        f"{name} {list(tensor.shape)}" + (f" at {list(at[name])}" if name in at else "")
        for name, tensor in sorted(tensors.items())
    )
