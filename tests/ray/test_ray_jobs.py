"""A real jobs server: every script of jobs/ submitted to it, `artgen restore --address http://...`, and the numbers of a run
at the metrics port."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from artgen.commands.restore import restore
from artgen.config import RestoreConfig
from artgen.console import Console
from artgen.engines import ray_cluster
from artgen.engines.ray_jobs import command_line
from artgen.errors import UsageError
from tests import pictures
from tests.runs import ARTGEN, environment, rows, shas

# A quarter of a minute a job on an idle machine: each starts Python, and the actors of its own.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))


@dataclass(frozen=True)
class Head:
    """The addresses of a cluster: its own, its jobs server's, and where its numbers are told."""

    address: str
    jobs: str
    metrics: str


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    metrics, dashboard = free_port(), free_port()
    path = os.environ["PATH"]  # the `python` of a job is the first on the nodes' PATH
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}"
    context = ray.init(
        address="local", num_cpus=3, include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=dashboard,
        _metrics_export_port=metrics, object_store_memory=ray_cluster.STORE_BYTES, log_to_driver=False,
    )  # fmt: skip
    os.environ["PATH"] = path
    _wait_for_agent(f"http://{context.address_info['webui_url']}")
    yield Head(
        context.address_info["gcs_address"],
        f"http://{context.address_info['webui_url']}",
        f"http://127.0.0.1:{metrics}/metrics",
    )
    ray.shutdown()


def _wait_for_agent(jobs: str) -> None:
    """`ray job submit` gives up at once while the head's agent is still starting."""
    client, end = JobSubmissionClient(jobs), time.monotonic() + 120
    while True:
        try:
            client.submit_job(entrypoint="true")
        except RuntimeError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
        else:
            return


def outside() -> dict[str, str]:
    """The environment of a user's shell: Ray's variables of this process are not in it."""
    return {key: value for key, value in environment().items() if not key.startswith("RAY_ADDRESS")}


def arguments(script: str, folder: Path) -> list[str]:
    """A smallest use of each script; one that is not known here must at least say what it takes."""
    source = pictures.write_folder(folder / "in", {f"{n}.png": pictures.png(pictures.picture(n)) for n in range(4)})
    small = ["steps=2", "patch_px=32", "batch_images=2", "holdout=0"]
    small_gan = ["images=16", "batch_images=4", "shards=2", "metric_images=4", "height=28", "width=28"]
    return {
        "restore": [str(source), str(folder / "out"), "--engine", "ray", "--unit-images", "2", "--workers", "1"],
        "generate": ["default", str(folder / "out"), "--seeds", "0-3", "--engine", "ray", "--workers", "1"],
        "train_restorer": [str(source), str(folder / "run"), *(word for text in small for word in ("--set", text))],
        "train_gan": [str(source), str(folder / "run"), *(word for text in small_gan for word in ("--set", text))],
        "evaluate": ["restorer", "identity", str(source), "--damage", "noise=25", "--no-peers", "--images", "1"],
    }.get(script, ["--help"])


@pytest.mark.parametrize(
    "script", [pytest.param(name, marks=pytest.mark.long) if name.startswith("train") else name for name in SCRIPTS]
)
def test_every_script_is_submitted_with_the_working_folder(head: Head, tmp_path: Path, script: str) -> None:
    command = [
        *(
            str(Path(sys.executable).with_name("ray")),
            "job",
            "submit",
            "--address",
            head.jobs,
            "--working-dir",
            str(ROOT),
        ),
        *("--", "python", f"jobs/{script}.py", *arguments(script, tmp_path)),
    ]
    result = subprocess.run(command, capture_output=True, text=True, env=outside(), timeout=400, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert "succeeded" in result.stdout
    if script in ("restore", "generate"):
        assert len(rows(tmp_path / "out")) == 4
    if script.startswith("train"):
        assert (tmp_path / "run" / "model.safetensors").is_file()


def submission(head: Head) -> list[str]:
    return [*ARTGEN, *f"restore in out --address {head.jobs} --unit-images 2 --workers 1".split()]


def test_restore_at_the_address_of_a_jobs_server(head: Head, tmp_path: Path) -> None:
    contents = {**pictures.files(3), "broken.png": b"\x89PNG\r\n\x1a\nno more"}
    source = pictures.write_folder(tmp_path / "in", contents)
    result = subprocess.run(
        [*submission(head), "--to", "png", "--to", "parquet", "--json"], cwd=tmp_path, capture_output=True,
        text=True, env=outside(), timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 3, result.stderr
    assert '"status": "FAILED"' in result.stdout, "what Ray calls it; the exit code says that images failed"
    assert "3 images restored, 1 failed" in result.stderr, "its log was followed"
    config = RestoreConfig(input=str(source), output=str(tmp_path / "local"), engine="local")
    assert restore(config, Console(quiet=True)) == 3
    assert shas(tmp_path / "out") == shas(tmp_path / "local")


def slow_job(head: Head, folder: Path, *flags: str) -> subprocess.Popen[str]:
    made = [pictures.png(pictures.picture(n, 300, 200)) for n in range(10)]
    pictures.write_folder(folder / "in", {f"{n:03d}.png": made[n % 10] for n in range(150)})
    return subprocess.Popen(
        [*submission(head), *flags], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=outside(), start_new_session=True,
    )  # fmt: skip


def wait_for_parts(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while len(list(folder.glob("out/manifest/*.parquet"))) < count and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


@pytest.mark.parametrize(("flag", "status"), [("stop", JobStatus.STOPPED), ("detach", JobStatus.RUNNING)])
def test_interrupt_stops_the_job_or_leaves_it(head: Head, tmp_path: Path, flag: str, status: JobStatus) -> None:
    process = slow_job(head, tmp_path, "--on-interrupt", flag)
    wait_for_parts(tmp_path, 2, process)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    (job,) = set(re.findall(r"raysubmit_\w+", out))
    client = JobSubmissionClient(head.jobs)
    assert client.get_job_status(job) == status
    client.stop_job(job)
    while client.get_job_status(job) == JobStatus.RUNNING:
        time.sleep(0.2)
    done = len(rows(tmp_path / "out"))
    assert 4 <= done < 150


def test_detach_returns_at_once_and_metrics_tell_how_far_it_is(head: Head, tmp_path: Path) -> None:
    before = set(samples(head))  # Ray goes on telling numbers of earlier jobs
    process = slow_job(head, tmp_path, "--detach")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    (job,) = set(re.findall(r"raysubmit_\w+", out))
    client = JobSubmissionClient(head.jobs)
    assert client.get_job_status(job) in (JobStatus.PENDING, JobStatus.RUNNING)
    deadline = time.monotonic() + 200
    told: dict[str, float] = {}
    while told.get("ray_artgen_images_done_total", 0) < 4 and time.monotonic() < deadline:
        told = numbers(head, before)
        time.sleep(0.5)
    client.stop_job(job)
    done = told["ray_artgen_images_done_total"]
    assert done >= 4
    # One unit of two may be counted in one number and not yet in the other.
    assert told["ray_artgen_megapixels_total"] / 0.06 == pytest.approx(done, abs=2.01)
    assert 0 < told["ray_artgen_device_busy_share"] <= 1
    assert 0 <= told["ray_artgen_images_remaining"] <= 150
    assert told["ray_artgen_images_per_second"] > 0
    assert told["ray_artgen_seconds_left"] >= 0


def numbers(head: Head, before: Collection[tuple[str, str]] = ()) -> dict[str, float]:
    """Sums over the samples of our counters, the largest of a gauge, by name; samples labelled as one of `before` are left out."""
    found: dict[str, float] = {}
    for (name, labels), value in samples(head).items():
        if (name, labels) not in before:
            known = found.get(name, 0.0)
            found[name] = known + value if name.endswith("_total") else max(known, value)
    return found


def samples(head: Head) -> dict[tuple[str, str], float]:
    """What the node tells of our numbers, by name and labels; a process of a job has labels of its own."""
    try:
        text = urllib.request.urlopen(head.metrics, timeout=30).read().decode()
    except OSError:  # the node's agent is late, as on a busy machine
        return {}
    told = re.findall(r"^(ray_artgen_\w+)\{([^}]*)\} (\S+)", text, re.MULTILINE)
    return {(name, labels): float(value) for name, labels, value in told}


def test_the_command_of_a_job_gives_the_same_settings_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = RestoreConfig(input="in put", output="s3://b/out", to=("png", "parquet"), overlap=16, keep_unmasked=True,
                           masks="m", address="http://h:8265")  # fmt: skip
    assert command_line(["restore"], config) == (
        f"cd / && python -m artgen restore '{tmp_path}/in put' s3://b/out --engine ray --set to=png,parquet "
        f"--set masks={tmp_path}/m --set keep_unmasked=true --set overlap=16"
    )
    for bad in (
        RestoreConfig(input="a", output="b", storage_options={"secret": "hush"}),
        RestoreConfig(input="s3://id:hush@bucket/x", output="b"),
    ):
        with pytest.raises(UsageError, match="everybody on the cluster") as caught:
            command_line(["restore"], bad)
        assert "hush" not in str(caught.value)


def test_certificate_and_key_are_named_to_a_job_as_other_places_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie where the machines of the cluster see them too; the key itself never goes along."""
    monkeypatch.chdir(tmp_path)
    config = RestoreConfig(input="s3://b/in", output="s3://b/out", c2pa="keys/cert.pem,s3://b/key.pem")
    assert command_line(["restore"], config) == (
        f"cd / && python -m artgen restore s3://b/in s3://b/out --engine ray --set c2pa={tmp_path}/keys/cert.pem,s3://b/key.pem"
    )
    signed = RestoreConfig(input="a", output="b", c2pa="cert.pem,https://store/key.pem?signature=hush")
    with pytest.raises(UsageError, match=r"c2pa https://store/key\.pem was given with credentials") as caught:
        command_line(["restore"], signed)
    assert "hush" not in str(caught.value)


def test_no_jobs_server_is_a_usage_error(tmp_path: Path) -> None:
    pictures.write_folder(tmp_path / "in", pictures.files(1))
    command = [*ARTGEN, "restore", "in", "out", "--address", "http://127.0.0.1:9"]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=outside(), timeout=100, check=False
    )
    assert result.returncode == 2
    assert "no Ray jobs server answers" in result.stderr
    assert "Traceback" not in result.stderr
