"""The actions of alarms in hooks.toml: what is accepted, what is refused, and how a mail is sent."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from keyfront.errors import SettingsError
from keyfront.lifecycle.alarm_actions import AlarmAction, Notice, action_of, carry_out
from keyfront.lifecycle.hooks import parse_hook_file
from keyfront.lifecycle.outgoing import Message, Outgoing, Undelivered
from tests.rows import rows

MAIL = 'email = "a@example.com"\nsender = "k@example.com"'
NOTICE = Notice(
    Message(b'{"AlarmName": "x"}', {"KEYFRONT_ALARM_NAME": "x"}, "delivery-1"), 'ALARM: "ü"', "It rings.\n"
)
OUTGOING = Outgoing({}, threading.Event(), user_agent="test")


def test_actions_stand_beside_hooks(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x" * 20)
    secret.chmod(0o600)
    found = parse_hook_file(
        f"""
        [[hook]]
        webhook = "https://ops.example.com/keyfront"

        [[action]]
        name = "ops"
        webhook = "https://ops.example.com/alarms"
        secret-file = "{secret}"

        [[action]]
        name = "mail"
        {MAIL}
        smtp = "smtps://mail.example.com"
        smtp-user = "u"
        password-file = "{secret}"

        [[action]]
        name = "run"
        command = ["/bin/true"]
        environment = "TOKEN"
        """.encode()
    )
    assert len(found.hook) == 1
    assert [each.name for each in found.action] == ["ops", "mail", "run"]
    assert found.action[2].environment == ("TOKEN",)


@rows(
    "text, why",
    [
        ("", "name"),
        ('name = "a"', "one of command, webhook and email"),
        ('name = "a b"\ncommand = ["/bin/true"]', "letters, digits"),
        (f'name = "a"\n{MAIL}\ncommand = ["/bin/true"]', "one of command"),
        ('name = "a"\ncommand = ["true"]', "absolute path"),
        ('name = "a"\nwebhook = "http://a.test/"', "needs a secret-file"),
        ('name = "a"\nwebhook = "https://u:p@a.test/"', "holds no password"),
        ('name = "a"\nwebhook = "https://a.test/"\nsender = "a@b.test"', "are for email"),
        ('name = "a"\nemail = "a@example.com"', "not an e-mail address"),
        ('name = "a"\nemail = "a"\nsender = "k@example.com"', "not an e-mail address"),
        ('name = "a"\nemail = "A <a@example.com>"\nsender = "k@example.com"', "not an e-mail address"),
        (f'name = "a"\n{MAIL}\nsmtp = "mail.example.com"', "smtp://HOST"),
        (f'name = "a"\n{MAIL}\nsmtp = "smtp://u:p@mail.example.com"', "holds no password"),
        (f'name = "a"\n{MAIL}\nsmtp = "smtp://mail.example.com:x"', "smtp is not a URL"),
        (f'name = "a"\n{MAIL}\nsmtp-user = "u"', "belong together"),
        (f'name = "a"\n{MAIL}\nsmtp-user = "u"\npassword-file = "/nowhere"', "No such file"),
        (f'name = "a"\n{MAIL}\nsecret-file = "/nowhere"', "secret-file for webhooks"),
        (f'name = "a"\n{MAIL}\ntimeout = 601', "timeout"),
        (f'name = "a"\n{MAIL}\nretries = 11', "retries"),
        (f'name = "a"\n{MAIL}\nwhen = "before"', "when"),
        (f'name = "a"\n{MAIL}\n[[action]]\nname = "a"\n{MAIL}', "named a already"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        parse_hook_file(f"[[action]]\n{text}".encode())


@rows(
    "arn, name",
    [
        ("arn:aws:sns:us-east-1:111122223333:ops", "ops"),
        ("arn:aws-cn:sns:cn-north-1:1:a_b-c", "a_b-c"),
        ("arn:aws:swf:us-east-1:1:action/actions/AWS_EC2.InstanceId.Stop/1.0", "1.0"),
    ],
)
def test_an_arn_names_an_action_by_its_last_part(arn: str, name: str) -> None:
    assert action_of(arn) == name


class Mails:
    """A mail server. `starttls`: offers it, with the certificate of an authority that nobody trusts. `answers`: replies
    other than 250, by verb."""

    def __init__(
        self, *, starttls: bool = False, answers: dict[bytes, bytes] | None = None, silent: bool = False
    ) -> None:
        self.mails: list[bytes] = []
        self.encrypted = False
        outer, authority = self, trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("mail.test").configure_cert(context)

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                connection: socket.socket = self.request
                if silent:
                    connection.recv(1)
                    return
                connection.sendall(b"220 mail\r\n")
                stream = connection.makefile("rb")
                while line := stream.readline():
                    verb = line.split()[0].upper()
                    answer = (answers or {}).get(verb, b"250 ok")
                    if verb == b"EHLO" and starttls and not outer.encrypted:
                        answer = b"250-mail\r\n250 STARTTLS"
                    connection.sendall(answer + b"\r\n")
                    if verb == b"STARTTLS":
                        connection = context.wrap_socket(connection, server_side=True)
                        stream = connection.makefile("rb")
                        outer.encrypted = True
                    elif verb == b"DATA" and answer.startswith(b"354"):
                        text = []
                        while (part := stream.readline()) not in (b".\r\n", b""):
                            text.append(part)
                        outer.mails.append(b"".join(text))
                        connection.sendall(b"250 ok\r\n")
                    elif verb == b"QUIT":
                        return

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


DATA = {b"DATA": b"354 go on"}


@pytest.fixture
def servers() -> Iterator[Any]:
    made: list[Mails] = []

    def start(**options: Any) -> Mails:
        made.append(Mails(**options))
        return made[-1]

    yield start
    for each in made:
        each.close()


def action(server: Mails, **others: Any) -> AlarmAction:
    found = AlarmAction(
        "mail", email=("a@example.com", "b@example.com"), sender="k@example.com", timeout=20.0
    )
    return msgspec.structs.replace(found, smtp=f"smtp://127.0.0.1:{server.port}", **others)


def test_a_mail_is_sent(servers: Any) -> None:
    server = servers(answers=DATA)
    carry_out(action(server), NOTICE, OUTGOING)
    (mail,) = server.mails
    for part in (
        b"To: a@example.com, b@example.com",
        b"From: k@example.com",
        b"Message-ID: <delivery-1@",
        b"It rings.",
    ):
        assert part in mail, part
    assert b"=?utf-8?" in mail


def test_starttls_is_used_where_it_is_offered(servers: Any) -> None:
    server = servers(starttls=True, answers={**DATA, b"STARTTLS": b"220 go on"})
    carry_out(action(server), NOTICE, OUTGOING)
    assert (len(server.mails), server.encrypted) == (1, True)


def test_a_mail_does_not_delay_the_end(servers: Any) -> None:
    stopping = threading.Event()
    server = servers(silent=True)
    threading.Timer(0.2, stopping.set).start()
    with pytest.raises(Undelivered, match="Keyfront is ending"):
        carry_out(action(server, timeout=600.0), NOTICE, Outgoing({}, stopping, user_agent="test"))


def test_a_mail_server_that_refuses_is_a_failure(servers: Any) -> None:
    refuses = servers(answers={b"MAIL": b"550 not you, secret-sender"})
    with pytest.raises(Undelivered, match="answers 550"):
        carry_out(action(refuses), NOTICE, OUTGOING)
    nobody = servers(answers={b"RCPT": b"550 nobody"})
    with pytest.raises(Undelivered, match="refuses all recipients"):
        carry_out(action(nobody), NOTICE, OUTGOING)
    silent = servers(silent=True)
    with pytest.raises(Undelivered, match=r"did not finish within|timed out"):
        carry_out(action(silent, timeout=0.3), NOTICE, OUTGOING)
    gone = action(silent)
    silent.close()
    with pytest.raises(Undelivered):
        carry_out(gone, NOTICE, OUTGOING)
