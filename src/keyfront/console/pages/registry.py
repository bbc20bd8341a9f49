"""All pages, in the order of the navigation."""

from __future__ import annotations

from keyfront.console.pages import overview
from keyfront.console.visit import Page

PAGES: tuple[Page, ...] = (*overview.PAGES,)
