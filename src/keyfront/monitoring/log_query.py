"""SQL over logs, by DuckDB: the files become a table in memory, and the query sees nothing else.

A query runs in two steps. First, its columns are read from the files into the table `requests`. Then the database is
closed off: no file, no network, no setting can be reached any more, and only one SELECT is run. So a query cannot
write, nor read what the caller did not name, whatever its SQL says.
"""

# ruff: noqa: S608 - all SQL is made of names and conditions of ours, and of quoted texts
from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from keyfront.errors import KeyfrontError, SettingsError
from keyfront.monitoring import log_schema
from keyfront.monitoring.log_files import Format, Kind, kinds, repaired
from keyfront.monitoring.log_schema import by_normalized_name, identifier, literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_LONGEST_LINE = 1024 * 1024
"""Bytes. A longer line is not a record."""
_ATTEMPTS = 3
"""A log can be rotated or compressed while it is read."""
_MOST_REJECTS = 100_000
"""Lines of standard logs that are counted as unreadable per load."""
_PIECE = 1000
"""Rows that are fetched at a time."""


class LogQueryError(KeyfrontError):
    """A query that is not valid, or that the machine's memory does not suffice for."""


class Question(NamedTuple):
    """A ready question. Only rows for which `condition` holds are read."""

    meaning: str
    condition: str
    sql: str


QUESTIONS: Mapping[str, Question] = MappingProxyType(
    {
        "top-denials": Question(
            "the reasons of refusals, the most frequent first",
            "verdict = 'refused' OR (verdict IS NULL AND status = 403)",
            """
SELECT coalesce(reason, '') AS reason, distribution, sum(1 + coalesce(repeats, 0))::BIGINT AS denials,
    count(DISTINCT client_ip) AS addresses, count(DISTINCT key_pair_id) AS keys,
    mode(coalesce(host, '') || path) AS most_frequent, max(timestamp) AS last
FROM requests
GROUP BY ALL ORDER BY denials DESC, reason LIMIT 20
""",
        ),
        "by-key": Question(
            "the requests, refusals, and bytes of each key",
            "verdict <> ''",
            """
SELECT key_pair_id, key_group, count(*) FILTER (WHERE verdict = 'allowed') AS allowed,
    coalesce(sum(1 + repeats) FILTER (WHERE verdict = 'refused'), 0)::BIGINT AS refused,
    coalesce(sum(bytes) FILTER (WHERE verdict = 'allowed'), 0)::UBIGINT AS bytes,
    count(DISTINCT client_ip) AS addresses, max(timestamp) AS last
FROM requests
GROUP BY ALL ORDER BY allowed DESC, refused DESC, key_pair_id LIMIT 50
""",
        ),
        "shared-links": Question(
            "the signed URLs that were opened from several networks (IPv4 /24, IPv6 /48)",
            "verdict = 'allowed' AND signed_by = 'url'",
            r"""
SELECT host || path AS link, key_pair_id, count(DISTINCT network) AS networks, count(DISTINCT country) AS countries,
    count(DISTINCT user_agent) AS agents, count(*) AS requests, sum(bytes)::UBIGINT AS bytes,
    min(timestamp) AS first, max(timestamp) AS last
FROM (
    SELECT *, CASE WHEN client_ip LIKE '%.%' THEN regexp_extract(client_ip, '(\d+\.\d+\.\d+)\.\d+$', 1)
        ELSE array_to_string(string_split(client_ip, ':')[1:3], ':') END AS network
    FROM (SELECT host, path, key_pair_id, client_ip, country, user_agent, bytes, timestamp FROM requests)
)
GROUP BY ALL HAVING networks > 1 ORDER BY networks DESC, requests DESC, link LIMIT 20
""",
        ),
        "slow-origins": Question(
            "the time to the first byte of responses that an origin sent, by cache behavior",
            "status <> 101 AND (result IN ('Miss', 'RefreshHit') OR detail LIKE 'Origin%Error')",
            """
SELECT distribution, behavior, count(*) AS requests,
    count(*) FILTER (WHERE detail LIKE 'Origin%Error') AS failed,
    round(quantile_cont(first_byte_us, 0.5) / 1000, 1) AS median_ms,
    round(quantile_cont(first_byte_us, 0.95) / 1000, 1) AS p95_ms,
    round(quantile_cont(first_byte_us, 0.99) / 1000, 1) AS p99_ms, round(max(first_byte_us) / 1000, 1) AS max_ms
FROM requests
GROUP BY ALL ORDER BY p95_ms DESC, distribution, behavior LIMIT 20
""",
        ),
    }
)
"""Each ready question by its name."""


class Window(NamedTuple):
    """Only requests from `since` to before `until`, in epoch seconds; None: no limit."""

    since: float | None = None
    until: float | None = None

    def conditions(self) -> list[str]:
        bounds = [("time >=", self.since), ("time <", self.until)]
        return [f"{text} {bound!r}" for text, bound in bounds if bound is not None]


class Result(NamedTuple):
    """The names of the columns, and the rows, which are fetched as they are consumed."""

    names: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]


class LogQuery:
    """A database in memory for one query. Use it as a context manager.

    :ivar unreadable: how many lines of each file were not records: torn, damaged, or foreign. Set by `run`.
    :ivar unknown: files that hold no log in a known format.
    :ivar truncated: compressed files that end early, and were read up to there.
    """

    def __init__(self, files: Iterable[Path], window: Window | None = None) -> None:
        """
        :raises SettingsError: if a file cannot be read.
        :raises ModuleNotFoundError: if DuckDB is not installed: the extra `logs`.
        """
        import duckdb  # an extra, and slow to load

        self._conditions = (window or Window()).conditions()
        self._kinds, self.unknown = kinds(files)
        self.unreadable: Counter[str] = Counter()
        self.truncated: list[Path] = []
        self._inserts = 0
        self._in_place: list[str] = []
        self._copies: dict[str, str] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="keyfront-logs-")
        self._errors = duckdb
        self._database: DuckDBPyConnection = duckdb.connect(
            config={
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "allow_persistent_secrets": "false",
                "preserve_insertion_order": "false",
                "temp_directory": f"{self._folder.name}/spilled",
            }
        )

    def __enter__(self) -> LogQuery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
        self._folder.cleanup()

    def ask(self, name: str) -> Result:
        """Answer a ready question. Raises what `run` raises."""
        question = QUESTIONS[name]
        return self.run(question.sql, question.condition)

    def run(self, sql: str, condition: str = "") -> Result:
        """Run one SELECT over `requests`.

        :param condition: SQL, not from a caller's input: only rows for which it holds are read.
        :raises LogQueryError: if the SQL is not one SELECT, or fails.
        :raises SettingsError: if a log cannot be read.
        """
        columns = self._columns(sql)
        if condition:
            self._conditions.append(condition)
        self._load(columns)
        # From here on, the SQL of the caller runs.
        self._do("SET TimeZone = 'UTC'")
        self._do(f"SET allowed_paths = [{', '.join(map(literal, self._in_place))}]")
        self._do("SET enable_external_access = false")
        self._do("SET lock_configuration = true")
        try:
            self._database.execute(sql)
            names = tuple(each[0] for each in self._database.description or ())
            return Result(names, self._rows())
        except self._errors.BinderException as error:
            raise LogQueryError(
                f"{_text(error)}; `keyfront logs query 'DESCRIBE requests'` lists the columns"
            ) from None
        except self._errors.Error as error:
            raise LogQueryError(_text(error)) from None

    def export(self, file: Path) -> int:
        """Write all records to a new Parquet file, ordered by time, and return their number.

        :raises SettingsError: if a log cannot be read, or the file cannot be written.
        """
        self._load(log_schema.NAMES)
        columns = ", ".join(identifier(name) for name in log_schema.NAMES if name not in log_schema.DERIVED)
        temporary = file.absolute().with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            done = self._do(
                f"COPY (SELECT {columns} FROM requests ORDER BY time) TO {literal(str(temporary))} "
                "(FORMAT parquet, COMPRESSION zstd)"
            )
            os.link(temporary, file)
        except FileExistsError:
            raise SettingsError(f"{file} exists; name a new file") from None
        except OSError as error:
            raise SettingsError(f"{file} cannot be written: {error.strerror or error}") from None
        except self._errors.Error as error:
            raise SettingsError(f"{file} cannot be written: {_text(error)}") from None
        finally:
            temporary.unlink(missing_ok=True)
        return int(done[0][0])

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        try:
            while rows := self._database.fetchmany(_PIECE):
                yield from rows
        except self._errors.Error as error:
            raise LogQueryError(_text(error)) from None

    def _columns(self, sql: str) -> tuple[str, ...]:
        """The columns to load for the query, in the order of the schema.

        :raises LogQueryError: if the SQL is not one SELECT.
        """
        row = self._database.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0]
        parsed = json.loads(row[0])
        if parsed["error"]:
            if parsed["error_type"] == "parser":
                raise LogQueryError(f"this is not valid SQL: {' '.join(parsed['error_message'].split())}")
            raise LogQueryError("a query is one SELECT: logs are only read")
        if len(parsed["statements"]) != 1:
            raise LogQueryError(f"a query is one SELECT, not {len(parsed['statements'])} statements")
        used = _Used()
        used.visit(parsed["statements"])
        return log_schema.NAMES if used.everything else tuple(n for n in log_schema.NAMES if n in used.names)

    def _load(self, columns: tuple[str, ...]) -> None:
        """Read the columns of all files into `requests`.

        :raises SettingsError: if a log cannot be read.
        """
        # A table needs a column, and for `SELECT count(*)` it does not matter which.
        columns = columns or ("status",)
        types = {column.name: column.kind for column in log_schema.COLUMNS}
        names = ", ".join(map(identifier, columns))
        definition = ", ".join(f"{identifier(name)} {types[name]}" for name in columns)
        self._do(f"CREATE TEMP TABLE loaded ({definition}, unreadable VARCHAR)")
        parts = ["SELECT * FROM loaded"]
        for kind, files in self._shapes().items():
            if kind.format is Format.PARQUET:
                # Has statistics and no broken lines, so it is read where it is, and only as far as the query needs.
                self._in_place += [str(file.absolute()) for file in files]
                parts.append(self._rows_of(kind, files, columns, ""))
            else:
                self._load_kind(kind, files, columns)
        rows = " UNION ALL ".join(parts)
        self._do(f"CREATE TEMP VIEW requests AS SELECT {names} FROM ({rows}) WHERE unreadable IS NULL")
        bad = self._do("SELECT unreadable, count(*) FROM loaded WHERE unreadable IS NOT NULL GROUP BY 1")
        self.unreadable.update(dict(bad))
        for copy, file in self._copies.items():
            if copy in self.unreadable:
                self.unreadable[file] = self.unreadable.pop(copy)

    def _load_kind(self, kind: Kind, files: list[Path], columns: tuple[str, ...]) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._insert(kind, files, columns)
                return
            except self._errors.OutOfMemoryException as error:
                raise LogQueryError(
                    f"the records do not fit into memory: read fewer with --since and --until ({_text(error)})"
                ) from None
            except self._errors.Error as error:
                intact = [file for file in files if file.exists()]
                damaged = {
                    file: copy
                    for file in intact
                    if kind.compressed and (copy := self._repaired(file)) is not None
                }
                if attempt == _ATTEMPTS or (intact == files and not damaged):
                    raise SettingsError(f"the logs cannot be read: {_text(error)}") from None
                if damaged:
                    self._insert(kind._replace(compressed=False), list(damaged.values()), columns)
                    self.truncated += damaged
                    self._copies.update({str(copy): str(file.absolute()) for file, copy in damaged.items()})
                files = [file for file in intact if file not in damaged]
                if not files:
                    return

    def _repaired(self, file: Path) -> Path | None:
        try:
            return repaired(file, Path(self._folder.name))
        except OSError as error:
            raise SettingsError(f"{file} cannot be read: {error.strerror or error}") from None

    def _insert(self, kind: Kind, files: list[Path], columns: tuple[str, ...]) -> None:
        """Append the rows of files of one kind; none of them if it fails."""
        self._inserts += 1
        rejects = f"rejects_{self._inserts}"
        self._do("BEGIN")
        try:
            self._do(f"INSERT INTO loaded {self._rows_of(kind, files, columns, rejects)}")
            self._do("COMMIT")
        except BaseException:
            self._do("ROLLBACK")
            raise
        if kind.format is Format.STANDARD_TEXT:
            bad = self._do(
                f"SELECT file_path, count(DISTINCT line) FROM {rejects} "
                f"JOIN {rejects}_scans USING (scan_id, file_id) GROUP BY 1"
            )
            self.unreadable.update(dict(bad))

    def _rows_of(self, kind: Kind, files: list[Path], columns: tuple[str, ...], rejects: str) -> str:
        """The SELECT of these columns that reads files of one kind, with the rows that are unreadable."""
        condition = " AND ".join(f"({each})" for each in self._conditions)
        named = set(re.findall("[a-z_]+", condition)) & set(log_schema.NAMES)
        kept = f" WHERE unreadable IS NOT NULL OR ({condition})" if condition else ""
        names = ", ".join(map(identifier, columns))
        return f"SELECT {names}, unreadable FROM ({_source(kind, files, {*columns, *named}, rejects)}){kept}"

    def _shapes(self) -> dict[Kind, list[Path]]:
        """The files by what they hold, with the fields of Parquet files, which only DuckDB can read."""
        found = dict(self._kinds)
        for file in found.pop(Kind(Format.PARQUET), ()):
            try:
                names = self._do(
                    "SELECT name FROM parquet_schema(?) WHERE num_children IS NULL", [_pattern(file)]
                )
            except self._errors.Error as error:
                raise SettingsError(f"{file} cannot be read: {_text(error)}") from None
            fields = tuple(sorted({str(name) for (name,) in names}))
            if log_schema.is_record(fields) or log_schema.is_standard(by_normalized_name(fields)):
                found.setdefault(Kind(Format.PARQUET, fields), []).append(file)
            else:
                self.unknown.append(file)
        return found

    def _do(self, sql: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
        return self._database.execute(sql, values).fetchall()


class _Used:
    """Which columns a parsed query can use: those that it names, or all if a `*` stands for them."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.everything = False

    def visit(self, node: object) -> None:
        if isinstance(node, dict):
            if node.get("class") == "STAR" or node.get("ref_type") == "NATURAL":
                self.everything = True
            for value in node.values():
                self.visit(value)
        elif isinstance(node, list):
            for value in node:
                self.visit(value)
        elif isinstance(node, str):
            # Whatever the text is in this place, loading a column too many costs only time.
            self.names.add(node.lower())


def _source(kind: Kind, files: list[Path], columns: Collection[str], rejects: str) -> str:
    """The SELECT that makes rows of `requests` from files of one kind."""
    listed = "[" + ", ".join(literal(_pattern(file)) for file in files) + "]"
    compression = "gzip" if kind.compressed else "none"
    fields = by_normalized_name(kind.fields)
    match kind.format:
        case Format.RECORDS:
            select = log_schema.record_select(columns)
            reader = _json_reader(listed, log_schema.record_columns(columns), compression)
        case Format.STANDARD_JSON:
            select = log_schema.standard_select(columns, fields, escaped=False)
            reader = _json_reader(listed, dict.fromkeys(kind.fields, "VARCHAR"), compression)
        case Format.STANDARD_TEXT:
            select = log_schema.standard_select(columns, fields, escaped=True)
            types = ", ".join(f"{literal(field)}: 'VARCHAR'" for field in kind.fields)
            # `#` is escaped in values, so it begins a line of the header, of which a file can have several.
            reader = (
                f"read_csv({listed}, columns = {{{types}}}, compression = '{compression}', "
                f"delim = {literal(kind.delimiter)}, "
                "quote = '', escape = '', comment = '#', header = false, auto_detect = false, "
                f"hive_partitioning = false, store_rejects = true, rejects_table = '{rejects}', "
                f"rejects_scan = '{rejects}_scans', rejects_limit = {_MOST_REJECTS})"
            )
        case Format.PARQUET if log_schema.is_record(kind.fields):
            select = log_schema.record_select(columns, kind.fields)
            reader = f"read_parquet({listed}, hive_partitioning = false)"
        case Format.PARQUET:
            select = log_schema.standard_select(columns, fields, escaped=False)
            reader = f"read_parquet({listed}, hive_partitioning = false)"
    return f"SELECT {select} FROM {reader}"


def _json_reader(files: str, columns: Mapping[str, str], compression: str) -> str:
    types = ", ".join(f"{literal(name)}: {literal(kind)}" for name, kind in columns.items())
    return (
        f"read_json({files}, columns = {{{types}}}, compression = '{compression}', "
        f"format = 'newline_delimited', ignore_errors = true, maximum_object_size = {_LONGEST_LINE}, "
        "hive_partitioning = false)"
    )


def _pattern(file: Path) -> str:
    """The path as DuckDB reads it, for which `*`, `?`, and `[` are wildcards."""
    return re.sub(r"([*?\[])", r"[\1]", str(file.absolute()))


def _text(error: Exception) -> str:
    """What DuckDB says, in one line, without its excerpt of the query."""
    return " ".join(str(error).split("\n\n")[0].split())
