"""The report in a real browser, driven over the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import io
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artgen.report import page
from tests.outputs import Output, failed

pytestmark = pytest.mark.browser
aiohttp = pytest.importorskip("aiohttp")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DESKTOP, PHONE, SMALL_PHONE = (1280, 900), (390, 844), (360, 740)
RED, GREEN = (180, 30, 30), (30, 140, 60)


class Browser:
    """One headless Chromium with one tab; every message of the page is kept."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--remote-debugging-port=0",
        ]
        self._process = subprocess.Popen(
            [CHROMIUM, *flags, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self.events: list[dict[str, Any]] = []
        try:
            self._loop.run_until_complete(self._connect(_port(profile / "DevToolsActivePort")))
        except BaseException:
            self.close()
            raise

    async def _connect(self, port: str) -> None:
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json") as reply:
            tab = next(target for target in await reply.json() if target["type"] == "page")
        self._socket = await self._session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, params), 60))

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def js(self, expression: str) -> Any:
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def open(self, file: Path, size: tuple[int, int], *, dark: bool = False) -> None:
        width, height = size
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=file.as_uri())
        loaded = "document.readyState === 'complete' && [...document.images].every((i) => i.complete)"
        deadline = time.monotonic() + 30
        while not (self.js("location.href").startswith("file:") and self.js(loaded)):
            assert time.monotonic() < deadline, "the page does not finish loading"
            time.sleep(0.05)

    def screenshot(self) -> np.ndarray:
        data = base64.b64decode(self.call("Page.captureScreenshot")["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def key(self, name: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=_KEYS[name])

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        if hasattr(self, "_session"):
            self._loop.run_until_complete(self._session.close())
        self._loop.close()


_KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}


def _port(file: Path) -> str:
    deadline = time.monotonic() + 30
    while not (file.exists() and len(lines := file.read_text().split()) == 2):
        assert time.monotonic() < deadline, "chromium does not start"
        time.sleep(0.05)
    return lines[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs chromium (apt-get install chromium)")
    running = Browser(tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red before, green after; a portrait, a tiny picture, a hostile name, failures with long words."""
    output = Output(tmp_path_factory.mktemp("report") / "out")
    for index, (width, height) in enumerate([(1500, 1000), (400, 900), (28, 28), (900, 30)]):
        red, green = (np.full((height, width, 3), colour, np.uint8) for colour in (RED, GREEN))
        key = f"box {index}/" + "a_very_long_name_without_a_break_" * 5 + "<script>alert(1)</script>\n.png"
        output.picture(key, green, red, change_mean=90.0 - index, notes="palette became RGB")
    output.rows += [failed(f"bad/{index}" + "x" * 120, message="W" * 200) for index in range(30)]
    output.commit(
        {"runs": [{"seconds": 3.0, "pixels": 2_000_000, "ended": "done"}], "config": {"input": "y" * 150}}
    )
    return Path(page.write(output.uri, sources=output.readers))


def box(browser: Browser, selector: str) -> tuple[float, float, float, float]:
    """Left, top, width, height of an element, scrolled into the middle of the view."""
    return tuple(
        browser.js(
            f"(() => {{ const e = document.querySelector({selector!r});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect();"
            "return [r.left, r.top, r.width, r.height]; })()"
        )
    )


def colours(browser: Browser, at: tuple[float, float, float, float]) -> list[str]:
    """Red or green, at 12, 30, 70 and 88 % of the width of a place, a quarter down."""
    shot = browser.screenshot()
    left, top, width, height = at
    pixels = [shot[int(top + height * 0.25), int(left + width * share)] for share in (0.12, 0.3, 0.7, 0.88)]
    return ["red" if int(pixel[0]) > int(pixel[1]) else "green" for pixel in pixels]


@pytest.mark.parametrize("size", [DESKTOP, PHONE, SMALL_PHONE])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_and_asks_for_nothing(
    browser: Browser, report: Path, tmp_path: Path, size: tuple[int, int], dark: bool
) -> None:
    browser.open(report, size, dark=dark)
    assert browser.js("document.documentElement.scrollWidth") == size[0]
    outside = "[...document.querySelectorAll('main *, header *')].filter((e) => e.checkVisibility() && "
    outside += f"e.getBoundingClientRect().right > {size[0]} + 0.5).map((e) => e.outerHTML.slice(0, 80))"
    assert browser.js(outside) == []
    shot = browser.screenshot()
    Image.fromarray(shot).save(tmp_path / "page.png")
    assert shot.shape == (size[1], size[0], 3)
    assert (shot[:8].mean() < 60) == dark
    assert len(np.unique(shot.reshape(-1, 3), axis=0)) > 50
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    complaints = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert [event for event in browser.events if event["method"] in complaints] == []


def test_nothing_moves_while_the_page_loads(browser: Browser, report: Path) -> None:
    browser.open(report, PHONE)
    shifts = (
        "new Promise((done) => { let sum = 0; new PerformanceObserver((list) => {"
        "for (const e of list.getEntries()) sum += e.value; }).observe({type: 'layout-shift', buffered: true});"
        "setTimeout(() => done(sum), 300); })"
    )
    assert browser.js(shifts) == 0


def test_keys_move_the_slider(browser: Browser, report: Path) -> None:
    browser.open(report, DESKTOP)
    place = box(browser, ".compare")
    assert colours(browser, place) == ["red", "red", "green", "green"]
    browser.js("document.querySelector('.compare input').focus()")
    for _ in range(30):
        browser.key("ArrowRight")
    assert browser.js("document.querySelector('.compare input').getAttribute('aria-valuetext')") == (
        "80 % before, 20 % restored"
    )
    assert colours(browser, place) == ["red", "red", "red", "green"]
    browser.key("Home")
    assert colours(browser, place) == ["green"] * 4
    browser.key("End")
    assert colours(browser, place) == ["red"] * 4


def test_a_drag_of_the_mouse_moves_the_slider(browser: Browser, report: Path) -> None:
    browser.open(report, DESKTOP)
    left, top, width, height = place = box(browser, ".compare")
    y = top + height * 0.7
    browser.call(
        "Input.dispatchMouseEvent", type="mousePressed", x=left + width / 2, y=y, button="left", clickCount=1
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + width * 0.2, y=y, button="left", buttons=1)
    assert colours(browser, place) == ["red", "green", "green", "green"]
    browser.call("Input.dispatchMouseEvent", type="mouseReleased", x=left + width * 0.2, y=y, button="left")


def test_a_finger_moves_the_slider(browser: Browser, report: Path) -> None:
    browser.open(report, PHONE)
    left, top, width, height = place = box(browser, ".compare")
    y = top + height * 0.7
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": left + width / 2, "y": y}])
    for share in (0.6, 0.7, 0.8):
        browser.call(
            "Input.dispatchTouchEvent", type="touchMove", touchPoints=[{"x": left + width * share, "y": y}]
        )
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert colours(browser, place) == ["red", "red", "red", "green"]


def test_the_search_leaves_the_rows_that_match(browser: Browser, report: Path) -> None:
    browser.open(report, DESKTOP)
    browser.js("document.querySelector('details').open = true; document.getElementById('search').focus()")
    browser.call("Input.insertText", text="BAD/7")
    shown = browser.js("[...document.querySelectorAll('#rows tr')].filter((r) => r.checkVisibility()).length")
    assert (shown, browser.js("document.getElementById('found').textContent")) == (1, "1 row")


def test_paper_shows_both_pictures_side_by_side(browser: Browser, report: Path) -> None:
    browser.open(report, DESKTOP)
    browser.call("Emulation.setEmulatedMedia", media="print")
    left, top, width, height = box(browser, ".compare")
    assert colours(browser, (left, top, width, height)) == ["red", "red", "green", "green"]
    assert not browser.js("document.querySelector('.handle').checkVisibility()")
    assert browser.js("document.querySelector('.compare .after').getBoundingClientRect().left") >= left + width / 2
