"""Runs and results in one embedded database; the knowledge diff, comparisons, pictures and reports."""

from keeps.ledger.comparison import ComparedRun, Comparison, MethodRow, compare_runs, compare_stored
from keeps.ledger.difference import compare_rows, diff_results
from keeps.ledger.lines import GroupDiff, ItemDiff, KnowledgeDiff, TextDiff
from keeps.ledger.records import ResultRecord, RunRecord
from keeps.ledger.store import Ledger
from keeps.ledger.workspace import Workspace

__all__ = [
    "ComparedRun",
    "Comparison",
    "GroupDiff",
    "ItemDiff",
    "KnowledgeDiff",
    "Ledger",
    "MethodRow",
    "ResultRecord",
    "RunRecord",
    "TextDiff",
    "Workspace",
    "compare_rows",
    "compare_runs",
    "compare_stored",
    "diff_results",
]
