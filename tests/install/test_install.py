"""The wheel and the sdist: built twice, and installed into empty environments by pip, from its own registry.

Every run installs the SDK in the locked versions. `--long` adds both ends of every range, the server at both ends, and
the SDK beside applications of the last three years.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.parser import HeaderParser
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from keyfront.extras import EXTRAS
from tests.imports import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HERE = Path(__file__).parent
pytestmark = pytest.mark.timeout(900)
EPOCH = "1790000000"
APPLICATIONS = {
    "boto3 of 2023": ["boto3==1.33.0", "urllib3<2.1"],
    "boto3": ["boto3"],
    "Django of 2023": ["django==4.2.7"],
    "Django": ["django"],
    "FastAPI of 2023": ["fastapi==0.104.1", "uvicorn==0.24.0"],
    "FastAPI": ["fastapi", "uvicorn"],
}


def built(source: Path, into: Path, kind: str) -> Path:
    """What the build backend makes of `source`: the `kind` is wheel or sdist."""
    code = "import sys; from flit_core import buildapi; print(getattr(buildapi, sys.argv[1])(sys.argv[2]))"
    into.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", code, f"build_{kind}", into],
        cwd=source, env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return into / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


def test_both_are_built_byte_by_byte_from_the_sdist_again(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    """Another folder, other dates, and another mode of the files make no difference."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    for path in source.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            os.utime(path, (1_700_000_000, 1_700_000_000))
    assert built(source, tmp_path / "again", "wheel").read_bytes() == wheel.read_bytes()
    assert built(source, tmp_path / "again", "sdist").read_bytes() == sdist.read_bytes()


def test_the_wheel_carries_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    source = ROOT / "src"
    ours = {
        str(path.relative_to(source))
        for path in (source / "keyfront").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = HeaderParser().parsestr(
            archive.read(f"keyfront-{PROJECT['version']}.dist-info/METADATA").decode()
        )
    assert {name for name in names if ".dist-info/" not in name} == ours
    assert "keyfront/py.typed" in ours
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    plain = [each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert {re.split(r"[<>=]", each)[0] for each in plain} == {"click", "cryptography", "msgspec"}


def test_every_package_has_a_lower_bound_that_the_lock_meets() -> None:
    locked = pins(ROOT / "requirements" / "dev.txt")
    for text in requirements("server", *(set(PROJECT["optional-dependencies"]) - {"server"})):
        name, bound = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)(?:,<[\d.]+)?", text).groups()  # type: ignore[union-attr]
        assert version(locked[name]) >= version(bound), text


def test_every_package_of_an_extra_is_known_where_it_is_missing() -> None:
    """`extras.py` names the extra of each module that an extra installs."""
    provided = packages_distributions()
    plain = {re.split(r"[<>=\[]", text)[0] for text in PROJECT["dependencies"]}
    for extra, texts in PROJECT["optional-dependencies"].items():
        for name in {re.split(r"[<>=\[]", text)[0] for text in texts} - plain:
            modules = {
                module
                for module, owners in provided.items()
                if name in {o.lower().replace("_", "-") for o in owners}
            }
            known = {EXTRAS[module] for module in modules & EXTRAS.keys()}
            assert known == {"server" if extra == "aws" else extra}, (name, modules)


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def pins(path: Path) -> dict[str, str]:
    """The versions in a requirements file."""
    return dict(re.findall(r"^([\w.-]+)(?:\[\w+\])?==(\S+)", path.read_text(), re.MULTILINE))


def requirements(*extras: str) -> list[str]:
    """The requirements of Keyfront with `extras`, without markers."""
    texts = [
        *PROJECT["dependencies"],
        *(e for name in extras for e in PROJECT["optional-dependencies"][name]),
    ]
    return [text.partition(";")[0].strip() for text in texts]


def lowest(*extras: str) -> list[str]:
    """Each requirement at its lower bound; where two name a package, the higher bound."""
    found: dict[str, str] = {}
    for text in requirements(*extras):
        name, bound = text.split(">=")
        if name not in found or version(bound) > version(found[name]):
            found[name] = bound
    return [f"{name.partition('[')[0]}=={bound}" for name, bound in found.items()]


class Cell:
    """An environment of its own that has nothing but what pip installed."""

    def __init__(self, folder: Path) -> None:
        """Take the environment in `folder`, or create one of this Python."""
        self.python = folder / "bin" / "python"
        if not self.python.exists():
            venv.create(folder, symlinks=True, with_pip=False)

    def install(self, *what: str | Path, constraints: list[str]) -> None:
        """Install by the pip of the Python that this environment was made of. Skips the test if pip reaches no
        registry."""
        listed = self.python.parent / "constraints.txt"
        listed.write_text("\n".join(constraints))
        pip = [sys._base_executable, "-m", "pip"]  # type: ignore[attr-defined]
        if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode:
            pytest.skip("this Python has no pip")
        done = subprocess.run(
            [*pip, "--python", self.python, "install", "--quiet", "--no-compile", "-c", listed, *what],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "(from versions: none)" in done.stderr:
            pytest.skip("pip reaches no package registry")
        assert done.returncode == 0, done.stderr
        checked = subprocess.run(
            [*pip, "--python", self.python, "check"], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout

    def run(self, script: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.python, "-I", HERE / script, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell(tmp_path / "cell")


def test_the_sdk_alone_in_the_locked_versions(cell: Cell, wheel: Path) -> None:
    locked = pins(ROOT / "requirements" / "runtime.txt")
    cell.install(wheel, constraints=[f"{name}=={pin}" for name, pin in locked.items()])
    cell.run("check_sdk.py")


@pytest.fixture
def long(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("long"):
        pytest.skip("takes minutes and many packages: run with --long")


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("python", ["python3.11", "python3.12", "python3.13", "python3.14"])
@pytest.mark.parametrize("end", ["lowest", "newest"])
def test_the_sdk_at_both_ends_of_its_ranges(end: str, python: str, wheel: Path, tmp_path: Path) -> None:
    if end == "lowest" and python != "python3.11":
        pytest.skip("the lowest versions are older than this Python")
    if (
        shutil.which(python) is None
        or subprocess.run([python, "-V"], capture_output=True, check=False).returncode
    ):
        pytest.skip(f"no {python}")
    subprocess.run([python, "-m", "venv", "--without-pip", tmp_path / "cell"], check=True)
    cell = Cell(tmp_path / "cell")
    cell.install(wheel, constraints=lowest() if end == "lowest" else [])
    cell.run("check_sdk.py")


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("application", APPLICATIONS)
def test_the_sdk_beside_an_application(application: str, cell: Cell, wheel: Path) -> None:
    cell.install(wheel, *APPLICATIONS[application], constraints=[])
    cell.run("check_sdk.py", "--beside")


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("end", ["lowest", "newest"])
def test_the_server_at_both_ends_of_its_ranges(end: str, cell: Cell, wheel: Path) -> None:
    cell.install(f"{wheel}[server]", constraints=lowest("server") if end == "lowest" else [])
    cell.run("check_server.py")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path / "keyfront"], check=True)
    return tmp_path / "keyfront"


@pytest.mark.usefixtures("long")
def test_the_readmes_command_installs_the_server(clone: Path) -> None:
    (command,) = re.findall(
        r"^    (.*pip install '\.\[server\]'.*)$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    subprocess.run(["sh", "-c", command], cwd=clone, check=True, capture_output=True)
    Cell(clone / ".venv").run("check_server.py")


@pytest.mark.usefixtures("long")
def test_make_demo_is_the_first_command_on_a_fresh_clone(clone: Path) -> None:
    """It installs what the demo needs and no more: 162 MB, an eighth of what the tests need."""
    demo = subprocess.Popen(
        ["make", "demo"], cwd=clone, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert demo.stdout is not None
    try:
        greeting = ""
        for line in demo.stdout:
            greeting += line
            if "Ctrl-C" in line:
                break
    finally:
        os.killpg(demo.pid, signal.SIGINT)
        demo.wait(60)
        demo.stdout.close()
    assert ".cloudfront.localhost" in greeting
    used = sum(path.lstat().st_blocks * 512 for path in (clone / ".venv").rglob("*"))
    assert used < 300 << 20
