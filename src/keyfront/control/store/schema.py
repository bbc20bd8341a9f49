"""The store's tables, as the code of this version reads them, and the steps that lead there from every version before.

The tables are what statements are built from. The steps are what has been, so they do not look at the tables: each is
SQL as it stood when its version was made, and one that has been released never changes. A test holds that all steps
together make the tables (`tests/control/test_schema.py`).

To change the schema: change or add the tables here, append a step to `STEPS`, and say in the step's comment what for.
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


# ---- the steps

Statement = str | Mapping[str, str]
"""One for both databases, in which {text}, {bytes}, {float} and {sequence} stand for types; or one for each, by name,
where there are no such words."""

_TYPES: dict[str, dict[str, str]] = {
    "sqlite": {
        "text": "TEXT",
        "bytes": "BLOB",
        "float": "FLOAT",
        "sequence": "INTEGER",
    },
    # Ids are compared byte by byte, whatever the database's language: in the order that pages go by.
    "postgresql": {
        "text": 'TEXT COLLATE "C"',
        "bytes": "BYTEA",
        "float": "DOUBLE PRECISION",
        "sequence": "BIGINT GENERATED BY DEFAULT AS IDENTITY",
    },
}


def _append_only(table: str) -> list[Statement]:
    """Let the database itself refuse to change or remove a row of `table`."""
    said = f"the {table} log is append-only"
    refuse: list[Statement] = [
        {
            "sqlite": f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{said}'); END",
            "postgresql": f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()",
        }
        for verb in ("UPDATE", "DELETE")
    ]
    return [
        {
            "sqlite": "",
            "postgresql": f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{said}' USING ERRCODE = 'integrity_constraint_violation'; END $$",
        },
        *refuse,
        {
            "sqlite": "",
            "postgresql": f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()",
        },
    ]


STEPS: tuple[Sequence[Statement], ...] = (
    # 1: resources, what they refer to, tags, the audit log
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
            # A B-tree of PostgreSQL takes no value of more than some 2,700 bytes.
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
    # 3: several control planes: whose edges obey what, and when (in milliseconds) the last snapshot was decided
    (
        """CREATE TABLE edge (replica {text} NOT NULL, name {text} NOT NULL, number BIGINT NOT NULL,
           seen {float} NOT NULL, PRIMARY KEY (replica, name))""",
        "INSERT INTO counter (name, value) VALUES ('decided', 0)",
    ),
    # 4: users, their access keys, and their policies; a policy that is attached may be a role, which has no row
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
    # 5: where edges are
    ("ALTER TABLE edge ADD COLUMN region {text} NOT NULL DEFAULT ''",),
    # 6: what edges see of the keys that sign: by hash and distribution, by hour, until when their signatures are good,
    # and how far each run of an edge was counted (the counter is since when, in milliseconds, and whom adders lock);
    # who of several control planes does what only one may do
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
)

VERSION = len(STEPS)
"""The schema that this code reads and writes."""


def version(connection: sa.Connection) -> int:
    """The version of the schema that `connection` finds, 0 if there is none."""
    if not sa.inspect(connection).has_table(schema.name):
        return 0
    return connection.execute(sa.select(sa.func.max(schema.c.version))).scalar_one() or 0


def migrate(connection: sa.Connection) -> None:
    """Bring the schema to VERSION, one step after the other, in the transaction that found it old. Nobody else may
    migrate at the same time.

    :raises SettingsError: if a newer Keyfront made it.
    """
    found = version(connection)
    if found > VERSION:
        raise SettingsError(
            f"the store has schema {found} and this Keyfront knows schemas up to {VERSION}: a newer Keyfront wrote it"
        )
    if 0 < found < VERSION:  # not while a control plane of the old version writes
        connection.execute(sa.select(counter).where(counter.c.name == "snapshot").with_for_update())
    for number in range(found + 1, VERSION + 1):
        step(connection, number)


def step(connection: sa.Connection, number: int) -> None:
    """Make schema `number` from the one before."""
    dialect = connection.dialect.name
    for statement in STEPS[number - 1]:
        if isinstance(statement, str):
            connection.exec_driver_sql(statement.format_map(_TYPES[dialect]))
        elif text := statement[dialect]:
            connection.exec_driver_sql(text)
    connection.execute(sa.insert(schema).values(version=number))
