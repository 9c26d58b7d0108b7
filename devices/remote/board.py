"""A board as a function: a stage with its inputs goes there, its result comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from devices.agent_config import decode, encode
from devices.agent_job import Job, require_device, require_input_name
from devices.agent_stage import ReplayJob
from devices.bench_job import BenchJob
from devices.bundle import open_bundle
from devices.detect import Host, matches
from devices.fleet import BoardConfig
from devices.profile import Profile
from devices.remote.clock import BoardClock
from devices.remote.link import Link
from devices.remote.result import BoardFacts, BoardResult
from devices.remote.ssh import LostError
from devices.remote.transfer import download, list_inputs, upload
from devices.stage import Progress, no_progress
from devices.trust.store import Trust
from devices.zipapp import agent_zipapp

AnswerT = TypeVar("AnswerT")
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 10.0
_MAX_LOSSES = 3
"""So often in a row may a connection be lost without a byte sent: a stage that stops the board would do so again."""


def say_nothing(text: str) -> None:
    """For callers who do not listen."""


class Board:
    """A board at the other end of ssh. Use it as a context: its end ends all that runs there.

    A connection that is lost is made again, and what was on its way goes on where it stopped.
    """

    def __init__(
        self, config: BoardConfig, profile: Profile, force: bool = False, say: Callable[[str], None] = say_nothing
    ) -> None:
        """`say` is told in a few words what the board does that takes long: waits, and lost connections."""
        self.config = config
        self.profile = profile
        self._force = force
        self._say = say
        self._agent = agent_zipapp()
        self._link: Link | None = None
        self._boot = ""

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and what runs on the board for it."""
        if self._link is not None:
            self._link.close()
        self._link = None

    def detect(self) -> BoardFacts:
        """What the board is. Raises `DeviceError`, `LostError` when it cannot be reached."""
        return self._persist(self._detect)

    def check(self) -> BoardFacts:
        """The same. Raises `DeviceError` too when it is not the profile's device, unless forced."""
        facts = self.detect()
        self._require_device(facts)
        return facts

    def run_stage(
        self,
        stage: str,
        config: object | None,
        inputs: Mapping[str, Path],
        out: Path,
        progress: Progress = no_progress,
        longer_s: float = 0.0,
        profile: Profile | None = None,
    ) -> BoardResult:
        """Run a stage of `devices.agent_stage` on the board: its config, a dataclass, and folders go there.

        What it writes comes to `out`. `longer_s` is time that was asked for, and is no sign that the stage hangs;
        `profile` is the board's with other options of its engine.
        Raises what the stage raises, naming the board; `DeviceError` when the board is not the profile's device, unless
        forced, and when the stage takes longer than the board's `limit_s`; `LostError` when the connection cannot be
        made again; `StorageError` on a full disk, there or here.
        """
        for name in inputs:
            require_input_name(name, "inputs")
        listed = list_inputs(inputs)
        job = Job(stage=stage, config=encode(config) if config is not None else {}, device=profile or self.profile)
        content = {**encode(replace(job, force=self._force)), "inputs": listed}

        def attempt(link: Link) -> BoardResult:
            # Before anything is sent.
            self._require_device(self._detect(link))
            link.request("lock", {}, self._waiting)
            upload(link, inputs, listed, progress)
            ask = {"job": content, "limit_s": self.config.limit_s + longer_s}
            answer = link.request("stage", ask, lambda event: progress(*event["progress"]))
            result = answer["result"]
            files = {name: (str(digest), int(size)) for name, (digest, size) in result["files"].items()}
            out.mkdir(parents=True, exist_ok=True)
            download(link, answer["job"], files, out, progress)
            link.request("delivered", {"job": answer["job"]})
            link.request("unlock")
            return BoardResult(
                folder=out,
                metrics=result["metrics"],
                host=decode(Host, result["host"], f"{link.where}: host"),
                clock=BoardClock.of(link.offset_s, result["clock"]["set_by_s"]),
                seconds=float(result["seconds"]),
                other_device=bool(result["other_device"]),
                reused=bool(answer["reused"]),
            )

        return self._persist(attempt)

    def bench(
        self, bundle: Path, out: Path, job: BenchJob, against: Path | None = None, progress: Progress = no_progress
    ) -> BoardResult:
        """Measure the engine of a deploy bundle on the board, beside that of another. Raises as `run_stage`, and
        `BundleError`."""
        inputs = {"bundle": bundle} | ({"against": against} if against else {})
        for folder in inputs.values():
            # Here first: a bundle that does not verify goes nowhere.
            open_bundle(folder, "deploy", job.trust)
        result = self.run_stage("bench", job, inputs, out, progress, job.lasts_s)
        return replace(result, metrics={**result.metrics, "bundle": str(bundle)})

    def attack(
        self,
        bundle: Path,
        evidence: Path,
        out: Path,
        trust: Trust,
        queries: int = 0,
        progress: Progress = no_progress,
    ) -> BoardResult:
        """Replay an evidence bundle through the bundle's engine on the board, then ask it. Raises as `bench`."""
        open_bundle(bundle, "deploy", trust)
        open_bundle(evidence, "evidence", trust)
        config = ReplayJob(trust=trust, queries=queries)
        result = self.run_stage("replay", config, {"bundle": bundle, "evidence": evidence}, out, progress)
        return replace(result, metrics={**result.metrics, "bundle": str(bundle), "evidence": str(evidence)})

    def clean(self) -> dict[str, Any]:
        """Remove the cache folder from the board: nothing stays. Raises `StorageError` while another uses it."""
        answer: dict[str, Any] = self._persist(lambda link: link.request("clean"))
        self.close()
        return answer

    def _detect(self, link: Link) -> BoardFacts:
        answer = link.request("detect")
        host = decode(Host, answer["host"], f"{link.where}: host")
        return BoardFacts(
            host=host,
            fingerprint=str(answer["fingerprint"]),
            libraries=tuple(answer["libraries"]),
            matches=matches(self.profile, host),
            clock=BoardClock.of(link.offset_s, 0.0),
            free_bytes=int(link.facts["free_bytes"]),
            cache=str(link.facts["cache"]),
        )

    def _require_device(self, facts: BoardFacts) -> None:
        job = Job(stage="", device=self.profile, force=self._force)
        require_device(job, facts.matches, facts.host.device_tree_model or facts.host.cpu_model)

    def _waiting(self, event: Mapping[str, Any]) -> None:
        self._say(f"board '{self.config.name}': waiting for {event.get('waiting')!s:.80}, who measures there")

    def _persist(self, attempt: Callable[[Link], AnswerT]) -> AnswerT:
        """Do it, over a new connection when one is lost. The first connection is tried once."""
        losses = 0
        while True:
            link = self._connected()
            moved = link.moved_bytes
            try:
                return attempt(link)
            except LostError as lost:
                losses = 1 if link.moved_bytes > moved else losses + 1
                self.close()
                if losses >= _MAX_LOSSES:
                    raise
                self._reconnect(lost)
            except BaseException:
                # Whatever was half said, the next attempt begins anew, and others may measure meanwhile.
                self.close()
                raise

    def _connected(self) -> Link:
        if self._link is None:
            self._link = Link(self.config, self._agent)
            boot = str(self._link.facts.get("boot", ""))
            if self._boot not in ("", boot):
                self._say(f"board '{self.config.name}': it was started anew meanwhile")
            self._boot = boot
        return self._link

    def _reconnect(self, lost: LostError) -> None:
        """Connect again within the board's time. Raises the last reason why not."""
        until = time.monotonic() + self.config.reconnect_s
        pause_s = _FIRST_PAUSE_S
        while time.monotonic() + pause_s < until:
            self._say(f"{lost.where}: {lost.what}; trying again")
            time.sleep(pause_s)
            try:
                self._connected()
            except LostError as again:
                lost, pause_s = again, min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                return
        raise lost
