"""The report: a repository's results as one page, as figures, as Markdown and as JSON.

Nothing here measures: what is shown has been gathered from notes, runs and published tables.
"""
