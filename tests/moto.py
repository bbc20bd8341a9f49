"""moto as a substitute for AWS in its own process, with KMS, Secrets Manager and Systems Manager.

    with Moto() as moto:
        place = open_place(f"awskms:keyfront/?{moto.options}", moto.environment)

`moto.fault(…)` makes the next calls of an operation fail as they can fail at AWS; `moto.stop()` makes AWS unreachable.

Where moto 5.2.5 differs from AWS, `_correct` fixes it according to the API references:
- it hashes a digest again before it signs it, signs with keys that are pending deletion, and shows their
  public half (KMS: Sign, GetPublicKey, "Key states of AWS KMS keys");
- it does not support imported key material (GetParametersForImport, ImportKeyMaterial);
- here it handles one call at a time, because its changes to a secret or a parameter could otherwise interleave.
Remaining differences: it accepts parameters longer than 4,096 bytes, and every caller may do everything.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tests.keys import rsa_key

REGION = "eu-central-1"
ACCESS = ("AKIDMOTO000000000000", "the secret access key of these tests")


@functools.cache
def unable() -> str:
    """Why moto cannot run here; empty if it can. Imports nothing of it: that takes more than a second, and is up to the
    process that runs it."""
    missing = [name for name in ("moto", "flask", "flask_cors") if importlib.util.find_spec(name) is None]
    return f"no moto: {', '.join(missing)} is not installed" if missing else ""


class Moto:
    """Use as a context manager. `url` is the endpoint of all its services."""

    def __init__(self) -> None:
        self.url = ""
        self._process: subprocess.Popen[str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        access = {"AWS_ACCESS_KEY_ID": ACCESS[0], "AWS_SECRET_ACCESS_KEY": ACCESS[1]}
        return {**access, "AWS_REGION": REGION}

    @property
    def options(self) -> str:
        return f"region={REGION}&endpoint={self.url}"

    def __enter__(self) -> Moto:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.moto"],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,  # it exits when this process does
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        assert port, "moto does not start"
        self.url = f"http://127.0.0.1:{port}"
        return self

    def fault(
        self,
        operation: str,
        code: str,
        *,
        status: int = 400,
        message: str = "",
        times: int = 1,
        done: bool = False,
    ) -> None:
        """Make the next `times` calls of `operation` fail. With `done`, the operation takes effect and only its
        answer is an error."""
        fault = {"operation": operation, "code": code, "status": status, "message": message}
        self._tell("faults", {**fault, "times": times, "done": done})

    def well(self) -> None:
        """Clear all faults."""
        self._tell("well", {})

    def calls_of(self, operation: str) -> int:
        """The number of calls of `operation`."""
        return self.all_asked().get(operation, 0)

    def all_asked(self) -> dict[str, int]:
        """The number of calls of each operation."""
        found: dict[str, int] = self._tell("asked", {})
        return found

    def _tell(self, what: str, words: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"{self.url}/keyfront-tests/{what}", json.dumps(words).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def __exit__(self, *_: object) -> None:
        self.stop()


# ---- in the process


def _main() -> None:
    import threading

    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    _correct()
    moto, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()
    faults: list[dict[str, Any]] = []
    counts: dict[str, int] = {}

    def door(environ: dict[str, Any], start: Any) -> Any:
        path = environ["PATH_INFO"]
        with lock:
            if path.startswith("/keyfront-tests/"):
                words = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
                start("200 OK", [("Content-Type", "application/json")])
                if path.endswith("/faults"):
                    faults.append(words)
                if path.endswith("/well"):
                    faults.clear()
                return [json.dumps(counts).encode()]
            operation = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
            counts[operation] = counts.get(operation, 0) + 1
            for fault in faults:
                if fault["operation"] == operation and fault["times"] > 0:
                    fault["times"] -= 1
                    if fault["done"]:
                        list(moto(environ, lambda *_: None))
                    else:
                        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                    start(f"{fault['status']} x", [("Content-Type", "application/x-amz-json-1.1")])
                    return [json.dumps({"__type": fault["code"], "message": fault["message"]}).encode()]
            return list(moto(environ, start))

    server = make_server("127.0.0.1", 0, door, threaded=True, request_handler=MotoRequestHandler)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


def _correct() -> None:
    """Fix moto's KMS where it differs from AWS."""
    import base64

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
    from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding
    from moto.core.exceptions import JsonRESTError
    from moto.kms.responses import KmsResponse

    sign, public_key, create_key = KmsResponse.sign, KmsResponse.get_public_key, KmsResponse.create_key

    def key_of(response: Any) -> Any:
        return response.kms_backend.describe_key(response._get_param("KeyId"))

    def in_state(response: Any, *states: str) -> Any:
        response._validate_key_id(response._get_param("KeyId"))
        key = key_of(response)
        if key.key_state not in states:
            code = "DisabledException" if key.key_state == "Disabled" else "KMSInvalidStateException"
            raise JsonRESTError(code, f"{key.arn} is {key.key_state}.")
        return key

    def corrected_sign(response: Any) -> Any:
        key = in_state(response, "Enabled")
        if response._get_param("MessageType") != "DIGEST":
            return sign(response)
        message = response._get_param("Message")  # already decoded by moto
        private = key.private_key.private_key
        hashed = Prehashed(hashes.SHA256())
        if isinstance(private, rsa.RSAPrivateKey):
            signature = private.sign(message, padding.PKCS1v15(), hashed)
        else:
            signature = private.sign(message, ec.ECDSA(hashed))
        return json.dumps({"KeyId": key.arn, "Signature": base64.b64encode(signature).decode()})

    def corrected_public_key(response: Any) -> Any:
        in_state(response, "Enabled")
        return public_key(response)

    def corrected_create_key(response: Any) -> Any:
        answer = json.loads(create_key(response))
        if response._get_param("Origin") == "EXTERNAL":
            key = response.kms_backend.describe_key(answer["KeyMetadata"]["KeyId"])
            key.key_state, key.enabled = "PendingImport", False
            answer["KeyMetadata"].update(KeyState="PendingImport", Enabled=False)
        return json.dumps(answer)

    def get_parameters_for_import(response: Any) -> str:
        key = in_state(response, "PendingImport")
        assert response._get_param("WrappingAlgorithm") == "RSA_AES_KEY_WRAP_SHA_256"
        assert response._get_param("WrappingKeySpec") == "RSA_4096"
        made = rsa_key(4096)
        der = made.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        token = base64.b64encode(key.id.encode()).decode()
        return json.dumps(
            {
                "KeyId": key.arn,
                "PublicKey": base64.b64encode(der).decode(),
                "ImportToken": token,
                "ParametersValidTo": 4e9,
            }
        )

    def import_key_material(response: Any) -> str:
        key = in_state(response, "PendingImport")
        assert base64.b64decode(response._get_param("ImportToken")) == key.id.encode()
        assert response._get_param("ExpirationModel") == "KEY_MATERIAL_DOES_NOT_EXPIRE"
        sealed = base64.b64decode(response._get_param("EncryptedKeyMaterial"))
        once = rsa_key(4096).decrypt(
            sealed[:512], padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        )
        private = serialization.load_der_private_key(aes_key_unwrap_with_padding(once, sealed[512:]), None)
        if type(private) is not type(key.private_key.private_key):
            raise JsonRESTError("IncorrectKeyMaterialException", "a key of another kind")
        key.private_key.private_key = private
        key.key_state, key.enabled = "Enabled", True
        return "{}"

    corrected = {
        "sign": corrected_sign,
        "get_public_key": corrected_public_key,
        "create_key": corrected_create_key,
        "get_parameters_for_import": get_parameters_for_import,
        "import_key_material": import_key_material,
    }
    for name, method in corrected.items():
        setattr(KmsResponse, name, method)


if __name__ == "__main__":
    _main()
