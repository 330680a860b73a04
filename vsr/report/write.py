"""Every table, figure and verdict from run folders alone; a second call writes the same bytes."""

from pathlib import Path

from vsr.report import claims, figures, tables


def figures_folder(results: Path) -> Path:
    """figures/<profile> beside results/<profile>, and so for what is published; inside any other results folder."""
    results = Path(results).resolve()
    for above in results.parents[:2]:
        if above.name == "results":
            return above.parent / "figures" / results.relative_to(above)
    return results / "figures"


def write_all(results: Path) -> list[Path]:
    """Write tables and ledger to `results/tables` and figures to their folder; the paths written."""
    results = Path(results)
    return [
        *tables.write_all(results, results / "tables"),
        *claims.write(results, results / "tables"),
        *figures.write_all(results, figures_folder(results)),
    ]
