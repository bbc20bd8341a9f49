"""The command `keyfront access`: users, their access keys, and their permissions.

The commands operate on an installation's store, whether or not the control plane is running; a running one applies
changes within a second. The terms are those of `aws iam`.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click

from keyfront.cli.installation import InstallationOptions, installation_options
from keyfront.cli.options import json_option, login
from keyfront.cli.output import iso_text, minute_text, print_columns, print_json, print_note
from keyfront.errors import ApiError, SettingsError
from keyfront.runtime.settings import ACCOUNT

if TYPE_CHECKING:
    from keyfront.control.identity.users import Key, User, UserAdmin


@contextmanager
def _user_admin(installation: InstallationOptions) -> Iterator[UserAdmin]:
    from keyfront.control.identity.credentials import load
    from keyfront.control.identity.sealing import sealer
    from keyfront.control.identity.users import UserAdmin

    with installation.opened() as store:
        file = installation.data / "credentials"
        taken = [caller.name for caller, _ in load(file, ACCOUNT)] if file.exists() else []
        yield UserAdmin(
            store,
            ACCOUNT,
            lambda: sealer(installation.data, os.environ, make=not store.shared),
            by=f"keyfront access, {login()}",
            clock=time.time,
            taken=taken,
        )


def _command(
    group: click.Group, name: str, *, located: bool = False
) -> Callable[[Callable[..., None]], click.Command]:
    """A command of `group` whose first argument is the installation's user administration.

    :param located: whether it gets the `installation` as well.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(installation: InstallationOptions, **arguments: Any) -> None:
            if located:
                arguments["installation"] = installation
            with _user_admin(installation) as admin:
                function(admin, **arguments)

        command: click.Command = group.command(name)(installation_options(run))
        return command

    return decorate


@click.group()
def access() -> None:
    """Users of the control plane, their access keys, and what they are allowed to do."""


# ---- users


@access.group()
def user() -> None:
    """Users: people and programs that sign calls with their own access keys."""


@_command(user, "create")
@click.argument("name")
@click.option(
    "--role", "roles", multiple=True, metavar="NAME", help="A role or policy to attach; repeatable."
)
@click.option("--key", "with_key", is_flag=True, help="Also create an access key, and print it.")
def user_create(admin: UserAdmin, name: str, roles: tuple[str, ...], with_key: bool) -> None:
    """Create a user. Without a role or policy, it is not allowed to do anything.

    \b
        keyfront access user create ci --role key-manager --key
    """
    made = admin.create_user(name, roles)
    print_note(f"user {made.name} is created{_policies_text(made)}")
    if with_key:
        _print_key(*admin.create_key(name), as_json=False)


@_command(user, "list")
@json_option
def user_list(admin: UserAdmin, as_json: bool) -> None:
    """List users, their policies, and when their keys were last used."""
    found, keys = admin.users(), admin.keys()
    if as_json:
        print_json([_user_json(one, [key for key in keys if key.owner == one.name]) for one in found])
        return
    print_columns(
        ("user", "policies", "access keys", "last used"),
        [
            (
                one.name,
                ", ".join(one.policies) or "none",
                str(sum(key.owner == one.name for key in keys)),
                minute_text(
                    max((key.used or 0 for key in keys if key.owner == one.name), default=0), "never"
                ),
            )
            for one in found
        ],
    )


@_command(user, "delete")
@click.argument("name")
@click.option("--with-keys", is_flag=True, help="Also revoke the user's access keys.")
def user_delete(admin: UserAdmin, name: str, with_keys: bool) -> None:
    """Delete a user. A user with access keys is deleted only with --with-keys."""
    admin.delete_user(name, with_keys=with_keys)
    print_note(f"user {name} is deleted")


# ---- access keys


@access.group()
def key() -> None:
    """Access keys. A user has at most two, so that one can replace the other."""


@_command(key, "create")
@click.argument("user")
@json_option
def key_create(admin: UserAdmin, user: str, as_json: bool) -> None:
    """Create an access key for a user and print it. The secret is shown only this once.

    It is printed as a profile, which can be written to a file for AWS_SHARED_CREDENTIALS_FILE as it is.
    """
    _print_key(*admin.create_key(user), as_json=as_json)


@_command(key, "list")
@click.argument("user", default="")
@json_option
def key_list(admin: UserAdmin, user: str, as_json: bool) -> None:
    """List the access keys of a user, or of all users."""
    found = admin.keys(user)
    if as_json:
        print_json([_key_json(one) for one in found])
        return
    print_columns(
        ("access key", "user", "status", "created", "last used"),
        [
            (
                one.id,
                one.owner,
                _status(one),
                minute_text(one.created, "never"),
                minute_text(one.used, "never"),
            )
            for one in found
        ],
    )


@_command(key, "rotate", located=True)
@click.argument("user")
@json_option
def key_rotate(admin: UserAdmin, user: str, as_json: bool, installation: InstallationOptions) -> None:
    """Create a second access key for a user that has one. Both work until the old one is revoked."""
    new, secret, old = admin.rotate_key(user)
    _print_key(new, secret, as_json=as_json)
    words = installation.words()
    used = f"last used {minute_text(old.used, 'never')}" if old.used else "never used"
    print_note(
        f"{old.id} ({used}) still works. When it is no longer used (`keyfront access key list {user}{words}`): "
        f"`keyfront access key revoke {old.id}{words}`"
    )


@_command(key, "revoke")
@click.argument("access_key_id")
def key_revoke(admin: UserAdmin, access_key_id: str) -> None:
    """Revoke an access key permanently: calls signed with it are refused within a second."""
    gone = admin.delete_key(access_key_id)
    print_note(f"{gone.id} of {gone.owner} is revoked")


@_command(key, "disable")
@click.argument("access_key_id")
def key_disable(admin: UserAdmin, access_key_id: str) -> None:
    """Disable an access key: calls signed with it are refused until it is enabled again."""
    found = admin.set_active(access_key_id, active=False)
    print_note(f"{found.id} of {found.owner} is disabled")


@_command(key, "enable")
@click.argument("access_key_id")
def key_enable(admin: UserAdmin, access_key_id: str) -> None:
    """Enable an access key again."""
    found = admin.set_active(access_key_id, active=True)
    print_note(f"{found.id} of {found.owner} is enabled")


# ---- policies


@access.group()
def policy() -> None:
    """Policies in IAM's JSON, and the roles that come with Keyfront."""


@_command(policy, "put")
@click.argument("name")
@click.argument("file", type=click.File(encoding="utf-8"))
def policy_put(admin: UserAdmin, name: str, file: TextIO) -> None:
    """Store the policy in FILE (-: standard input) as NAME, replacing any policy of that name."""
    try:
        text = file.read()
    except UnicodeDecodeError:
        raise SettingsError(f"{file.name} is not text in UTF-8") from None
    found = admin.put_policy(name, text)
    print_note(f"policy {name} is stored")
    for note in found.notes:
        print_note(f"note: {note}")


@_command(policy, "list")
@json_option
def policy_list(admin: UserAdmin, as_json: bool) -> None:
    """List roles and policies, and the users that have them."""
    from keyfront.control.iam.roles import ROLES

    users, own = admin.users(), admin.documents()
    rows = [(name, "role", None) for name in ROLES] + [(one.name, "policy", one.modified) for one in own]
    if as_json:
        print_json(
            [
                {
                    "PolicyName": name,
                    "Kind": kind,
                    "Users": [one.name for one in users if name in one.policies],
                }
                for name, kind, _ in rows
            ]
        )
        return
    print_columns(
        ("policy", "kind", "changed", "users"),
        [
            (
                name,
                kind,
                minute_text(at, ""),
                ", ".join(one.name for one in users if name in one.policies),
            )
            for name, kind, at in rows
        ],
    )


@_command(policy, "show")
@click.argument("name")
def policy_show(admin: UserAdmin, name: str) -> None:
    """Print the document of a policy or role."""
    from keyfront.control.iam.roles import DOCUMENTS

    if name in DOCUMENTS:
        print_json(DOCUMENTS[name])
        return
    for one in admin.documents():
        if one.name == name:
            click.echo(one.text.rstrip("\n"))
            return
    raise ApiError("NoSuchEntity", f"There is no policy or role {name}.", 404)


@_command(policy, "delete")
@click.argument("name")
def policy_delete(admin: UserAdmin, name: str) -> None:
    """Delete a policy that no user has."""
    admin.delete_policy(name)
    print_note(f"policy {name} is deleted")


@_command(policy, "attach")
@click.argument("name")
@click.argument("user")
def policy_attach(admin: UserAdmin, name: str, user: str) -> None:
    """Attach a policy or role to a user."""
    found = admin.attach(name, user)
    print_note(f"user {found.name} now has{_policies_text(found)}")


@_command(policy, "detach")
@click.argument("name")
@click.argument("user")
def policy_detach(admin: UserAdmin, name: str, user: str) -> None:
    """Detach a policy or role from a user."""
    found = admin.detach(name, user)
    print_note(f"user {found.name} now has{_policies_text(found)}")


@_command(access, "simulate")
@click.argument("user")
@click.argument("action")
@click.argument("resource", default="*")
@click.option("--source-ip", default="", metavar="ADDRESS", help="The address that the call comes from.")
@click.option(
    "--resource-tag",
    "resource_tags",
    multiple=True,
    metavar="KEY=VALUE",
    help="A tag of the resource; repeatable.",
)
@click.option(
    "--request-tag",
    "request_tags",
    multiple=True,
    metavar="KEY=VALUE",
    help="A tag in the request; repeatable.",
)
def simulate(
    admin: UserAdmin,
    user: str,
    action: str,
    resource: str,
    source_ip: str,
    resource_tags: tuple[str, ...],
    request_tags: tuple[str, ...],
) -> None:
    """Show whether a user is allowed ACTION on RESOURCE (an ARN), and which statement decides. Exit status 1: no.

    \b
        keyfront access simulate ci cloudfront:UpdateKeyGroup arn:aws:cloudfront::000000000000:key-group/ID
    """
    from keyfront.control.call import Call, Caller
    from keyfront.control.iam import policy as iam
    from keyfront.control.identity.credentials import user_arn
    from keyfront.control.operations import authorization

    found = next((one for one in admin.users() if one.name == user), None)
    policies = admin.policies_of(user)  # raises if there is no such user
    requested = action if ":" in action else f"cloudfront:{action}"
    vendor = requested.partition(":")[0].lower()
    actions = iam.actions() if vendor == "cloudfront" else iam.OWN_ACTIONS if vendor == "keyfront" else ()
    name = {name.lower(): name for name in actions}.get(requested.partition(":")[2].lower())
    if name is None:
        raise SettingsError(f"neither CloudFront nor Keyfront has an action {action!r}")
    caller = Caller("", user_arn(ACCOUNT, user), ACCOUNT, found.id if found else "")
    call = Call(name, {}, caller, source_ip, "", "", time.time())
    circumstances = authorization.request_context(call, _pairs(resource_tags), _pairs(request_tags))
    question = iam.AccessRequest(f"{vendor}:{name}", resource, circumstances)
    decision = iam.evaluate(policies, question)
    if decision.allowed:
        click.echo(f"allowed by {decision.policy} ({decision.statement})")
        return
    click.echo(
        f"denied by {decision.policy} ({decision.statement})"
        if decision.policy
        else "denied: no policy allows it"
    )
    sys.exit(1)


# ---- output


def _print_key(made: Key, secret: str, *, as_json: bool) -> None:
    if as_json:
        print_json(_key_json(made) | {"SecretAccessKey": secret})
        return
    click.echo(
        f"[{made.owner}]\naws_access_key_id = {made.id}\naws_secret_access_key = {secret}\nregion = us-east-1"
    )


def _user_json(one: User, keys: list[Key]) -> dict[str, Any]:
    return {
        "UserName": one.name,
        "UserId": one.id,
        "CreateDate": iso_text(one.created),
        "Policies": list(one.policies),
        "AccessKeys": [_key_json(key) for key in keys],
    }


def _key_json(one: Key) -> dict[str, Any]:
    return {
        "UserName": one.owner,
        "AccessKeyId": one.id,
        "Status": "Active" if one.active else "Inactive",
        "CreateDate": iso_text(one.created),
        "LastUsedDate": iso_text(one.used),
    }


def _pairs(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    found = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise SettingsError(f"{text!r} is not of the form KEY=VALUE")
        found.append((name, value))
    return found


def _status(one: Key) -> str:
    return "active" if one.active else "disabled"


def _policies_text(one: User) -> str:
    return (
        f": {', '.join(one.policies)}"
        if one.policies
        else ", but is not allowed to do anything until it has a role or policy"
    )
