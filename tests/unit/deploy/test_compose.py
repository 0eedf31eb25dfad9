"""What a reader of the compose file and the image may rely on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
import yaml

from consumer.load_settings import load_settings
from consumer.settings import Settings

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
EVERY_SERVICE = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())


def image_environment() -> dict[str, str]:
    return dict(re.findall(r"(TIDEMILL_\w+)=(\S+)", DOCKERFILE))


@EVERY_SERVICE
def test_services_are_hardened(service) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "network_mode" not in service
    assert service["mem_limit"]


@EVERY_SERVICE
def test_ports_are_published_on_loopback_only(service) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@EVERY_SERVICE
def test_images_have_a_version(service) -> None:
    assert re.fullmatch(r"[a-z0-9/.-]+:(?!latest)[\w.-]+", service["image"])


def test_volumes_are_declared_and_mounted_files_exist() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_dependencies_are_services() -> None:
    for service in SERVICES.values():
        assert set(service.get("depends_on", ())) <= set(SERVICES)


def test_a_service_that_is_waited_for_can_be_healthy() -> None:
    waited = {
        name: wish["condition"]
        for service in SERVICES.values()
        if isinstance(service.get("depends_on"), dict)
        for name, wish in service["depends_on"].items()
    }
    assert waited == {"kafka": "service_healthy", "topics": "service_completed_successfully"}
    assert SERVICES["kafka"]["healthcheck"]["test"]
    assert SERVICES["topics"]["restart"] == "no"


def test_the_workers_environment_is_settings_that_exist() -> None:
    settings = load_settings(None, image_environment() | SERVICES["worker"]["environment"], [])
    assert settings.kafka.bootstrap_servers == "kafka:19092"
    assert settings.metrics.host == "0.0.0.0"
    assert str(settings.snapshot.dir) == "/var/lib/tidemill"


def test_the_topics_made_are_the_topics_of_the_settings() -> None:
    made = re.search(r"for topic in (.*?);", SERVICES["topics"]["command"][0])[1].split()
    topics = Settings().topics
    assert set(made) == {topics.events, topics.predictions, topics.dead_letters, topics.drift}


def test_prometheus_asks_the_worker_where_it_answers() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    port = image_environment()["TIDEMILL_METRICS__PORT"]
    assert config["scrape_configs"][0]["static_configs"][0]["targets"] == [f"worker:{port}"]
    assert SERVICES["worker"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"EXPOSE {port}" in DOCKERFILE


def test_the_image_runs_without_rights_and_is_probed() -> None:
    stages = DOCKERFILE.split("\nFROM ")
    assert len(stages) == 3
    last = stages[-1]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert "/livez" in last
    assert re.search(r'^ENTRYPOINT \["tidemill"\]$', last, re.MULTILINE)
    assert '"--config", "/etc/tidemill/tidemill.toml"' in last
    assert "pip" not in last


class Answer(BaseHTTPRequestHandler):
    status = 200
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_probe_of_the_image_tells_alive_from_dead(status, healthy) -> None:
    code = re.search(r'CMD \["python", "-c", "(.*)"\]', DOCKERFILE)[1].replace('\\"', '"')
    handler = type("Handler", (Answer,), {"status": status, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        environment = os.environ | {"TIDEMILL_METRICS__PORT": str(server.server_port)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
        server.shutdown()
    assert (done.returncode == 0) is healthy
    assert handler.asked == ["/livez"]


def test_what_the_image_is_made_of_is_let_through() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = set(
        re.search(r"packages = \[(.*?)\]\n\n\[tool.hatch.build\]", _pyproject(), re.DOTALL)[1].split('"')[1::2]
    )
    assert packages | {"pyproject.toml", "requirements.lock", "README.md", "LICENSE"} == allowed


def _pyproject() -> str:
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_no_index_has_an_address_in_these_files() -> None:
    for path in (DEPLOY / "Dockerfile", DEPLOY / "build_environment.sh", DEPLOY / "compose.yaml"):
        assert "://" not in re.sub(r"(HOST|INTERNAL|CONTROLLER)://", "", path.read_text()).replace(
            "http://127.0.0.1", ""
        )


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_the_build_script_is_a_shell_script(shell) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    assert subprocess.run([program, "-n", DEPLOY / "build_environment.sh"], check=False).returncode == 0
