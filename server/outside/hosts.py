"""Which hosts pictures may be fetched from, and which addresses a host may have.

The allow-list names hosts; where a name leads is the affair of whoever owns it, so each of its addresses must
also be a public one: no name may lead into the operator's own network.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from prompts.faults import fault, shown

__all__ = ["Address", "Host", "allows", "is_public", "parse_hosts"]

Address = IPv4Address | IPv6Address

_DEFAULT_PORTS = frozenset({80, 443})
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ANY_BELOW = "*."
_CARRIERS = tuple(
    IPv6Network(one)
    for one in (
        "64:ff9b::/96",  # NAT64, RFC 6052
        "64:ff9b:1::/48",  # NAT64 of one network, RFC 8215
        "2002::/16",  # 6to4
        "2001::/32",  # Teredo
        "::/96",  # IPv4-compatible
    )
)
"""IPv6 that carries an IPv4 address inside: nothing public needs it."""


@dataclass(frozen=True)
class Host:
    """One entry. `name`: lower case; `below`: the names below it alone; `port`: None for 80 and 443."""

    name: str
    below: bool = False
    port: int | None = None

    def allows(self, name: str, port: int) -> bool:
        """Whether a host's name and a port are what the entry says."""
        is_port = port in _DEFAULT_PORTS if self.port is None else port == self.port
        is_name = name.endswith("." + self.name) if self.below else name == self.name
        return is_port and is_name


def parse_hosts(text: str) -> tuple[list[Host], list[str]]:
    """The entries of `--picture-hosts`, and a fault for each that is none."""
    hosts, faults = [], []
    for entry in filter(None, (one.strip().lower() for one in text.split(","))):
        host = _parse(entry)
        if host is None:
            expected, cure = "NAME, NAME:PORT or *.NAME", "name a host, without a scheme and a path"
            faults.append(fault("--picture-hosts", expected=expected, came=shown(entry), cure=cure))
        else:
            hosts.append(host)
    return hosts, faults


def allows(hosts: Iterable[Host], name: str, port: int) -> bool:
    """Whether any entry allows a host."""
    return any(host.allows(name, port) for host in hosts)


def is_public(address: Address) -> bool:
    """Whether an address is anybody's: not private, loopback, link-local, shared, reserved or multicast."""
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        if mapped is not None or any(address in one for one in _CARRIERS):
            return False
        if address.scope_id is not None or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _parse(entry: str) -> Host | None:
    name, colon, port = entry.partition(":")
    below = name.startswith(_ANY_BELOW)
    name = name.removeprefix(_ANY_BELOW)
    if colon and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 1 << 16):
        return None
    if not _NAME.fullmatch(name) or (below and "." not in name) or (below and _is_address(name)):
        return None
    return Host(name, below, int(port) if colon else None)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
