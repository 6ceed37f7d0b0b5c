"""What a job takes of memory, in a process of its own: no more for a long video than for a short one, and not
much more than the bound on pictures that are read ahead.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers.clips import write_video
from helpers.own import PLAIN
from helpers.paths import ROOT

FPS, SIDE = 10, 112
JOB = """
import json, resource, sys
from dataclasses import replace
from pathlib import Path
from helpers.tiny import CLASSES, make_segments
from mambavl.extract.annotations import Annotations
from mambavl.extract.options import VideoExtraction
from mambavl.extract.video_job import extract_video

folder, spans, settings = json.loads(sys.argv[1])


def extract(name, spans):
    segments = []
    for row, (start, stop) in zip(make_segments(len(spans)), spans):
        row = replace(row, participant_id="P01", video_id="P01_101", start=start, stop=stop)
        segments.append(replace(row, narration_id=f"P01_101_{round(start * 100):05}"))
    annotations = Annotations(Path(), tuple(segments), CLASSES, {}, {}, {"rows": "0" * 64})
    options = VideoExtraction(encoder="wide:build", weights_state="random", levels=("clip",), **settings)
    result = extract_video(annotations, Path(folder), Path(folder, name), options)
    assert result.finalized and not result.failures


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


extract("first.zarr", spans[:1])  # what is imported and built once
before = peak()
extract("whole.zarr", spans)
print(peak() - before)
"""


def megabytes(folder: Path, seconds: float, spans: list[tuple[float, float]], **settings: object) -> float:
    """What the job over some rows takes above what one row took."""
    folder.mkdir(exist_ok=True)
    (folder / "wide.py").write_text(PLAIN.replace("Pixels(32,", f"Pixels({SIDE},"))
    write_video(folder / "P01" / "videos" / "P01_101.MP4", frames=round(seconds * FPS), fps=FPS)
    command = [sys.executable, "-c", JOB, json.dumps([str(folder), spans, settings])]
    path = os.pathsep.join([str(folder), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout)


def test_a_long_video_takes_no_more_than_a_short_one(tmp_path):
    """Pictures of a row are 0.6 MB; of the rows that the long one has more, 60 MB."""
    rows = {length: [(2.0 * row, 2.0 * row + 1.9) for row in range(length)] for length in (20, 120)}
    short, long = (megabytes(tmp_path / f"{n}", 2.0 * n, spans) for n, spans in rows.items())
    assert long < short + 25


def test_ten_views_of_three_crops_stay_within_the_bound(tmp_path):
    """Rows of 18 MB, whose pictures are read faster than they are encoded; some take less, where views show
    the same. What a batch is in float32, 5 MB a view, comes on top, and what reading takes itself.
    """
    spans = [(0.5 * row, 0.5 * row + 40) for row in range(24)]
    sampling = {"rule": "mf_dense", "views": 10, "frames": 16}
    peak = megabytes(
        tmp_path, 60.0, spans, crops=3, sampling=sampling, batch_rows=2, readers=8, read_ahead_mb=100
    )
    assert peak < 100 + 60
