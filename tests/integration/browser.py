"""Loads pages in headless Chromium, from Debian's packages chromium and chromium-driver."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service


@dataclass
class Page:
    """What a browser made of a page."""

    console: list[str]
    requests: list[str]
    driver: webdriver.Chrome

    def evaluate(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    def count(self, selector: str) -> int:
        return int(self.evaluate(f"document.querySelectorAll({json.dumps(selector)}).length"))


class Browser:
    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def load(self, path: Path, width: int, scheme: str = "light") -> Page:
        """The page at `path`, `width` pixels wide, with the colour scheme "light" or "dark"."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self._driver.get_log("performance")  # those of the page before
        self._driver.get(path.resolve().as_uri())
        requests = []
        for entry in self._driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                requests.append(message["params"]["request"]["url"])
        console = [entry["message"] for entry in self._driver.get_log("browser")]
        return Page(console=console, requests=requests, driver=self._driver)


@contextmanager
def open_browser() -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or "chromedriver"))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
