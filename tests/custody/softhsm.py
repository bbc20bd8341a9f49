"""SoftHSM: tokens in a folder, created by its own tool. Debian's package softhsm2 provides it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PIN, SO_PIN = "417-token-pin", "999-officer"

_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)


class SoftHsm:
    """Tokens below `folder`. The module finds it through the environment's SOFTHSM2_CONF when it initializes."""

    def __init__(self, folder: Path) -> None:
        """Skip the test if SoftHSM or python-pkcs11 is missing."""
        pytest.importorskip("pkcs11", reason="needs the package python-pkcs11 (keyfront's extra pkcs11)")
        module = next((path for path in _MODULES if Path(path).exists()), None)
        if module is None or shutil.which("softhsm2-util") is None:
            pytest.skip("needs SoftHSM (apt-get install softhsm2)")
        self.module = module
        self.folder = folder
        (folder / "tokens").mkdir()
        self.configuration = folder / "softhsm2.conf"
        self.configuration.write_text(
            f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        self.pin_file = folder / "pin"
        self.pin_file.write_text(PIN + "\n")
        self.pin_file.chmod(0o600)
        self.environment = dict(os.environ) | {"SOFTHSM2_CONF": str(self.configuration)}

    def token(self, label: str) -> str:
        """Create a token."""
        argv = ["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SO_PIN]
        self._util(*argv)
        return label

    def forget(self, label: str) -> None:
        self._util("--delete-token", "--token", label)

    def uri(self, label: str, name: str = "") -> str:
        return f"pkcs11:{label}/{name}?module-path={self.module}&pin-source=file:{self.pin_file}"

    def _util(self, *argv: str) -> None:
        subprocess.run(
            ["softhsm2-util", *argv], env=self.environment, check=True, capture_output=True, timeout=30
        )
