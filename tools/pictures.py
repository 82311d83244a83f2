"""The pictures of the README, taken from the UI of a finished demo: `make pictures`.

It starts `dagster dev` on the demo's instance, takes pictures of two pages in headless Chromium, and ends the server.
"""

import argparse
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

PORT = 3111
START_SECONDS = 120
SETTLE_MILLISECONDS = 6000
PAGES = {
    "asset-graph.png": "assets/evaluation?view=lineage&lineageScope=upstream&lineageDepth=10",
    "lora-checkpoints.png": "assets/lora_checkpoints?view=partitions&partition=demo-v1",
}


@contextmanager
def server() -> Iterator[str]:
    """The URL of `dagster dev` in the environment of this process."""
    url = f"http://127.0.0.1:{PORT}"
    process = subprocess.Popen([Path(sys.executable).with_name("dagster"), "dev", "-p", str(PORT)])
    try:
        for _ in range(START_SECONDS):
            time.sleep(1)
            try:
                urllib.request.urlopen(f"{url}/server_info", timeout=1).close()
            except OSError:
                continue
            yield url
            return
        raise SystemExit(f"dagster dev did not answer within {START_SECONDS} s.")
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Write a picture of each page into the folder given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with server() as url, sync_playwright() as playwright:
        # Containers run as root, where Chromium's sandbox does not start.
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 860})
        for name, path in PAGES.items():
            page.goto(f"{url}/{path}")
            page.wait_for_timeout(SETTLE_MILLISECONDS)
            skip = page.get_by_role("button", name="Skip")  # an invitation at an instance's first visit
            if skip.is_visible():
                skip.click()
                page.wait_for_timeout(SETTLE_MILLISECONDS)
            page.screenshot(path=folder / name)
        browser.close()


if __name__ == "__main__":
    main()
