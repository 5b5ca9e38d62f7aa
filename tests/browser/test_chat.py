"""examples/chat in a real browser: headless Chromium opens the page, and two visitors talk.

Run by `make test-browser`, not by `pytest` alone: it needs Chromium and selenium. With SCREENSHOT set to a path, the
first visitor's window is saved there.
"""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 30   # seconds, for a busy machine


@pytest.fixture
def address():
    server = subprocess.Popen(
        [sys.executable, ROOT / "examples/chat/server.py", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        line = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", line)
        yield line
    finally:
        server.kill()
        server.communicate()


@pytest.fixture
def open_browser(tmp_path):
    browsers = []

    def start():
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        profile = tmp_path / f"profile-{len(browsers)}"
        # Containers have no user namespaces and a small /dev/shm.
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                         "--window-size=720,720", "--no-proxy-server", f"--user-data-dir={profile}"):
            options.add_argument(argument)
        browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        browsers.append(browser)
        return browser

    yield start
    for browser in browsers:
        browser.quit()


def messages(browser):
    return [item.text for item in browser.find_elements(By.CSS_SELECTOR, "#messages li")]


def say(browser, text):
    browser.find_element(By.ID, "input").send_keys(text, Keys.ENTER)


def wait_for(browser, condition):
    WebDriverWait(browser, PATIENCE, poll_frequency=0.05).until(lambda _: condition())


def test_two_visitors_talk(address, open_browser):
    ada, grace = open_browser(), open_browser()
    ada.get(address)
    assert ada.title == "Chat"
    say(ada, "Ada")
    wait_for(ada, lambda: messages(ada) == ["Ada came"])
    grace.get(address)
    say(grace, "Grace")
    wait_for(grace, lambda: messages(grace) == ["Ada came", "Grace came"])
    say(ada, "Does each of us have a greenlet?")
    wait_for(grace, lambda: messages(grace)[-1] == "Ada: Does each of us have a greenlet?")
    # What a visitor says is text, not markup.
    say(grace, "Two: one receives, one sends. <b>€</b>")
    wait_for(ada, lambda: messages(ada)[-1] == "Grace: Two: one receives, one sends. <b>€</b>")
    assert ada.find_element(By.ID, "visitors").text == "here: Ada, Grace"
    if path := os.environ.get("SCREENSHOT"):
        ada.save_screenshot(path)
    grace.quit()
    wait_for(ada, lambda: messages(ada)[-1] == "Grace left")
    assert ada.find_element(By.ID, "visitors").text == "here: Ada"
    assert not [entry for entry in ada.get_log("browser") if "favicon" not in entry["message"]]
