"""`keyfront env`: the environment in which the AWS CLI and the AWS SDKs use a Keyfront."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from keyfront.cli.options import data_option
from keyfront.custody.default_paths import DATA_VARIABLE, installation
from keyfront.errors import SettingsError


@click.command()
@data_option
def env(data: Path) -> None:
    """Print the environment in which the AWS CLI and the AWS SDKs use your Keyfront, for a shell to evaluate.

    Amazon's CloudFront is not used in that shell. Other services of Amazon are, but with the credentials of Keyfront.

    \b
        eval "$(keyfront env)"
        aws cloudfront list-distributions
    """
    found = installation(data)
    if found is None:
        raise SettingsError(
            f"no Keyfront was ever started in {data}: start it with `keyfront up --data {shlex.quote(str(data))}`"
        )
    if not found.control:
        raise SettingsError(
            f"the Keyfront in {data} runs edges only: use the data folder of its control plane"
        )
    for name, value in (
        (DATA_VARIABLE, str(data)),
        ("AWS_ENDPOINT_URL_CLOUDFRONT", found.control),
        ("AWS_ENDPOINT_URL_CLOUDWATCH", found.control),
        ("AWS_ENDPOINT_URL_STS", found.control),
        ("AWS_SHARED_CREDENTIALS_FILE", str(data / "credentials")),
        ("AWS_PROFILE", "default"),
    ):
        click.echo(f"export {name}={shlex.quote(value)}")
    click.echo("unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN")
