"""The rules of docs/architecture.md that a program can check."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from neuron_ops.recipe.file import load_recipe, shipped_recipes
from neuron_ops.steps.table import BY_ARTIFACT, BY_VERB, RAW_DATASET, STEPS, upstream

ROOT = Path(__file__).parent.parent
# Reads the files that Trainium's libraries wrote: names in their pickles, and an unpickler that admits tensors only.
LEGACY = "neuron_ops/weights/torch_zip.py"
HEAVY = ("torch", "transformers", "peft", "datasets", "boto3", "s3fs", "kubernetes", "dagster_k8s")
# Every worker of a test run pays for what a test module imports, whichever tests it runs: 6 CPU s for these.
COSTLY_TO_COLLECT = {"torch", "safetensors.torch", "transformers", "peft", "datasets", "accelerate"}


def _sources(package: str, *, without: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(without):
            yield name, path.read_text(encoding="utf-8")


def _lines_with(pattern: str, sources: Iterator[tuple[str, str]]) -> list[str]:
    found = re.compile(pattern)
    return [f"{name}: {line.strip()}" for name, text in sources for line in text.splitlines() if found.search(line)]


def test_the_compute_side_never_imports_dagster() -> None:
    imports = _lines_with(
        r"^\s*(from|import) (dagster|fine_tune_assets)\b(?!_pipes)",
        _sources("neuron_ops", without=("neuron_ops/steps/program.py",)),
    )
    pipes = _lines_with(r"^\s*(from|import) dagster(?!_pipes)", _sources("neuron_ops"))

    assert imports == []
    assert pipes == []


def test_loading_the_code_location_imports_nothing_heavy() -> None:
    program = f"import sys, fine_tune_assets.definitions; print([name for name in {HEAVY} if name in sys.modules])"

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert found.stdout.strip() == "[]"


def test_only_backends_name_a_device_s_software() -> None:
    named = _lines_with(
        r"torch_xla|neuronx|torch\.cuda|NEURON_",
        _sources("neuron_ops", without=("neuron_ops/backends/", "neuron_ops/compilers/", LEGACY)),
    )

    assert named == []


# None of these chooses what to do on a device.
NAMES_THAT_DECIDE_NOTHING = {
    'frozenset({"pytorch", "neuron"}),',  # labels of an asset in the UI
    'TEMPLATE = "llama3_8b_lora_trn1"',  # a shipped recipe
}
NAMES_A_FILE_FORMAT = "neuron_ops/weights/consolidation.py"  # that of a checkpoint, whatever trained it


def _texts(source: str) -> Iterator[tuple[str, str]]:
    """Every string that is not a docstring, with the line that it begins in."""
    lines, tree = source.splitlines(), ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value, lines[node.lineno - 1].strip()


def test_only_backends_and_compilers_ask_which_device_it_is() -> None:
    rooms = ("neuron_ops/backends/", "neuron_ops/compilers/", "neuron_ops/registry.py", NAMES_A_FILE_FORMAT)
    everything = [*_sources("neuron_ops", without=rooms), *_sources("fine_tune_assets")]
    device = re.compile(r"neuron|cuda|[\w.-]*trn[12][\w.-]*")

    named = {line for _, text in everything for value, line in _texts(text) if device.fullmatch(value)}
    compared = _lines_with(r"\bbackend\s*(==|!=|in\b|not in\b)", iter(everything))

    assert named - NAMES_THAT_DECIDE_NOTHING == set()
    assert compared == []


def test_the_environment_is_read_in_two_places() -> None:
    readers = ("fine_tune_assets/settings.py", "neuron_ops/steps/program.py")
    everything = [*_sources("fine_tune_assets", without=readers), *_sources("neuron_ops", without=readers)]

    reads = _lines_with(r"os\.environ|os\.getenv", iter(everything))

    # A compiler finds its cache by a variable only, so its half of a backend sets it in the process that trains.
    assert reads == [
        "neuron_ops/compilers/inductor.py: os.environ.update(self.environment(cache))",
        'neuron_ops/compilers/neuron.py: flags = os.environ.get("NEURON_CC_FLAGS", "").split()',
        'neuron_ops/compilers/neuron.py: os.environ["NEURON_CC_FLAGS"] = " ".join('
        'flag for flag in flags if not flag.startswith("--cache_dir"))',
        'neuron_ops/compilers/neuron.py: os.environ["NEURON_COMPILE_CACHE_URL"] = str(cache)',
        "neuron_ops/launch/process.py: environment = {**os.environ, **extra_environment, "
        "LAUNCHER_PID: str(os.getpid())}",
    ]


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads(name: str) -> None:
    assert load_recipe(name).name == name


def test_every_step_reads_what_other_steps_make() -> None:
    artifacts = {step.artifact for step in STEPS}

    assert all(set(upstream(step)) <= artifacts | {RAW_DATASET} for step in STEPS)
    assert all(BY_ARTIFACT[step.artifact] is step for step in STEPS)


def test_every_artifact_is_made_by_one_step_from_artifacts_made_before() -> None:
    assert len(BY_ARTIFACT) == len(BY_VERB) == len(STEPS)
    made = {RAW_DATASET}
    for step in STEPS:
        assert set(upstream(step)) <= made
        made.add(step.artifact)


def test_no_pickle_is_written_or_run() -> None:
    sources = _sources("neuron_ops", without=(LEGACY,))

    assert _lines_with(r"\bpickle\b\.|torch\.(save|load)\(|weights_only=False", sources) == []


def test_every_module_says_what_belongs_in_it() -> None:
    everything = [*_sources("fine_tune_assets"), *_sources("neuron_ops")]

    assert [name for name, text in everything if not text.startswith('"""')] == []


@cache
def _imported_at_module_level(path: Path) -> frozenset[str]:
    """Dotted names of modules, and of what is taken from them, which may be modules too."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


@cache
def _path_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((found for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file()), None)


def _reached_from(path: Path) -> set[str]:
    """Every module that importing this file imports, through our own."""
    found: set[str] = set()
    todo = set(_imported_at_module_level(path))
    while todo:
        module = todo.pop()
        found.add(module)
        ours = _path_of(module)
        parents = {module.rpartition(".")[0]} - {""}
        todo |= (parents | (_imported_at_module_level(ours) if ours else frozenset())) - found
    return found


def test_collecting_the_tests_imports_nothing_costly() -> None:
    modules = [path for name in ("test_*.py", "conftest.py") for path in (ROOT / "tests").rglob(name)]

    costly = {path.relative_to(ROOT).as_posix(): COSTLY_TO_COLLECT & _reached_from(path) for path in modules}

    assert {name: found for name, found in costly.items() if found} == {}
    assert len(costly) > 100


def test_no_file_of_tests_is_too_long_to_read() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "tests").rglob("*.py")
    }

    assert {name: length for name, length in lengths.items() if length > 300} == {}
