"""Every table, figure and verdict from run folders alone; a second call writes the same bytes."""

from pathlib import Path

from vsr.report import claims, figures, tables


def figures_folder(results: Path) -> Path:
    """figures/<profile> beside results/<profile>; inside a results folder of any other place."""
    results = Path(results).resolve()
    if results.parent.name == "results":
        return results.parent.parent / "figures" / results.name
    return results / "figures"


def write_all(results: Path) -> list[Path]:
    """Write tables and ledger to `results/tables` and figures to their folder; the paths written."""
    results = Path(results)
    return [
        *tables.write_all(results, results / "tables"),
        *claims.write(results, results / "tables"),
        *figures.write_all(results, figures_folder(results)),
    ]
