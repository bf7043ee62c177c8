"""The page: one file that loads nothing, whatever its clips are called; and it works in a browser.

The browser tests need a Chromium and Playwright's Python package, and are skipped without them.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import time
import tracemalloc
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seg2vid_cli import page as page_module
from seg2vid_cli.errors import InputError, ShapeError, VideoError
from seg2vid_cli.page import PageClip, write_page
from seg2vid_cli.video import open_video

EVIL = "<img src=x onerror=alert(1)>.mp4"
EVIL_FACTS = {"</script><script>alert(2)</script>": '"><b onclick=alert(3)>&amp;{{clips}}'}
VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use", "source"}
KINDS = {".mp4": "video/mp4", ".gif": "image/gif", ".webp": "image/webp"}


def some_bytes(seed: int, size: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


def label_picture() -> np.ndarray:
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:2], picture[2:] = (70, 130, 180), (128, 64, 128)
    return picture


@pytest.fixture
def clips(tmp_path: Path) -> list[PageClip]:
    """Three files that are not looked into; one is larger than what is read at once."""
    folder = tmp_path / "clips"
    folder.mkdir()
    made = []
    for number, (name, size) in enumerate({"a.mp4": 500_001, "b.GIF": 10, "c.webp": 0}.items()):
        path = folder / name
        path.write_bytes(some_bytes(number, size))
        facts = {"seed": "7", "variant": str(number)}
        made.append(PageClip(path=path, title=name, caption=f"variant {number}", facts=facts))
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "page.html"


class Reader(HTMLParser):
    """Reads a page strictly: every element is closed, in order; collects what is in it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID, f"<{tag}/> does not close itself in HTML"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]][-1] += data

    def attributes(self, tag: str, name: str) -> list[str]:
        return [
            str(found[name]) for other, found in self.elements if other == tag and name in found
        ]

    def with_class(self, name: str) -> list[str]:
        return [t for t, found in self.elements if name in str(found.get("class")).split()]


def read(path: Path) -> Reader:
    return Reader(path.read_text(encoding="utf-8"))


def facts_of(reader: Reader) -> Any:
    (place,) = [i for i, (t, f) in enumerate(reader.elements) if f.get("id") == "data"]
    scripts = [i for i, (t, _) in enumerate(reader.elements) if t == "script"]
    return json.loads(reader.texts["script"][scripts.index(place)])


# ---- what is in the file -------------------------------------------------------------------------


def test_every_clip_is_inside_byte_for_byte(clips, target):
    write_page(target, clips, title="Clips", picture=label_picture())
    page = read(target)
    inside = page.attributes("video", "data-src") + page.attributes("img", "data-src")
    assert len(inside) == 3
    for clip, uri in zip(clips, inside, strict=True):
        head, data = uri.split(";base64,")
        assert head == f"data:{KINDS[clip.path.suffix.lower()]}"
        assert base64.b64decode(data, validate=True) == clip.path.read_bytes()


def test_the_label_map_comes_first(clips, target, tmp_path):
    write_page(target, clips, title="Clips", picture=label_picture())
    page = read(target)
    (uri,) = page.attributes("img", "src")
    png = tmp_path / "labels.png"
    png.write_bytes(base64.b64decode(uri.removeprefix("data:image/png;base64,"), validate=True))
    assert (np.asarray(Image.open(png)) == label_picture()).all()
    media = [tag for tag, found in page.elements if tag in ("img", "video")]
    assert media == ["img", "video", "img", "img"]
    assert page.attributes("ul", "data-aspect") == ["2"]
    assert "3 clips from one label map" in page.texts["p"]
    assert facts_of(page)[:2] == [[], [["seed", "7"], ["variant", "0"]]]


def test_a_page_without_a_label_map(clips, target):
    write_page(target, clips[:1], title="Clips")
    page = read(target)
    assert page.attributes("img", "src") == []
    assert "1 clip" in page.texts["p"]
    assert facts_of(page) == [[["seed", "7"], ["variant", "0"]]]


def test_nothing_comes_from_elsewhere(clips, target):
    write_page(target, clips, title="Clips", picture=label_picture())
    text = target.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|\bfetch\(|XMLHttpRequest", text)
    for tag, found in read(target).elements:
        for name in ("src", "data-src", "href", "srcset", "poster", "action", "data"):
            assert str(found.get(name, "#")).startswith(("#", "data:")), (tag, name)


def test_the_policy_allows_only_what_is_in_the_file(clips, target):
    write_page(target, clips, title="Clips")
    page = read(target)
    (content,) = [
        str(found["content"])
        for _, found in page.elements
        if found.get("http-equiv") == "Content-Security-Policy"
    ]
    policy = dict(part.strip().split(" ", 1) for part in content.split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == policy["media-src"] == "data:"
    for tag, texts in (("style", page.texts["style"]), ("script", page.texts["script"][-1:])):
        digest = hashlib.sha256(texts[0].encode()).digest()
        assert policy[f"{tag}-src"] == f"'sha256-{base64.b64encode(digest).decode()}'"
    # What the policy would stop, there is none of.
    for _, found in page.elements:
        assert not [name for name in found if name == "style" or name.startswith("on")]


def test_it_says_what_it_is(clips, target):
    write_page(target, clips, title="My street")
    page = read(target)
    assert page.attributes("html", "lang") == ["en"]
    assert page.texts["title"] == page.texts["h1"] == ["My street"]
    dialogs = [found for tag, found in page.elements if tag == "dialog"]
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    assert dialogs
    assert all(found["aria-labelledby"] in ids for found in dialogs)
    used = set(page.attributes("use", "href"))
    assert {name.removeprefix("#") for name in used} <= set(ids)


def test_the_same_clips_give_the_same_bytes(clips, target):
    write_page(target, clips, title="Clips", picture=label_picture())
    first = target.read_bytes()
    write_page(target, clips, title="Clips", picture=label_picture())
    assert target.read_bytes() == first


# ---- names that look like markup -----------------------------------------------------------------


def test_names_and_facts_stay_text(target, tmp_path):
    path = tmp_path / EVIL
    path.write_bytes(b"12")
    clip = PageClip(path=path, title=EVIL, caption="</script><b>&lt;", facts=EVIL_FACTS)
    write_page(target, [clip, clip], title="</title>{{clips}}<script>alert(4)</script>")
    page = read(target)
    assert page.texts["title"] == ["</title>{{clips}}<script>alert(4)</script>"]
    assert page.attributes("img", "onerror") == []
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert "b" not in page.texts
    assert page.texts["span"].count(EVIL) == 2
    assert page.texts["span"].count("</script><b>&lt;") == 2
    assert page.attributes("button", "aria-label").count(f"Star on {EVIL}") == 2
    assert facts_of(page) == [[[*item] for item in EVIL_FACTS.items()]] * 2
    raw = target.read_text(encoding="utf-8")
    assert html.escape(EVIL) in raw
    assert EVIL not in raw


def test_quotes_do_not_end_an_attribute(clips, target):
    name = '" onfocus="alert(5)" autofocus x="\'.mp4'
    write_page(target, [PageClip(path=clips[0].path, title=name)], title="Clips")
    page = read(target)
    assert name in page.attributes("span", "title")
    assert not [found for _, found in page.elements if "onfocus" in found or "x" in found]


def test_names_that_are_no_text_are_shown_all_the_same(clips, target):
    clip = PageClip(path=clips[0].path, title="a\udcff.mp4", facts={"file": "a\udcff.mp4"})
    write_page(target, [clip], title="Straße 東京")
    page = read(target)
    assert page.texts["h1"] == ["Straße 東京"]
    assert "a?.mp4" in page.texts["span"]


# ---- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("older", [None, "an older page"])
def test_a_missing_clip_is_named_and_leaves_nothing(clips, target, older):
    if older:
        target.write_text(older)
    gone = PageClip(path=target.parent / "gone.mp4", title="gone")
    with pytest.raises(InputError, match=r"gone\.mp4"):
        write_page(target, [*clips, gone], title="Clips")
    assert [path.read_text() for path in target.parent.iterdir()] == ([older] if older else [])


def test_a_clip_that_goes_while_the_page_is_written_leaves_nothing(clips, target, monkeypatch):
    monkeypatch.setattr(page_module, "_check_clip", lambda clip: None)
    target.write_text("older")
    gone = PageClip(path=target.parent / "gone.mp4", title="gone")
    with pytest.raises(InputError, match=r"cannot read .*gone\.mp4"):
        write_page(target, [*clips, gone], title="Clips")
    assert [path.read_text() for path in target.parent.iterdir()] == ["older"]


def test_a_full_disk_is_told_and_leaves_nothing(clips, target, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(VideoError, match=r"cannot write .*page\.html: No space"):
        write_page(target, clips, title="Clips")
    assert [*target.parent.iterdir()] == []


@pytest.mark.parametrize(
    ("name", "said"), [("page.txt", "extension"), ("no/page.html", "exist"), (".", "extension")]
)
def test_a_path_that_cannot_be_written(clips, target, name, said):
    with pytest.raises(InputError, match=said):
        write_page(target.parent / name, clips, title="Clips")


def test_no_clips_and_clips_of_another_kind(clips, target, tmp_path):
    with pytest.raises(InputError, match="no clips"):
        write_page(target, [], title="Clips")
    (tmp_path / "a.avi").write_bytes(b"1")
    with pytest.raises(InputError, match=r"a\.avi: unknown file extension"):
        write_page(target, [PageClip(path=tmp_path / "a.avi", title="a")], title="Clips")


@pytest.mark.parametrize(
    "picture",
    [np.zeros((4, 8), np.uint8), np.zeros((4, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)],
)
def test_a_picture_of_another_shape_is_refused(clips, target, picture):
    with pytest.raises(ShapeError, match="uint8 picture"):
        write_page(target, clips, title="Clips", picture=picture)
    assert not target.exists()


def test_a_link_is_kept_and_its_file_replaced(clips, target, tmp_path):
    link = tmp_path / "link.html"
    link.symlink_to(target)
    write_page(link, clips, title="Clips")
    assert link.is_symlink()
    assert target.stat().st_size > 500_000


def test_memory_does_not_grow_with_the_clips(target, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(some_bytes(0, 2_000_000))
    clip = PageClip(path=path, title="a.mp4")
    write_page(target, [clip], title="Clips")  # the template is read once
    tracemalloc.start()
    try:
        write_page(target, [clip] * 10, title="Clips")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert target.stat().st_size > 26_000_000
    assert peak < 2_000_000


# ---- in a browser --------------------------------------------------------------------------------

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a label map, four MP4s, a GIF, a WebP and a clip that is none."""
    folder = tmp_path_factory.mktemp("page")
    clips = []
    for number, end in enumerate(("mp4", "mp4", "mp4", "mp4", "gif", "webp")):
        path = folder / f"out-{number}.{end}"
        with open_video(path, size_hw=(32, 64), fps=10) as video:
            for moment in range(10):
                frame = np.full((32, 64, 3), 40 * number, np.uint8)
                frame[:, 6 * moment : 6 * moment + 8] = 255
                video.write(frame)
        facts = {"variant": str(number), "kind": end}
        clips.append(PageClip(path=path, title=path.name, caption=f"variant {number}", facts=facts))
    (folder / "bad.mp4").write_bytes(some_bytes(1, 100))
    clips.append(PageClip(path=folder / "bad.mp4", title=EVIL, facts=EVIL_FACTS))
    picture = np.repeat(np.repeat(label_picture(), 8, 0), 8, 1)
    write_page(folder / "page.html", clips, title="A street", picture=picture)
    return folder / "page.html"


@pytest.fixture
def show(browser: Any, made: Path) -> Iterator[Open]:
    """Opens the page; at the end, nothing was logged and nothing but the file was asked for."""
    contexts, said, asked = [], [], []

    def show(**options: Any) -> Any:
        settings = {"viewport": {"width": 1200, "height": 900}, "offline": True, **options}
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        network = context.new_cdp_session(page)
        network.on("Network.requestWillBeSent", lambda event: asked.append(event["request"]["url"]))
        network.send("Network.enable")
        page.goto(made.as_uri())
        wait(page, "document.querySelector('.clips video').readyState >= 2")
        return page

    yield show
    for context in contexts:
        context.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {made.as_uri()}


def wait(page: Any, condition: str) -> None:
    """Playwright's own `wait_for_function` needs `eval`, which the page's policy forbids."""
    end = time.monotonic() + 15
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"never came: {condition}"
        page.wait_for_timeout(30)


def press(page: Any, keys: str) -> None:
    for key in keys.split():
        page.keyboard.press(key)


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.querySelector('.name')?.textContent ?? ''"))


def shown(page: Any) -> list[str]:
    script = "e => e.filter(e => !e.hidden).map(e => e.querySelector('.name').textContent)"
    found: list[str] = page.eval_on_selector_all(".tile", script)
    return found


PLAYING = "Array.from(document.querySelectorAll('.clips video')).filter(v => !v.paused).length"


@pytest.mark.slow
def test_all_clips_play_and_p_pauses_them(show):
    page = show()
    wait(page, f"{PLAYING} === 4")
    assert page.locator(".clips canvas").count() == 0
    press(page, "p")
    wait(page, f"{PLAYING} === 0")
    assert page.locator(".clips canvas").count() == 2  # GIF and WebP, drawn
    assert page.locator("#play").inner_text() == "Play"
    press(page, "p")
    wait(page, f"{PLAYING} === 4")
    assert page.locator(".clips canvas").count() == 0


@pytest.mark.slow
def test_clips_play_and_stop_at_the_same_moment(show):
    page = show()
    wait(page, f"{PLAYING} === 4")
    good = "[...document.querySelectorAll('.clips video')].filter(v => !v.error)"
    page.evaluate(f"{good}[1].currentTime = 0.6")  # one that has fallen behind
    press(page, "p")
    wait(page, f"{PLAYING} === 0 && {good}.every(v => !v.seeking)")
    times = page.evaluate(f"{good}.map(v => v.currentTime)")
    apart = [min(abs(time - times[0]), 1 - abs(time - times[0])) for time in times]
    assert max(apart) < 0.07  # of a second; less than a frame of these clips


@pytest.mark.slow
def test_nothing_moves_for_those_who_want_less_motion_until_they_ask(show):
    page = show(reduced_motion="reduce")
    wait(page, "document.querySelectorAll('.clips canvas').length === 2")
    assert page.evaluate(PLAYING) == 0
    press(page, "ArrowRight ArrowRight Enter")
    page.wait_for_selector("#stage .clip:not(.coming)")
    assert page.evaluate("document.querySelector('#stage video').paused")
    press(page, "p Escape")
    wait(page, f"{PLAYING} === 4")


@pytest.mark.slow
def test_arrows_and_tab_move_the_focus(show):
    page = show()
    columns = page.evaluate("getComputedStyle(clips).gridTemplateColumns.split(' ').length")
    names = shown(page)
    assert names[0] == "Label map"
    press(page, "ArrowRight")
    assert focused(page) == names[0]
    press(page, "ArrowRight")
    assert focused(page) == names[1]
    ring = "getComputedStyle(document.activeElement.querySelector('.frame')).outlineStyle"
    assert page.evaluate(ring) == "solid"
    press(page, "Tab")
    assert focused(page) == names[2]
    press(page, "ArrowLeft ArrowDown")
    assert focused(page) == names[1 + columns]
    press(page, "ArrowUp End ArrowDown ArrowRight")
    assert focused(page) == names[-1]
    press(page, "Home ArrowUp ArrowLeft")
    assert focused(page) == names[0]


@pytest.mark.slow
@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_large_view_opens_steps_and_closes(show, key):
    page = show()
    press(page, f"ArrowRight ArrowRight {key}")
    large = page.locator("#large")
    large.wait_for(state="visible")
    assert page.locator("#large-name").inner_text() == "out-0.mp4"
    assert page.locator("#place").inner_text() == "1 of 7"
    assert page.locator("#facts").inner_text().split() == ["variant", "0", "kind", "mp4"]
    wait(page, "!document.querySelector('#stage video').paused")
    wait(page, f"{PLAYING} === 0")  # those behind it rest
    press(page, "ArrowRight ArrowDown ArrowLeft")
    assert page.locator("#large-name").inner_text() == "out-1.mp4"
    press(page, "ArrowLeft ArrowLeft")
    assert page.locator("#large-name").inner_text() == "Label map"
    page.wait_for_selector("#stage img.crisp")
    assert page.locator("#large-star").is_hidden()
    press(page, "ArrowLeft")  # round to the last
    assert page.locator("#large-name").inner_text() == EVIL
    page.wait_for_selector("#stage .broken")
    assert page.locator("#facts dd").inner_text() == next(iter(EVIL_FACTS.values()))
    press(page, "ArrowLeft")
    page.wait_for_selector("#stage img.clip:not(.coming)")
    assert page.locator("#stage > *").count() == 1
    press(page, "Escape")
    large.wait_for(state="hidden")
    assert focused(page) == "out-5.webp"
    assert page.locator("#stage > *").count() == 0
    wait(page, f"{PLAYING} === 4")


@pytest.mark.slow
def test_stars_and_the_filter(show):
    page = show()
    press(page, "f")
    assert shown(page) == ["Label map"]
    assert page.locator("#empty").is_visible()
    press(page, "f ArrowRight ArrowRight s ArrowRight ArrowRight s")
    assert page.locator("#stars").inner_text() == "2"
    press(page, "f")
    assert shown(page) == ["Label map", "out-0.mp4", "out-2.mp4"]
    assert page.locator("#summary").inner_text() == "2 of 7 clips, starred"
    assert page.locator("#empty").is_hidden()
    press(page, "Enter s")  # taken off in the large view, which goes on with the same clips
    assert page.locator("#large-star").get_attribute("aria-pressed") == "false"
    press(page, "ArrowLeft ArrowRight Escape")
    page.locator("#large").wait_for(state="hidden")
    assert shown(page) == ["Label map", "out-0.mp4"]
    wait(page, "document.activeElement.classList.contains('view')")
    assert focused(page) == "out-0.mp4"
    press(page, "f")
    assert len(shown(page)) == 8
    page.locator(".tile", has_text="out-4.gif").hover()
    page.locator(".tile", has_text="out-4.gif").locator(".star").click()
    assert page.locator("#stars").inner_text() == "2"
    assert page.locator("#large").is_hidden()


@pytest.mark.slow
def test_the_names_of_starred_clips_are_copied(show):
    page = show()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    assert page.locator("#copy").is_disabled()
    press(page, "ArrowRight ArrowRight s ArrowRight s")
    page.locator("#copy").click()
    page.locator("#toast", has_text="Copied 2 names").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "out-0.mp4\nout-1.mp4"


@pytest.mark.slow
def test_without_a_clipboard_the_names_are_selected(show):
    page = show()
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject('no') }")
    press(page, "ArrowRight ArrowRight s End s")
    page.locator("#copy").click()
    page.locator("#names").wait_for(state="visible")
    assert page.evaluate("getSelection().toString()") == f"out-0.mp4\n{EVIL}"
    press(page, "s p f ?")  # are typed into nothing, and no keys of the page
    assert page.locator("#stars").inner_text() == "2"
    press(page, "Escape")
    page.locator("#names").wait_for(state="hidden")


@pytest.mark.slow
def test_plus_and_minus_change_the_tiles(show):
    page = show()
    columns = "getComputedStyle(clips).gridTemplateColumns.split(' ').length"
    found = [page.evaluate(columns)]
    for _ in range(20):
        press(page, "-")
        found.append(page.evaluate(columns))
    assert found == sorted(found)
    assert page.locator("#smaller").is_disabled()
    fewest = [page.evaluate(columns)]
    while not page.locator("#larger").is_disabled():
        press(page, "+")
        fewest.append(page.evaluate(columns))
        assert fewest[-1] < fewest[-2]  # every press does something
    assert fewest[-1] == 1


@pytest.mark.slow
def test_question_mark_shows_the_keys(show):
    page = show()
    press(page, "?")
    page.locator("#help").wait_for(state="visible")
    press(page, "s ArrowRight ?")
    page.locator("#help").wait_for(state="hidden")
    assert page.locator("#stars").inner_text() == "0"


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 400, 800, 2400])
def test_it_fits_into_every_window(show, width):
    page = show(viewport={"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    press(page, "ArrowRight ArrowRight Enter")
    page.wait_for_selector("#stage .clip:not(.coming)")
    box = page.locator("#large").bounding_box()
    assert box["x"] >= 0
    assert box["y"] >= 0
    assert box["x"] + box["width"] <= width
    assert box["y"] + box["height"] <= 700
    stage = page.locator(".stage").bounding_box()
    assert stage["width"] > 0.6 * box["width"]
    assert stage["height"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(show, scheme):
    """WCAG 2 AA: 4.5 to 1."""
    page = show(color_scheme=scheme)
    script = """names => names.map(name => {
        const text = getComputedStyle(document.querySelector(name)).color;
        const paper = getComputedStyle(document.body).backgroundColor;
        return [text, paper].map(c => c.match(/[0-9.]+/g).slice(0, 3).map(Number));
    })"""

    def light(colour: list[float]) -> float:
        parts = [c / 255 for c in colour]
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(p * w for p, w in zip(parts, (0.2126, 0.7152, 0.0722), strict=True))

    for text, paper in page.evaluate(script, ["h1", "#summary", ".note", "footer", ".name"]):
        low, high = sorted((light(text), light(paper)))
        assert (high + 0.05) / (low + 0.05) > 4.5
