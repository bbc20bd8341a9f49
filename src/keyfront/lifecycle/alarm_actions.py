"""Actions of alarms: an operator's own commands, webhooks, and e-mail, called when an alarm changes its state
(docs/guide/alarms.md). They stand beside the hooks, in the same file.

    [[action]]
    name = "ops"
    webhook = "https://ops.example.com/alarms"
    secret-file = "/etc/keyfront/alarm-secret"

    [[action]]
    name = "on-call"
    email = ["on-call@example.com"]
    sender = "keyfront@example.com"
    smtp = "smtp://mail.example.com:587"
    smtp-user = "keyfront"
    password-file = "/etc/keyfront/smtp-password"

An alarm names actions by ARNs, as at Amazon. The last part of an ARN is the name of the action:
`arn:aws:sns:us-east-1:111122223333:ops` is the first of these two.
"""

from __future__ import annotations

import contextlib
import re
import smtplib
import ssl
import threading
import time
from email.message import EmailMessage
from email.utils import parseaddr
from urllib.parse import SplitResult, urlsplit

import msgspec

from keyfront.errors import SettingsError
from keyfront.lifecycle.outgoing import Message, Outgoing, Receiver, Undelivered, read_secret, receiver_fault

_NAME = re.compile(r"[A-Za-z0-9_-]{1,256}")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
MOST_RECIPIENTS = 20
_TICK = 0.05


class AlarmAction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """One action: a `command` or a `webhook` as in a hook, or `email`, a list of addresses.

    `smtp` is the URL of the mail server: `smtps://HOST[:PORT]` (TLS from the start), or `smtp://HOST[:PORT]`, which
    must offer STARTTLS unless it is this machine. `sender` is the address that the mail comes from. `smtp_user` logs in
    with the password in `password_file`. An attempt may take `timeout` seconds, and after a failure there are `retries`
    more, the first one second later, with the delay doubling each time.
    """

    name: str
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    webhook: str = ""
    secret_file: str = ""
    email: tuple[str, ...] = ()
    sender: str = ""
    smtp: str = "smtp://localhost:25"
    smtp_user: str = ""
    password_file: str = ""
    timeout: float = 30.0
    retries: int = 3

    @property
    def receiver(self) -> Receiver:
        return Receiver(self.command, self.environment, self.webhook, self.secret_file, self.timeout)


class Notice(msgspec.Struct, frozen=True):
    """What an action tells: `message` for commands and webhooks, `subject` and `text` for e-mail."""

    message: Message
    subject: str
    text: str


def action_of(arn: str) -> str:
    """The name of the action that an ARN names: its last part."""
    return re.split(r"[:/]", arn)[-1]


def action_fault(action: AlarmAction) -> str:
    """What is wrong with an action; empty if nothing is."""
    if not _NAME.fullmatch(action.name):
        return "name is 1 to 256 letters, digits, hyphens, and underscores, like an SNS topic's"
    if sum(map(bool, (action.command, action.webhook, action.email))) != 1:
        return "give it one of command, webhook and email"
    if not 0 < action.timeout <= 600:
        return "timeout is more than 0 and at most 600 seconds"
    if not 0 <= action.retries <= 10:
        return "retries is 0 to 10"
    if not action.email:
        if action.sender or action.smtp_user or action.password_file or action.smtp != AlarmAction("").smtp:
            return "sender, smtp, smtp-user and password-file are for email"
        return receiver_fault(action.receiver)
    if action.environment or action.secret_file:
        return "environment is for commands, and secret-file for webhooks"
    return _mail_fault(action)


def _mail_fault(action: AlarmAction) -> str:
    if len(action.email) > MOST_RECIPIENTS:
        return f"email has more than {MOST_RECIPIENTS} addresses"
    for address in (*action.email, action.sender):
        if parseaddr(address)[1] != address or not re.fullmatch(r"[!-~]+@[!-~]+", address):
            return f"{address[:80]!r} is not an e-mail address (email and sender are needed)"
    try:
        server = _server(action)
        _ = server.port
    except ValueError as error:
        return f"smtp is not a URL: {error}"
    if server.scheme not in ("smtp", "smtps") or not server.hostname or server.path.strip("/"):
        return "smtp is smtp://HOST[:PORT] or smtps://HOST[:PORT]"
    if server.username is not None or server.password is not None:
        return "smtp holds no password: name the user with smtp-user, and the password with password-file"
    if bool(action.smtp_user) != bool(action.password_file):
        return "smtp-user and password-file belong together"
    try:
        if action.password_file:
            read_secret(action.password_file, shortest=1)
    except (OSError, SettingsError) as error:
        return str(error)
    return ""


def _server(action: AlarmAction) -> SplitResult:
    return urlsplit(action.smtp)


def carry_out(action: AlarmAction, notice: Notice, outgoing: Outgoing) -> None:
    """Carry out an action, in one attempt.

    :raises Undelivered: if it fails.
    """
    if not action.email:
        outgoing.send(action.receiver, notice.message)
        return
    failed: list[Exception | None] = []

    def send() -> None:
        try:
            _send_mail(action, notice)
            failed.append(None)
        except Exception as error:
            failed.append(error)

    # smtplib's own timeout begins anew with each command.
    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    ends = time.monotonic() + action.timeout
    while sending.is_alive() and time.monotonic() < ends and not outgoing.stopping.is_set():
        sending.join(_TICK)
    if not failed and outgoing.stopping.is_set():
        raise Undelivered("Keyfront is ending")
    if not failed:
        raise Undelivered(f"the mail server did not finish within {action.timeout:g} seconds")
    if (error := failed[0]) is not None:
        raise Undelivered(_why(error)) from error


def _why(error: Exception) -> str:
    """Why the mail server refused, without what was sent to it."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return "the mail server refuses all recipients"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the mail server answers {error.smtp_code}"
    return str(error) or type(error).__name__


def _send_mail(action: AlarmAction, notice: Notice) -> None:
    server = _server(action)
    host, context = server.hostname or "", ssl.create_default_context()
    mail = EmailMessage()
    mail["Subject"] = notice.subject
    mail["From"] = action.sender
    mail["To"] = ", ".join(action.email)
    mail["Message-ID"] = f"<{notice.message.delivery}@keyfront>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(notice.text)
    client: smtplib.SMTP
    if server.scheme == "smtps":
        client = smtplib.SMTP_SSL(host, server.port or 465, timeout=action.timeout, context=context)
    else:
        client = smtplib.SMTP(host, server.port or 25, timeout=action.timeout)
    try:
        client.ehlo()
        if server.scheme == "smtp" and (client.has_extn("starttls") or host not in _LOOPBACK):
            if host in _LOOPBACK:  # nobody else can answer, and its certificate is rarely for this name
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            client.starttls(context=context)
        if action.smtp_user:
            client.login(action.smtp_user, read_secret(action.password_file, shortest=1).decode())
        client.send_message(mail)
        with contextlib.suppress(smtplib.SMTPException, OSError):  # the mail is accepted, however this ends
            client.quit()
    finally:
        client.close()
