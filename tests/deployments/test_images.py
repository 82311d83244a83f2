"""The images: what can be known of them without building one, and the script that builds and pushes them."""

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.deployments.conftest import DEPLOYMENTS, ROOT, tool

DOCKER = DEPLOYMENTS / "docker"
FILES = sorted(DOCKER.glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS = [DOCKER / "build", DEPLOYMENTS / "helm" / "install", ROOT / ".ci" / "run", ROOT / ".ci" / "kubernetes-tools"]


def _instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, arguments), continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def _pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if "==" in line]
    return dict(line.split("==", 1) for line in lines)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dockerfile_has_no_known_mistake(path: Path) -> None:
    done = subprocess.run([tool("hadolint"), str(path)], capture_output=True, text=True, check=False)

    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_has_no_known_mistake(path: Path) -> None:
    done = subprocess.run([tool("shellcheck"), str(path)], capture_output=True, text=True, check=False)

    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_image_runs_as_a_numbered_user_and_installs_nothing_at_run_time(path: Path) -> None:
    instructions = _instructions(path)
    users = [rest for name, rest in instructions if name == "USER"]
    started = [rest for name, rest in instructions if name in ("CMD", "ENTRYPOINT")]

    assert users == ["10001:10001"]
    assert instructions.index(("USER", users[0])) > max(n for n, item in enumerate(instructions) if item[0] == "RUN")
    assert started in ([], ["[]"])
    assert "dkms" not in path.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_copied_exists_and_is_let_through(path: Path) -> None:
    ignored = Path(f"{path}.dockerignore").read_text().splitlines()
    copied = [
        source
        for name, rest in _instructions(path)
        if name == "COPY" and "--from" not in rest
        for source in shlex.split(rest)[:-1]
    ]

    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert ignored[1] == "*"  # after the comment: everything else stays out
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == set(copied)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_image_installs_extras_that_exist(path: Path) -> None:
    extras = {name for match in re.findall(r"'\.\[([\w,]+)\]'", path.read_text()) for name in match.split(",")}

    assert {"train", "s3", "k8s"} <= extras <= set(PROJECT["optional-dependencies"])


def test_both_images_have_the_python_of_the_project() -> None:
    texts = {path.stem: path.read_text() for path in FILES}

    assert PROJECT["requires-python"] == ">=3.11,<3.12"
    assert "python:3.11-" in texts["fine-tune-assets"]
    assert "pytorch-training-neuronx:2.8.0-neuronx-py311-sdk2.26.1-" in texts["fine-tune-assets-neuron"]


def test_the_neuron_image_pins_what_the_project_asks_for() -> None:
    ours, everywhere = _pins(DOCKER / "neuron-constraints.txt"), _pins(ROOT / "constraints.txt")
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(item for name in ("neuron", "train", "s3", "k8s") for item in extras[name])]
    names = {re.split(r"[=<>]", item)[0] for item in wanted}

    assert names <= set(ours)
    # The first three are the Neuron SDK's, and decide the fourth; the last is in no other environment.
    assert {name for name in ours if ours[name] != everywhere.get(name)} == {
        "torch",
        "numpy",
        "accelerate",
        "pyarrow",
        "optimum-neuron",
    }
    assert {f"{name}=={ours[name]}" for name in ("optimum-neuron", "peft", "accelerate")} <= set(extras["neuron"])
    assert ours["torch"].startswith("2.8.")


def test_the_neuron_image_s_pyarrow_loads_beside_its_numpy() -> None:
    pins = _pins(DOCKER / "neuron-constraints.txt")

    # pyarrow names no numpy that it needs, so pip installs the two, and the first rank that reads a row would fail:
    # "ImportError: pyarrow requires NumPy 2.0 or newer, found 1.26.4". Seen with 26.0.1; 25.0.0 works.
    assert pins["numpy"].startswith("2.") or int(pins["pyarrow"].partition(".")[0]) <= 25


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clean commit of what the build script looks at, and programs that say how they were called."""
    root = tmp_path / "checkout"
    for name in ("pyproject.toml", "constraints.txt", "deployments/docker/build"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((ROOT / name).read_bytes())
    (root / "deployments/docker/build").chmod(0o755)
    (tmp_path / "bin").mkdir()
    programs = {
        "docker": f'echo "docker $*" >>{tmp_path}/calls; [ "$1" = login ] && cat >>{tmp_path}/password; true',
        "aws": f'echo "aws $*" >>{tmp_path}/calls; echo the-password',
    }
    for name, body in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    who = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    for words in (("init", "--quiet"), ("add", "--all"), (*who, "commit", "--quiet", "--message", "all")):
        subprocess.run(["git", *words], cwd=root, check=True)
    return root


def _build(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{checkout.parent / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(
        [checkout / "deployments" / "docker" / "build", *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_build_tags_both_images_with_version_and_commit(checkout: Path) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short=7", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.strip()

    done = _build(checkout, "--", "--build-arg", "NEURON=pinned@sha256:0")

    tag = f"{PROJECT['version']}-{commit}"
    assert done.stdout.splitlines() == [f"fine-tune-assets:{tag}", f"fine-tune-assets-neuron:{tag}"], done.stderr
    calls = (checkout.parent / "calls").read_text().splitlines()
    assert len(calls) == 2
    assert all("--platform linux/amd64" in call and "--build-arg NEURON=pinned@sha256:0" in call for call in calls)


def test_build_pushes_where_a_registry_is_given_and_shows_no_password(checkout: Path) -> None:
    done = _build(checkout, "123456789012.dkr.ecr.eu-north-1.amazonaws.com")

    calls = (checkout.parent / "calls").read_text()
    assert done.returncode == 0, done.stderr
    assert "aws ecr get-login-password --region eu-north-1" in calls
    assert calls.count("docker push 123456789012.dkr.ecr.eu-north-1.amazonaws.com/fine-tune-assets") == 2
    assert "the-password" not in calls + done.stdout + done.stderr
    assert (checkout.parent / "password").read_text() == "the-password\n"


def test_build_refuses_what_is_not_committed(checkout: Path) -> None:
    (checkout / "pyproject.toml").write_text('version = "9"\n')

    done = _build(checkout)

    assert done.returncode == 2
    assert done.stderr.startswith("error: uncommitted changes would be in the image")
    assert not (checkout.parent / "calls").exists()
