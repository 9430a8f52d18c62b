"""S3 that throttles, resets, truncates and stalls; two drivers on one OUTPUT; secrets that must stay where they are."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.retries.standard import ExponentialBackoff

from artgen.errors import StorageError
from artgen.records import Source
from artgen.storage import atomic, lease
from artgen.storage import uri as uris
from artgen.storage.archive import Reader
from artgen.work import plan as plans
from artgen.work.unit import Publish
from tests import pictures
from tests.generators import write_run
from tests.proxy import FAULTS, FaultyProxy
from tests.runs import ARTGEN, artgen_here, environment
from tests.s3 import S3Server, s3_bucket, s3_server, serve

__all__ = ["s3_bucket", "s3_server"]
FLAGS = ("--model", "identity", "--unit-images", "2", "--workers", "2")
CONTENTS = pictures.files(10)


def put_all(server: S3Server, prefix: str, contents: dict[str, bytes]) -> None:
    for name, data in contents.items():
        atomic.write(f"{prefix}/{name}", data, server.options)


def objects(server: S3Server, prefix: str) -> dict[str, bytes]:
    fs, path = uris.filesystem(prefix, server.options)
    return {name.removeprefix(f"{path}/"): fs.cat_file(name) for name in fs.find(path)}


def outputs(server: S3Server, prefix: str) -> dict[str, bytes]:
    folders = ("images/", "shards/", "parquet/")
    return {name: data for name, data in objects(server, prefix).items() if name.startswith(folders)}


def keys(server: S3Server, prefix: str) -> list[str]:
    found = objects(server, f"{prefix}/manifest")
    return sorted(key for data in found.values() for key in pq.read_table(pa.BufferReader(data))["key"].to_pylist())


def through(server: S3Server, proxy: FaultyProxy, read_timeout_s: float = 1.0) -> str:
    options = {**server.options, "endpoint_url": proxy.endpoint, "config_kwargs": {"read_timeout": read_timeout_s}}
    return json.dumps(options)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many attempts as ever; botocore's pauses between them are a tenth as long."""
    pause = ExponentialBackoff.delay_amount
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: pause(self, context) / 10)


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("share", [pytest.param(0.1, marks=pytest.mark.long), 0.3])
def test_restore_through_a_bad_network_ends_with_the_same_bytes(
    hurried: None, s3_server: S3Server, s3_bucket: str, share: float
) -> None:
    """Bounded: 180 s for some hundred requests, of which every third may cost a stall of 2 s."""
    put_all(s3_server, f"{s3_bucket}/in", CONTENTS)
    flags = (*FLAGS, "--to", "png", "--to", "webdataset")
    straight = json.dumps(s3_server.options)
    clean = artgen_here("restore", f"{s3_bucket}/in", f"{s3_bucket}/clean", *flags, "--storage-options", straight)
    assert clean.returncode == 0, clean.stderr
    began = time.monotonic()
    with FaultyProxy(s3_server.endpoint, share, seed=int(share * 10), stall_s=2.0) as proxy:
        bad = through(s3_server, proxy)
        result = artgen_here("restore", f"{s3_bucket}/in", f"{s3_bucket}/out", *flags, "--storage-options", bad)
        took_s = time.monotonic() - began
        met = {fault: proxy.counts[fault] for fault in FAULTS}
    assert result.returncode == 0, result.stderr
    assert all(met.values()), f"every kind of fault must have been met: {met}"
    assert took_s < 180
    assert outputs(s3_server, f"{s3_bucket}/out") == outputs(s3_server, f"{s3_bucket}/clean")
    assert keys(s3_server, f"{s3_bucket}/out") == sorted(CONTENTS)
    assert not [name for name in objects(s3_server, f"{s3_bucket}/out") if atomic.PREFIX in name]


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_generate_through_a_bad_network_ends_with_the_same_bytes(
    hurried: None, s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    """Bounded as for restore."""
    run = ("generate", write_run(tmp_path / "model"))
    flags = ("--seeds", "0-23", "--unit-images", "8", "--workers", "2", "--to", "png", "--to", "webdataset")
    straight = json.dumps(s3_server.options)
    clean = artgen_here(*run, f"{s3_bucket}/clean", *flags, "--storage-options", straight)
    assert clean.returncode == 0, clean.stderr
    began = time.monotonic()
    with FaultyProxy(s3_server.endpoint, 0.3, seed=5, stall_s=2.0) as proxy:
        bad = through(s3_server, proxy)
        result = artgen_here(*run, f"{s3_bucket}/out", *flags, "--storage-options", bad)
        assert sum(proxy.counts[fault] for fault in FAULTS) > 10
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - began < 180
    assert outputs(s3_server, f"{s3_bucket}/out") == outputs(s3_server, f"{s3_bucket}/clean")
    assert keys(s3_server, f"{s3_bucket}/out") == keys(s3_server, f"{s3_bucket}/clean")


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_server_that_is_killed_and_comes_back_costs_at_most_the_same_command(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with serve(tmp_path / "server") as server:
        bucket = server.bucket()
        put_all(server, f"{bucket}/in", CONTENTS)
        flags = (*FLAGS, "--to", "png", "--to", "webdataset", "--storage-options", json.dumps(server.options))
        clean = artgen_here("restore", f"{bucket}/in", f"{bucket}/clean", *flags)
        assert clean.returncode == 0, clean.stderr
        run = [*ARTGEN, "restore", f"{bucket}/in", f"{bucket}/out", *flags]
        driver = subprocess.Popen(run, stderr=subprocess.PIPE, text=True, env=environment())
        while not uris.names(f"{bucket}/out/manifest", server.options) and driver.poll() is None:
            time.sleep(0.02)
        server.kill()
        time.sleep(1)
        server.start()
        said = driver.communicate(timeout=200)[1]
        assert driver.returncode in (0, 1), said
        if driver.returncode == 1:
            assert "the same command" in said
            again = artgen_here(*run[len(ARTGEN) :])
            assert again.returncode == 0, again.stderr
        assert outputs(server, f"{bucket}/out") == outputs(server, f"{bucket}/clean")
        assert keys(server, f"{bucket}/out") == sorted(CONTENTS)
        assert not [name for name in objects(server, f"{bucket}/out") if atomic.PREFIX in name]


def test_a_store_that_only_throttles_ends_the_run_in_bounded_time(s3_server: S3Server, s3_bucket: str) -> None:
    put_all(s3_server, f"{s3_bucket}/in", {"a.png": b"picture"})
    began = time.monotonic()
    with FaultyProxy(s3_server.endpoint, 0.0) as proxy:
        options = json.loads(through(s3_server, proxy)) | {"config_kwargs": {"retries": {"max_attempts": 0}}}
        with Reader(options) as reader:
            source = Source("a.png", f"{s3_bucket}/in/a.png", "file", 0, 7)
            assert reader.read(source) == b"picture"
            proxy.share = 1.0
            with pytest.raises(StorageError, match="the same command resumes"):
                reader.read(source)
    assert time.monotonic() - began < 60
    assert sum(proxy.counts.values()) >= uris.ATTEMPTS


def test_a_plan_that_cannot_be_read_is_no_fault_of_an_image(s3_server: S3Server, s3_bucket: str) -> None:
    """An actor lays any other error to the images of the unit, and would record them as failed in the end."""
    put_all(s3_server, f"{s3_bucket}/in", CONTENTS)
    options = s3_server.options
    flags = (*FLAGS, "--storage-options", json.dumps(options))
    assert artgen_here("restore", f"{s3_bucket}/in", f"{s3_bucket}/out", *flags).returncode == 0
    plan = plans.current(f"{s3_bucket}/out", options)
    assert plan is not None
    reader, refs = plans.PlanReader(plan.folder, options), list(plan.refs())
    uris.remove(f"{plan.folder}/units-00000.parquet", options)
    with pytest.raises(StorageError, match="the same command resumes"):
        reader.load(refs[0])


def test_large_objects_go_up_in_parts_and_come_back_by_ranges(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    made: list[str] = []
    send = s3fs.S3FileSystem._call_s3

    async def counted(self, method, *args, **kwargs):
        made.append(method)
        return await send(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    monkeypatch.setattr(atomic, "_PART_BYTES", 6 << 20)
    data = bytes(range(256)) * (20 << 12)  # 20 MiB
    with atomic.open_for_commit(f"{s3_bucket}/big.bin", s3_server.options) as file:
        file.write(data)
    assert made.count("upload_part") == 4
    assert "put_object" not in made
    made.clear()
    assert uris.read_or_none(f"{s3_bucket}/big.bin", s3_server.options) == data
    assert made == ["get_object"]
    with Reader(s3_server.options) as reader:
        part = Source("m", f"{s3_bucket}/big.bin", "tar", 300, 1000)
        assert reader.read(part) == data[300:1300]


def test_two_drivers_on_one_bucket_end_with_one_row_for_each_key(s3_server: S3Server, s3_bucket: str) -> None:
    """The second waits for the first, whether it finds a plan of the same listing or, as here, of a smaller one."""
    put_all(s3_server, f"{s3_bucket}/in", CONTENTS)
    env = environment() | s3_server.environment
    command = [*ARTGEN, "restore", f"{s3_bucket}/in", f"{s3_bucket}/out", *FLAGS, "--json"]
    drivers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        for _ in range(2)
    ]
    said = [driver.communicate(timeout=200) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    done = sorted(json.loads(out)["run"]["images"] for out, _ in said)
    assert done == [0, len(CONTENTS)]
    assert keys(s3_server, f"{s3_bucket}/out") == sorted(CONTENTS)
    locks = [name for name in uris.names(f"{s3_bucket}/out/_artgen", s3_server.options) if name.startswith("lock")]
    assert locks == ["lock-000002"]


def test_a_lease_passes_on_when_its_holder_ends_or_is_lost(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 2.0)
    monkeypatch.setattr(lease, "RENEW_S", 0.3)
    monkeypatch.setattr(lease, "POLL_S", 0.1)
    folder, options = f"{s3_bucket}/out/_artgen", s3_server.options
    held, said = [], []

    def second() -> None:
        with lease.hold(folder, "lock", said.append, options):
            held.append(time.monotonic())

    with lease.hold(folder, "lock", said.append, options):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(4.0)
        assert held == [], "a lease that is renewed is not taken, however long it is held"
    thread.join(20)
    assert len(held) == 1
    assert len(said) == 1
    assert "is at work on" in said[0]
    # A holder on another machine that died: its lease says nothing more, and is taken after LEASE_S.
    (name,) = uris.names(folder, options)
    lost = {"host": "elsewhere", "machine": "m", "pid": 1, "token": "t", "renewed": 3, "ended": False}
    atomic.write(f"{folder}/{name}", json.dumps(lost).encode(), options)
    began = time.monotonic()
    with lease.hold(folder, "lock", said.append, options):
        assert 1.5 < time.monotonic() - began < 20
    assert uris.names(folder, options) == ["lock-000003"]


def test_only_one_of_many_gets_a_lease(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "POLL_S", 0.05)
    inside, most = [], []

    def driver() -> None:
        with lease.hold(f"{s3_bucket}/x", "lock", lambda _: None, s3_server.options):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.1)
            inside.pop()

    threads = [threading.Thread(target=driver) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 5


def test_credentials_are_nowhere_in_what_a_run_leaves_or_says(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    contents = {**pictures.files(3), "bad.png": b"\x89PNG\r\n\x1a\nno"}
    put_all(s3_server, f"{s3_bucket}/in", contents)
    options = json.dumps(s3_server.options)
    said = []
    for flags in ((), ("--dry-run",), ("--retry-failed", "--json")):
        result = artgen_here(
            "restore", f"{s3_bucket}/in", f"{s3_bucket}/out", *FLAGS, "--storage-options", options, *flags
        )
        assert result.returncode in (0, 3), result.stderr
        said.append(result.stdout + result.stderr)
    wrong = json.dumps({**s3_server.options, "secret": "wrong-but-secret"})
    refused = artgen_here("restore", f"{s3_bucket}/in", f"{s3_bucket}/new", *FLAGS, "--storage-options", wrong)
    assert refused.returncode == 2
    said += [refused.stderr, artgen_here("status", f"{s3_bucket}/out", "--storage-options", options).stdout]
    left = objects(s3_server, f"{s3_bucket}/out")
    assert {"report.html", "_artgen/run.json"} <= set(left)
    for data in left.values():
        assert s3_server.secret.encode() not in data
    for name in (name for name in left if name.endswith(".parquet")):
        assert s3_server.secret not in str(pq.read_table(pa.BufferReader(left[name])).to_pylist())
    assert s3_server.secret not in "".join(said)
    assert "wrong-but-secret" not in "".join(said)
    assert s3_server.secret not in repr(Publish("s3://out", ("png",), options=s3_server.options))
