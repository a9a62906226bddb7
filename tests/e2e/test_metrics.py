"""`GET /metrics` of the running system."""

import re
import shutil
import subprocess
import urllib.request

import pytest

from tests.e2e.stack import Stack
from tests.support.load import Load, plain
from tests.support.metrics import documented

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]


def test_a_running_gateway_tells_what_is_documented_and_nothing_else(stack: Stack) -> None:
    with Load(plain(stack.address)) as load:
        load.wait_for(20)
    url = f"http://{stack.admin}/metrics?slices=false"
    with urllib.request.urlopen(url) as answer:
        text = answer.read().decode()
    assert set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) == documented()
    program = shutil.which("promtool")
    assert program, "promtool checks the metrics: `apt-get install prometheus`"
    done = subprocess.run(
        [program, "check", "metrics"], check=False, capture_output=True, text=True, input=text
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
