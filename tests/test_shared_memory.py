"""Memory and semaphores that decoding processes share: what isn't there is a sentence, what is left goes."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import environment

from cbmir.errors import WorkerError
from cbmir.ingest.semaphores import remove_left
from cbmir.ingest.shared import SharedPixels, available_bytes

pytestmark = pytest.mark.slow

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/shm and /proc")


def test_shared_pixels__too_many_are_a_sentence():
    with pytest.raises(WorkerError, match=r"decoding processes need [\d.,]+ TiB of memory .* give fewer --workers"):
        SharedPixels(1000, (1 << 20, 1 << 20), "f4")


def test_shared_pixels__all_their_memory_is_taken_at_once():
    shared = SharedPixels(4, (1 << 20,), "u1")
    assert os.fstat(shared._descriptor).st_blocks * 512 >= 4 << 20


def test_shared_pixels__a_limit_is_a_sentence():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(WorkerError, match=r"need 4\.0 MiB of memory .* File too large; give fewer"):
            SharedPixels(4, (1 << 20,), "u1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


FULL = """
import os, sys, tempfile
if hasattr(os, "memfd_create"):
    del os.memfd_create  # as on macOS
tempfile.tempdir = sys.argv[1]
from cbmir.errors import WorkerError
from cbmir.ingest.shared import SharedPixels
try:
    SharedPixels(4, (1 << 20,), "u1")[0][:] = 1
except WorkerError as error:
    print(error)
"""


@LINUX
def test_shared_pixels__a_full_file_system_is_a_sentence(tmp_path):
    mounted = 'mount -t tmpfs -o size=1m none "$1" && exec "$2" -c "$3" "$1"'
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, "sh", str(tmp_path), sys.executable, FULL]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("this user may not mount a small file system")
    assert done.returncode == 0, done.stderr  # and no SIGBUS
    assert "No space left on device; give fewer --workers" in done.stdout


def test_available_bytes__the_smaller_of_machine_and_container(tmp_path):
    proc, control = tmp_path / "proc", tmp_path / "cgroup"
    assert available_bytes(proc, control) is None
    proc.mkdir()
    (proc / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:  500 kB\n")
    assert available_bytes(proc, control) == 500 * 1024
    control.mkdir()
    for name, value in {"max": "300000", "current": "250000", "stat": "anon 1\ninactive_file 40000\n"}.items():
        (control / f"memory.{name}").write_text(value)
    assert available_bytes(proc, control) == 90_000
    (control / "memory.max").write_text("max\n")  # without a limit
    assert available_bytes(proc, control) == 500 * 1024


MAKER = """
import multiprocessing, os, sys
from cbmir.ingest.semaphores import marked
context = multiprocessing.get_context("spawn")
with marked():
    lock = context.Lock()
print(lock._semlock.name, flush=True)
sys.stdin.read()
os._exit(0)
"""


@LINUX
def test_remove_left__only_those_of_processes_that_are_gone():
    with subprocess.Popen(
        [sys.executable, "-c", MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        start_new_session=True,
    ) as process:  # fmt: skip
        path = Path("/dev/shm") / f"sem.{process.stdout.readline().strip().removeprefix('/')}"
        assert path.exists()
        remove_left()
        assert path.exists()  # its process lives
        os.killpg(process.pid, signal.SIGKILL)  # the resource tracker, too
        process.wait()
    assert path.exists()
    assert remove_left() >= 1
    assert not path.exists()


@LINUX
def test_remove_left__leaves_those_of_others(tmp_path):
    space = Path("/proc/self/ns/pid").stat().st_ino
    kept = [
        "sem.mp-abcdefgh",  # of any Python program
        "sem.cbmir-1-999999999-5-abcdefgh",  # of another container
        f"sem.cbmir-{space}-{os.getpid()}-x-abcdefgh",
        "sem.other",
    ]
    gone = [f"sem.cbmir-{space}-999999999-5-abcdefgh", f"sem.cbmir-{space}-{os.getpid()}-1-abcdefgh"]
    for name in (*kept, *gone):
        (tmp_path / name).touch()
    assert remove_left(tmp_path) == len(gone)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    assert remove_left(tmp_path / "nothing") == 0


@LINUX
def test_marked__ends_with_the_block():
    script = (
        "import multiprocessing\n"
        "from cbmir.ingest.semaphores import marked\n"
        "context = multiprocessing.get_context('spawn')\n"
        "with marked():\n    ours = context.Lock()\n"
        "print(ours._semlock.name, context.Lock()._semlock.name)"
    )  # a process of its own: joblib, which other tests import, names semaphores in its own way
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ours, theirs = done.stdout.split()
    assert ours.startswith("/cbmir-")
    assert theirs.startswith("/mp-")
