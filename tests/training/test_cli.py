"""The offline commands from end to end, on a tiny checkpoint, as typed in a shell."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from passepartout import main
from prompts.bundle import Bundle, load_bundle
from prompts.frame import frame_mask
from tests.training.fake_vllm import FakeVllm, listening
from tests.training.jobs import FRAME, QUESTION

ROOT = Path(__file__).resolve().parents[2]
PNG = b"\x89PNG\r\n\x1a\n"


def write_jobs(folder: Path, model: Path, clip: Path, pictures: Path) -> None:
    """m2pt.yaml, tvp.yaml and evaluate.yaml in `folder`; runs go to its `runs`."""
    data = {"kind": "image_folder", "root": str(pictures), "question": QUESTION}
    common = {"model": str(model), "data": data, "steps": 3, "batch": 2, "dtype": "float32"}
    common |= {"validation": {**data, "limit": 6}, "usage": {"choices": ["heron", "seven", "water bird"]}}
    tvp = {"frame": FRAME, "clip": str(clip)}
    jobs = {
        "m2pt": {**common, "name": "deep", "out": str(folder / "runs" / "m2pt"), "m2pt": {"text_length": 2}},
        "tvp": {**common, "name": "framed", "out": str(folder / "runs" / "tvp"), "tvp": tvp},
        "evaluate": {"model": str(model), "data": data, "out": str(folder / "runs" / "evaluate")},
    }
    for name, job in jobs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(job))


@pytest.fixture(scope="module")
def jobs(
    tiny_folder: Path, tiny_clip: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    write_jobs(folder, tiny_folder, tiny_clip, picture_folder)
    return folder


def test_train_m2pt_from_a_shell(jobs: Path) -> None:
    """`python -m passepartout`, a fresh process; what it leaves is read back here."""
    line = [sys.executable, "-m", "passepartout", "train", "m2pt", "--config", str(jobs / "m2pt.yaml")]
    settings = ["--set", "seed=7", "--set", "log_every=2"]
    done = subprocess.run([*line, *settings], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    bundle = check_run(jobs / "runs" / "m2pt", printed=done.stdout, method="m2pt")
    assert bundle.manifest.base_model is not None
    assert bundle.manifest.provenance.config["m2pt"]["text_length"] == 2


def test_train_tvp(jobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "tvp", "--config", str(jobs / "tvp.yaml"), "--set=seed=7", "--set=log_every=2"]
    assert main(line) == 0
    bundle = check_run(jobs / "runs" / "tvp", printed=capsys.readouterr().out, method="tvp")
    frame = bundle.manifest.frame
    assert frame is not None
    assert bundle.manifest.base_model is None
    assert bundle.trained_values == {"frame": 3 * int(frame_mask(frame).sum())}

    line = ["evaluate", "--config", str(jobs / "evaluate.yaml"), "--bundle", str(bundle.path)]
    assert main(line) == 0
    results = json.loads((jobs / "runs" / "evaluate" / "results.json").read_text())
    assert {name: found["n"] for name, found in results.items()} == {"base model": 9, "framed": 9}
    assert "accuracy" in capsys.readouterr().out


def check_run(run: Path, *, printed: str, method: str) -> Bundle:
    """What every training job leaves behind: log, plot, checkpoint, and a bundle with metrics and origin."""
    bundle = load_bundle(run / "bundle")
    assert f"digest {bundle.digest}" in printed
    assert "validation accuracy" in printed
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3]
    assert all({"loss", "lr", "time"} <= line.keys() for line in log)
    assert (run / "loss.png").read_bytes().startswith(PNG)
    assert (run / "checkpoint.pt").is_file()
    manifest = bundle.manifest
    assert manifest.usage.choices == ("heron", "seven", "water bird")
    validation = manifest.metrics["validation"]
    assert validation["measure"] == "structured"
    assert {validation[part]["n"] for part in ("base", "task")} == {6}
    origin = manifest.provenance
    assert (origin.method, origin.seed, origin.config["seed"]) == (method, 7, 7)
    assert {"torch", "transformers"} <= origin.libraries.keys()
    return bundle


def test_every_fault_is_printed_and_nothing_written(
    jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    settings = [f"--set=out={out}", "--set=stpes=3", "--set=batch=none", "--set=data.root=", "--set=x"]
    assert main(["train", "m2pt", "--config", str(jobs / "m2pt.yaml"), *settings]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: config ")
    for field in ("stpes", "batch", "data.image_folder.root", "--set"):
        assert f"- {field}: expected " in printed
    assert not out.exists()


def test_a_frame_is_trained_by_one_process(
    jobs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several would each train one, and write it to the same place."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "tvp", "--config", str(jobs / "tvp.yaml")]) == 2
    said = "torchrun: expected one process, came 2 processes; start tvp without torchrun, or train m2pt"
    assert said in capsys.readouterr().err


def test_paths_that_lead_nowhere(jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = tmp_path / "gone"
    settings = [f"--set=model={gone}", f"--set=data.root={gone}", f"--set=out={tmp_path / 'out'}"]
    assert main(["train", "m2pt", "--config", str(jobs / "m2pt.yaml"), *settings]) == 2
    printed = capsys.readouterr().err
    assert "- model: expected a checkpoint folder" in printed
    assert "- data: root: expected a folder" in printed
    assert not (tmp_path / "out").exists()


def test_a_bundle_that_is_none(jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever its name looks like in YAML."""
    bundle = tmp_path / "1: none"
    assert main(["evaluate", "--config", str(jobs / "evaluate.yaml"), "--bundle", str(bundle)]) == 2
    assert "error: bundle '1: none' is refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["train", "--help"], ["evaluate", "--help"], ["report", "--help"], ["model", "--help"]]
)
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(arguments)
    except SystemExit as done:
        status = int(done.code or 0)
    assert status == 0
    printed = capsys.readouterr().out
    assert f"passepartout {arguments[0]}" in printed
    if arguments[0] == "train":
        assert "tvp.lambda_fca" in printed
        assert "m2pt.text_length" in printed
        assert "default 0.005" in printed
    if arguments[0] == "report":
        assert "tasks.NAME.named" in printed
        assert "where finished jobs are kept, by content (default runs/report)" in printed
        assert "rates.METHOD.vision_lr" in printed


@pytest.mark.parametrize("arguments", [[], ["paint", "pico-llava"]])
def test_an_unknown_model_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", *arguments]) == 2
    assert "passepartout model build NAME" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["build"], ["build", "llava"], ["train", "llava"]])
def test_an_unknown_model(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["model", *arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "name" in said
    assert "pico-idefics" in said


def test_a_vllm_that_calls_its_model_otherwise(
    jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused under the default name, with a cure that works."""
    fake = FakeVllm(name="org/Qwen-VL", tasks=None)
    line = [
        "evaluate",
        "--config",
        str(jobs / "evaluate.yaml"),
        f"--set=out={tmp_path}",
        "--set=how=structured",
    ]
    with listening(fake) as url:
        assert main([*line, "--server", url]) == 2
        said = capsys.readouterr().err
        assert "came 'base'; name one of them (`--served-model NAME`)" in said
        assert main([*line, "--server", url, "--served-model", "org/Qwen-VL"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: found["n"] for name, found in results.items()} == {"base model": 9}
    assert {body["model"] for body in fake.chats} == {"org/Qwen-VL"}


def test_a_server_that_is_not_there(jobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:  # bound and deaf: nobody else answers there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        line = ["evaluate", "--config", str(jobs / "evaluate.yaml"), "--server", url, "--task", "tiny"]
        assert main(line) == 2
    assert "- address: expected a running server" in capsys.readouterr().err
