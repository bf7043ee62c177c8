"""The model card of an imported checkpoint: what it is, where it came from, what was kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seg2vid_cli.weights.importers import KINDS, Kind
from seg2vid_cli.weights.registry import file_sha256

SOURCES: Mapping[Kind, tuple[str, str]] = {
    **dict.fromkeys(
        ("seg2vid-two-path", "seg2vid-one-path", "seg2vid-no-labels"),
        (
            "Pan et al., Video Generation from Single Semantic Label Map, CVPR 2019",
            "https://github.com/STVIR/seg2vid",
        ),
    ),
    **dict.fromkeys(
        ("pix2pixhd-global", "pix2pixhd-local"),
        (
            "Wang et al., High-Resolution Image Synthesis and Semantic Manipulation with "
            "Conditional GANs, CVPR 2018",
            "https://github.com/NVIDIA/pix2pixHD",
        ),
    ),
    "salgan": (
        "Pan et al., SalGAN: Visual Saliency Prediction with Generative Adversarial Networks, 2017",
        "https://imatge-upc.github.io/saliency-salgan-2017/",
    ),
    "salbce": (
        "SalBCE, SalGAN's generator trained in PyTorch",
        "https://github.com/juanjo3ns/SalBCE",
    ),
    "salema": (
        "Linardos et al., Simple vs complex temporal recurrences for video saliency prediction, "
        "BMVC 2019",
        "https://github.com/Linardos/SalEMA",
    ),
}
NOT_STATED = "not stated by the authors"
NOT_KNOWN = "not known to us; ask the authors"  # what there is was not at hand


def write_card(
    report: Sequence[str],
    description: Mapping[str, Any],
    *,
    path: Path,
    kind: Kind,
    license_name: str | None,
) -> str:
    """Write the card as Markdown, with the block of settings that the Hub reads.

    Args:
        report: What was kept, dropped and assumed.
        description: The contents of `bundle.json`.
        path: The checkpoint.
        kind: Its layout.
        license_name: Licence of the weights, where it is known.
    """
    paper, address = SOURCES[kind]
    name, (height, width) = description["name"], description["size_hw"]
    unnamed = NOT_KNOWN if "saliency" in description["stages"] else NOT_STATED
    licence = _one_line(license_name or unnamed)
    motion = "motion" in description["stages"]
    if "saliency" in description["stages"]:
        use = f"seg2vid saliency CLIP.mp4 -o out.mp4 --weights {name}"
    elif not motion:
        use = f"seg2vid generate LABELS.png -o out.mp4 --first-frame-weights {name}"
    elif description["labels"] == "none":
        use = f"seg2vid generate -o out.mp4 --weights {name} --first-frame PICTURE.png"
    else:
        use = f"seg2vid generate LABELS.png -o out.mp4 --motion-weights {name}"
    rate = f", {description['fps']:g} frames per second" if motion else ""
    stages = "\n".join(
        f"| {stage.replace('_', ' ')} | `{entry['family']}` | `{entry['file']}` |"
        for stage, entry in description["stages"].items()
    )
    return (
        f"""---
license: other
license_name: {json.dumps(licence, ensure_ascii=False)}
library_name: seg2vid
title: {KINDS[kind]}
source: {paper}, {address}
---
# Model card: `{name}`

{KINDS[kind]}, imported from the authors' checkpoint with `seg2vid weights import`.

| stage | family | file |
| --- | --- | --- |
{stages}

- Trained at {width}x{height}{rate}. Label set: {description["labels"]}.
- Made by: {paper}. Code and checkpoints: {address}
- Checkpoint: `{path.name}`, sha256 `{file_sha256(path)}`
- Licence of the weights: {licence}. Whoever passes them on has to
  find out what their authors, and the data they were trained on, allow.

## Use

```sh
{use}
```

## Import

"""
        + "\n".join(f"- {line}" for line in report)
        + "\n"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
