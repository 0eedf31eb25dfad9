"""What the files beside the code promise."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TOP = {
    *("consumer", "model", "incremental", "deploy", "tests"),
    *("pyproject.toml", "requirements.lock", "README.md", "Makefile", "LICENSE", ".ci"),
}
REGISTRIES = re.compile(
    r"pypi\.org|pythonhosted\.org|index[-_]url[\s=:\"']+https?:|repo1?\.maven\.|maven\.org|registry\.npmjs|proxy\.golang"
    r"|conda\.anaconda|docker\.io|ghcr\.io|quay\.io|gcr\.io"
)
MACHINE = re.compile(r"/(?:work|root|Users)/|/home/(?!tidemill|nonroot)[a-z]")


def tracked() -> list[str]:
    """Files that are in the repository or are about to be."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return [name for name in listed if name and (ROOT / name).is_file()]


def lines_that_match(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for name in tracked():
        data = (ROOT / name).read_bytes()
        if b"\0" not in data:
            lines = data.decode("utf-8").splitlines()
            found += [f"{name}:{number}: {line}" for number, line in enumerate(lines, 1) if pattern.search(line)]
    return found


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_top_holds_only_what_belongs_there() -> None:
    top = {name.partition("/")[0] for name in tracked()}
    assert {name for name in top if not name.startswith(".")} <= TOP
    assert top >= TOP


def test_no_registry_address_stands_anywhere() -> None:
    assert lines_that_match(REGISTRIES) == []
    for line in ("https://pypi" + ".org/simple", "--index" + "-url=https://x", "FROM ghcr" + ".io/x/y"):
        assert REGISTRIES.search(line)


def test_no_path_of_a_machine_stands_anywhere() -> None:
    assert lines_that_match(MACHINE) == []
    for line in ("/ro" + "ot/x", "/ho" + "me/me/x", "/wo" + "rk/x"):
        assert MACHINE.search(line)


def pins() -> dict[str, str]:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    return {line.split(";")[0].split()[0]: line for line in text.splitlines() if line and not line.startswith("#")}


def test_every_locked_version_has_its_hash() -> None:
    assert pins()
    for pin, line in pins().items():
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[^=*]+", pin), line
        assert re.search(r"--hash=sha256:[0-9a-f]{64}(\s|$)", line), pin


NOT_LOCKED = {"s3", "gcs"}
"""Extras that bring dozens of packages, none of which tests, demo or image need: who deploys with them pins them."""


def test_every_dependency_is_locked() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*data["project"]["dependencies"], *data["dependency-groups"]["dev"]]
    extras = data["project"]["optional-dependencies"]
    wanted += [text for name, extra in extras.items() if name not in NOT_LOCKED for text in extra]
    names = {re.split(r"[\[<>=!~; ]", text)[0].lower().replace("_", "-") for text in wanted} - {"tidemill"}
    assert names <= {pin.partition("==")[0] for pin in pins()}


def test_help_lists_every_target_and_each_has_a_recipe() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    output = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = set(re.findall(r"^  make (\S+) +\S", output, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    assert listed == set(phony[1].split())
    for target in listed - {"install"}:  # whose recipe is that of the file it depends on
        assert re.search(rf"^{target}:.*\n\t\S", makefile, re.MULTILINE), target


def test_the_tools_of_the_makefile_are_locked() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    tools = set(re.findall(r"\$\(BIN\)/([a-z-]+)", makefile)) - {"python", "tidemill"}
    assert tools >= {"ruff", "mypy", "pytest", "uv"}
    assert tools <= {pin.partition("==")[0] for pin in pins()}


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.split()[:6] == ["Apache", "License", "Version", "2.0,", "January", "2004"]
    for number, title in {1: "Definitions", 3: "Grant of Patent License", 9: "Accepting Warranty"}.items():
        assert f"   {number}. {title}" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert project()["license"] == "Apache-2.0"


def test_the_changelog_begins_with_the_version() -> None:
    changelog = (ROOT / ".github" / "CHANGELOG.md").read_text(encoding="utf-8")
    top = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert top
    assert top[1] == project()["version"]


def test_the_packages_say_that_they_are_typed() -> None:
    for package in ("consumer", "model", "incremental", "deploy"):
        assert (ROOT / package / "py.typed").is_file()


def test_scripts_can_be_run() -> None:
    for name in tracked():
        file = ROOT / name
        if file.read_bytes()[:2] == b"#!":
            assert os.access(file, os.X_OK), name
