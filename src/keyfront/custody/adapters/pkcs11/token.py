"""A PKCS #11 token held open: found, logged in to, and found again after it was unavailable.

A process logs in to a token once for all its users. They share the session and the module that speaks to the token (a
shared library, one per path). python-pkcs11 initializes modules for a single thread, so calls into a module are
serialized. After a fork, a module is initialized again, as PKCS #11 requires.

A PIN that the token has refused is not tried again: a token locks itself after a few wrong PINs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pkcs11
from pkcs11 import exceptions as faults

from keyfront.errors import CustodyError, CustodyUnavailable

T = TypeVar("T")

_REFUSALS = (
    faults.PinExpired,
    faults.PinIncorrect,
    faults.PinInvalid,
    faults.PinLenRange,
    faults.PinLocked,
    faults.UserPinNotInitialized,
    faults.AttributeReadOnly,
    faults.AttributeTypeInvalid,
    faults.AttributeValueInvalid,
    faults.AttributeSensitive,
    faults.FunctionNotSupported,
    faults.MechanismInvalid,
    faults.MechanismParamInvalid,
    faults.TemplateIncomplete,
    faults.TemplateInconsistent,
    faults.TokenWriteProtected,
    faults.SessionReadOnly,
    faults.KeySizeRange,
    faults.DomainParamsInvalid,
)
"""Errors with which a token rejects a request that it understood, so a retry changes nothing."""


class _Module:
    """A PKCS #11 module in this process. `generation` increases whenever everything that was open through it is
    gone."""

    def __init__(self, path: str, *, anew: bool) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.generation = 0
        try:
            self.lib: Any = pkcs11.lib(path)
            if anew:
                self.restart()
        except faults.PKCS11Error as error:
            raise CustodyError(f"the PKCS#11 module {path} cannot be used: {error_text(error)}") from error

    def restart(self) -> None:
        """Reinitialize the module: only then does it see tokens that were added since."""
        self.generation += 1
        with contextlib.suppress(faults.PKCS11Error):  # another user in this process has already finalized it
            self.lib.finalize()
        self.lib.initialize()


class _Process:
    """What this process has open. The child of a fork has nothing open, whatever its copy of the memory says."""

    def __init__(self) -> None:
        self.begin(forked=False)

    def begin(self, *, forked: bool) -> None:
        self.forked = forked
        self.lock = threading.Lock()
        self.modules: dict[str, _Module] = {}
        self.tokens: dict[tuple[str, str], Token] = {}


_process = _Process()
os.register_at_fork(after_in_child=lambda: _process.begin(forked=True))


def token(module_path: str, name: str) -> Token:
    """Return the token with the label or serial number `name`, shared by the whole process.

    :raises CustodyError: if there is no such module.
    """
    with _process.lock:
        module = _process.modules.get(module_path)
        if module is None:
            module = _process.modules[module_path] = _Module(module_path, anew=_process.forked)
        found = _process.tokens.get((module_path, name))
        if found is None:
            found = _process.tokens[module_path, name] = Token(module, name)
        return found


class Token:
    """A token, and the session through which this process uses it."""

    def __init__(self, module: _Module, name: str) -> None:
        self._module = module
        self._name = name
        self._session: Any = None
        self._openings = 0
        self._module_generation = -1
        self._opened_with = b""
        self._refused: dict[bytes, str] = {}
        self.mechanisms: frozenset[int] = frozenset()

    @property
    def generation(self) -> tuple[int, int]:
        """Object handles are valid as long as this value stays the same."""
        return self._module.generation, self._openings

    def attempt(self, work: Callable[[Any], T]) -> T | None:
        """Return the result of `work` on the open session, or None if no session is open or `work` fails. Needs no
        PIN."""
        with self._module.lock:
            if self._session is None or self._module_generation != self._module.generation:
                return None
            try:
                return work(self._session)
            except faults.PKCS11Error:
                return None

    def run(self, work: Callable[[Any], T], pin: str | None, *, changes: bool = False) -> T:
        """Return the result of `work` on a session. With `changes`, the session is a read-write one.

        If the session turns out to be dead, another one is opened. Work that only reads is then retried once. Work that
        changes something is not retried, and does not start until the session has proved to be alive.

        :raises CustodyUnavailable: if the token is unavailable or fails.
        :raises CustodyError: if it refuses.
        """
        with self._module.lock:
            for last in (False, True):
                begun = False
                try:
                    session = self._alive(pin)
                    begun = True
                    return self._writing(session, work) if changes else work(session)
                except _REFUSALS as error:
                    raise CustodyError(f"the token {self._name} refuses: {error_text(error)}") from error
                except faults.PKCS11Error as error:
                    self._close()
                    if last or (changes and begun):
                        raise CustodyUnavailable(
                            f"the token {self._name} does not answer: {error_text(error)}"
                        ) from error
        raise AssertionError("unreachable")

    def _alive(self, pin: str | None) -> Any:
        """Return the session, opened if necessary, and tested: a search in a dead session also prints an error to
        standard error."""
        session = self._opened(pin)
        if session.token.flags & pkcs11.TokenFlag.RNG:
            session.generate_random(64)
        else:
            list(session.get_objects({pkcs11.Attribute.LABEL: "keyfront: is this session alive?"}))
        return session

    def _writing(self, session: Any, work: Callable[[Any], T]) -> T:
        writer = session.token.open(rw=True)  # shares the first session's login; closing it logs nothing out
        try:
            return work(writer)
        finally:
            with contextlib.suppress(faults.PKCS11Error):
                writer.close()

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(faults.PKCS11Error):
                session.close()

    def _opened(self, pin: str | None) -> Any:
        mark = hashlib.sha256(b"\0" if pin is None else pin.encode("utf-8", "surrogateescape")).digest()
        if self._session is not None and self._module_generation == self._module.generation:
            if mark != self._opened_with:
                raise CustodyError(f"this process has opened the token {self._name} with another PIN")
            return self._session
        if mark in self._refused:
            raise CustodyError(self._refused[mark])
        found = self._found()
        self._session = self._logged_in(found, pin, mark)
        self._openings += 1
        self._module_generation = self._module.generation
        self._opened_with = mark
        self.mechanisms = frozenset(int(one) for one in found.slot.get_mechanisms())
        return self._session

    def _found(self) -> Any:
        for again in (False, True):
            if again:
                self._module.restart()
            try:
                there = [slot.get_token() for slot in self._module.lib.get_slots(token_present=True)]
            except faults.PKCS11Error:
                if again:
                    raise
                continue
            by_serial = [one for one in there if one.serial.decode("latin-1").strip() == self._name]
            for same in ([one for one in there if one.label == self._name], by_serial):
                if len(same) > 1:
                    raise CustodyError(
                        f"{len(same)} tokens are called {self._name}: name the one by its serial number"
                    )
                if same:
                    return same[0]
        raise CustodyUnavailable(f"{self._module.path} has no token {self._name} now")

    def _logged_in(self, found: Any, pin: str | None, mark: bytes) -> Any:
        if pin is None:
            if found.flags & pkcs11.TokenFlag.LOGIN_REQUIRED:
                raise CustodyError(f"the token {self._name} requires a PIN: give pin-source=")
            return found.open()
        try:
            return found.open(user_pin=pin)
        except faults.UserAlreadyLoggedIn:  # logged in by a lost session, or by other code in this process
            return found.open()
        except (faults.PinIncorrect, faults.PinInvalid, faults.PinLenRange, faults.PinLocked) as error:
            self._refused[mark] = (
                f"the token {self._name} refuses the PIN ({error_text(error)}); it is not tried again by this process"
            )
            raise CustodyError(self._refused[mark]) from None


def error_text(error: BaseException) -> str:
    """Describe a PKCS #11 error: most have no text but their name."""
    return str(error) or type(error).__name__
