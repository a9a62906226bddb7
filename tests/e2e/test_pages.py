"""The live page and the flower client, in a real browser in front of the real system."""

import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from prometheus_client.parser import text_string_to_metric_families

from gateway.flowers.pictures import listed
from tests.e2e.beside import Beside
from tests.e2e.stack import SLICES, Stack, wait_until
from tests.support.browser import launched, opened
from tests.support.load import Load, plain

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(120)]

TOKEN = "a-token-of-32-characters-for-test"
WITHIN_MS = 20_000
expect.set_options(timeout=WITHIN_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def live(stack: Stack, browser: Browser) -> Iterator[Page]:
    with opened(browser, f"http://{stack.admin}/") as page:
        expect(page.locator("#link")).to_have_text("live")
        yield page


def tile(page: Page, name: str) -> Locator:
    return page.locator(f'.slice[data-slice="{name}"]')


def table(page: Page) -> dict[str, list[str]]:
    """Return what the table says, by slice."""
    rows: list[list[str]] = page.evaluate(
        "[...document.querySelectorAll('#table tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.innerText))"
    )
    return {cells[0]: cells for cells in rows}


def tile_facts(page: Page, name: str) -> tuple[list[str], list[str]]:
    """Return (words, values) of what a slice's tile says."""
    root = tile(page, name)
    return root.locator("dt").all_inner_texts(), root.locator("dd").all_inner_texts()


def facts(page: Page) -> dict[str, int]:
    """Return the counters that the page tells of the gateway itself."""
    words = page.locator("#gateway dt").all_inner_texts()
    values = page.locator("#gateway dd").all_inner_texts()
    return {
        word: int(value.replace(",", ""))
        for word, value in zip(words, values, strict=True)
        if word in ("HTTP requests", "gRPC calls", "sent to a second slice")
    }


def metrics(stack: Stack) -> dict[tuple[str, str | None, str | None], float]:
    """Return the gateway's own metrics by (name, slice, protocol)."""
    with urllib.request.urlopen(f"http://{stack.admin}/metrics?slices=false") as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            (s.name, s.labels.get("slice"), s.labels.get("protocol")): s.value
            for family in families
            for s in family.samples
        }


# --- the live page ----------------------------------------------------------------------------


def test_seven_slices_lie_on_the_gpu_and_say_that_they_are_simulated(
    live: Page, stack: Stack
) -> None:
    expect(live.locator(".slice")).to_have_count(7)
    for at, name in enumerate(SLICES):
        expect(tile(live, name)).to_have_attribute("data-state", "ready")
        expect(tile(live, name).locator(".what")).to_have_text(f"1g.5gb, at {at}:1")
        expect(tile(live, name).locator(".models")).to_contain_text("✓ flower")
        uuid = stack.slices()[name]["mig_uuid"]
        expect(tile(live, name).locator(".uuid")).to_have_attribute("title", uuid)
    lefts = [tile(live, name).bounding_box()["x"] for name in SLICES]  # type: ignore[index]
    assert lefts == sorted(lefts), "in the order of their memory slices"
    expect(live.locator(".free")).to_have_count(1)
    expect(live.locator(".gpu h2")).to_have_text("NVIDIA A100-SXM4-40GB")
    expect(live.locator(".gpu .stamp")).to_have_text("simulated")
    expect(live.locator("header.top .stamp")).to_be_visible()


def test_the_numbers_are_those_of_the_admin_api_and_of_the_metrics(
    live: Page, stack: Stack
) -> None:
    with Load(plain(stack.address)) as load:
        load.wait_for(100)
    assert load.errors == []

    def agrees() -> bool:
        views = stack.slices()
        samples = metrics(stack)
        if facts(live) != {
            "HTTP requests": samples["mig_gateway_http_requests_total", None, None],
            "gRPC calls": samples["mig_gateway_grpc_calls_total", None, None],
            "sent to a second slice": samples["mig_gateway_replays_total", None, None],
        }:
            return False
        rows = table(live)
        for name, view in views.items():
            http, grpc, failures = (int(text.replace(",", "")) for text in rows[name][6:9])
            wanted = [view["http_requests"], view["grpc_requests"], view["failures"]]
            counted = [
                samples["mig_gateway_slice_requests_total", name, "http"],
                samples["mig_gateway_slice_requests_total", name, "grpc"],
                samples["mig_gateway_slice_failures_total", name, None],
            ]
            if not [http, grpc, failures] == wanted == counted:
                return False
            told = dict(zip(*tile_facts(live, name), strict=True))
            if (told["served"], told["failed"]) != (f"{http + grpc:,}", f"{failures:,}"):
                return False
            in_flight = samples["mig_gateway_slice_in_flight", name, None]
            if not int(told["in flight"]) == view["in_flight"] == in_flight == 0:
                return False
            for text, quantile in zip(rows[name][9:11], ("p50", "p99"), strict=True):
                wanted_ms = view["latency_ms"]["all"][quantile]
                if float(text.replace(",", "")) != pytest.approx(wanted_ms, rel=0.006, abs=0.006):
                    return False
        connected = (
            samples["mig_gateway_connections_accepted_total", None, None]
            - samples["mig_gateway_connections_closed_total", None, None]
        )
        return (
            live.locator("#now-in-flight").inner_text() == "0"
            and live.locator("#now-waiting").inner_text() == "0"
            and live.locator("#flow-clients").inner_text() == f"{connected:.0f} clients"
        )

    wait_until(agrees, "the page, the API and the metrics say the same")


def test_who_waits_for_a_slice_is_drawn_and_counted(
    live: Page, stack: Stack, browser: Browser
) -> None:
    expect(live.locator("#chart-waiting canvas")).to_have_attribute(
        "aria-label", re.compile("nobody 0$")
    )
    with opened(browser, f"http://{stack.admin}/flowers") as flowers:
        flowers.locator("#outstanding").fill("100")
        flowers.get_by_role("button", name="Start").click()
        expect(live.locator("#now-waiting")).to_have_text(re.compile("^[1-9]"))
        waiting = live.locator("#chart-waiting canvas")
        expect(waiting).to_have_attribute("aria-label", re.compile("flower [1-9]"))
        waited = live.locator("#chart-wait canvas")
        expect(waited).to_have_attribute("aria-label", re.compile(r"p50 [\d.]+, p99 [\d.]+$"))
        lines = stack.ask("GET", "/v1/queues")[1]["queues"]
        assert "flower" in [line["model"] for line in lines if line["ended"]]
    expect(live.locator("#now-waiting")).to_have_text("0")


def test_a_click_changes_the_gateway_and_the_gateway_changes_the_page(
    live: Page, stack: Stack
) -> None:
    tile(live, "s3").get_by_role("button", name="Drain").click()
    expect(tile(live, "s3")).to_have_attribute("data-state", "draining")
    assert stack.slices()["s3"]["order"] == "drained"
    expect(live.locator("#events li").first).to_contain_text("order: enabled → drained")
    stack.ask("POST", "/v1/slices/s3/enable")
    expect(tile(live, "s3")).to_have_attribute("data-state", "ready")
    live.locator("#policy").select_option("round_robin")
    wait_until(
        lambda: stack.ask("GET", "/v1/balancing")[1]["policy"] == "round_robin", "the policy"
    )


def test_the_keyboard_is_enough(live: Page, stack: Stack) -> None:
    tile(live, "s0").get_by_role("button", name="On").focus()
    live.keyboard.press("Tab")
    live.keyboard.press("Tab")
    live.keyboard.press("Enter")
    expect(tile(live, "s0")).to_have_attribute("data-state", "disabled")
    assert stack.slices()["s0"]["order"] == "disabled"
    off = tile(live, "s0").get_by_role("button", name="Off")
    expect(off).to_have_attribute("aria-pressed", "true")
    expect(off).to_be_focused()


def test_a_killed_slice_turns_red_and_green_again(live: Page, stack: Stack) -> None:
    os.kill(stack.triton_pid("s5"), signal.SIGKILL)
    expect(tile(live, "s5")).to_have_attribute("data-state", "unready")
    colour = tile(live, "s5").locator(".state").evaluate("e => getComputedStyle(e).color")
    assert colour == live.evaluate(
        "getComputedStyle(Object.assign(document.body.appendChild(document.createElement('i')),"
        " {style: 'color: var(--bad)'})).color"
    )
    expect(tile(live, "s5").locator(".reason")).to_contain_text("refused")
    expect(live.locator("#events")).to_contain_text("health: up → down")
    expect(tile(live, "s5")).to_have_attribute("data-state", "ready", timeout=60_000)


def test_the_last_slice_goes_only_after_a_clear_word(stack: Stack, browser: Browser) -> None:
    for name in SLICES[1:]:
        assert stack.ask("POST", f"/v1/slices/{name}/drain")[0] == 200
    # The gateway's 409 is in the console: what it refuses, browsers call an error.
    with opened(browser, f"http://{stack.admin}/", quiet=False) as page:
        tile(page, "s0").get_by_role("button", name="Off").click()
        expect(page.locator("#ask")).to_contain_text("s0 is the last slice that can serve")
        page.get_by_role("button", name="Leave it").click()
        expect(page.locator("#ask")).to_be_hidden()
        assert stack.slices()["s0"]["state"] == "ready"
        tile(page, "s0").get_by_role("button", name="Off").click()
        page.get_by_role("button", name="Take it out").click()
        expect(page.locator("#serving")).to_contain_text("not serving")
        assert stack.slices()["s0"]["state"] == "disabled"


@pytest.mark.parametrize("path", ["/", "/flowers"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(
    stack: Stack, browser: Browser, path: str
) -> None:
    with opened(browser, f"http://{stack.admin}{path}", width=360, dark=True) as page:
        expect(page.locator("#all")).to_be_visible()
        expect(page.locator(".slice, .tile").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(int(part) for part in re.findall(r"\d+", background)) < 64, "dark"


FAINT = """() => {
  const channels = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number);
    const unit = text.startsWith("color(") ? 1 : 255;
    return [...found.slice(0, 3).map((v) => v / unit), found[3] ?? 1];
  };
  const light = (text) => {
    const [r, g, b] = channels(text).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    if (channels(colour)[3] > 0.6) return colour;
    return node.parentElement ? behind(node.parentElement) : "rgb(255, 255, 255)";
  };
  const faint = {};
  for (const node of document.querySelectorAll("body *")) {
    const says = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!says || !node.checkVisibility() || node.disabled) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(behind(node))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint[`${node.tagName}.${node.className} in ${behind(node)}`] = contrast;
  }
  return faint;
}"""
"""Texts with less contrast than WCAG 2.2 asks for at level AA."""
NAMELESS = """() => [...document.querySelectorAll("button, a, input, select")].filter((node) =>
  node.checkVisibility() && !(node.innerText.trim() || node.ariaLabel || node.labels?.length || node.title
    || node.querySelector("img[alt]:not([alt=''])"))).map((node) => node.outerHTML)"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_that_is_written_can_be_read_and_all_that_is_pressed_has_a_name(
    stack: Stack, browser: Browser, dark: bool
) -> None:
    stack.ask("POST", "/v1/slices/s1/drain")
    stack.ask("POST", "/v1/slices/s2/disable")
    os.kill(stack.triton_pid("s5"), signal.SIGKILL)
    with opened(browser, f"http://{stack.admin}/", dark=dark) as page:
        expect(tile(page, "s5")).to_have_attribute("data-state", "unready")
        expect(page.locator("#events li").first).to_be_visible()
        page.emulate_media(reduced_motion="reduce")  # no colour is on its way to another
        assert page.evaluate(FAINT) == {}
        assert page.evaluate(NAMELESS) == []
    with opened(browser, f"http://{stack.admin}/flowers", dark=dark) as page:
        page.locator(".tile").first.click()
        expect(page.locator("#answer li")).to_have_count(3)
        page.get_by_role("button", name="Start").click()
        for name in ("s0", "s3", "s4", "s6"):
            expect(page.locator(f'.tile .who:text-is("{name}")').first).to_be_visible()
        assert page.evaluate(FAINT) == {}
        assert page.evaluate(NAMELESS) == []


# --- tokens and restarts ----------------------------------------------------------------------


class Locked(Beside):
    """A gateway that asks for a token."""

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        request = urllib.request.Request(f"http://{self.admin}{path}", method=method)
        request.add_header("Authorization", f"Bearer {TOKEN}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@pytest.fixture
def locked(stack: Stack, tmp_path: Path) -> Iterator[Locked]:
    gateway = Locked(stack, tmp_path, workers=2)
    (tmp_path / "write").write_text(TOKEN)
    (tmp_path / "read").write_text(TOKEN[::-1])
    gateway.config["admin"]["tokens"] = [
        {"name": role, "file": str(tmp_path / role), "role": role} for role in ("write", "read")
    ]
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.stop()


def test_a_token_opens_the_page_and_a_restart_does_not_close_it(
    locked: Locked, browser: Browser
) -> None:
    with opened(browser, f"http://{locked.admin}/", quiet=False) as page:
        page.get_by_label("Token").fill("not-a-token-of-this-gateway")
        page.get_by_role("button", name="Open").click()
        expect(page.locator("#login-said")).to_have_text("This token is not known here.")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Open").click()
        expect(page.locator(".slice")).to_have_count(7)
        assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
        locked.stop_gateway()
        expect(page.locator("#link")).to_contain_text("no connection")
        locked.start_gateway()
        expect(page.locator("#link")).to_have_text("live")
        tile(page, "s1").get_by_role("button", name="Off").click()
        expect(tile(page, "s1")).to_have_attribute("data-state", "disabled")
        assert locked.ask("GET", "/v1/slices/s1")[1]["order"] == "disabled"


def test_a_token_that_may_only_read_moves_nothing(locked: Locked, browser: Browser) -> None:
    with opened(browser, f"http://{locked.admin}/", quiet=False) as page:
        page.get_by_label("Token").fill(TOKEN[::-1])
        page.get_by_role("button", name="Open").click()
        expect(page.locator("#may-not")).to_be_visible()
        expect(tile(page, "s1").get_by_role("button", name="Off")).to_be_disabled()
        expect(page.locator("#policy")).to_be_disabled()
        page.goto(f"http://{locked.admin}/flowers")
        expect(page.locator("#trouble")).to_contain_text("may only read")


# --- the flower client ------------------------------------------------------------------------


@pytest.fixture
def flowers(stack: Stack, browser: Browser) -> Iterator[Page]:
    with opened(browser, f"http://{stack.admin}/flowers") as page:
        expect(page.locator(".tile")).to_have_count(len(listed()))
        expect(page.locator("#link")).to_have_text("live")
        expect(page.locator("#now-answered")).to_have_text("0")
        yield page


def test_a_known_flower_is_named_with_its_slice_and_latency(flowers: Page) -> None:
    at = next(i for i, one in enumerate(listed()) if one.name == "sunflower")
    flowers.locator(f'.tile[data-tile="{at}"]').click()
    answer = flowers.locator("#answer")
    expect(answer.locator("h2")).to_have_text("sunflower")
    expect(answer.locator("li")).to_have_count(3)
    expect(answer.locator(".by")).to_have_text(re.compile(r"^slice s[0-6][\d.,]+ ms$"))


def test_requests_stay_outstanding_and_a_slice_that_is_off_is_missed(
    flowers: Page, stack: Stack
) -> None:
    flowers.locator("#outstanding").fill("14")
    flowers.get_by_role("button", name="Start").click()
    for name in SLICES:
        expect(flowers.locator(f'.tile .who:text-is("{name}")').first).to_be_visible()
    wait_until(lambda: sum(s["in_flight"] for s in stack.slices().values()) > 7, "many in flight")
    flowers.locator('#chips [data-slice="s2"]').click()
    expect(flowers.locator('#chips [data-slice="s2"]')).to_have_attribute("data-state", "disabled")
    expect(flowers.locator('.tile .who:text-is("s2")')).to_have_count(0)
    assert stack.slices()["s2"]["order"] == "disabled"
    expect(flowers.locator("#now-failed")).to_have_text("0")
    expect(flowers.locator("#verdict")).to_contain_text("budget")
    flowers.get_by_role("button", name="Stop").click()
    wait_until(lambda: not sum(s["in_flight"] for s in stack.slices().values()), "all answered")


def test_a_picture_of_the_users_own_is_asked_for(flowers: Page) -> None:
    at = next(i for i, one in enumerate(listed()) if one.name == "daffodil")
    flowers.locator("#file").set_input_files(listed()[at].file)
    expect(flowers.locator("#answer h2")).to_have_text("daffodil")
    expect(flowers.locator("#answer canvas")).to_be_visible()
    expect(flowers.locator("#answer .note")).to_contain_text("Your picture")
