"""The page in a real browser: what it shows, what it changes, who may come in, and that it needs nobody else."""

import re
import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect, sync_playwright

CHROMIUM = shutil.which("chromium")
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium")


@pytest.fixture(scope="module")
def browser():
    """A browser without a window."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Context manager: a page of a service; leaving it, nothing has failed in it and nothing was asked of anybody else."""

    @contextmanager
    def visited(service, view="", expected=(), **options):
        page = browser.new_page(**{"viewport": DESK, **options})
        page.set_default_timeout(20_000)
        errors, asked = [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{service.url}/dashboard{view}")
        try:
            yield page
        finally:
            page.close()
        assert [error for error in errors if not any(part in error for part in expected)] == []
        assert asked
        assert all(url.startswith((service.url, "data:")) for url in asked)

    return visited


def remembered(service, text, user_id):
    """A new memory with a tag."""
    return service.client.post("/v1/memories", json={"user_id": user_id, "text": text, "tags": ["tag"]}).json()


def fits(page):
    """Whether nothing has to be scrolled sideways but what scrolls by itself."""
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def contrast(page, selector):
    """The contrast of an element's text with its ground (WCAG 2.2, 1.4.3)."""
    return page.eval_on_selector(
        selector,
        """element => {
            const light = (color) => {
                const parts = color.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
                    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
                return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
            };
            const ground = (each) => {
                const color = getComputedStyle(each).backgroundColor;
                return color === "rgba(0, 0, 0, 0)" && each.parentElement ? ground(each.parentElement) : color;
            };
            const [one, two] = [light(getComputedStyle(element).color), light(ground(element))];
            return (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
        }""",
    )


def test_now_shows_what_the_service_does(shared, visit):
    """Operations, hit rates, breakers and the mode come by themselves."""
    shared.remember("The page shows numbers.", user_id="page")
    for _ in range(3):
        shared.search("numbers", user_id="page")
    with visit(shared) as page:
        expect(page.get_by_role("rowheader", name="POST /v1/search", exact=True)).to_be_visible()
        expect(page.locator("#standing")).to_contain_text("ready, mode full")
        expect(page.locator("#breakers")).to_contain_text("postgresql")
        expect(page.locator("#layers")).to_contain_text("search")
        expect(page.get_by_role("img").first).to_have_attribute("aria-label", re.compile("^now "))
        expect(page.locator("#cards")).to_contain_text("warm users")


def test_search_says_which_tier_answered_and_why(shared, visit):
    """A search in the page shows the tier, the time of its stages, and where each score comes from."""
    shared.remember("Ada likes purple tulips.", user_id="page search")
    with visit(shared, "#search") as page:
        page.get_by_role("textbox", name="User").fill("page search")
        page.get_by_label("Query").fill("purple tulips")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#answered")).to_contain_text("1 hits, answered cold")
        expect(page.locator("#stages")).to_contain_text("rank")
        page.get_by_text("Why it scored so").click()
        expect(page.locator("#hits details")).to_contain_text("lexical: ")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#answered")).to_contain_text("answered hot")


def test_memories_are_shown_edited_and_deleted(shared, visit):
    """What the page saves and deletes is saved and deleted; a text is never taken for markup."""
    made = remembered(shared, "<img src=x onerror=alert(1)> stays text", "page edit")
    with visit(shared, "#memories") as page:
        page.get_by_role("textbox", name="User").fill("page edit")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("#list")).to_contain_text("<img src=x onerror=alert(1)> stays text")
        page.get_by_role("button", name="Edit:").click()
        page.get_by_role("textbox", name="Text").fill("changed in the page")
        page.get_by_label("Tags, separated by commas").fill("two, three")
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#list")).to_contain_text("changed in the page")
        stored = shared.client.get(f"/v1/memories/{made['id']}", params={"user_id": "page edit"}).json()
        assert stored["text"] == "changed in the page"
        assert stored["tags"] == ["two", "three"]
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Delete:").click()
        expect(page.locator("#list li")).to_have_count(0)
        assert shared.client.get(f"/v1/memories/{made['id']}", params={"user_id": "page edit"}).status_code == 404


def test_an_edit_of_what_somebody_else_changed_is_refused(shared, visit):
    """The page sends the version that it showed, and says why nothing was saved."""
    made = shared.remember("first", user_id="page race").json()
    with visit(shared, "#memories", expected=["412"]) as page:
        page.get_by_role("textbox", name="User").fill("page race")
        page.get_by_role("button", name="Show").click()
        page.get_by_role("button", name="Edit:").click()
        changed = {"text": "second"}
        shared.client.patch(
            f"/v1/memories/{made['id']}", params={"user_id": "page race"}, json=changed
        ).raise_for_status()
        page.get_by_role("textbox", name="Text").fill("third")
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#edit-trouble")).to_contain_text("version")
        stored = shared.client.get(f"/v1/memories/{made['id']}", params={"user_id": "page race"}).json()
        assert stored["text"] == "second"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["#now", "#search", "#memories"])
def test_it_is_readable_on_a_phone_and_in_the_dark(shared, visit, tmp_path, scheme, view):
    """Nothing sticks out, text has contrast, controls have names, and there is a screenshot to look at."""
    remembered(shared, "A memory with a tag.", "page phone")
    with visit(shared, view, viewport=PHONE, color_scheme=scheme) as page:
        expect(page.locator("#standing")).to_contain_text("ready")
        if view != "#now":
            page.get_by_role("textbox", name="User").fill("page phone")
            if view == "#search":
                page.get_by_label("Query").fill("tag")
            page.locator(f"#view-{view[1:]} form button").click()
            expect(page.locator(".hits:visible > li").first).to_be_visible()
            assert contrast(page, ".hits > li .about") >= 4.5
        assert fits(page)
        for selector in ("h2:not([hidden])", "#standing", "nav a"):
            assert contrast(page, selector) >= 4.5, selector
        unnamed = page.eval_on_selector_all(
            "input, select, textarea, button",
            "all => all.filter((e) => !e.labels?.length && !e.ariaLabel && !e.textContent.trim()).length",
        )
        assert unnamed == 0
        page.screenshot(path=tmp_path / f"{view[1:]}-{scheme}.png", full_page=True)


def test_a_key_opens_it(serve, data_dir, command, visit):
    """Where keys are asked for the page shows a door and no data; with a key it shows the rest."""
    folder = data_dir()
    service = serve(folder).wait_until_ready()
    key = command("keys", "create", "--role", "admin", data_dir=folder, expect=0)[0].strip()
    with visit(service, expected=["401"]) as page:
        page.get_by_label("API key").fill("mf_wrong")
        page.get_by_role("button", name="Enter").click()
        expect(page.locator("#door")).to_be_visible()
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Enter").click()
        expect(page.locator("#cards")).to_contain_text("warm users")
        expect(page.locator("#door")).to_be_hidden()
