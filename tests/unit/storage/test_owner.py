from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from artgen.storage import atomic, lease, owner
from artgen.storage import uri as uris

GONE = 2**22 + 5  # no process has such a number


def test_machines_of_one_name_are_two_and_so_are_two_starts_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    here = owner.this_host()
    assert owner.this_host() == here
    assert owner.is_gone(here, GONE)
    assert not owner.is_gone(here, os.getpid())
    monkeypatch.setattr(owner, "_boot", lambda: "9e1c7a30-another-machine-or-start")
    assert owner.this_host() != here
    assert not owner.is_gone(here, GONE)


def test_files_of_another_machine_of_this_name_stay_until_they_are_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{atomic.PREFIX}{owner.this_host()}-{GONE}-{n:016x}.tmp" for n in range(2)]
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    os.utime(tmp_path / names[0], (time.time() - 25 * 3600,) * 2)
    monkeypatch.setattr(owner, "_boot", lambda: "another")
    assert atomic.sweep(str(tmp_path)) == 1
    assert [path.name for path in tmp_path.iterdir()] == names[1:]
    monkeypatch.undo()
    assert atomic.sweep(str(tmp_path)) == 1


@pytest.mark.parametrize("same", [True, False])
def test_a_lease_of_a_dead_process_is_free_at_once_on_its_own_machine_only(
    monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    folder = f"memory://owner-{same}/_artgen"
    facts = {"host": owner.this_host(), "machine": "m", "pid": GONE, "token": "t", "renewed": 0, "ended": False}
    atomic.write(uris.join(folder, "lock-000001"), json.dumps(facts).encode())
    monkeypatch.setattr(lease, "POLL_S", 0.02)
    monkeypatch.setattr(lease, "LEASE_S", 2.0)
    if not same:
        monkeypatch.setattr(owner, "_boot", lambda: "another")
    begun = time.monotonic()
    with lease.hold(folder, "lock", lambda _: None):
        assert (time.monotonic() - begun < 1.5) == same
        assert uris.names(folder) == ["lock-000002"]
