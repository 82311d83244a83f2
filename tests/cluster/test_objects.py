"""Selectors, patches and indexes on plain JSON."""

from pathlib import Path

import pytest

from tests.cluster.job_outcome import with_indexes
from tests.cluster.objects import Object, fields_match, json_patch, labels_match, merge_patch, quantity, strategic_patch
from tests.cluster.pod_setup import Localizer, field_of


@pytest.mark.parametrize(
    ("selector", "matches"),
    [("a=1", True), ("a==1", True), ("a!=1", False), ("b!=1", True), ("a in (1,2)", True), ("a notin (1,2)", False)],
)
def test_a_label_selector_is_read_as_kubernetes_does(selector: str, matches: bool) -> None:
    assert labels_match(selector, {"a": "1"}) is matches


def test_a_field_that_is_missing_is_empty() -> None:
    assert fields_match("spec.nodeName=,status.phase!=Failed", {"spec": {}})
    assert not fields_match("spec.nodeName=a", {"spec": {}})


def test_a_merge_patch_replaces_lists_and_null_deletes() -> None:
    target = {"keep": 1, "drop": 2, "list": [1, 2], "inner": {"a": 1, "b": 2}}

    patched = merge_patch(target, {"drop": None, "list": [3], "inner": {"b": None}})

    assert patched == {"keep": 1, "list": [3], "inner": {"a": 1}}
    assert target["inner"] == {"a": 1, "b": 2}


def test_a_strategic_patch_merges_known_lists_by_their_key() -> None:
    pod = {"status": {"conditions": [{"type": "Ready", "status": "True"}], "reasons": ["a"]}}
    change = {"status": {"conditions": [{"type": "DisruptionTarget", "status": "True"}], "reasons": ["b"]}}

    assert strategic_patch(pod, change)["status"] == {
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "DisruptionTarget", "status": "True"}],
        "reasons": ["b"],
    }


def test_a_strategic_patch_can_take_an_item_out() -> None:
    node = {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "NoSchedule"}]}}

    patched = strategic_patch(node, {"spec": {"taints": [{"$patch": "delete", "key": "a"}]}})

    assert [taint["key"] for taint in patched["spec"]["taints"]] == ["b"]


def test_a_json_patch_changes_what_its_paths_name() -> None:
    target: Object = {"labels": {"a/b": "1"}, "list": [1]}

    patched = json_patch(
        target,
        [
            {"op": "test", "path": "/labels/a~1b", "value": "1"},
            {"op": "remove", "path": "/labels/a~1b"},
            {"op": "add", "path": "/list/-", "value": 2},
        ],
    )

    assert patched == {"labels": {}, "list": [1, 2]}


def test_quantities_are_read_as_kubernetes_writes_them() -> None:
    assert [quantity(text) for text in ("250m", "2", "16Gi", 3, "1e3", "2k")] == [0.25, 2, 16 * 2**30, 3, 1000, 2000]
    with pytest.raises(ValueError, match="'many' is not a quantity"):
        quantity("many")


def test_completed_indexes_are_written_as_runs() -> None:
    assert with_indexes({0, 1, 2, 5, 7, 8}) == "0-2,5,7-8"


def test_a_mount_path_is_replaced_where_it_is_a_whole_path(tmp_path: Path) -> None:
    local = Localizer({"/fsx": tmp_path}, [])

    assert local.text("--store=/fsx/artifacts:/fsx") == f"--store={tmp_path}/artifacts:{tmp_path}"
    assert local.text("/fsx-other /mnt/fsx s3://bucket/fsx") == "/fsx-other /mnt/fsx s3://bucket/fsx"


def test_the_fields_of_a_pod_that_containers_may_ask_for() -> None:
    pod = {"metadata": {"name": "a", "labels": {"dagster/op": "train"}}, "spec": {"nodeName": "trn1-1"}}

    paths = ("metadata.name", "metadata.labels['dagster/op']", "spec.nodeName", "status.podIP")
    assert [field_of(pod, path) for path in paths] == ["a", "train", "trn1-1", "127.0.0.1"]
