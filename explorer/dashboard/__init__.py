"""`rowhit dashboard`: the views of results folders in a browser, live while a study runs, with a what-if page.

    guard      refuses requests that are not from a page of ours
    live       re-reads a results folder when it changed; takes no lock
    cut        what the reader has filtered, as a choice of rows
    question   the settings on the what-if page as a query, answered in a worker process
    panels     pictures and tables as Dash components
    app        pages by address, and what happens when the reader moves something

Pages are the views of `explorer.views`; what is filtered is filtered in their data, so that figures, sentences and the
table always speak of the same points. Needs the extra `dashboard`.
"""
