"""Finished runs, side by side: reads run folders (files only, no torch), writes one page and its table."""

from genzoo.report.page import write

__all__ = ["write"]
