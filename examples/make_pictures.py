"""Make the clips and pictures that README and examples show, with the embedded weights.

python examples/make_pictures.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from seg2vid_cli import Outputs, Pipeline, generate_file
from seg2vid_cli.video import read_frames
from seg2vid_cli.visualize import write_png

HERE = Path(__file__).parent
SCENES = {
    "city-street": "city-street.labelIds.png",
    "suburb": "suburb.trainIds.png",
    "crossing": "crossing.colours.png",
    "country-road": "country-road.carla.png",
}
FRAMES = 25
PANEL_FRAME = 8  # the last frame of the first pass: furthest from its source


def main() -> None:
    """Write `clips/SCENE.mp4`, `clips/SCENE.sheet.png` and `pictures/panel.png`."""
    clips, pictures = HERE / "clips", HERE / "pictures"
    clips.mkdir(exist_ok=True)
    pictures.mkdir(exist_ok=True)
    pipeline = Pipeline.open("street", device="cpu")
    for scene, file in SCENES.items():
        video = clips / f"{scene}.mp4"
        outputs = Outputs(video=video, preview=clips / f"{scene}.sheet.png")
        if scene == "city-street":
            outputs = Outputs(video=video, preview=outputs.preview, panel=clips / "panel.mp4")
        assert outputs.preview is not None
        generate_file(
            HERE / "labels" / file, video, pipeline=pipeline, outputs=outputs, frames=FRAMES
        )
        with Image.open(outputs.preview) as sheet:  # half as large is large enough to look at
            write_png(outputs.preview, sheet.reduce(2))
    panel = list(read_frames(clips / "panel.mp4"))[PANEL_FRAME]
    write_png(pictures / "panel.png", Image.fromarray(panel))


if __name__ == "__main__":
    main()
