"""Runs side by side, or one alone, as a page that stands by itself and as tables to paste."""

from aegen.reporting.comparison import Comparison, check_place, compare, write_comparison, write_report

__all__ = ["Comparison", "check_place", "compare", "write_comparison", "write_report"]
