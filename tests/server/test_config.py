"""Options, their faults, and the environment of the server's processes."""

import subprocess
import sys
from argparse import Namespace
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from prompts.bundle import save_bundle
from prompts.errors import ConfigError
from prompts.manifest import Manifest, PrefixSpec
from server import cli
from server.config import (
    ServeConfig,
    cache_secret,
    find_api_keys,
    find_trace_endpoint,
    has_cache_size,
    set_environment,
)
from tests.prompts.sample import BASE


def test_every_fault_of_the_options_is_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        ServeConfig(tasks=tmp_path / "nosuch", text_rows=-1, max_device_tasks=0)
    faults = caught.value.faults
    assert [one.partition(":")[0] for one in faults] == ["--max-device-tasks", "--text-rows", "--tasks"]
    assert "expected 1 or more, came 0" in faults[0]
    assert "expected 0 or more, came -1" in faults[1]


def test_the_file_of_keys_is_read_with_the_options(tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text("keys: [{name: a, sha256: short, surprise: 1}]")
    with pytest.raises(ConfigError) as caught:
        ServeConfig(tasks=tmp_path / "nosuch", keys=keys, max_body_mb=0)
    named = [one.split(": expected")[0] for one in caught.value.faults]
    assert named == ["--max-body-mb", "--tasks", "keys.0.sha256.0", "keys.0.surprise"]


def test_all_bodies_have_room_for_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--max-bodies-mb: expected --max-body-mb \(64\) or more"):
        ServeConfig(tasks=tmp_path, max_bodies_mb=63)


def test_fields_are_opened_by_known_words_and_without_keys_alone(tmp_path: Path) -> None:
    assert ServeConfig(tasks=tmp_path).open_fields == frozenset()
    assert ServeConfig(tasks=tmp_path, allow_fields="uuid, priority,").open_fields == {"uuid", "priority"}
    keys = tmp_path / "keys.yaml"
    keys.write_text("keys: []")
    with pytest.raises(ConfigError) as caught:
        ServeConfig(tasks=tmp_path, keys=keys, allow_fields="uuids")
    named = [one for one in caught.value.faults if one.startswith("--allow-fields")]
    assert ["came uuids" in named[0], "no --keys" in named[1]] == [True, True]


def test_a_start_has_a_secret_that_the_operator_may_set() -> None:
    ours = "ours, and long enough not to be guessed"
    environments = [{}, {"PASSEPARTOUT_CACHE_SECRET": ""}, {"PASSEPARTOUT_CACHE_SECRET": ours}]
    for environment in environments:
        set_environment(environment)
    first, second, given = (cache_secret(environment) for environment in environments)
    assert first != second
    assert (len(first), len(second), given) == (64, 64, ours.encode())
    set_environment(environments[0])  # the processes of one start inherit it
    assert cache_secret(environments[0]) == first
    with pytest.raises(ConfigError, match="PASSEPARTOUT_CACHE_SECRET: expected at least 32 characters"):
        cache_secret({"PASSEPARTOUT_CACHE_SECRET": "short"})


@pytest.mark.parametrize(
    ("given", "environment", "keys"),
    [(["a", "b"], {"VLLM_API_KEY": "c"}, ["a", "b"]), (None, {"VLLM_API_KEY": "c"}, ["c"]), (None, {}, [])],
)
def test_vllms_keys_are_found_where_vllm_looks(
    given: list[str] | None, environment: dict[str, str], keys: list[str]
) -> None:
    assert find_api_keys(given, environment) == keys


@pytest.mark.parametrize(
    ("given", "environment", "endpoint", "protocol"),
    [
        (None, {}, None, None),
        ("http://c:4317", {}, "http://c:4317", "grpc"),
        ("http://c/v1/traces", {}, "http://c/v1/traces", "http/protobuf"),
        (None, {"ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces", "http/protobuf"),
        (None, {"ENDPOINT": "http://c:4317"}, "http://c:4317", "grpc"),
        (None, {"ENDPOINT": "http://a", "TRACES_ENDPOINT": "http://b"}, "http://b", "grpc"),
        (None, {"ENDPOINT": "http://c/x/", "PROTOCOL": "http/protobuf"}, "http://c/x/v1/traces", None),
        ("http://c", {"TRACES_PROTOCOL": "http/protobuf"}, "http://c", "http/protobuf"),
    ],
)
def test_spans_go_where_the_option_or_opentelemetrys_variables_say(
    given: str | None, environment: dict[str, str], endpoint: str | None, protocol: str | None
) -> None:
    variables = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in environment.items()}
    assert find_trace_endpoint(given, variables) == endpoint
    expected = protocol or environment.get("PROTOCOL")
    assert variables.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") == expected
    assert variables.get("OTEL_SERVICE_NAME") == ("passepartout" if endpoint else None)


def test_tracing_can_be_switched_off() -> None:
    there = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}
    assert find_trace_endpoint(None, {**there, "OTEL_TRACES_EXPORTER": "none"}) is None
    assert find_trace_endpoint("http://c", {**there, "OTEL_SDK_DISABLED": "True"}) is None


def test_words_are_of_a_list(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        ServeConfig(tasks=tmp_path, log_format="xml", drain_seconds=-1, canary="maybe")
    named = [one.partition(":")[0] for one in caught.value.faults]
    assert named == ["--drain-seconds", "--canary", "--log-format"]


def test_a_file_is_no_store(tmp_path: Path) -> None:
    file = tmp_path / "tasks"
    file.write_text("")
    with pytest.raises(ConfigError, match="came a file"):
        ServeConfig(tasks=file)


def test_a_server_started_without_our_command_says_how() -> None:
    with pytest.raises(ConfigError, match="passepartout serve --model M --tasks DIR"):
        ServeConfig.from_namespace(Namespace(model="m"))


def test_capacity_joins_what_the_user_gave_vllm(tmp_path: Path) -> None:
    config = ServeConfig(tasks=tmp_path, max_device_tasks=3, text_rows=7)
    given = config.additional_config({"theirs": 1})
    assert given["theirs"] == 1
    assert given["passepartout"] == {
        "tasks": 3,
        "text_rows": 7,
        "text_vectors": 0,
        "vision_rows": 60,
        "vision_vectors": 0,
        "prefix_rows": 0,
        "projectors": 3,
        "lm_heads": 0,
        "host_tasks": config.max_host_tasks,
    }
    assert list(config.additional_config(None)) == ["passepartout"]


def test_there_is_room_for_the_prefixes_of_the_store_alone(tmp_path: Path) -> None:
    for length in (2, 5, 3):
        spec = PrefixSpec(layers=1, length=length, kv_heads=1, head_dim=4)
        manifest = Manifest(name=f"of-{length}", version="1", base_model=BASE, prefix=spec)
        states = torch.ones(1, length, 4)
        save_bundle(tmp_path / manifest.name, manifest, {"prefix.keys": states, "prefix.values": states})
    room = ServeConfig(tasks=tmp_path, max_device_tasks=2).additional_config(None)["passepartout"]
    assert room["prefix_rows"] == 5 + 3
    room = ServeConfig(tasks=tmp_path, prefix_rows=99).additional_config(None)["passepartout"]
    assert room["prefix_rows"] == 99


def test_our_plugin_is_named_beside_those_that_load_anyway() -> None:
    environment: dict[str, str] = {}
    set_environment(environment)
    names = environment["VLLM_PLUGINS"].split(",")
    assert names[-1] == "passepartout"
    assert "lora_filesystem_resolver" in names  # vLLM's own general plugin


@pytest.mark.parametrize(("given", "set_to"), [("a,b", "a,b,passepartout"), ("", "passepartout")])
def test_the_users_choice_of_plugins_is_kept(given: str, set_to: str) -> None:
    environment = {"VLLM_PLUGINS": given}
    set_environment(environment)
    set_environment(environment)
    assert environment["VLLM_PLUGINS"] == set_to


@pytest.mark.parametrize(("environment", "has"), [({}, False), ({"VLLM_CPU_KVCACHE_SPACE": "2"}, True)])
def test_the_users_cache_size_is_seen(environment: dict[str, str], has: bool) -> None:
    assert has_cache_size(environment) is has


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--model", "m", "--help"]])
def test_help_teaches_ours_first_and_then_vllms(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    text = capsys.readouterr().out
    for one in fields(ServeConfig):
        assert "--" + one.name.replace("_", "-") in text
    assert text.index("--tasks") < text.index("--help=ModelConfig")


def test_no_option_at_all_is_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "--tasks" in capsys.readouterr().out


def test_a_missing_store_is_found_before_vllm_is_imported() -> None:
    code = (
        "import sys\nfrom prompts.errors import ConfigError\nfrom server.cli import main\n"
        "for argv in (['--model', 'm'], ['--model', 'm', '--tasks', '/nosuch']):\n"
        "    try: main(argv)\n"
        "    except ConfigError as error: print('vllm' in sys.modules, error.faults[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    said = done.stdout.splitlines()
    assert [line.partition(" folder")[0] for line in said] == ["False --tasks: expected a"] * 2, done.stderr
    assert "/nosuch" in said[1]


def test_each_front_end_needs_a_place(tmp_path: Path) -> None:
    config = ServeConfig(tasks=tmp_path, max_device_tasks=3)
    with pytest.raises(ConfigError, match="expected at least one for each of 4 API servers, came 3"):
        config.additional_config(None, front_ends=4)
