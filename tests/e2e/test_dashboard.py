"""The page in a real browser: what it shows, what it changes, who may come in, and that it needs nobody else."""

import asyncio
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import asyncpg
import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from memfast.store.embedded import Cluster

CHROMIUM = shutil.which("chromium")
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}
HELD_S = 0.4
"""How long a planted query waits, in seconds."""

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
        operations = page.get_by_role("region", name="Operations, last minute")
        expect(operations.get_by_role("rowheader", name="POST /v1/search", exact=True)).to_be_visible()
        expect(page.locator("#stages-search")).to_contain_text("rank")
        expect(page.locator("#stages-write")).to_contain_text("sql")
        expect(page.get_by_role("row", name="embeddings")).to_contain_text(re.compile(r"\d s"))
        expect(page.locator("#standing")).to_contain_text("ready, mode full")
        expect(page.locator("#breakers")).to_contain_text("postgresql")
        expect(page.locator("#layers")).to_contain_text("search")
        expect(page.get_by_role("img").first).to_have_attribute("aria-label", re.compile("^now "))
        expect(page.locator("#cards")).to_contain_text("warm users")


def test_search_says_which_tier_answered_and_why(shared, visit):
    """A search shows the tier, where each score comes from and, cold or warm, the time of its stages."""
    shared.remember("Ada likes purple tulips.", user_id="page search")
    with visit(shared, "#search") as page:
        page.get_by_role("textbox", name="User").fill("page search")
        page.get_by_label("Query").fill("purple tulips")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#answered")).to_contain_text("1 hit, looked for purpl, tulip. Answered cold")
        expect(page.locator("#stages")).to_contain_text("rank")
        page.get_by_text("Why it scored so").click()
        expect(page.locator("#hits details").get_by_role("rowheader", name="lexical")).to_be_visible()
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#answered")).to_contain_text("Answered hot")
        expect(page.locator("#stages").get_by_role("rowheader")).to_have_text(["total"])
        page.get_by_label("Query").fill("tulips")
        shared.client.post("/v1/warm", json={"users": ["page search"]}).raise_for_status()
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#answered")).to_contain_text("Answered warm")
        stages = page.locator("#stages").get_by_role("rowheader")
        expect(stages).to_have_text(["decode", "cache", "warm", "embed", "rank", "encode", "the rest", "total"])
        page.get_by_label("Query").fill("nothing of the kind")
        page.get_by_label("Mode").select_option("lexical")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#answered")).to_contain_text("0 hits")
        expect(page.locator("#hits li")).to_have_count(0)


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
        expect(page.get_by_label("API key")).to_be_focused()
        expect(page.locator("#main")).to_be_hidden()
        page.get_by_label("API key").fill("mf_wrong")
        page.get_by_role("button", name="Enter").click()
        expect(page.get_by_role("alert").filter(has_text="does not take this key")).to_be_visible()
        expect(page.locator("#door")).to_be_visible()
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Enter").click()
        expect(page.locator("#cards")).to_contain_text("warm users")
        expect(page.locator("#door")).to_be_hidden()
        page.goto(f"{service.url}/dashboard#search")
        page.get_by_role("textbox", name="User").fill("somebody")
        page.get_by_label("Query").fill("anything")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#answered")).to_contain_text("0 hits")
        page.get_by_role("button", name="Other key").click()
        expect(page.locator("#main")).to_be_hidden()
        expect(page.locator("#answered")).to_be_empty()
        page.reload()
        expect(page.locator("#door")).to_be_visible()


def test_a_users_key_sees_no_numbers(serve, data_dir, command, visit):
    """It is told so, is not refused every two seconds, and searches its own memories."""
    folder = data_dir()
    service = serve(folder).wait_until_ready()
    words = ("keys", "create", "--role", "user", "--user", "ada")
    key = command(*words, data_dir=folder, expect=0)[0].strip()
    refused = []
    with visit(service, expected=["401", "403"]) as page:
        page.on("response", lambda answer: refused.append(answer.url) if answer.status == 403 else None)
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Enter").click()
        expect(page.locator("#without-admin")).to_be_visible()
        expect(page.locator("#numbers")).to_be_hidden()
        for _ in range(2):
            with page.expect_response("**/v1/health"):
                pass
        assert sum("/v1/stats" in url for url in refused) == 1
        page.get_by_role("link", name="Search").click()
        page.get_by_role("textbox", name="User").fill("ada")
        page.get_by_label("Query").fill("anything")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#answered")).to_contain_text("0 hits")


def test_a_service_that_stops_is_said_and_comes_back(serve, data_dir, visit):
    """The page says that its numbers are old, never that all is well, and goes on when the service does."""
    folder = data_dir()
    service = serve(folder).wait_until_ready()
    with visit(service, expected=["ERR_CONNECTION_REFUSED"]) as page:
        expect(page.locator("#standing")).to_have_text("ready, mode full")
        expect(page.locator("#cards")).to_contain_text("warm users")
        service.stop()
        expect(page.locator("#standing")).to_have_text("does not answer")
        expect(page.locator("#trouble")).to_contain_text("What you see is from before")
        page.goto(page.url.partition("#")[0] + "#search")
        page.get_by_role("textbox", name="User").fill("somebody")
        page.get_by_label("Query").fill("anything")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#trouble")).to_contain_text("does not answer")
        serve(folder, port=service.port).wait_until_ready()
        expect(page.locator("#standing")).to_have_text("ready, mode full")
        expect(page.locator("#trouble")).to_be_hidden()


def test_it_needs_no_mouse(shared, visit):
    """Tab leads past the views to the form; what is edited gives the focus back, what is deleted to what follows it."""
    for text in ("third", "second", "first"):
        remembered(shared, text, "page keys")
    with visit(shared, "#memories") as page:
        expect(page).to_have_title("memories, memfast")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.get_by_role("textbox", name="User")).to_be_focused()
        page.keyboard.type("page keys")
        page.keyboard.press("Enter")
        expect(page.locator("#list > li")).to_have_count(3)
        page.get_by_role("button", name="Edit: first").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("textbox", name="Text")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="Edit: first")).to_be_focused()
        page.keyboard.press("Enter")
        page.get_by_role("textbox", name="Text").fill("changed")
        page.get_by_role("button", name="Save").press("Enter")
        expect(page.get_by_role("button", name="Edit: changed")).to_be_focused()
        page.on("dialog", lambda dialog: dialog.accept())
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Edit: second")).to_be_focused()
        expect(page.locator("#listed")).to_have_text("Deleted.")


def held_up(service, *requests):
    """The answers to requests that PostgreSQL keeps waiting for `HELD_S` once all have reached it; paths are their ids."""

    async def run():
        connection = await asyncpg.connect(**Cluster(service.data_dir).running().connect_arguments())
        try:
            await connection.execute("BEGIN")
            await connection.execute("LOCK TABLE memories IN ACCESS EXCLUSIVE MODE")
            async with httpx.AsyncClient(base_url=service.url, timeout=20, trust_env=False) as client:
                asked = [
                    asyncio.create_task(client.post(path, json=body, headers={"x-request-id": path}))
                    for path, body in requests
                ]
                async with asyncio.timeout(10):
                    while await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < len(asked):
                        await asyncio.sleep(0.01)
                await connection.execute("SELECT pg_sleep($1::float8)", HELD_S)
                await connection.execute("ROLLBACK")
                return await asyncio.gather(*asked)
        finally:
            await connection.close(timeout=5)

    with ThreadPoolExecutor(1) as thread:  # the browser's loop runs in this one
        return thread.submit(asyncio.run, run()).result(60)


def test_a_slow_query_is_seen_everywhere(serve, data_dir, visit):
    """A search and a write that wait for a lock: in the log, the metrics, the statistics and the page, as SQL's time."""
    service = serve(data_dir(), log_format="json").wait_until_ready()
    service.remember("The cellar is dry.", user_id="page slow").raise_for_status()
    search = ("/v1/search", {"user_id": "page slow", "query": "cellar", "mode": "vector"})
    write = ("/v1/memories", {"user_id": "page slow", "text": "The attic is warm."})
    assert all(answer.is_success for answer in held_up(service, search, write))

    lines = [json.loads(line) for line in service.output.splitlines() if '"memfast.slow"' in line]
    metrics = service.client.get("/metrics").text.splitlines()
    stats = service.client.get("/v1/stats").json()
    operations = {each["route"]: each for each in stats["windows"][1]["operations"] if each["method"] == "POST"}
    with visit(service) as page:
        for (path, _), work in ((search, "search"), (write, "write")):
            (line,) = [each for each in lines if each.get("request_id") == path]
            assert (line["operation"], line["took_ms"] >= HELD_S * 1000) == (f"POST {path}", True)
            assert line["stages_ms"]["sql"] > line["took_ms"] / 2

            (slow,) = [
                each for each in metrics if f'slow_operations_total{{method="POST",route="{path}",stage="sql"' in each
            ]
            assert float(slow.rpartition(" ")[2]) >= 1
            counts = [each for each in metrics if f"memfast_{work}_stage_duration_seconds_bucket{{le=" in each]
            within, beyond = (
                next(float(each.split()[1]) for each in counts if f'le="{bound}",stage="sql"' in each)
                for bound in ("0.25", "+Inf")
            )
            assert beyond >= within + 1

            assert operations[path]["slow"] >= 1
            assert operations[path]["slow_stages"]["sql"] >= 1
            assert operations[path]["p99_ms"] >= 250
            (stage,) = [
                each for each in stats["windows"][1]["stages"] if (each["work"], each["stage"]) == (work, "sql")
            ]
            assert stage["p95_ms"] >= 250

            shown = page.locator("#slow").get_by_role("row", name=f"POST {path}").get_by_role("cell")
            expect(shown.nth(1)).to_contain_text("sql")
            p95 = page.locator(f"#stages-{work}").get_by_role("row", name="sql").get_by_role("cell").last
            expect(p95).to_have_text(re.compile(r"^\d{3,}$"))
            assert int(p95.text_content()) >= 250
        expect(page.locator("#cards")).to_contain_text("slow operations")
