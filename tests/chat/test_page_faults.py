"""The page in headless Chromium, where something is wrong: hostile messages, failures, an end."""

import json
import threading

import uvicorn

from parlai_prosocial.chat import server
from parlai_prosocial.chat.server import ChatApp


def test_hostile_messages_are_only_text(visit, pair, settle, say, download, texts):
    tab = visit(pair)
    script = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    say(tab, script)
    assert texts(tab)[0] == script
    assert tab.locator("#turns script, #turns img").count() == 0
    say(tab, "\u202eevil \u2066\u05e9\u05dc\u05d5\u05dd")
    block = tab.locator(".mine .text").nth(1)
    assert block.get_attribute("dir") == "auto"
    # The override ends with its block: what stands below is as it was.
    assert block.evaluate("e => getComputedStyle(e).unicodeBidi") == "isolate"
    tab.fill("#message", "x" * 60_000)
    tab.focus("#message")
    tab.keyboard.press("Enter")
    settle(tab)
    long = tab.locator(".mine .text").nth(2)
    assert len(long.text_content()) == 60_000
    assert long.evaluate("e => e.clientHeight") < 500
    long.focus()
    assert long.evaluate("e => document.activeElement === e")
    assert tab.title() == "prosocial chat"
    assert tab.locator("article").count() == 9
    content = json.loads(download(tab, "Export conversation"))
    assert content["dialog"][0][0]["text"] == script


def test_a_failing_model_says_so_and_can_be_asked_again(
    visit, serve_app, open_tiny, monkeypatch, settle, say, texts
):
    model = open_tiny()
    generate = model.backbone.generate

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.backbone, "generate", fail)
    tab = visit(serve_app(ChatApp([model])).url)
    say(tab, "Hi!")
    assert "No reply: llama: out of memory" in tab.inner_text("#status")
    say(tab, "Hello?")
    assert "no reply to continue from" in tab.inner_text("#status")
    assert tab.input_value("#message") == "Hello?"
    monkeypatch.setattr(model.backbone, "generate", generate)
    tab.get_by_role("button", name="Regenerate the reply of llama, turn 1").click()
    settle(tab)
    assert texts(tab)[1]


def test_a_message_too_long_for_the_server_is_kept_and_not_sent(visit, pair, texts):
    tab = visit(pair)
    tab.fill("#message", "\u00e9" * 32_001)
    tab.get_by_role("button", name="Send").click()
    assert tab.inner_text("#status") == "Your message is longer than 64,000 bytes; shorten it."
    assert len(tab.input_value("#message")) == 32_001 and texts(tab) == []


def test_the_end_of_the_server_is_told_and_its_return(
    browser, monkeypatch, settle, say, texts, slow
):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    model = slow()
    model.go.set()
    listening = server.listen(0)
    port = listening.getsockname()[1]

    def start(listening):
        config = uvicorn.Config(ChatApp([model]).starlette(), log_level="critical", lifespan="off")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        return running, thread

    def end(running, thread):
        running.should_exit = running.force_exit = True
        thread.join(30)

    first = start(listening)
    tab = browser.new_page()
    tab.set_default_timeout(60_000)
    try:
        tab.goto(f"http://127.0.0.1:{port}/")
        tab.wait_for_selector("#about:not(:empty)")
        say(tab, "Hi!")
        end(*first)
        tab.keyboard.type("And now?")
        tab.keyboard.press("Enter")
        settle(tab)
        assert "No reply: the server has ended" in tab.inner_text("#status")
        ended = tab.inner_text("#ended")
        assert ended.startswith("The server has ended.") and f"--port {port}" in ended
        assert tab.locator("#ended").bounding_box()["y"] >= 0  # in sight
        tab.get_by_role("button", name="Export conversation").click()
        tab.wait_for_selector("#status >> text=Not exported: the server has ended")

        second = start(server.listen(port))
        tab.wait_for_selector("#ended:empty", state="attached")
        tab.get_by_role("button", name="Regenerate").click()
        settle(tab)
        assert texts(tab) == ["Hi!", "Hello.", "And now?", "Hello."]
        end(*second)
    finally:
        tab.close()
