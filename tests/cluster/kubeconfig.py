"""The file that tells a client where the API server is."""

import json
from pathlib import Path


def write_kubeconfig(path: Path, url: str, namespace: str) -> None:
    name = "stand-in"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": url}}],
        "users": [{"name": name, "user": {}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
    }
    path.write_text(json.dumps(content), encoding="utf-8")
