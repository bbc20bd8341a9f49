"""The store's tables in this version, and the migration steps from every earlier version.

Statements are built from the tables. The steps do not use the tables: each step is the SQL as it was when its version
was created, and a released step never changes. `tests/control/test_schema.py` checks that all steps together create
exactly these tables.

To change the schema: change the tables here, append a step to `STEPS`, and describe its purpose in the step's comment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from keyfront.errors import SettingsError

metadata = sa.MetaData()

schema = sa.Table("schema", metadata, sa.Column("version", sa.Integer, primary_key=True))

resource = sa.Table(
    "resource",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("etag", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("modified", sa.Float, nullable=False),
    sa.Column("config", sa.LargeBinary, nullable=False),
    sa.Column("attributes", sa.LargeBinary, nullable=False),
    sa.Column("snapshot", sa.BigInteger, nullable=False),
)

unique_value = sa.Table(
    "unique_value",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("member", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["kind", "id"], ["resource.kind", "resource.id"], ondelete="CASCADE"),
    sa.Index("unique_value_owner", "kind", "id"),
)

reference = sa.Table(
    "reference",
    metadata,
    sa.Column("from_kind", sa.Text, primary_key=True),
    sa.Column("from_id", sa.Text, primary_key=True),
    sa.Column("to_kind", sa.Text, primary_key=True),
    sa.Column("to_id", sa.Text, primary_key=True),
    sa.ForeignKeyConstraint(["from_kind", "from_id"], ["resource.kind", "resource.id"], ondelete="CASCADE"),
    sa.ForeignKeyConstraint(["to_kind", "to_id"], ["resource.kind", "resource.id"]),
    sa.Index("reference_target", "to_kind", "to_id", "from_kind", "from_id"),
)

tag = sa.Table(
    "tag",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["kind", "id"], ["resource.kind", "resource.id"], ondelete="CASCADE"),
)

invalidation = sa.Table(
    "invalidation",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("distribution", sa.Text, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("batch", sa.LargeBinary, nullable=False),
    sa.Column("paths", sa.Integer, nullable=False),
    sa.Column("wildcards", sa.Integer, nullable=False),
    sa.Column("snapshot", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(["kind", "distribution"], ["resource.kind", "resource.id"], ondelete="CASCADE"),
    sa.UniqueConstraint("distribution", "id"),
    sa.UniqueConstraint("distribution", "reference"),
    sa.Index("invalidation_order", "distribution", "sequence"),
    sa.Index("invalidation_snapshot", "snapshot"),
    sa.Index("invalidation_owner", "kind", "distribution"),
)

carried = sa.Table(
    "carried",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("distribution", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("invalidations", sa.LargeBinary, nullable=False),
    sa.ForeignKeyConstraint(["kind", "distribution"], ["resource.kind", "resource.id"], ondelete="CASCADE"),
)

counter = sa.Table(
    "counter",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("resource", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("record", sa.LargeBinary, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Index("audit_time", "time"),
    sa.Index("audit_resource", "resource"),
)

edge = sa.Table(
    "edge",
    metadata,
    sa.Column("replica", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("seen", sa.Float, nullable=False),
    sa.Column("region", sa.Text, nullable=False),
)

access_user = sa.Table(
    "access_user",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("folded", sa.Text, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.UniqueConstraint("folded"),
)

access_key = sa.Table(
    "access_key",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("active", sa.Integer, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("used", sa.Float, nullable=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("sealer", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["owner"], ["access_user.name"]),
    sa.Index("access_key_owner", "owner"),
)

access_policy = sa.Table(
    "access_policy",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("modified", sa.Float, nullable=False),
)

access_attachment = sa.Table(
    "access_attachment",
    metadata,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("policy", sa.Text, primary_key=True),
    sa.ForeignKeyConstraint(["owner"], ["access_user.name"], ondelete="CASCADE"),
)

key_use = sa.Table(
    "key_use",
    metadata,
    sa.Column("key_pair_id", sa.Text, primary_key=True),
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("distribution", sa.Text, primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("first_seen", sa.Float, nullable=False),
    sa.Column("last_seen", sa.Float, nullable=False),
)

key_hour = sa.Table(
    "key_hour",
    metadata,
    sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("key_pair_id", sa.Text, primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
)

key_end = sa.Table(
    "key_end",
    metadata,
    sa.Column("key_pair_id", sa.Text, primary_key=True),
    sa.Column("latest", sa.BigInteger, nullable=False),
    sa.Column("longest", sa.Float, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)

key_run = sa.Table(
    "key_run",
    metadata,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("seen", sa.Float, nullable=False),
    sa.Column("counted", sa.LargeBinary, nullable=False),
)

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("until", sa.Float, nullable=False),
)

fleet_key = sa.Table(
    "fleet_key",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("public", sa.LargeBinary, nullable=False),
    sa.Column("endorsement", sa.LargeBinary, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("sealer", sa.Text, nullable=False),
)

fleet_edge = sa.Table(
    "fleet_edge",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("region", sa.Text, nullable=False),
    sa.Column("enrolled", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("revoked", sa.Float, nullable=True),
    sa.Index("fleet_edge_name", "name"),
)

fleet_token = sa.Table(
    "fleet_token",
    metadata,
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("region", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("edge", sa.Text, nullable=False),
    sa.Column("key", sa.LargeBinary, nullable=False),
)

fleet_seen = sa.Table(
    "fleet_seen",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("seen", sa.Float, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("software", sa.Text, nullable=False),
)

metric_minute = sa.Table(
    "metric_minute",
    metadata,
    sa.Column("at", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

metric_run = sa.Table(
    "metric_run",
    metadata,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("seen", sa.Float, nullable=False),
    sa.Column("counted", sa.LargeBinary, nullable=False),
)

alarm_history = sa.Table(
    "alarm_history",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("alarm", sa.Text, nullable=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Index("alarm_history_alarm", "alarm", "number"),
)

shared_link = sa.Table(
    "shared_link",
    metadata,
    sa.Column("credential", sa.Text, primary_key=True),
    sa.Column("last", sa.Float, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)


# ---- the migration steps

Statement = str | Mapping[str, str]
"""One text for both databases, in which {text}, {bytes}, {float}, and {sequence} stand for types; or one text for each
database, by name and without placeholders."""

_TYPES: dict[str, dict[str, str]] = {
    "sqlite": {
        "text": "TEXT",
        "bytes": "BLOB",
        "float": "FLOAT",
        "sequence": "INTEGER",
    },
    # Ids are compared byte by byte, whatever the database's locale: pages of lists depend on that order.
    "postgresql": {
        "text": 'TEXT COLLATE "C"',
        "bytes": "BYTEA",
        "float": "DOUBLE PRECISION",
        "sequence": "BIGINT GENERATED BY DEFAULT AS IDENTITY",
    },
}


def _append_only(table: str) -> list[Statement]:
    """Triggers that make the database itself refuse to change or delete rows of `table`."""
    message = f"the {table} log is append-only"
    refuse: list[Statement] = [
        {
            "sqlite": f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END",
            "postgresql": f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()",
        }
        for verb in ("UPDATE", "DELETE")
    ]
    return [
        {
            "sqlite": "",
            "postgresql": f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{message}' USING ERRCODE = 'integrity_constraint_violation'; END $$",
        },
        *refuse,
        {
            "sqlite": "",
            "postgresql": f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()",
        },
    ]


STEPS: tuple[Sequence[Statement], ...] = (
    # 1: resources, their references and tags, the audit log
    (
        "CREATE TABLE schema (version INTEGER NOT NULL, PRIMARY KEY (version))",
        """CREATE TABLE resource (kind {text} NOT NULL, id {text} NOT NULL, etag {text} NOT NULL,
           created {float} NOT NULL, modified {float} NOT NULL, config {bytes} NOT NULL, attributes {bytes} NOT NULL,
           snapshot BIGINT NOT NULL, PRIMARY KEY (kind, id))""",
        """CREATE TABLE unique_value (kind {text} NOT NULL, member {text} NOT NULL, value {text} NOT NULL,
           id {text} NOT NULL, PRIMARY KEY (kind, member, value),
           FOREIGN KEY (kind, id) REFERENCES resource (kind, id) ON DELETE CASCADE)""",
        "CREATE INDEX unique_value_owner ON unique_value (kind, id)",
        """CREATE TABLE reference (from_kind {text} NOT NULL, from_id {text} NOT NULL, to_kind {text} NOT NULL,
           to_id {text} NOT NULL, PRIMARY KEY (from_kind, from_id, to_kind, to_id),
           FOREIGN KEY (from_kind, from_id) REFERENCES resource (kind, id) ON DELETE CASCADE,
           FOREIGN KEY (to_kind, to_id) REFERENCES resource (kind, id))""",
        "CREATE INDEX reference_target ON reference (to_kind, to_id, from_kind, from_id)",
        """CREATE TABLE tag (kind {text} NOT NULL, id {text} NOT NULL, "key" {text} NOT NULL, value {text} NOT NULL,
           PRIMARY KEY (kind, id, "key"),
           FOREIGN KEY (kind, id) REFERENCES resource (kind, id) ON DELETE CASCADE)""",
        "CREATE TABLE counter (name {text} NOT NULL, value BIGINT NOT NULL, PRIMARY KEY (name))",
        """CREATE TABLE audit (number BIGINT NOT NULL, time {float} NOT NULL, name {text} NOT NULL,
           principal {text} NOT NULL, resource {text} NOT NULL, error {text} NOT NULL, record {bytes} NOT NULL,
           digest {bytes} NOT NULL, PRIMARY KEY (number))""",
        "CREATE INDEX audit_time ON audit (time)",
        {
            "sqlite": "CREATE INDEX audit_resource ON audit (resource)",
            # A B-tree index of PostgreSQL accepts no value of more than about 2,700 bytes.
            "postgresql": "CREATE INDEX audit_resource ON audit USING hash (resource)",
        },
        "INSERT INTO counter (name, value) VALUES ('snapshot', 0)",
        *_append_only("audit"),
    ),
    # 2: invalidations
    (
        """CREATE TABLE invalidation (sequence {sequence} NOT NULL, kind {text} NOT NULL, distribution {text} NOT NULL,
           id {text} NOT NULL, reference {text} NOT NULL, created {float} NOT NULL, batch {bytes} NOT NULL,
           paths INTEGER NOT NULL, wildcards INTEGER NOT NULL, snapshot BIGINT NOT NULL, PRIMARY KEY (sequence),
           FOREIGN KEY (kind, distribution) REFERENCES resource (kind, id) ON DELETE CASCADE,
           UNIQUE (distribution, id), UNIQUE (distribution, reference))""",
        "CREATE INDEX invalidation_order ON invalidation (distribution, sequence)",
        "CREATE INDEX invalidation_snapshot ON invalidation (snapshot)",
        "CREATE INDEX invalidation_owner ON invalidation (kind, distribution)",
        """CREATE TABLE carried (kind {text} NOT NULL, distribution {text} NOT NULL, version {text} NOT NULL,
           invalidations {bytes} NOT NULL, PRIMARY KEY (kind, distribution),
           FOREIGN KEY (kind, distribution) REFERENCES resource (kind, id) ON DELETE CASCADE)""",
        "INSERT INTO counter (name, value) VALUES ('reached', 0)",
    ),
    # 3: several control planes: which snapshots their edges use, and when (in milliseconds) the last one was made
    (
        """CREATE TABLE edge (replica {text} NOT NULL, name {text} NOT NULL, number BIGINT NOT NULL,
           seen {float} NOT NULL, PRIMARY KEY (replica, name))""",
        "INSERT INTO counter (name, value) VALUES ('decided', 0)",
    ),
    # 4: users, their access keys, and their policies; an attached policy may be a role, which has no row
    (
        """CREATE TABLE access_user (name {text} NOT NULL, folded {text} NOT NULL, id {text} NOT NULL,
           created {float} NOT NULL, PRIMARY KEY (name), UNIQUE (folded))""",
        """CREATE TABLE access_key (id {text} NOT NULL, owner {text} NOT NULL, active INTEGER NOT NULL,
           created {float} NOT NULL, used {float}, sealed {bytes} NOT NULL, sealer {text} NOT NULL, PRIMARY KEY (id),
           FOREIGN KEY (owner) REFERENCES access_user (name))""",
        "CREATE INDEX access_key_owner ON access_key (owner)",
        """CREATE TABLE access_policy (name {text} NOT NULL, document {text} NOT NULL, created {float} NOT NULL,
           modified {float} NOT NULL, PRIMARY KEY (name))""",
        """CREATE TABLE access_attachment (owner {text} NOT NULL, policy {text} NOT NULL, PRIMARY KEY (owner, policy),
           FOREIGN KEY (owner) REFERENCES access_user (name) ON DELETE CASCADE)""",
        "INSERT INTO counter (name, value) VALUES ('access', 0)",
    ),
    # 5: the regions of edges
    ("ALTER TABLE edge ADD COLUMN region {text} NOT NULL DEFAULT ''",),
    # 6: key usage: by hash and distribution, by hour, when signatures expire, and how far each run of an edge has been
    # counted (the counter holds the start of counting, in milliseconds, and its row is locked while adding);
    # leases, for work that only one of several control planes may do
    (
        """CREATE TABLE key_use (key_pair_id {text} NOT NULL, hash {text} NOT NULL, distribution {text} NOT NULL,
           requests BIGINT NOT NULL, first_seen {float} NOT NULL, last_seen {float} NOT NULL,
           PRIMARY KEY (key_pair_id, hash, distribution))""",
        """CREATE TABLE key_hour (hour BIGINT NOT NULL, key_pair_id {text} NOT NULL, requests BIGINT NOT NULL,
           PRIMARY KEY (hour, key_pair_id))""",
        """CREATE TABLE key_end (key_pair_id {text} NOT NULL, latest BIGINT NOT NULL, longest {float} NOT NULL,
           until BIGINT NOT NULL, PRIMARY KEY (key_pair_id))""",
        """CREATE TABLE key_run (run {text} NOT NULL, seen {float} NOT NULL, counted {bytes} NOT NULL,
           PRIMARY KEY (run))""",
        """CREATE TABLE lease (name {text} NOT NULL, holder {text} NOT NULL, until {float} NOT NULL,
           PRIMARY KEY (name))""",
        "INSERT INTO counter (name, value) VALUES ('key_use', 0)",
    ),
    # 7: edges on other machines: the authority and the snapshot keys, enrolled edges, tokens, and when each edge was
    # last connected (the counter changes with the keys and with the edges that are accepted)
    (
        """CREATE TABLE fleet_key (kind {text} NOT NULL, number INTEGER NOT NULL, created {float} NOT NULL,
           public {bytes} NOT NULL, endorsement {bytes} NOT NULL, sealed {bytes} NOT NULL, sealer {text} NOT NULL,
           PRIMARY KEY (kind, number))""",
        """CREATE TABLE fleet_edge (id {text} NOT NULL, name {text} NOT NULL, region {text} NOT NULL,
           enrolled {float} NOT NULL, expires {float} NOT NULL, revoked {float}, PRIMARY KEY (id))""",
        "CREATE INDEX fleet_edge_name ON fleet_edge (name)",
        """CREATE TABLE fleet_token (digest {bytes} NOT NULL, name {text} NOT NULL, region {text} NOT NULL,
           created {float} NOT NULL, expires {float} NOT NULL, edge {text} NOT NULL, "key" {bytes} NOT NULL,
           PRIMARY KEY (digest))""",
        """CREATE TABLE fleet_seen (id {text} NOT NULL, seen {float} NOT NULL, number BIGINT NOT NULL,
           address {text} NOT NULL, software {text} NOT NULL, PRIMARY KEY (id))""",
        "INSERT INTO counter (name, value) VALUES ('fleet', 0)",
    ),
    # 8: metrics by minute, of each distribution and (with an empty subject) of all; how far each run of an edge has
    # been counted for them (the counter's row is locked while adding); the history of alarms, which are resources
    (
        """CREATE TABLE metric_minute (at BIGINT NOT NULL, subject {text} NOT NULL, data {bytes} NOT NULL,
           PRIMARY KEY (at, subject))""",
        """CREATE TABLE metric_run (run {text} NOT NULL, seen {float} NOT NULL, counted {bytes} NOT NULL,
           PRIMARY KEY (run))""",
        """CREATE TABLE alarm_history (number BIGINT NOT NULL, alarm {text} NOT NULL, time {float} NOT NULL,
           type {text} NOT NULL, summary {text} NOT NULL, data {bytes} NOT NULL, PRIMARY KEY (number))""",
        "CREATE INDEX alarm_history_alarm ON alarm_history (alarm, number)",
        "INSERT INTO counter (name, value) VALUES ('metrics', 0)",
    ),
    # 9: signed URLs and cookies that were found to be shared
    (
        """CREATE TABLE shared_link (credential {text} NOT NULL, last {float} NOT NULL, data {bytes} NOT NULL,
           PRIMARY KEY (credential))""",
    ),
)

VERSION = len(STEPS)
"""The schema that this code reads and writes."""


def version(connection: sa.Connection) -> int:
    """The schema version of the database; 0 if it is empty."""
    if not sa.inspect(connection).has_table(schema.name):
        return 0
    return connection.execute(sa.select(sa.func.max(schema.c.version))).scalar_one() or 0


def migrate(connection: sa.Connection) -> None:
    """Migrate the schema to VERSION, step by step, in the current transaction. No other process may migrate at the same
    time.

    :raises SettingsError: if a newer version of Keyfront created the schema.
    """
    found = version(connection)
    if found > VERSION:
        raise SettingsError(
            f"the store has schema {found} and this Keyfront supports schemas up to {VERSION}: a newer Keyfront "
            "wrote it"
        )
    if 0 < found < VERSION:  # wait for writes by a control plane of the old version
        connection.execute(sa.select(counter).where(counter.c.name == "snapshot").with_for_update())
    for number in range(found + 1, VERSION + 1):
        step(connection, number)


def step(connection: sa.Connection, number: int) -> None:
    """Migrate from schema `number - 1` to `number`."""
    dialect = connection.dialect.name
    for statement in STEPS[number - 1]:
        if isinstance(statement, str):
            connection.exec_driver_sql(statement.format_map(_TYPES[dialect]))
        elif text := statement[dialect]:
            connection.exec_driver_sql(text)
    connection.execute(sa.insert(schema).values(version=number))
