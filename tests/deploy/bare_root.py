"""Follows a Dockerfile without Docker: every instruction, in order, in directories that start as a bare Debian.

What a Docker engine adds is not here: layers, networks, limits. Needs root and debootstrap.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template

from dockerfile_parse import DockerfileParser

RELEASE = "bookworm"
"""What `FROM debian:12…-slim` is, as debootstrap makes it."""
IGNORED = shutil.ignore_patterns("__pycache__", "*.so")
"""As .dockerignore has it."""


@dataclass(frozen=True)
class Instruction:
    """One of a stage."""

    name: str
    value: str


@dataclass(frozen=True)
class Image:
    """A stage carried out: a root directory, and how its command is to be run."""

    root: Path
    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    workdir: str = "/"
    user: str = "0:0"
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    entrypoint: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()

    def inside(self, command: Sequence[str], env: Mapping[str, str], mounts: Sequence[str] = ()) -> list[str]:
        """The command line that runs `command` in there; `mounts`: shell lines that are run before, outside."""
        root = shlex.quote(str(self.root))
        enter = [f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev", *mounts]
        chroot = ["chroot", f"--userspec={self.user}", str(self.root), "/usr/bin/env", "-i", f"--chdir={self.workdir}"]
        words = [*chroot, *(f"{name}={value}" for name, value in {**self.env, **env}.items()), *command]
        return ["unshare", "--mount", "/bin/sh", "-ec", "\n".join([*enter, 'exec "$@"']), "sh", *words]

    def read_only(self, writable: Sequence[str]) -> list[str]:
        """Mounts that leave only these directories, and an empty /tmp, to be written."""
        root = shlex.quote(str(self.root))
        mounts = [f"mount --rbind {root} {root}"]
        mounts += [f"mount --bind {root}{path} {root}{path}" for path in writable]
        return [*mounts, f"mount -o remount,bind,ro {root}", f"mount -t tmpfs tmpfs {root}/tmp"]


class Build:
    """Carries out the stages that a target needs."""

    def __init__(self, dockerfile: Path, directory: Path, arguments: Mapping[str, str], env: Mapping[str, str]) -> None:
        """`arguments`: build arguments; `env`: set while RUN runs; local paths in it are copied into the first root."""
        self._context = dockerfile.parent
        self._directory = directory
        self._arguments = arguments
        self._local = {name: Path(value) for name, value in env.items() if Path(value).is_absolute()}
        self._env = {name: f"/{name}" if name in self._local else value for name, value in env.items()}
        self._stages = dict(_stages(dockerfile))
        self._done: dict[str, Image] = {}

    def image(self, stage: str) -> Image:
        """The stage's, made if it is not there yet."""
        if stage not in self._stages:
            return Image(self._bare())
        if stage not in self._done:
            base, instructions = self._stages[stage]
            self._done[stage] = self._carry_out(stage, self.image(base), instructions)
        return self._done[stage]

    def _bare(self) -> Path:
        root = self._directory / "bare"
        if not root.exists():
            subprocess.run(["debootstrap", "--variant=minbase", RELEASE, root], check=True, stdout=subprocess.DEVNULL)
            shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
            for name, path in self._local.items():
                (shutil.copytree if path.is_dir() else shutil.copy)(path, root / name)
        return root

    def _carry_out(self, stage: str, base: Image, instructions: Sequence[Instruction]) -> Image:
        root = self._directory / stage
        subprocess.run(["cp", "-a", "--reflink=auto", base.root, root], check=True)
        image, known = replace(base, root=root), dict(base.env)
        for instruction in instructions:
            image = self._step(image, instruction, known)
        return image

    def _step(self, image: Image, instruction: Instruction, known: dict[str, str]) -> Image:
        """`known`: arguments and variables; those of ARG are added to it."""
        value = instruction.value
        match instruction.name:
            case "ARG":
                name, _, default = value.partition("=")
                known[name] = self._arguments.get(name, "".join(shlex.split(default)))
            case "RUN":
                _run(value, image.inside([*image.shell, value], {**self._env, **known, **image.env}))
            case "COPY":
                self._copy(image, shlex.split(value))
            case _:
                return _described(image, instruction)
        return image

    def _copy(self, image: Image, words: list[str]) -> None:
        source = self._context
        if words[0].startswith("--from="):
            source = self.image(words.pop(0).removeprefix("--from=")).root
        *names, to = words
        target = image.root / os.path.join(image.workdir, to).lstrip("/")
        for name in names:
            path = source / name.lstrip("/")
            if path.is_dir():
                shutil.copytree(path, target, symlinks=True, ignore=IGNORED if source == self._context else None)
            else:
                shutil.copy(path, target)


def _described(image: Image, instruction: Instruction) -> Image:
    """After an instruction that says how the image is run."""
    value = instruction.value
    match instruction.name:
        case "ENV":
            words = [Template(word).safe_substitute(image.env) for word in shlex.split(value)]
            return replace(image, env={**image.env, **dict(word.split("=", 1) for word in words)})
        case "SHELL" | "ENTRYPOINT":
            return replace(image, **{instruction.name.lower(): tuple(json.loads(value))})
        case "HEALTHCHECK":
            return replace(image, health=tuple(json.loads(value.partition("CMD ")[2])))
        case "USER":
            return replace(image, user=value)
        case "WORKDIR":
            (image.root / value.lstrip("/")).mkdir(exist_ok=True)
            return replace(image, workdir=value)
        case "VOLUME":
            return replace(image, volumes=(*image.volumes, value))
        case "EXPOSE" | "STOPSIGNAL":
            return image
    raise NotImplementedError(instruction.name)


def _run(what: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{what}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def _stages(dockerfile: Path) -> Iterator[tuple[str, tuple[str, list[Instruction]]]]:
    """(name, (base, instructions)) in the order of the file."""
    parser = DockerfileParser(fileobj=io.BytesIO(dockerfile.read_bytes()))
    name, base, instructions = "", "", list[Instruction]()
    for one in parser.structure:
        if one["instruction"] == "FROM":
            if name:
                yield name, (base, instructions)
            base, name = re.split(r"\s+AS\s+", one["value"], flags=re.IGNORECASE)
            instructions = []
        elif name and one["instruction"] != "COMMENT":
            instructions.append(Instruction(one["instruction"], one["value"]))
    yield name, (base, instructions)
