"""Make the clips and pictures that README and examples show, with the embedded weights.

python examples/make_pictures.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from seg2vid_cli import Outputs, Pipeline, generate_file
from seg2vid_cli.label_view import colour_picture
from seg2vid_cli.translate import plan_translation, translate
from seg2vid_cli.video import read_frames
from seg2vid_cli.visualize import compose_panel, contact_sheet, write_png

HERE = Path(__file__).parent
SCENES = {
    "city-street": "city-street.labelIds.png",
    "suburb": "suburb.trainIds.png",
    "crossing": "crossing.colours.png",
    "country-road": "country-road.carla.png",
}
FRAMES = 25
PANEL_FRAME = 8  # the last frame of the first pass: furthest from its source
DRIVE_FRAME = 8
DRIVE_QUALITY = 6  # what changes from frame to frame takes much room
# Scene, frame, left and top of a square of `FAILURE_PX`, and what is wrong there.
FAILURES = (
    ("crossing", 0, 384, 10, "signs"),
    ("crossing", 24, 150, 70, "beside somebody, after 1.6 s"),
    ("crossing", 24, 340, 60, "behind a pole, after 1.6 s"),
    ("city-street", 24, 384, 120, "a shadow that stays, 1.6 s"),
)
FAILURE_PX = 128
SHEET_QUALITY = 60


def main() -> None:
    """Write everything in `clips/` and `pictures/`."""
    clips, pictures = HERE / "clips", HERE / "pictures"
    clips.mkdir(exist_ok=True)
    pictures.mkdir(exist_ok=True)
    pipeline = Pipeline.open("street", device="cpu")
    make_scenes(pipeline, clips, pictures)
    show_failures(clips, pictures / "failures.png")
    translate_drive(pipeline, clips, pictures / "guided.png")


def make_scenes(pipeline: Pipeline, clips: Path, pictures: Path) -> None:
    """Write `clips/SCENE.mp4`, `clips/SCENE.sheet.jpg` and `pictures/panel.png`."""
    for scene, file in SCENES.items():
        video = clips / f"{scene}.mp4"
        outputs = Outputs(video=video, preview=clips / f"{scene}.sheet.png")
        if scene == "city-street":
            outputs = Outputs(video=video, preview=outputs.preview, panel=clips / "panel.mp4")
        assert outputs.preview is not None
        generate_file(
            HERE / "labels" / file, video, pipeline=pipeline, outputs=outputs, frames=FRAMES
        )
        shrink_sheet(outputs.preview)
    panel = list(read_frames(clips / "panel.mp4"))[PANEL_FRAME]
    write_png(pictures / "panel.png", keep_256_colours(Image.fromarray(panel)))


def shrink_sheet(path: Path) -> None:
    """Make of a contact sheet a JPEG half as large: enough to look at."""
    with Image.open(path) as sheet:
        sheet.convert("RGB").reduce(2).save(path.with_suffix(".jpg"), quality=SHEET_QUALITY)
    path.unlink()


def keep_256_colours(picture: Image.Image) -> Image.Image:
    """An RGB picture with a palette, which takes a third of the room."""
    return picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def show_failures(clips: Path, picture: Path) -> None:
    """Cut out of the clips, twice as large, what the weights cannot do."""
    tiles, captions = [], []
    for scene, number, left, top, what in FAILURES:
        frame = Image.fromarray(list(read_frames(clips / f"{scene}.mp4"))[number])
        box = (left, top, left + FAILURE_PX, top + FAILURE_PX)
        larger = frame.crop(box).resize((2 * FAILURE_PX, 2 * FAILURE_PX), Image.Resampling.NEAREST)
        tiles.append(np.asarray(larger))
        captions.append(f"{scene}: {what}")
    sheet = contact_sheet(tiles, captions, columns=len(tiles))
    write_png(picture, keep_256_colours(sheet))


def translate_drive(pipeline: Pipeline, clips: Path, picture: Path) -> None:
    """Write `clips/drive.mp4` and `clips/drive-plain.mp4`, their sheets, and one moment of both."""
    drive = HERE / "drive"
    frames = {}
    for name, edges in (("drive", drive / "rendered"), ("drive-plain", None)):
        plan = plan_translation(
            drive / "labels",
            clips / f"{name}.mp4",
            edges=edges,
            preview=clips / f"{name}.sheet.png",
        )
        translate(plan, pipeline, quality=DRIVE_QUALITY)
        shrink_sheet(clips / f"{name}.sheet.png")
        frames[name] = list(read_frames(plan.output))[DRIVE_FRAME]
        if edges is not None:
            labels, guide = plan.read(DRIVE_FRAME)
            assert guide is not None
            rendered = np.asarray(guide.pixels, np.uint8)
            lines = guide.edges(labels.size_hw, pipeline.edge_threshold)
    tiles = [
        ("label map", colour_picture(labels.train_ids)),
        ("rendered", rendered),
        ("its edges", np.where(lines, 255, 0).astype(np.uint8)),
        ("from labels alone", frames["drive-plain"]),
        ("from labels and edges", frames["drive"]),
    ]
    write_png(picture, keep_256_colours(Image.fromarray(compose_panel(tiles))))


if __name__ == "__main__":
    main()
