"""What is written of a prediction: JSON, CSV, a plot, the annotated video and a page with a player."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from hicmae.inference.annotate import annotate_video
from hicmae.inference.page import prediction_page
from hicmae.inference.prediction import Prediction, columns, rows
from hicmae.runtime.page import write_file

__all__ = ["csv_text", "write_prediction"]


def write_prediction(
    result: Prediction, out: str | Path, name: str | None = None, *, video: bool = True, show: bool = False
) -> dict[str, Path]:
    """Write all files of a prediction into a folder, each whole or not at all.

    `NAME.csv` has a row per person and window, `NAME.json` the same with the faces' places, `NAME.png` the timelines,
    `NAME.annotated.mp4` the video with boxes and labels, and `NAME.html` the page. A video of up to 24 MB is also
    inside the page, which then needs no other file; for a larger one the two must stay in one folder.

    Args:
        name: of the files, without suffix; None is the video's.
        video: False leaves the annotated video (and the page's player) out.
        show: a progress bar while the video is drawn.

    Returns:
        the files by kind.

    Raises:
        MediaError: the video is no longer there.
        UserError: a file cannot be written.
    """
    out, name = Path(out), name or Path(result.clip).stem
    told = json.dumps(result.to_dict(), indent=1, ensure_ascii=False)
    files = {
        "csv": write_file(out / f"{name}.csv", csv_text(result)),
        "json": write_file(out / f"{name}.json", told + "\n"),
        "plot": result.plot(out / f"{name}.png"),
    }
    drawn = annotate_video(result, out / f"{name}.annotated.mp4", show=show) if video else None
    if drawn is not None:
        files["video"] = drawn
    files["page"] = prediction_page(result, drawn).write(out / f"{name}.html")
    return files


def csv_text(result: Prediction) -> str:
    """A table with a row per person and window."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns(result))
    writer.writerows(rows(result))
    return buffer.getvalue()
