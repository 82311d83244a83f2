"""The UI in a browser: what a person sees, from lineage to the loss picture, and what they can start."""

from __future__ import annotations

import json
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import yaml
from dagster import DagsterRunStatus

from neuron_ops.steps.table import BY_ARTIFACT, RAW_DATASET, STEPS
from tests.fine_tune_assets.conftest import Project
from tests.neuron_ops.steps.finishing import finish_all
from tests.ports import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = [pytest.mark.ui, pytest.mark.slow]

CHROMIUM = shutil.which("chromium")
START_SECONDS = 180
RUN_SECONDS = 300
LOOK_MILLISECONDS = 60_000


@dataclass(frozen=True, slots=True)
class Server:
    """`dagster dev` on a project of its own."""

    project: Project
    url: str

    def ask(self, query: str, **variables: object) -> Any:  # Any: whatever the query asks for
        request = urllib.request.Request(
            f"{self.url}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["data"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, dagster_home: Path) -> Iterator[Server]:
    project = Project(tmp_path_factory.mktemp("ui"))
    shutil.copytree(dagster_home, project.home)
    project.deliver("v1")
    project.register("v1")
    recipe = project.root / "few_steps.yaml"
    recipe.write_text(yaml.safe_dump(project.lineage(None).recipe.model_dump(mode="json")))
    port = free_port()
    log = (project.root / "dev.log").open("w")
    process = project.start("dagster", "dev", "-p", str(port), output=log, FINE_TUNE_RECIPE=str(recipe))
    try:
        server = Server(project, f"http://127.0.0.1:{port}")
        wait_for_server(server)
        server.ask("mutation { setNuxSeen }")  # Dagster's invitation to its community would cover the page
        yield server
    finally:
        end_tree(psutil.Process(process.pid))
        process.wait()
        log.close()


@pytest.fixture
def page() -> Iterator[Page]:
    from playwright.sync_api import expect, sync_playwright

    if CHROMIUM is None:
        pytest.skip("NO BROWSER: the UI was not tested. Install Debian's: apt-get install chromium")
    with sync_playwright() as playwright:
        # Containers run as root, where Chromium's sandbox does not start.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(LOOK_MILLISECONDS)
        expect.set_options(timeout=LOOK_MILLISECONDS)
        yield page
        browser.close()


def test_a_person_sees_the_lineage_materializes_a_partition_and_sees_the_loss_picture(
    server: Server, page: Page, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    page.goto(f"{server.url}/assets/evaluation?view=lineage&lineageScope=upstream&lineageDepth=10")
    for group in ("inputs", "training", "model"):
        expect(page.get_by_text(group, exact=True).first).to_be_visible()
    for name in [RAW_DATASET, *(step.artifact for step in STEPS)]:
        expect(named(page, name)).to_be_visible()
    page.screenshot(path=tmp_path / "1-lineage.png")

    page.get_by_role("button", name="Materialize all (7)").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="All", exact=True).click()
    expect(dialog.get_by_text("1 partition", exact=True)).to_be_visible()
    page.screenshot(path=tmp_path / "2-dialog.png")
    dialog.get_by_role("button", name="Launch 1 run").click()
    assert wait_for_run(server) == DagsterRunStatus.SUCCESS

    page.goto(f"{server.url}/assets/lora_checkpoints?view=partitions&partition=v1")
    expect(page.get_by_text("Materialized", exact=True).first).to_be_visible()
    expect(page.get_by_text("tokens_per_second", exact=True)).to_be_visible()
    page.screenshot(path=tmp_path / "3-lora-checkpoints.png")
    page.get_by_role("row").filter(has_text="loss").get_by_text("[Show Markdown]").click()
    picture = page.get_by_role("dialog").get_by_role("img", name="loss")
    expect(picture).to_be_visible()
    page.wait_for_function("() => document.querySelector('img[alt=loss]').naturalWidth > 300")
    page.screenshot(path=tmp_path / "4-loss.png")

    page.goto(f"{server.url}/assets/evaluation?view=checks")
    for check in BY_ARTIFACT["evaluation"].checks:
        expect(named(page, check.name)).to_be_visible()
    page.screenshot(path=tmp_path / "5-checks.png")
    page.goto(f"{server.url}/assets/evaluation?view=partitions&partition=v1")
    expect(page.get_by_text("tuned_loss", exact=True)).to_be_visible()
    page.screenshot(path=tmp_path / "6-evaluation.png")


def test_an_unknown_version_is_refused_by_the_server_too_and_the_server_stays_up(server: Server) -> None:
    answer = server.ask(
        "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename } }",
        p={"partitionNames": ["v9"], "assetSelection": [{"path": ["tokenized_dataset"]}], "fromFailure": False},
    )

    assert answer["launchPartitionBackfill"]["__typename"] == "PartitionKeysNotFoundError"
    assert server.ask("{ version }")["version"]


def named(page: Page, name: str) -> Locator:
    """Where the page says the name; Dagster cuts long ones in the middle."""
    cut = f"{name[:9]}\\w*…\\w*{name[-6:]}"
    return page.get_by_text(re.compile(f"^({name}|{cut})$")).filter(visible=True).first


def wait_for_server(server: Server) -> None:
    """Until it answers and has loaded our code location."""
    location = "{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1)
        try:
            entries = server.ask(location)["workspaceOrError"]["locationEntries"]
        except OSError:
            continue
        if [entry["loadStatus"] for entry in entries] == ["LOADED"]:
            return
    raise AssertionError(f"dagster dev did not start: {(server.project.root / 'dev.log').read_text()}")


def wait_for_run(server: Server) -> DagsterRunStatus:
    deadline = time.monotonic() + RUN_SECONDS
    with server.project.instance() as instance:
        while time.monotonic() < deadline:
            runs = instance.get_runs()
            if runs and runs[0].is_finished:
                return runs[0].status
            time.sleep(1)
    raise AssertionError("the run did not end")


def end_tree(process: psutil.Process) -> None:
    """Ask the process to end, then make sure of it and of everything below it."""
    tree = [process, *process.children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(tree, timeout=20)
    for survivor in alive:
        survivor.kill()
    psutil.wait_procs(alive, timeout=10)


@pytest.fixture
def judged(server: Server) -> None:
    """v7 failed its gate, then v8 passed it. Before there is a page: Playwright's loop bears no other in its thread."""
    for version, improvement in (("v7", -0.5), ("v8", 0.5)):
        server.project.deliver(version)
        server.project.register(version)
        losses = {"base_loss": 2.0, "tuned_loss": 2.0 - improvement, "improvement": improvement, "min_improvement": 0.0}
        finish_all(server.project.lineage(version), {"evaluation": {"metrics": losses}})
        server.project.materialize(version, "evaluation")


@pytest.mark.usefixtures("judged")
def test_each_version_shows_its_own_check_status(server: Server, page: Page, tmp_path: Path) -> None:
    """A gate that stopped v7 does not look healed because v8 passes it."""
    from playwright.sync_api import expect

    page.goto(f"{server.url}/assets/evaluation?view=checks&checkDetail=better_than_base")
    page.get_by_text("Partitions", exact=True).nth(1).click()
    expect(page.get_by_text("Failed (1)", exact=True)).to_be_visible()
    for version, tuned in (("v7", "2.5000"), ("v8", "1.5000")):
        page.get_by_text(version, exact=True).filter(visible=True).last.click()
        expect(page.get_by_text(f"held-out loss {tuned} against the base's 2.0000")).to_be_visible()
        page.screenshot(path=tmp_path / f"check-of-{version}.png")
