"""The page in a real browser: the way of a radiologist from an image to refined hits, by mouse and by keys."""

import json
import re
from pathlib import Path

import axe_core_python
import pytest
from browser import CHROMIUM
from builders import until
from serving import IDS, PLANTED, key, keys, made_store, picture, pool_of, principal, serving

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")]

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
SIZES = {"phone": (390, 844), "desk": (1440, 900), "4k": (3840, 2160)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def pool(folder):
    with pool_of(made_store(folder), "pixels", "other_pixels") as pool:
        yield pool


@pytest.fixture(scope="module")
def client(pool):
    with serving(pool) as client:
        yield client


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """A function that opens a page; none may say anything in its console, or ask any other host."""
    said, contexts = [], []

    def open_page(url, size="desk", **terms):
        width, height = SIZES[size]
        context = chromium.new_context(viewport={"width": width, "height": height}, **terms)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if not ours(request.url, url) else None)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def ours(asked, url):
    return asked.startswith(("blob:", url.partition("#")[0].rstrip("/") + "/"))


def wait(page, expression):
    """Until a JavaScript expression is true; the page's policy keeps Playwright from waiting in the page itself."""
    until(lambda: page.evaluate(expression), 60)


def ready(page):
    wait(page, "document.querySelector('#hits').ariaBusy !== 'true' && document.querySelectorAll('.hit').length > 0")


def ids(page):
    ready(page)
    return page.eval_on_selector_all(".hit", "found => found.map((hit) => hit.dataset.id)")


def loaded(page):
    """All thumbnails in sight are drawn."""
    wait(
        page,
        "[...document.querySelectorAll('.open img')].slice(0, 2).every((image) => image.naturalWidth > 0)",
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_journey__from_an_image_to_refined_hits(client, folder, opened, size, theme):
    page = opened(str(client.base_url), size)
    wait(page, "document.querySelector('#size').textContent.includes('24 images')")
    if theme == "light":
        page.click("#theme")
    page.set_input_files("#file", picture(folder, 3))
    first = ids(page)
    loaded(page)
    assert IDS[3] not in first
    assert page.locator(".bar .notice").is_visible()
    assert "cosine" in page.inner_text("#status")

    page.evaluate("document.querySelector('#filters').open = true")
    page.get_by_role("checkbox", name="CT").check()
    wait(page, "location.hash.includes('f.modality=CT')")
    wait(page, "document.querySelector('#passing').textContent === '12 pass'")
    assert all(text.startswith("CT") for text in page.locator(".hit .label").all_inner_texts())
    page.click("#unfilter")
    wait(page, "!location.hash.includes('f.modality')")
    assert ids(page) == first

    page.locator(".hit").nth(1).get_by_title("More like this").click()
    page.wait_for_selector(".examples .like")
    assert first[1] not in ids(page)
    page.locator(".hit").nth(2).get_by_title("Less like this").click()
    page.wait_for_selector(".examples .unlike")
    ready(page)

    page.locator(".hit .open").first.click()
    wait(page, "document.querySelector('#large').naturalWidth === 40")
    assert page.locator("#viewer .notice").is_visible()
    page.keyboard.press("ArrowRight")
    wait(page, "document.querySelector('#record').textContent.includes('2 of')")
    page.keyboard.press("Escape")
    assert page.locator("#viewer").is_hidden()
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width <= 0, "the page scrolls sideways"
    assert PLANTED not in page.content()
    assert PLANTED not in page.url


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("size", ["phone", "desk"])
def test_page__keeps_nobody_out(client, folder, opened, size, theme):
    """As far as axe can tell: WCAG 2 A and AA, and its own good practice."""
    page = opened(str(client.base_url), size)
    axe = Path(axe_core_python.__file__).with_name("axe.min.js").read_text("utf-8")
    if theme == "light":
        page.click("#theme")
    wait(page, "document.querySelectorAll('#facets fieldset').length > 0")
    page.evaluate("document.querySelector('#filters').open = true")

    def check():
        page.evaluate(f"{axe};0")
        found = page.evaluate(f"axe.run(document, {{runOnly: {RULES}}})")
        assert len(found["passes"]) > 15
        assert [(item["id"], item["nodes"][0]["html"]) for item in found["violations"]] == []

    check()
    page.set_input_files("#file", picture(folder, 3))
    ids(page)
    page.locator(".hit").nth(1).get_by_title("More like this").click()
    page.wait_for_selector(".examples .like")
    ready(page)
    check()
    page.locator(".hit .open").first.click()
    wait(page, "document.querySelector('#large').naturalWidth === 40")
    check()


def test_region__drawn_by_mouse_and_by_keys(client, folder, opened):
    page = opened(str(client.base_url))
    page.set_input_files("#file", picture(folder, 3))
    whole = ids(page)

    def check():
        box = page.evaluate("import('/static/query.js').then((query) => query.held.box)")
        query = {"box": box, "k": 36, "collection": "pixels"}
        files = {"image": ("q.png", picture(folder, 3).read_bytes())}
        hits = client.post("/search", files=files, data={"query": json.dumps(query)}).json()["hits"]
        until(lambda: ids(page) == [hit["id"] for hit in hits], 60)
        return box

    area = page.locator("#preview").bounding_box()
    page.mouse.move(area["x"] + 2, area["y"] + 2)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    page.mouse.up()
    x, y, width, height = check()
    assert page.locator("#box").is_visible()
    assert (x, y) == (0, 0)
    assert abs(width - 20) <= 1  # of a picture of 40 x 48
    assert abs(height - 24) <= 1
    page.click("#whole")
    until(lambda: ids(page) == whole, 60)
    page.focus("#frame")
    page.keyboard.press("r")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowDown")
    wait(page, "import('/static/query.js').then((query) => query.held.box[2] > query.held.box[3])")
    check()


def test_keyboard__from_hits_to_others(client, opened):
    page = opened(f"{client.base_url}#collection=pixels&like={IDS[4]}")
    hits = ids(page)
    page.locator(".hit .open").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.closest('.hit').dataset.id") == hits[1]
    page.keyboard.press("+")
    wait(page, f"location.hash.includes('{hits[1]}')")
    ready(page)
    page.go_back()
    wait(page, f"!location.hash.includes('{hits[1]}')")
    wait(page, f"document.querySelector('.hit').dataset.id === '{hits[0]}'")
    page.locator(".hit .open").first.focus()
    page.keyboard.press("s")
    wait(page, f"new URLSearchParams(location.hash.slice(1)).get('like') === '{hits[0]}'")


def test_address__holds_the_question_but_no_upload(client, folder, opened):
    page = opened(str(client.base_url))
    page.set_input_files("#file", picture(folder, 3))
    ready(page)
    page.reload()
    page.wait_for_selector(".caution")
    assert "uploads are not kept" in page.inner_text("#cautions")
    assert page.locator(".hit").count() == 0
    shared = opened(f"{client.base_url}#collection=other_pixels&like={IDS[4]}&f.dataset=a")
    ids(shared)
    assert shared.input_value("#collection") == "other_pixels"
    assert set(shared.locator(".hit .about p:nth-child(3)").all_inner_texts()) == {"a"}


def test_sign_in__trades_the_key_for_a_cookie_and_hides_images_without_the_role(pool, chromium):
    with serving(pool, keys(principal("reader", "search"))) as client:
        page = chromium.new_page()
        page.goto(str(client.base_url))
        page.wait_for_selector("#login[open]")
        page.fill("#key", "a guess")
        page.keyboard.press("Enter")
        wait(page, "document.querySelector('#login-error').textContent.includes('not known')")
        page.fill("#key", key("reader"))
        page.keyboard.press("Enter")
        wait(page, "document.querySelector('#size').textContent.includes('24 images')")
        page.evaluate(f"location.hash = '#like={IDS[4]}'")
        ids(page)
        assert "shows no images" in page.inner_text(".hit .why >> nth=0")
        assert page.evaluate("document.cookie") == ""
        assert not re.search(key("reader"), page.evaluate("JSON.stringify([localStorage, sessionStorage])") + page.url)
        page.click("#leave")
        page.wait_for_selector("#login[open]")
        page.close()


def test_missing_image__has_another_look(chromium, tmp_path):
    with pool_of(made_store(tmp_path), "pixels") as pool, serving(pool) as client:
        picture(tmp_path, 7).unlink()
        page = chromium.new_page()
        page.goto(f"{client.base_url}#like={IDS[4]}")
        ids(page)
        page.wait_for_selector(f"[data-id='{IDS[7]}'] .open.missing")
        loaded(page)
        page.close()
