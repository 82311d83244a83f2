#!/usr/bin/env bash
# Dagster 1.13.27: the checks of a partitioned asset are not partitioned unless they say so. Without
# AssetCheckSpec(partitions_def=…) Dagster keeps no partition with an evaluation that the asset itself yields, so the
# status of a check is that of whichever partition ran last: v7's failed gate reads as passed once v8 passes. With
# partitions_def each partition keeps its own status.
#
# Seen on Python 3.11:
#   without partitions_def: v7 -> SUCCEEDED, v8 -> SUCCEEDED
#   with partitions_def:    v7 -> FAILED, v8 -> SUCCEEDED
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dagster==1.13.27

cat > "$folder/show.py" <<'PYTHON'
import warnings

import dagster as dg
from dagster._core.storage.event_log.base import PartitionKeyFilter

warnings.simplefilter("ignore")
VERSIONS = dg.StaticPartitionsDefinition(["v7", "v8"])
GATE = dg.AssetCheckKey(dg.AssetKey("model"), "gate")


def statuses(partitions_def):
    """The status of the gate for each version, after v7 failed it and v8 passed it."""

    @dg.asset(
        partitions_def=VERSIONS, check_specs=[dg.AssetCheckSpec("gate", asset="model", partitions_def=partitions_def)]
    )
    def model(context):
        result = dg.AssetCheckResult(check_name="gate", passed=context.partition_key == "v8")
        return dg.MaterializeResult(check_results=[result])

    with dg.DagsterInstance.ephemeral() as instance:
        for version in ("v7", "v8"):
            dg.materialize([model], partition_key=version, instance=instance)
        storage = instance.event_log_storage
        found = {}
        for version in ("v7", "v8"):
            own = storage.get_asset_check_execution_history(GATE, limit=1, partition_filter=PartitionKeyFilter(key=version))
            latest = storage.get_latest_asset_check_execution_by_key([GATE])[GATE]
            found[version] = (own[0] if own else latest).status.value
        return found


without, with_them = statuses(None), statuses(VERSIONS)
print("without partitions_def:", ", ".join(f"{version} -> {status}" for version, status in without.items()))
print("with partitions_def:   ", ", ".join(f"{version} -> {status}" for version, status in with_them.items()))
assert without == {"v7": "SUCCEEDED", "v8": "SUCCEEDED"}, "checks of a partitioned asset keep their partition now"
assert with_them == {"v7": "FAILED", "v8": "SUCCEEDED"}, "a partitioned check no longer keeps one status for each partition"
PYTHON
DAGSTER_HOME="" "$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
