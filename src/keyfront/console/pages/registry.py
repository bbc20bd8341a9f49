"""All pages, in the order of the navigation."""

from __future__ import annotations

from keyfront.console.pages import (
    alarms,
    audit,
    distributions,
    explain,
    groups,
    invalidations,
    keys,
    overview,
    requests,
    rotation,
    sessions,
    shared_links,
    users,
)
from keyfront.console.visit import Page

PAGES: tuple[Page, ...] = (
    *overview.PAGES,
    *groups.PAGES,
    *rotation.PAGES,
    *keys.PAGES,
    *distributions.PAGES,
    *invalidations.PAGES,
    *requests.PAGES,
    *explain.PAGES,
    *alarms.PAGES,
    *shared_links.PAGES,
    *audit.PAGES,
    *users.PAGES,
    *sessions.PAGES,
)
