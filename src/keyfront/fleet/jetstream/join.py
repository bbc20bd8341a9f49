"""Enrollment of an edge over NATS."""

from __future__ import annotations

import msgspec

from keyfront.errors import SettingsError
from keyfront.fleet.jetstream.access import NatsAccess
from keyfront.fleet.jetstream.connection import Connection, Unreachable, connected
from keyfront.fleet.jetstream.joining import Guest
from keyfront.fleet.jetstream.names import Names
from keyfront.fleet.remote import authority, messages
from keyfront.fleet.remote.authority import Token
from keyfront.fleet.remote.enrollment import Edge, EdgeFiles


async def join(files: EdgeFiles, access: NatsAccess, token: Token, name: str) -> Edge:
    """Enroll this machine as an edge that follows over NATS.

    :raises SettingsError: if NATS cannot be reached, no control plane responds, or it refuses.
    :raises OSError: if the files cannot be written.
    """
    names, failures = Names(access.bucket), []
    for server in access.servers:
        try:
            async with connected(access, server, names.inbox(name)) as connection:
                pem, answer = await _enroll(connection, names, files, token, name)
        except Unreachable as error:
            failures.append(f"{server}: {error}")
            continue
        edge = Edge(answer.name, answer.region, (), "", pem, answer.key.hex(), nats=access)
        files.enrolled(edge, answer.certificate)
        return edge
    raise SettingsError(f"no control plane can be reached: {'; '.join(failures)}")


async def _enroll(
    connection: Connection, names: Names, files: EdgeFiles, token: Token, name: str
) -> tuple[str, messages.Enrolled]:
    """The authority's certificate, and the response.

    :raises Unreachable: if no control plane responds.
    :raises SettingsError: if it refuses.
    """
    guest = Guest(await connection.request(names.join), token.authority)
    csr = authority.request(files.joining_key())
    request = messages.encode(messages.Enroll(token.secret, csr, name))
    data = guest.decrypt(await connection.request(guest.offer.subject, guest.encrypt(request)))
    try:
        answer = messages.decode_to_edge(data)
    except msgspec.MsgspecError as error:
        raise SettingsError(
            "the control plane has another version of Keyfront: the response is not known"
        ) from error
    if isinstance(answer, messages.Refusal):
        raise SettingsError(f"the control plane does not enroll this edge: {answer.reason}")
    if not isinstance(answer, messages.Enrolled) or len(answer.key) != 32:
        raise SettingsError("the control plane has another version of Keyfront: the response is not known")
    return authority.certificate_to_pem(guest.issuer).decode(), answer
