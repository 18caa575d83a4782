"""The file for Locust, run by Locust."""

import csv
import os
import subprocess
import sys

from bench.load.mix import OPERATIONS

PATIENT = ("--set", "server.read_timeout_s=25", "--set", "server.write_timeout_s=25")


def test_users_of_locust_see_no_failure(serve, data_dir, root, tmp_path):
    """A few seconds of a few users: every request is one of the mix and is answered as it should be, however late."""
    service = serve(data_dir(), *PATIENT).wait_until_ready()
    words = ["-f", "bench/load/locustfile.py", "--headless", "--only-summary", "--exit-code-on-error", "1"]
    words += ["--host", service.url, "--users", "8", "--spawn-rate", "8", "--run-time", "4s", "--stop-timeout", "30"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "locust", *words, "--csv", tmp_path / "told"],
        check=False,
        capture_output=True,
        text=True,
        cwd=root,
        env=environment | {"PYTHONPATH": os.fspath(root), "MEMFAST_API_KEY": ""},
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "told_stats.csv").open(newline="") as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    everything = rows.pop("Aggregated")
    assert {"search", "remember"} <= rows.keys() <= OPERATIONS.keys()
    assert int(everything["Request Count"]) >= 16
    assert int(everything["Failure Count"]) == 0
