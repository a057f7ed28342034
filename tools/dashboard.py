#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""make dashboard: draws contrib's dashboard for Grafana, and checks it and the alerts. See docs/testing.md.

Starts smbdirectd, the patched smbd, clients and a Prometheus on free ports of loopback. Then Chromium draws the
dashboard with Grafana's own libraries (tests/dashboard): with one server, with two, and after smbdirectd has ended.
"""

import argparse
import base64
import functools
import http.server
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

from smbd_server import (PASSWORD, PATIENCE, ROOT, Server, add_server_options, end_children, end_in_order, free_port,
                         samba_tree, start, stop, wait_for)

SOURCES = ROOT / "tests/dashboard"
DASHBOARD = ROOT / "contrib/smbdirect.grafana.json"
RULES = ROOT / "contrib/smbdirect.rules.yml"
WORK = ROOT / "target/dashboard"
# What the clients do, one thing after the other: a channel, the size of a request, the operations, and other options.
CLIENTS = [
    [("1", "1M", "write"), ("1", "1M", "read"), ("1", "64K", "write,read"), ("1", "1M", "read", "--seal")],
    [("0", "4K", "write,read"), ("2", "1M", "write"), ("0", "64K", "read"), ("1", "1M", "write", "--sign")],
]
# How many seconds a client does one of these, and how long the load lasts before the first picture.
ONE, LOAD = 12, 120
WIDTH, HEIGHT = 1600, 1420
# Finds texts that do not fit into their element.
CLIPPED = """[...document.querySelectorAll('[data-panel] *')]
    .filter((e) => getComputedStyle(e).overflow !== 'visible' && e.textContent &&
        (e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1))
    .map((e) => e.closest('[data-panel]').dataset.panel + ' cuts off ' + e.innerText)"""
# Each panel with a description has an icon.
DRAWN = "window.report?.every((p) => !p.description || document.querySelector(`[data-panel='${p.title}'] svg path`))"
HTML = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Dashboard</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="page.css"><style>
@font-face { font-family: Inter; font-weight: 400; src: url(public/fonts/inter/Inter-Regular.woff2); }
@font-face { font-family: Inter; font-weight: 500; src: url(public/fonts/inter/Inter-Medium.woff2); }
body { margin: 0; }
</style><div id="page"></div><script type="module" src="page.js"></script></html>
"""


def run(*command, **more):
    subprocess.run([str(part) for part in command], check=True, cwd=WORK, **more)


def build():
    """Compares the dashboard with the types of Grafana's schema, and returns the directory of the page."""
    print("-- building the page", flush=True)
    shutil.copytree(SOURCES, WORK, dirs_exist_ok=True)
    lock, installed = SOURCES / "package-lock.json", WORK / "installed.json"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        shutil.copy(lock, installed)
    (WORK / "dashboard.ts").write_text(f"import {{ check }} from './schema';\n\ncheck({DASHBOARD.read_text()});\n")
    run("npx", "tsc", "--project", ".")
    site, modules = WORK / "site", WORK / "node_modules"
    shutil.rmtree(site, ignore_errors=True)
    run("npx", "esbuild", "page.tsx", "--bundle", "--minify", "--format=esm", "--jsx=automatic", "--loader:.ttf=empty",
        '--define:process.env.NODE_ENV="production"', "--log-level=warning", "--outdir=site")
    fonts = site / "public/fonts/inter"
    fonts.mkdir(parents=True)
    for weight, name in (400, "Regular"), (500, "Medium"):
        shutil.copy(modules / f"@fontsource/inter/files/inter-latin-{weight}-normal.woff2", fonts / f"Inter-{name}.woff2")
    shutil.copytree(modules / "@grafana/ui/dist/public", site / "public/build")
    shutil.copy(DASHBOARD, site / "dashboard.json")
    (site / "index.html").write_text(HTML)
    return site


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def serve(site):
    """Serves the page, and returns its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


class Load:
    """Clients that read and write until the end of a `with` block."""

    def __init__(self, server):
        self.server, self.done, self.failed = server, threading.Event(), []
        self.threads = [threading.Thread(target=self.client, args=(work,)) for work in CLIENTS]

    def client(self, work):
        tcp, rdma = (f"127.0.0.1:{self.server.ports[name]}" for name in ("tcp", "rdma"))
        for channel, size, operations, *more in itertools.cycle(work):
            if self.done.is_set():
                break
            command = [self.server.programs / "smbdirectctl", "bench", f"//{tcp}/share", "-U", f"{self.server.user}%{PASSWORD}",
                       "--address", rdma, "--transport", "smbdirect", "--channel", channel, "--size", size, "--depth", "8",
                       "--operations", operations, "--rounds", "1", "--seconds", str(ONE // len(operations.split(","))),
                       "--file-size", "64M", *more]
            said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=ONE + 2 * PATIENCE)
            if said.returncode:
                self.failed.append(f"a client failed: {said}")

    def __enter__(self):
        for thread in self.threads:
            thread.start()

    def __exit__(self, *_):
        self.done.set()
        for thread in self.threads:
            thread.join()


class Prometheus:
    """A Prometheus that scrapes one device each second, under two names, as if there were two servers."""

    def __init__(self, root, port):
        self.instances = [f"127.0.0.1:{port}", f"localhost:{port}"]
        self.address = f"http://127.0.0.1:{free_port()}"
        config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [str(RULES)],
                  "scrape_configs": [{"job_name": "smbdirect", "static_configs": [{"targets": self.instances}]}]}
        (root / "prometheus.yml").write_text(json.dumps(config))
        run("promtool", "check", "config", root / "prometheus.yml")
        start(["prometheus", f"--config.file={root}/prometheus.yml", f"--storage.tsdb.path={root}/prometheus",
               f"--web.listen-address={self.address[7:]}"], open(root / "log/prometheus", "ab"))
        wait_for("Prometheus evaluates the alerts", self.evaluates)

    def rules(self):
        with urllib.request.urlopen(f"{self.address}/api/v1/rules", timeout=PATIENCE) as answer:
            return json.load(answer)["data"]["groups"][0]["rules"]

    def evaluates(self):
        try:
            return all(rule["health"] == "ok" for rule in self.rules())
        except (OSError, IndexError):
            return False

    def alerts(self):
        """Returns the names of those alerts whose expressions are true."""
        return {rule["name"] for rule in self.rules() if rule["state"] != "inactive"}


class Browser:
    """A Chromium with one page, which takes commands of the DevTools protocol through pipes."""

    def __init__(self, root):
        theirs, self.ours = os.pipe()
        answers, said = os.pipe()
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
                   f"--user-data-dir={root}/chromium", "--remote-debugging-pipe"]
        shell = ["sh", "-c", f'exec "$@" 3<&{theirs} 4>&{said}', "sh", *command]
        start(shell, open(root / "log/chromium", "ab"), pass_fds=(theirs, said))
        os.close(theirs)
        os.close(said)
        self.answers = os.fdopen(answers, "rb")
        self.number, self.session, self.errors = 0, {}, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in "Runtime", "Log", "Page":
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params, **self.session}
        os.write(self.ours, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(b"".join(iter(lambda: self.answers.read(1) or sys.exit("Chromium ended"), b"\0")))
            if answer.get("id") == self.number:
                return answer["result"]
            self.note(**answer)

    def note(self, method, params, **_):
        """Notes errors and warnings of the page, the console and the network."""
        if method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["exception"]["description"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(" ".join(str(value.get("value")) for value in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def evaluate(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def draw(self, url, picture):
        """Draws a dashboard, writes a picture of it, and returns what the page reports of its panels."""
        self.call("Page.navigate", url=url)
        wait_for("the page and its icons are drawn", lambda: self.evaluate(DRAWN) or self.errors)
        # Charts draw in the next frame.
        time.sleep(1)
        picture.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
        return self.evaluate("window.report") or []


def compare(panels, report):
    """Returns what is wrong with what the page has drawn."""
    drawn = {panel["title"] for panel in report}
    wrong = [f"{panel['title']} is not drawn" for panel in panels if panel["title"] not in drawn]
    for panel in report:
        title, series = panel["title"], panel["series"]
        wrong += [f"{title}: no data for {expression}" for expression in panel["empty"]]
        wrong += [f"{title}: a label is missing in {name!r}" for name in series if re.search(r"^\W|, *$|\(\)", name)]
        if len(series) != len(set(series)):
            wrong.append(f"{title}: two series have the same name: {series}")
    return wrong


def check(server, root, metrics):
    """Draws the dashboard, and returns what is wrong."""
    site, panels = build(), json.loads(DASHBOARD.read_text())["panels"]
    server.start()
    began = time.time()
    prometheus, browser, page, load = Prometheus(root, metrics), Browser(root), serve(site), Load(server)

    def draw(name, instances):
        query = [("prometheus", prometheus.address), ("scrape", "1s"), ("from", f"now-{int(time.time() - began)}s"),
                 *(("var-instance", instance) for instance in instances)]
        report = browser.draw(f"{page}?{urllib.parse.urlencode(query)}", WORK / f"{name}.png")
        print(f"-- {WORK / name}.png: {sum(len(panel['series']) for panel in report)} series in {len(report)} panels", flush=True)
        return report

    wrong = []
    with load:
        print(f"-- running the load for {LOAD} s", flush=True)
        time.sleep(LOAD)
        for name, instances in ("one", prometheus.instances[:1]), ("two", prometheus.instances):
            wrong += compare(panels, draw(name, instances)) + browser.evaluate(CLIPPED)
        text = subprocess.check_output([server.programs / "smbdirectctl", "metrics", "--control", server.control])
        run("promtool", "check", "metrics", input=text)
        wrong += [f"{alert} is on, although all is well" for alert in prometheus.alerts()]
    stop(server.processes["smbdirectd"])
    wait_for("an alert says that smbdirectd has ended", lambda: "SmbdirectDown" in prometheus.alerts())
    draw("ended", prometheus.instances[:1])
    for title in "The device answers", "smbd is attached":
        shown = browser.evaluate(f"document.querySelector('[data-panel={json.dumps(title)}]')?.innerText.split('\\n').pop()")
        wrong += [f"smbdirectd has ended, but {title!r} shows {shown!r}"] if shown != "no" else []
    return wrong + load.failed + browser.errors


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    add_server_options(parser)
    options = parser.parse_args()
    samba = samba_tree(options.samba, options.programs)
    end_in_order()
    root = pathlib.Path(tempfile.mkdtemp(prefix="smbdirect-dashboard.", dir="/dev/shm"))
    root.chmod(0o755)
    metrics = free_port()
    server = Server(root, samba, options.programs, {"share": []}, ["interfaces = lo", "bind interfaces only = yes"],
                    device=f'metrics.listen = "127.0.0.1:{metrics}"\n')
    try:
        wrong = check(server, root, metrics)
    except (RuntimeError, subprocess.SubprocessError) as error:
        wrong = [str(error)]
    finally:
        end_children()
        shutil.rmtree(root, ignore_errors=True)
    print(*wrong, sep="\n", file=sys.stderr, end="\n" if wrong else "")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
