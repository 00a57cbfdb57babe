"""What the engine says of itself: the shapes a bundle must have and the room there is.

`EngineFacts` crosses from the workers to the front end as a plain dict; `find_misfits` is asked on both
sides.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from prompts import contents
from prompts.bundle import Bundle
from prompts.faults import fault
from prompts.manifest import Manifest, PrefixSpec

__all__ = ["ADDITIONAL_CONFIG_KEY", "Capacity", "EngineFacts", "Room", "find_misfits"]

ADDITIONAL_CONFIG_KEY = "passepartout"
"""Our key in vLLM's `additional_config`."""

_MORE_TEXT, _MORE_VISION = "raise --text-rows and start again", "raise --vision-rows and start again"
_ROOM_CURES = {
    "tasks": "raise --max-device-tasks and start again",
    "text_rows": _MORE_TEXT,
    "text_vectors": _MORE_TEXT,
    "vision_rows": _MORE_VISION,
    "vision_vectors": _MORE_VISION,
    "prefix_rows": "start again with --prefix-rows that many or more",
    "projectors": "start again with --projectors 1 or more",
    "lm_heads": "start again with --lm-heads 1 or more",
}


@dataclass(frozen=True, kw_only=True)
class Room:
    """Places on the device: those a bank has, or those a bundle needs.

    `tasks`: tasks at a time; `text_rows`, `vision_rows`: prompt tokens; `text_vectors`, `vision_vectors`:
    their vectors over all layers; `prefix_rows`: tokens of prefixes; `projectors`, `lm_heads`: tasks with
    one of their own.
    """

    tasks: int = 0
    text_rows: int = 0
    text_vectors: int = 0
    vision_rows: int = 0
    vision_vectors: int = 0
    prefix_rows: int = 0
    projectors: int = 0
    lm_heads: int = 0

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """What a task needs."""
        text, vision, prefix = manifest.text, manifest.vision, manifest.prefix
        return cls(
            tasks=1,
            text_rows=text.length if text else 0,
            text_vectors=text.length * len(text.layer_indices) if text else 0,
            vision_rows=vision.length if vision else 0,
            vision_vectors=vision.length * len(vision.layer_indices) if vision else 0,
            prefix_rows=prefix.length if prefix else 0,
            projectors=int(manifest.projector),
            lm_heads=int(manifest.lm_head),
        )

    def __add__(self, other: "Room") -> "Room":
        return self._combine(other, 1)

    def __sub__(self, other: "Room") -> "Room":
        return self._combine(other, -1)

    def share(self, parts: int) -> "Room":
        """One of so many equal parts."""
        return Room(**{name: count // parts for name, count in vars(self).items()})

    def lacks(self, needed: "Room") -> list[str]:
        """The fields in which `needed` is more than this."""
        return [name for name, count in vars(needed).items() if count > getattr(self, name)]

    def _combine(self, other: "Room", sign: int) -> "Room":
        return Room(**{name: count + sign * getattr(other, name) for name, count in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Room for tasks, from `additional_config["passepartout"]`; what is on the device is allocated at once.

    All but `host_tasks` are on the device (`Room`); that is tasks kept in host memory, ready for the device.
    `text_vectors`, `vision_vectors`: 0 is one at every layer for each row, and more than that there never
    are. Without `prefix_rows` nothing of prefixes is compiled into the model.
    """

    tasks: int = 32
    text_rows: int = 512
    text_vectors: int = 0
    vision_rows: int = 512
    vision_vectors: int = 0
    prefix_rows: int = 0
    projectors: int = 32
    lm_heads: int = 0
    host_tasks: int = 256

    @classmethod
    def from_additional_config(cls, additional_config: Mapping[str, Any]) -> Self:
        """Reads our key; keys other than the fields are of the compile salt and passed over."""
        given = additional_config.get(ADDITIONAL_CONFIG_KEY) or {}
        return cls(**{name: int(given[name]) for name in cls.__dataclass_fields__ if name in given})

    def room(self, *, text_layers: int, vision_layers: int, takes_prefixes: bool = False) -> Room:
        """What that is in a model of so many layers."""
        text_all, vision_all = self.text_rows * text_layers, self.vision_rows * vision_layers
        return Room(
            tasks=self.tasks,
            text_rows=self.text_rows,
            text_vectors=min(self.text_vectors or text_all, text_all),
            vision_rows=self.vision_rows if vision_layers else 0,
            vision_vectors=min(self.vision_vectors or vision_all, vision_all),
            prefix_rows=self.prefix_rows if takes_prefixes else 0,
            projectors=self.projectors,
            lm_heads=self.lm_heads,
        )


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """Shapes and limits of the loaded model.

    `vision_layers` is 0 where the family takes no vision prompts. `projector`: parameter name -> shape, empty
    where the family has none to exchange. `lm_head`: (vocabulary, width). `prefix`: (key heads, width of one)
    of each layer.
    `refusals`: what this engine does not take (`prefix`, `vision`, `vision.mode` released, `projector`,
    `lm_head`, `frame`) -> why, as a sentence that says what to do.
    `max_text_length`, `max_vision_length`: the longest prompts the scheduler can ever place.
    `room`: all there is on the device.
    """

    model: str
    text_layers: int
    text_hidden: int
    vision_layers: int
    vision_hidden: int
    projector: dict[str, tuple[int, ...]]
    lm_head: tuple[int, int]
    max_text_length: int
    max_vision_length: int
    room: Room
    refusals: dict[str, str]
    prefix: tuple[int, int] = (0, 0)

    def to_plain(self) -> dict[str, Any]:
        """What the RPC carries."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Reads what the RPC carried (tuples arrive as lists)."""
        projector = {name: tuple(shape) for name, shape in plain["projector"].items()}
        pairs = {name: tuple(plain[name]) for name in ("lm_head", "prefix")}
        return cls(**{**plain, **pairs, "projector": projector, "room": Room(**plain["room"])})


def find_misfits(bundle: Bundle, facts: EngineFacts, room: Room | None = None) -> list[str]:
    """Every fault that keeps `bundle` out of this engine, its base model's identity aside.

    `room`: what there is for it, `facts.room` unless said otherwise.
    """
    manifest = bundle.manifest
    faults = _refused_parts(manifest, facts.refusals)
    if manifest.text is not None:
        expected = (facts.text_layers, facts.text_hidden)
        came = (manifest.text.layers, manifest.text.hidden)
        faults += _layer_faults("text", expected, came)
        faults += _length_faults("text.length", manifest.text.length, facts.max_text_length)
    if manifest.prefix is not None and "prefix" not in facts.refusals:
        faults += _prefix_faults(manifest.prefix, facts)
    if manifest.vision is not None and "vision" not in facts.refusals:
        expected = (facts.vision_layers, facts.vision_hidden)
        came = (manifest.vision.layers, manifest.vision.hidden)
        faults += _layer_faults("vision", expected, came)
        faults += _length_faults("vision.length", manifest.vision.length, facts.max_vision_length)
    if manifest.projector and "projector" not in facts.refusals:
        faults += _projector_faults(bundle, facts.projector)
    if manifest.lm_head and "lm_head" not in facts.refusals:
        faults += _lm_head_faults(bundle, facts.lm_head)
    return faults or _room_faults(Room.of(manifest), room or facts.room)


def _refused_parts(manifest: Manifest, refusals: Mapping[str, str]) -> list[str]:
    vision = manifest.vision
    carried = {
        "prefix": ("null", "a prefix", manifest.prefix is not None),
        "vision": ("null", "vision prompts", vision is not None),
        "vision.mode": ("paper", "released", vision is not None and vision.mode == "released"),
        "projector": ("false", "true", manifest.projector),
        "lm_head": ("false", "true", manifest.lm_head),
        "frame": ("null", "a frame", manifest.frame is not None),
    }
    return [
        fault(part, expected=expected, came=came, cure=refusals[part])
        for part, (expected, came, is_there) in carried.items()
        if is_there and part in refusals
    ]


def _layer_faults(part: str, expected: tuple[int, int], came: tuple[int, int]) -> list[str]:
    if expected == came:
        return []
    said = [f"{layers} layers of width {hidden}" for layers, hidden in (expected, came)]
    return [fault(part, expected=said[0], came=said[1], cure="train the task on the model that is served")]


def _prefix_faults(prefix: PrefixSpec, facts: EngineFacts) -> list[str]:
    expected, came = (
        f"{layers} layers of {heads} key heads of width {width}"
        for layers, heads, width in (
            (facts.text_layers, *facts.prefix),
            (prefix.layers, prefix.kv_heads, prefix.head_dim),
        )
    )
    cure = "train the task on the model that is served"
    shape = [fault("prefix", expected=expected, came=came, cure=cure)] if expected != came else []
    return [*shape, *_length_faults("prefix.length", prefix.length, facts.max_text_length)]


def _lm_head_faults(bundle: Bundle, expected: tuple[int, int]) -> list[str]:
    if not bundle.manifest.prompt_length:
        cure = "train text prompts with it: by them the engine knows the requests of a task"
        return [fault("lm_head", expected="text prompts beside it", came="none", cure=cure)]
    came = bundle.shapes.get(contents.LM_HEAD)
    if came == expected:
        return []
    cure = "train the task on the model that is served"
    return [fault(contents.LM_HEAD, expected=f"shape {expected}", came=f"shape {came}", cure=cure)]


def _room_faults(needed: Room, room: Room) -> list[str]:
    """The bundle would not even fit alone."""
    return [
        fault(
            f"room for {name}",
            expected=f"at most {getattr(room, name)}",
            came=str(getattr(needed, name)),
            cure=_ROOM_CURES[name],
        )
        for name in room.lacks(needed)
    ]


def _length_faults(field: str, length: int, longest: int) -> list[str]:
    if length <= longest:
        return []
    cure = "raise --max-num-batched-tokens or --max-model-len, or train a shorter prompt"
    return [fault(field, expected=f"at most {longest}", came=str(length), cure=cure)]


def _projector_faults(bundle: Bundle, expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    prefix = contents.PROJECTOR
    came = {name[len(prefix) :]: shape for name, shape in bundle.shapes.items() if name.startswith(prefix)}
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
