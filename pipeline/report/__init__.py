"""The report: its data, its plots and its page."""
