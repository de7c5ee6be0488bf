"""docker-compose.yml without a Docker: it is valid YAML, and what it names is there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.apache_pulsar import VERSION
from tests.docs.blocks import REPOSITORY


@pytest.fixture
def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="no YAML reader (pip install 'edgeserve[docs]')")
    loaded: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
    return loaded


def test_the_services_are_a_pulsar_of_the_tested_version_and_the_examples(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"pulsar", "sensor", "predict", "act"}
    assert services.pop("pulsar")["image"] == f"apachepulsar/pulsar:{VERSION}"
    for service in services.values():
        script, address = service["command"]
        assert (REPOSITORY / script).is_file()
        assert address == "pulsar://pulsar:6650"
        assert service["depends_on"]["pulsar"] == {"condition": "service_healthy"}
        assert set(service["depends_on"]) <= set(compose["services"]) | {"pulsar"}


def test_what_the_image_is_built_from_is_there(compose: dict[str, Any]) -> None:
    assert (REPOSITORY / compose["services"]["act"]["build"]["context"] / "Dockerfile").is_file()
    copied = [
        source
        for line in (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    ]
    assert copied
    allowed = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for source in copied:
        assert (REPOSITORY / source).exists()
        assert f"!{source}" in allowed
