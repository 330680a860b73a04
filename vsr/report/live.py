"""Training curves that grow while runs in other processes train: one picture, updated in place."""

import io
from pathlib import Path

import pandas
from IPython.display import Image, display
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vsr.files import read_jsonl
from vsr.progress import duration
from vsr.report.plotting import style


class Curves:
    """Call it now and then: it redraws `column` of every run's log.jsonl, named by `labels` or its folder. The picture
    stays as the cell's output."""

    def __init__(
        self,
        folders: list[Path],
        steps: int,
        column: str = "reward",
        smooth: int = 10,
        labels: list[str] | None = None,
    ):
        self.folders, self.steps, self.column, self.smooth = folders, steps, column, smooth
        self.labels = labels or [folder.name for folder in folders]
        self.handle = display(self._picture(0), display_id=True)

    def __call__(self, done: int) -> None:
        """Redraw; `done` runs are complete."""
        self.handle.update(self._picture(done))

    @style()
    def _picture(self, done: int) -> Image:
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots()
        spent = 0.0
        for folder, label in zip(self.folders, self.labels, strict=True):
            rows = list(read_jsonl(folder / "log.jsonl")) if (folder / "log.jsonl").is_file() else []
            spent += sum(value for row in rows for key, value in row.items() if key.split("/")[0] == "seconds")
            values = pandas.Series([row[self.column] for row in rows if self.column in row], dtype=float)
            means = values.rolling(self.smooth, min_periods=1).mean()
            axes.plot(range(1, len(means) + 1), means, linewidth=1, label=label)
        axes.set(xlim=(0, self.steps), xlabel="step", ylabel=f"{self.column}, mean of {self.smooth} steps")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(f"{done} of {len(self.folders)} runs complete, {duration(spent)} of training", loc="left")
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), ncols=1 + len(self.folders) // 13)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=90, metadata={"Software": None})
        return Image(content.getvalue(), width=800)
