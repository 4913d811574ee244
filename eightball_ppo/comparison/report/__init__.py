"""The report of a comparison: its data, tables, figures and page."""
