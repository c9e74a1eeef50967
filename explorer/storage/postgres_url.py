"""The URL of a PostgreSQL database: parsed without ever being repeated, because a password may stand in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from explorer.extras import missing

if TYPE_CHECKING:
    import psycopg

_FORM = "postgresql://user@host:port/database"
_OPTIONS = ("host", "sslmode", "sslrootcert", "sslcert", "sslkey")  # of libpq; `host`: the folder of a socket
_SECONDS = 10  # until a server that does not answer is given up; assumed


@dataclass(frozen=True)
class Database:
    """Where a database is; its text has neither user nor password."""

    host: str
    port: int | None
    name: str
    user: str | None
    password: str | None = field(repr=False)
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{host}{f':{self.port}' if self.port else ''}/{self.name}"

    def connect(self) -> psycopg.Connection[Any]:
        """Return a connection that commits each statement, and notices within minutes when the other end is gone."""
        try:
            import psycopg
        except ImportError:
            raise missing("--storage", "psycopg", "cluster") from None
        alive = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
        where = {"host": self.host, "port": self.port, "dbname": self.name, "user": self.user}
        given = {name: value for name, value in (where | {"password": self.password}).items() if value}
        options: dict[str, Any] = {"connect_timeout": _SECONDS} | alive | given | dict(self.options)
        return psycopg.connect("", autocommit=True, **options)

    def sqlalchemy_url(self) -> str:
        """Return the URL for SQLAlchemy, password included."""
        from sqlalchemy import URL

        query = {"connect_timeout": str(_SECONDS)} | dict(self.options)
        url = URL.create(
            "postgresql+psycopg", self.user, self.password, self.host or None, self.port, self.name, query=query
        )
        return url.render_as_string(hide_password=False)


def parse_url(text: str) -> Database:
    """Return the database that `text` names; ValueError says what is wrong without repeating it."""
    try:
        parts = urlsplit(text)
        port, host = parts.port, unquote(parts.hostname or "")
    except ValueError:
        raise _wrong("host or port cannot be read") from None
    name = unquote(parts.path.removeprefix("/"))
    options = tuple(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme not in ("postgresql", "postgres"):
        raise _wrong("it does not begin with postgresql://")
    if parts.fragment or "@" in name or "/" in name:
        raise _wrong("write / ? # and @ of a password as %2F %3F %23 and %40")
    for option, _ in options:
        if option not in _OPTIONS:
            raise _wrong(f"an option that is not allowed; allowed: {', '.join(_OPTIONS)}")
    if not name or not (host or dict(options).get("host")):
        raise _wrong("host and database are needed")
    user, password = (unquote(part) if part else None for part in (parts.username, parts.password))
    return Database(host, port, name, user, password, options)


def _wrong(reason: str) -> ValueError:
    return ValueError(f"--storage: {reason}; allowed: {_FORM}")
