"""Run folders -> tables, figures and verdicts; nothing here imports torch."""

from pathlib import Path


def figures_folder(results: str | Path) -> Path:
    """figures/<profile> beside results/<profile>, and so for what is published; inside any other results folder."""
    results = Path(results).resolve()
    for above in results.parents[:2]:
        if above.name == "results":
            return above.parent / "figures" / results.relative_to(above)
    return results / "figures"


def write_all(results: str | Path) -> list[Path]:
    """Every table, verdict and figure, from run folders alone: the paths written, and the same bytes each time."""
    from vsr.report import claims, figures, tables

    results, out = Path(results), Path(results) / "tables"
    written = [*tables.write_all(results, out), *claims.write(results, out)]
    return [*written, *figures.write_all(results, figures_folder(results))]
