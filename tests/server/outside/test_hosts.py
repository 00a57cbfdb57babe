"""The allow-list of hosts, and which addresses anybody may reach."""

from ipaddress import ip_address

import pytest

from server.outside.hosts import allows, is_public, parse_hosts


@pytest.mark.parametrize(
    ("listed", "name", "port", "allowed"),
    [
        ("a.example", "a.example", 443, True),
        ("A.Example", "a.example", 80, True),
        ("a.example", "a.example", 8080, False),
        ("a.example:8080", "a.example", 8080, True),
        ("a.example:8080", "a.example", 443, False),
        ("a.example", "b.a.example", 443, False),
        ("a.example", "a.example.evil", 443, False),
        ("*.a.example", "b.a.example", 443, True),
        ("*.a.example", "c.b.a.example", 443, True),
        ("*.a.example", "a.example", 443, False),
        ("*.a.example", "ba.example", 443, False),
        ("a.example, *.b.example", "x.b.example", 80, True),
        ("a.example", "a.example.", 443, False),
        ("", "a.example", 443, False),
        ("93.184.216.34", "93.184.216.34", 80, True),
    ],
)
def test_a_host_is_allowed_by_its_whole_name(listed: str, name: str, port: int, allowed: bool) -> None:
    hosts, faults = parse_hosts(listed)
    assert faults == []
    assert allows(hosts, name, port) is allowed


@pytest.mark.parametrize(
    "entry",
    [
        "https://a.example",
        "a.example/x",
        "*",
        "*.com",
        "*.1.2.3.4",
        "a.*",
        "a b",
        "a.example:0",
        "a:99999",
        "a:x",
    ],
)
def test_what_names_no_host_is_a_fault(entry: str) -> None:
    hosts, faults = parse_hosts(f"good.example,{entry}")
    assert [host.name for host in hosts] == ["good.example"]
    assert len(faults) == 1
    assert faults[0].startswith("--picture-hosts: expected NAME")


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946"])
def test_what_anybody_reaches_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "198.18.0.1", "192.0.2.1", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "fe80::1", "fe80::1%1", "fc00::1", "fd00:ec2::254", "fec0::1"),
        *("ff0e::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "::7f00:1"),
        *("64:ff9b:1::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::"),
    ],
)
def test_what_not_everybody_reaches_is_not(address: str) -> None:
    assert not is_public(ip_address(address))
