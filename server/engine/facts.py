"""What the engine says of itself: the shapes a bundle must have and the room there is.

`EngineFacts` crosses from the workers to the front end as a plain dict; `find_misfits` is asked on both
sides.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from prompts.bundle import Bundle
from prompts.faults import fault

__all__ = ["ADDITIONAL_CONFIG_KEY", "Capacity", "EngineFacts", "find_misfits"]

ADDITIONAL_CONFIG_KEY = "passepartout"
"""Our key in vLLM's `additional_config`."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Room for resident tasks, taken from `additional_config["passepartout"]`.

    `text_rows`, `vision_rows`: learned vectors per layer over all resident tasks, allocated at the start;
    `slots`: resident tasks.
    """

    text_rows: int = 512
    vision_rows: int = 512
    slots: int = 128

    @classmethod
    def from_additional_config(cls, additional_config: Mapping[str, Any]) -> Self:
        """Reads our key; keys other than the fields are of the compile salt and passed over."""
        given = additional_config.get(ADDITIONAL_CONFIG_KEY) or {}
        return cls(**{name: int(given[name]) for name in cls.__dataclass_fields__ if name in given})


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """Shapes and limits of the loaded model.

    `vision_layers` is 0 where the family takes no vision prompts, and `vision_refusal` then says why;
    `released_refusal` says why it takes them in mode `paper` alone, None where it takes both;
    `frame_refusal` why no frame goes around a picture, None where one does.
    `projector`: parameter name -> shape, empty where the family has none to exchange.
    `max_text_length`, `max_vision_length`: the longest prompts the scheduler can ever place.
    """

    model: str
    text_layers: int
    text_hidden: int
    vision_layers: int
    vision_hidden: int
    vision_refusal: str | None
    projector: dict[str, tuple[int, ...]]
    max_text_length: int
    max_vision_length: int
    text_rows: int
    vision_rows: int
    slots: int
    released_refusal: str | None = None
    frame_refusal: str | None = None

    def to_plain(self) -> dict[str, Any]:
        """What the RPC carries."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Reads what the RPC carried (tuples arrive as lists)."""
        projector = {name: tuple(shape) for name, shape in plain["projector"].items()}
        return cls(**{**plain, "projector": projector})


def find_misfits(bundle: Bundle, facts: EngineFacts) -> list[str]:
    """Every fault that keeps `bundle` out of this engine, its base model's identity aside."""
    faults: list[str] = []
    manifest = bundle.manifest
    if manifest.text is not None:
        expected = (facts.text_layers, facts.text_hidden)
        came = (manifest.text.layers, manifest.text.hidden)
        faults += _layer_faults("text", expected, came)
        faults += _length_faults("text.length", manifest.text.length, facts.max_text_length)
    if manifest.vision is not None and facts.vision_refusal is not None:
        faults.append(
            fault("vision", expected="null", came="vision prompts", cure=facts.vision_refusal),
        )
    elif manifest.vision is not None:
        expected = (facts.vision_layers, facts.vision_hidden)
        came = (manifest.vision.layers, manifest.vision.hidden)
        faults += _layer_faults("vision", expected, came)
        faults += _length_faults("vision.length", manifest.vision.length, facts.max_vision_length)
        if manifest.vision.mode == "released" and facts.released_refusal is not None:
            faults.append(
                fault("vision.mode", expected="paper", came="released", cure=facts.released_refusal)
            )
    if manifest.frame is not None and facts.frame_refusal is not None:
        faults.append(fault("frame", expected="null", came="a frame", cure=facts.frame_refusal))
    if manifest.projector:
        faults += _projector_faults(bundle, facts.projector)
    if manifest.lm_head:
        faults.append(
            fault("lm_head", expected="false", came="true", cure="an lm_head per task is not served yet")
        )
    return faults


def _layer_faults(part: str, expected: tuple[int, int], came: tuple[int, int]) -> list[str]:
    if expected == came:
        return []
    said = [f"{layers} layers of width {hidden}" for layers, hidden in (expected, came)]
    return [fault(part, expected=said[0], came=said[1], cure="train the task on the model that is served")]


def _length_faults(field: str, length: int, longest: int) -> list[str]:
    if length <= longest:
        return []
    cure = "raise --max-num-batched-tokens or --max-model-len, or train a shorter prompt"
    return [fault(field, expected=f"at most {longest}", came=str(length), cure=cure)]


def _projector_faults(bundle: Bundle, expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    came = {name: tuple(tensor.shape) for name, tensor in bundle.projector_state().items()}
    cure = "train the task on the model that is served"
    return [
        fault(
            f"projector.{name}",
            expected=f"shape {expected[name]}" if name in expected else "no such tensor",
            came=f"shape {came[name]}" if name in came else "nothing",
            cure=cure,
        )
        for name in sorted(expected.keys() | came.keys())
        if expected.get(name) != came.get(name)
    ]
