"""The Dockerfile and the compose files, held against the repository and each other."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
LONG_RUNNING = {"server", "prometheus", "grafana"}
JOBS = {"model", "train"}


def stages() -> dict[str, list[tuple[str, str]]]:
    """Stage name -> its instructions, each with its arguments, lines joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    found: dict[str, list[tuple[str, str]]] = {"": []}
    for line in text.splitlines():
        word, _, arguments = line.strip().partition(" ")
        if word == "FROM":
            found[arguments.rpartition(" AS ")[2]] = []
        if word and not word.startswith("#"):
            list(found.values())[-1].append((word, arguments))
    return found


def of_stage(stage: str, word: str) -> list[str]:
    return [arguments for instruction, arguments in stages()[stage] if instruction == word]


def services() -> dict[str, Any]:
    """The services with every variable at its default."""
    text = re.sub(r"\$\{[A-Za-z_]+(?::-([^}]*))?\}", lambda found: found[1] or "", COMPOSE)
    parsed: dict[str, Any] = yaml.safe_load(text)["services"]
    return parsed


def test_gpu_is_the_default_target_and_cpu_the_other() -> None:
    assert list(stages())[-1] == "gpu"
    assert {"cpu", "gpu"} <= set(stages())


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_runs_as_an_ordinary_user_and_is_watched(target: str) -> None:
    assert of_stage(target, "USER") == ["passepartout"]
    assert of_stage(target, "ENTRYPOINT") == ['["passepartout"]']
    assert of_stage(target, "VOLUME") == ['["/models", "/tasks", "/runs", "/cache"]']
    assert len(of_stage(target, "HEALTHCHECK")) == 1
    words = [word for word, _ in stages()[target]]
    assert words.index("USER") > max(place for place, word in enumerate(words) if word == "RUN")


def test_the_targets_differ_in_their_base_and_flavour_alone() -> None:
    def common(target: str) -> list[tuple[str, str]]:
        plain = ((word, arguments.replace(target, "FLAVOUR")) for word, arguments in stages()[target])
        return [(w, re.sub(r" +NVIDIA_\S+", "", a)) for w, a in plain if w != "FROM"]

    assert common("cpu") == common("gpu")


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_pips_arguments_reach_the_build_and_not_the_image(target: str) -> None:
    assert of_stage(target, "ARG") == ["PIP_CERT", "PIP_FIND_LINKS", "PIP_INDEX_URL"]
    assert not any("PIP_" in arguments for arguments in of_stage(target, "ENV"))


def copied() -> list[str]:
    """What the Dockerfile takes from the repository, globs resolved."""
    taken: list[str] = []
    for stage in stages():
        for arguments in of_stage(stage, "COPY"):
            if not arguments.startswith("--from"):
                *sources, _ = arguments.split()
                taken += [str(path.relative_to(ROOT)) for source in sources for path in ROOT.glob(source)]
                assert all(list(ROOT.glob(source)) for source in sources), arguments
    return taken


def test_what_is_copied_is_there_and_let_in_and_nothing_else_is() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    let_in = [line[1:] for line in lines if line.startswith("!")]
    assert len(let_in) >= 10
    assert sorted(set(copied())) == sorted(let_in)


def test_every_python_package_of_the_wheel_is_in_the_image() -> None:
    wanted = re.search(
        r"^only-include = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE
    )
    assert wanted is not None
    assert set(re.findall(r'"([^"]+)"', wanted[1])) <= set(copied())


def test_the_scripts_are_sound_shell_and_may_be_run() -> None:
    scripts = [*DEPLOY.glob("*.sh"), ROOT / ".ci" / "run"]
    assert len(scripts) == 4
    for script in scripts:
        assert os.access(script, os.X_OK), script
        subprocess.run(["sh", "-n", script], check=True)


def test_the_services_are_the_ones_promised() -> None:
    found = services()
    assert set(found) == LONG_RUNNING | JOBS
    assert found["train"]["profiles"] == ["train"]
    assert {name for name in LONG_RUNNING if "profiles" in found[name]} == set()


@pytest.mark.parametrize("name", sorted(LONG_RUNNING))
def test_a_service_is_watched_comes_back_and_stays_on_this_machine(name: str) -> None:
    service = services()[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert not service.get("privileged")
    assert "user" not in service


@pytest.mark.parametrize("name", ["server", *sorted(JOBS)])
def test_our_containers_can_do_little(name: str) -> None:
    service = services()[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", sorted(JOBS))
def test_jobs_have_no_network(name: str) -> None:
    assert services()[name]["network_mode"] == "none"


def test_volumes_are_declared_and_folders_exist() -> None:
    declared = set(yaml.safe_load(COMPOSE)["volumes"])
    sources = {mount.split(":")[0] for service in services().values() for mount in service["volumes"]}
    named = {source for source in sources if not source.startswith(".")}
    assert named == declared
    assert {"models", "cache"} <= declared
    missing = [source for source in sources if source.startswith(".") and not (DEPLOY / source).exists()]
    assert missing == []


def test_every_variable_is_explained_in_the_env_file() -> None:
    both = COMPOSE + (DEPLOY / "compose.cpu.yaml").read_text(encoding="utf-8")
    # (variable, default) as used; a variable used twice has one default
    used = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", both))
    assert len(set(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", both))) == len(used)
    lines = (DEPLOY / ".env").read_text(encoding="utf-8")
    explained = dict(re.findall(r"^#([A-Z_]+)=(.*)$", lines, flags=re.MULTILINE))
    assert explained.pop("PASSEPARTOUT_OPTIONS")  # an example; the default is none
    assert used.pop("PASSEPARTOUT_OPTIONS") == ""
    assert explained == used


def test_prometheus_asks_the_server_and_grafana_asks_prometheus() -> None:
    ports = {
        f"{name}:{port.rpartition(':')[2]}"
        for name, service in services().items()
        for port in service.get("ports", [])
    }
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    targets = config["scrape_configs"][0]["static_configs"][0]["targets"]
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert targets == ["server:8000"]
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    assert {"server:8000", "prometheus:9090"} <= ports


def test_grafana_finds_the_dashboard_where_it_is_mounted() -> None:
    mounts = dict(mount.split(":")[:2][::-1] for mount in services()["grafana"]["volumes"])
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/passepartout.yaml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    assert (DEPLOY / mounts[folder] / "tasks.json").is_file()
    home = services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/tasks.json"


def test_the_train_job_has_a_config_whose_paths_are_mounted() -> None:
    """Relative paths of an example's config begin at the image's working directory."""
    train = services()["train"]
    mounts = dict(mount.split(":")[:2][::-1] for mount in train["volumes"])
    method, _, config, *_, bundle = train["command"]
    settings = yaml.safe_load(
        (DEPLOY / mounts["/configs"] / Path(config).relative_to("/configs")).read_text()
    )
    assert of_stage("cpu", "WORKDIR") == ["/"]
    assert method in settings
    written = bundle.removeprefix("bundle=")
    for path in (settings["model"], settings["out"], written):
        assert "/" + path.strip("/").split("/")[0] in mounts


def test_the_server_is_told_what_is_mounted() -> None:
    words = shlex.split(services()["server"]["command"])
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "serve"
    assert options == {
        "--model": "/models/pico-llava",
        "--tasks": "/tasks",
        "--host": "0.0.0.0",
        "--port": "8000",
    }


@pytest.mark.parametrize(
    ("served", "built"),
    [
        ("/models/pico-llava", ["model build pico-llava --keep --out /models/pico-llava"]),
        ("/models/llava-1.5-7b-hf", []),
    ],
)
def test_the_embedded_model_is_built_only_if_it_is_served(
    served: str, built: list[str], tmp_path: Path
) -> None:
    """The job's own shell line, with a stand-in for the command."""
    line = services()["model"]["command"][0].replace("$$", "$")
    stand_in = tmp_path / "passepartout"
    stand_in.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    stand_in.chmod(0o755)
    (tmp_path / "calls").touch()
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PASSEPARTOUT_MODEL": served}
    subprocess.run(["sh", "-c", line], env=environment, check=True)
    assert (tmp_path / "calls").read_text().splitlines() == built
    assert services()["model"]["environment"]["PASSEPARTOUT_MODEL"] == "/models/pico-llava"


def compose_config(*files: str, profiles: tuple[str, ...] = ()) -> dict[str, Any]:
    """What docker-compose makes of the files."""
    command = ["docker-compose", *(word for name in files for word in ("-f", str(DEPLOY / name)))]
    command += [word for profile in profiles for word in ("--profile", profile)]
    done = subprocess.run([*command, "config"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    parsed: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return parsed


needs_compose = pytest.mark.skipif(shutil.which("docker-compose") is None, reason="no docker-compose")


@needs_compose
@pytest.mark.parametrize(
    ("files", "flavour", "runtime"),
    [(("compose.yaml",), "gpu", "nvidia"), (("compose.yaml", "compose.cpu.yaml"), "cpu", "runc")],
)
def test_docker_compose_takes_the_files(files: tuple[str, ...], flavour: str, runtime: str) -> None:
    found = compose_config(*files, profiles=("train",))
    assert set(found) == LONG_RUNNING | JOBS
    assert found["server"]["build"]["target"] == flavour
    assert {found[name]["image"] for name in ("server", "model", "train")} == {f"passepartout:{flavour}"}
    assert {found[name]["runtime"] for name in ("server", "train")} == {runtime}
    assert ("VLLM_CPU_KVCACHE_SPACE" in found["server"]["environment"]) == (flavour == "cpu")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian: prometheus)")
def test_promtool_takes_prometheus_configuration() -> None:
    config = DEPLOY / "prometheus" / "prometheus.yaml"
    done = subprocess.run(["promtool", "check", "config", config], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
