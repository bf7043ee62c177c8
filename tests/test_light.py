"""`--light`: how light a painted first frame is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_batch import a_map
from test_cli_generate import facts, refused, seg2vid
from test_translate import a_sequence, frames_of

from seg2vid_cli import Pipeline, read_recipe
from seg2vid_cli.errors import InputError
from seg2vid_cli.labels import labels_from_array
from seg2vid_cli.sample import Sample

QUICK = ("--size", "128x64", "--frames", 1, "--device", "cpu", "--precision", "fp32")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def street():
    return Pipeline.open("street", device="cpu", precision="fp32")


def painted(street, **settings):
    ids = np.zeros((64, 128), np.uint8)
    ids[:24], ids[:40, :40], ids[:40, 90:] = 10, 2, 8
    labels = labels_from_array(ids, encoding="train-ids")
    clip = street.generate(labels, frames=1, sample=Sample(**settings))
    return next(iter(clip)).frame.mean() / 255


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pictures_become_lighter_as_asked(street, seed):
    lights = [painted(street, seed=seed, light=light) for light in (0, 0.1, 0.5, 1)]
    assert lights == sorted(lights)
    assert lights[-1] > 2 * lights[0]


def test_without_it_the_seed_decides(street):
    assert len({painted(street, seed=seed).round(3) for seed in range(4)}) == 4
    assert painted(street, seed=2, light=0.5) != painted(street, seed=2)


def test_generate_notes_it_and_repeats_it():
    a_map("street.png")
    done = seg2vid("generate", "street.png", "-o", "dusk.mp4", *QUICK, "--light", 0.1)
    assert (done.code, done.err) == (0, "")
    assert facts(done.out)["light"] == "0.1 (option)"
    assert read_recipe(Path("dusk.mp4")).light == 0.1
    done = seg2vid("generate", "--like", "dusk.mp4", "-o", "again.mp4", "--device", "cpu")
    assert facts(done.out)["light"] == "0.1 (--like)"
    assert Path("again.mp4").read_bytes() == Path("dusk.mp4").read_bytes()
    done = seg2vid("generate", "street.png", "-o", "plain.mp4", *QUICK)
    assert "light" not in facts(done.out)
    assert read_recipe(Path("plain.mp4")).light is None


def test_a_clip_to_repeat_may_start_from_a_picture_now():
    a_map("street.png")
    seg2vid("generate", "street.png", "-o", "dusk.mp4", *QUICK, "--light", 0.1)
    Image.new("RGB", (128, 64), "grey").save("photo.png")
    more = ("--first-frame", "photo.png", "-o", "photo.mp4", "--device", "cpu")
    done = seg2vid("generate", "street.png", "--like", "dusk.mp4", *more)
    assert done.code == 0, done.err
    assert read_recipe(Path("photo.mp4")).light is None


def test_batch_and_translate_take_it_too():
    a_map("maps/x.png")
    done = seg2vid("batch", "maps", "-o", "out", *QUICK[:4], "--light", 0.2, "--samples", 2)
    assert done.code == 0, done.err
    assert [read_recipe(p).light for p in sorted(Path("out").glob("*.mp4"))] == [0.2, 0.2]
    a_sequence(2)
    sequence = ("translate", "labels", "--size", "128x64", "--device", "cpu", "--json")
    made = [
        seg2vid(*sequence, "-o", f"{light}.mp4", "--save-frames", f"{light}", "--light", light)
        for light in (0.0, 1.0)
    ]
    assert [json.loads(done.out)["light"] for done in made] == [0, 1]
    dark, light = (np.mean(frames_of(f"{light}")) for light in (0.0, 1.0))
    assert light > 1.5 * dark


def test_what_is_of_no_use_is_refused():
    a_map("street.png")
    a_map("maps/x.png")
    a_sequence(2)
    Image.new("RGB", (128, 64), "grey").save("photo.png")
    start = ("generate", "street.png", "-o", "out.mp4", *QUICK)
    refused(*start, "--light", 1.5, says=("light 1.5 is out of range",))
    refused(*start, "--light", "nan", says=("light nan is out of range",))
    refused(*start, "--light", 1, "--first-frame", "photo.png", says=("is painted",))
    hint = "hint: leave out --light, or use other weights, such as street"
    says = ("weights 'street-edges' cannot be told how light a picture should be", hint)
    refused(*start, "--light", 1, "--first-frame-weights", "street-edges", says=says)
    others = ("--weights", "street-edges", "--light", 1)
    refused("translate", "labels", "-o", "out.mp4", *others, says=says)
    refused("batch", "maps", "-o", "out", "--frames", 1, *others, says=says)


def test_from_python_as_well(street):
    labels = labels_from_array(np.zeros((64, 128), np.uint8), encoding="train-ids")
    edges = Pipeline.open("street-edges", device="cpu")
    with pytest.raises(InputError, match="cannot be told how light"):
        edges.generate(labels, frames=1, sample=Sample(light=0.5))
    picture = np.zeros((64, 128, 3), np.uint8)
    size = {"size_hw": (64, 128), "frames": 1}
    clip = street.generate(labels, picture=picture, sample=Sample(light=0.5), **size)
    assert clip.recipe.light is None
