"""The one table of instance types, and what the documents say of it."""

import re
from pathlib import Path

import pytest

from neuron_ops.backends import find_backend
from neuron_ops.backends.instances import INSTANCES, find_instance
from neuron_ops.recipe.schema import HardwareSection

GUIDE = Path(__file__).parents[3] / "docs" / "kubernetes.md"


@pytest.mark.parametrize("name", INSTANCES)
def test_ec2_s_and_hyperpod_s_names_mean_the_same_machine(name: str) -> None:
    assert find_instance(name) is find_instance(f"ml.{name}") is INSTANCES[name]


@pytest.mark.parametrize("name", [None, "", "m7i.2xlarge", "trn1"])
def test_a_computer_that_is_not_in_the_table_is_not_known(name: str | None) -> None:
    assert find_instance(name) is None


def test_a_row_is_all_that_another_instance_type_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INSTANCES, "trn1.16xlarge", INSTANCES["trn1.2xlarge"])
    hardware = HardwareSection(backend="neuron", instance_type="ml.trn1.16xlarge")
    backend = find_backend(hardware)

    booked = backend.booking(hardware)

    assert backend.processes_per_node(hardware) == 2
    assert (booked.resources, booked.instance_type) == ({"aws.amazon.com/neuron": 1}, "ml.trn1.16xlarge")
    assert backend.device_memory(hardware) == 16 * 2**30


def test_every_price_says_where_it_is_from_and_when_it_was_read() -> None:
    for name, row in INSTANCES.items():
        assert row.usd_per_hour > 0, name
        assert "instances.vantage.sh" in row.price_source
        assert re.fullmatch(r"[A-Z][a-z]+ 20\d\d", row.price_date)


def test_the_guide_s_prices_are_those_of_the_table() -> None:
    rows = re.findall(r"^\| one `(trn[\w.]+)` \|.*\| ([\d.]+) an hour \|$", GUIDE.read_text(), flags=re.MULTILINE)

    assert rows
    assert {name: float(price) for name, price in rows} == {name: INSTANCES[name].usd_per_hour for name, _ in rows}
