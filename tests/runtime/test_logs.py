"""The two formats of the log."""

from __future__ import annotations

import json
import logging
import re

import pytest

from keyfront.errors import SettingsError
from keyfront.runtime.logs import LogSettings, logging_to_stderr, process_logging, timestamp

log = logging.getLogger("keyfront.edge")


def test_a_warning_in_text_is_as_the_commands_messages(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(LogSettings(), "edge-1"):
        log.info("not shown")
        log.warning("%s is full", "the disk")
    assert capsys.readouterr().err == "keyfront: the disk is full\n"


def test_verbose_text_says_when_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(LogSettings(logging.INFO), "edge-1"):
        log.debug("not shown")
        log.info("snapshot applied", extra={"snapshot": 7, "why": "two words", "none": ""})
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO edge-1\[\d+\] keyfront\.edge: "
        r'snapshot applied snapshot=7 why="two words" none=""\n',
        capsys.readouterr().err,
    )


def test_json_is_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(LogSettings(logging.DEBUG, "json"), "control"):
        log.debug("API call", extra={"action": "GetKeyGroup", "pid": "not this one"})
        try:
            raise ValueError("of two\nlines")
        except ValueError:
            log.exception("failed")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert list(first)[:6] == ["time", "level", "logger", "message", "process", "pid"]
    assert (first["level"], first["process"], first["action"]) == ("debug", "control", "GetKeyGroup")
    assert isinstance(first["pid"], int)
    assert "ValueError: of two\nlines" in second["exception"]


def test_the_error_that_ends_a_process_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, process_logging(LogSettings(format="json"), "up"):
        raise SettingsError("a port is taken")
    assert ended.value.code == 2
    assert json.loads(capsys.readouterr().err)["message"] == "a port is taken"
    with pytest.raises(SystemExit) as ended, process_logging(LogSettings(), "up"):
        raise ZeroDivisionError
    assert ended.value.code == 1
    assert "keyfront: unhandled exception\nTraceback" in capsys.readouterr().err


def test_libraries_stay_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(LogSettings(logging.DEBUG), "control"):
        logging.getLogger("botocore.auth").debug("Signature: 1234")
    assert capsys.readouterr().err == ""


def test_milliseconds_never_round_up_to_a_second_that_has_not_begun() -> None:
    assert timestamp(1.9999) == "1970-01-01T00:00:01.999Z"
