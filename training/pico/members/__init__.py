"""The pico family: one language model, one recipe, the same pictures, different ways to see.

pico-llava is the embedded model that everything is shown on; the others are there for a learned frame to
transfer to (TVP, §4).
"""

from prompts.errors import ConfigError
from prompts.faults import fault, shown
from training.pico.members.blip2 import PicoBlip2
from training.pico.members.idefics import PicoIdefics
from training.pico.members.llava import PicoLlava, PicoLlavaB
from training.pico.members.member import Eyes, Member, Seen

__all__ = ["MEMBERS", "Eyes", "Member", "Seen", "find_member"]

_ALL = (PicoLlava(), PicoLlavaB(), PicoIdefics(), PicoBlip2())
MEMBERS: dict[str, Member] = {member.name: member for member in _ALL}


def find_member(name: str) -> Member:
    """The member of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in MEMBERS:
        expected = f"one of {', '.join(MEMBERS)}"
        raise ConfigError("model", [fault("name", expected=expected, came=shown(name), cure="correct it")])
    return MEMBERS[name]
