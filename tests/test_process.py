import json
import subprocess
import sys

SCRIPT = """
import json, os, resource, sys
from rekeyd.system import process
process.settle()
made = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o666)
told = {
    "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "mode": oct(os.fstat(made).st_mode & 0o777),
    "made": made,
    "turn": sys.getswitchinterval(),
    "inheritable": [os.get_inheritable(descriptor) for descriptor in range(3)],
}
os.write(int(sys.argv[2]), json.dumps(told).encode())
"""


def settled(path: str, descriptor: int, **streams: int) -> dict[str, object]:
    command = [sys.executable, "-c", SCRIPT, path, str(descriptor)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, timeout=20)
    told: dict[str, object] = json.loads(done.stdout)
    return told


def test_no_core_private_files_and_as_many_descriptors_as_allowed(tmp_path: object) -> None:
    told = settled(f"{tmp_path}/made", 1)
    assert told["core"] == 0
    assert told["turn"] == 0.001
    assert told["mode"] == "0o600"
    assert isinstance(told["files"], list)
    assert told["files"][0] == told["files"][1]


def test_a_closed_standard_descriptor_is_not_given_to_somebody_else(tmp_path: object) -> None:
    shell = f"exec '{sys.executable}' -c '{SCRIPT}' '{tmp_path}/made' 9 9>&1 0<&- 1>&- 2>&-"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, check=True, timeout=20)
    told = json.loads(done.stdout)
    assert told["made"] > 2
    assert told["inheritable"] == [True, True, True]


def test_what_is_kept_for_good_is_left_alone_by_the_collector() -> None:
    script = """
import gc
from rekeyd.system import process
before = len(gc.get_objects())
process.keep_for_good()
assert gc.get_freeze_count() > before / 2
assert len(gc.get_objects()) < before / 2
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=20)
