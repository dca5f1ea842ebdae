"""The page of ``ovd serve``: detect by words and boxes, search regions, browse runs, in a browser.

:mod:`~ovd.web.page` puts the page together, :mod:`~ovd.web.server` serves it, :mod:`~ovd.web.desk` has what one visitor
works with. See docs/web.md.
"""
