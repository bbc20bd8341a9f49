"""All pages, in the order of the navigation."""

from __future__ import annotations

from keyfront.console.pages import (
    audit,
    distributions,
    explain,
    groups,
    keys,
    overview,
    requests,
    rotation,
    sessions,
    users,
)
from keyfront.console.visit import Page

PAGES: tuple[Page, ...] = (
    *overview.PAGES,
    *groups.PAGES,
    *rotation.PAGES,
    *keys.PAGES,
    *distributions.PAGES,
    *requests.PAGES,
    *explain.PAGES,
    *audit.PAGES,
    *users.PAGES,
    *sessions.PAGES,
)
