"""What a container is started with: its image, environment, volumes, command and working folder, on this machine.

Nothing is mounted here. A volume is a local folder, and where a container's command, arguments, environment or working
folder name its mountPath, they get the folder's path instead. Host names of headless Services become 127.0.0.1.
"""

import base64
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from tests.cluster.client import Client
from tests.cluster.errors import ApiError
from tests.cluster.kinds import CONFIG_MAPS, SECRETS, SERVICES, Kind
from tests.cluster.objects import Object, dig, name_of, namespace_of, quantity, uid_of


class NotReadyYet(Exception):
    """What a container needs is not there; the kubelet says so and tries again."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


@dataclass(frozen=True, slots=True)
class Image:
    """What an image's name stands for on this machine."""

    bin: Path = Path(sys.executable).parent
    """The folder of its programs; the system's come after it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()


def find_image(images: Mapping[str, Image], name: str) -> Image | None:
    """The image with this name, or with a pattern such as `local/*` that it fits."""
    return next((image for pattern, image in images.items() if fnmatch(name, pattern)), None)


@dataclass(frozen=True, slots=True)
class Launch:
    """A container as a local process."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    folder: Path
    message_file: Path


class PodSetup:
    """The folders of one pod, and what its containers find in them."""

    def __init__(self, client: Client, pod: Object, root: Path) -> None:
        self._client, self._pod, self._root = client, pod, root
        self._folder = root / "pods" / uid_of(pod)
        self._volumes: dict[str, Path] = {}

    async def prepare_volumes(self) -> dict[str, Path]:
        for volume in dig(self._pod, "spec.volumes", []):
            self._volumes[volume["name"]] = await self._volume(volume)
        return self._volumes

    async def launch(self, container: Object, image: Image) -> Launch:
        message_file = self._folder / f"{container['name']}-termination-log"
        folder = self._folder / container["name"]
        folder.mkdir(parents=True, exist_ok=True)
        paths = self._mounts(container)
        if message_path := container.get("terminationMessagePath"):
            paths[message_path] = message_file
        local = Localizer(paths, await self._headless_services())
        values = await self._environment(container)
        environment = {name: local.text(value) for name, value in values.items()}
        environment = _basics(self._pod, image, folder) | environment
        command = container.get("command") or list(image.entrypoint)
        argv = [local.text(_expand(word, environment)) for word in [*command, *(container.get("args") or [])]]
        wanted = Path(local.text(container.get("workingDir") or str(folder)))
        return Launch(tuple(argv), environment, wanted if wanted.is_dir() else folder, message_file)

    async def _volume(self, volume: Object) -> Path:
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        folder: Path = self._folder / "volumes" / volume["name"]
        if claim := dig(volume, "persistentVolumeClaim.claimName"):
            folder = self._root / "claims" / namespace_of(self._pod) / claim
        folder.mkdir(parents=True, exist_ok=True)
        for field_name, kind, key in (("configMap", CONFIG_MAPS, "name"), ("secret", SECRETS, "secretName")):
            if source := volume.get(field_name):
                await self._write_files(folder, kind, source[key], source)
        return folder

    async def _write_files(self, folder: Path, kind: Kind, name: str, source: Object) -> None:
        data = await self._data(kind, name, "FailedMount", optional=bool(source.get("optional")))
        items = {item["key"]: item["path"] for item in source.get("items") or []}
        for key, path in (items or {key: key for key in data}).items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(data[key], encoding="utf-8")

    def _mounts(self, container: Object) -> dict[str, Path]:
        mounts = container.get("volumeMounts") or []
        for mount in mounts:
            if mount["name"] not in self._volumes:
                raise NotReadyYet("CreateContainerConfigError", f"volume {mount['name']!r} is not a volume of the pod")
        return {m["mountPath"].rstrip("/"): self._volumes[m["name"]] / m.get("subPath", "") for m in mounts}

    async def _headless_services(self) -> list[str]:
        services = await self._client.informer(SERVICES)
        mine = [s for s in services.items.values() if namespace_of(s) == namespace_of(self._pod)]
        return [name_of(s) for s in mine if dig(s, "spec.clusterIP") == "None"]

    async def _environment(self, container: Object) -> dict[str, str]:
        values: dict[str, str] = {}
        for source in container.get("envFrom") or []:
            for field_name, kind in (("configMapRef", CONFIG_MAPS), ("secretRef", SECRETS)):
                if reference := source.get(field_name):
                    data = await self._referenced(kind, reference)
                    values |= {source.get("prefix", "") + key: value for key, value in data.items()}
        for entry in container.get("env") or []:
            if (value := await self._value(entry, container)) is not None:
                values[entry["name"]] = _expand(value, values)
        return values

    async def _value(self, entry: Object, container: Object) -> str | None:
        source = entry.get("valueFrom") or {}
        if path := dig(source, "fieldRef.fieldPath"):
            return field_of(self._pod, path)
        if reference := source.get("resourceFieldRef"):
            amount = quantity(dig(container, f"resources.{reference['resource']}", 0))
            return str(math.ceil(amount / quantity(reference.get("divisor", 1))))
        for field_name, kind in (("configMapKeyRef", CONFIG_MAPS), ("secretKeyRef", SECRETS)):
            if reference := source.get(field_name):
                return await self._keyed(kind, reference)
        return str(entry.get("value") or "")

    async def _keyed(self, kind: Kind, reference: Object) -> str | None:
        data = await self._referenced(kind, reference)
        if reference["key"] not in data and not reference.get("optional"):
            where = f"{kind.name} {namespace_of(self._pod)}/{reference['name']}"
            raise NotReadyYet("CreateContainerConfigError", f"couldn't find key {reference['key']} in {where}")
        return data.get(reference["key"])

    async def _referenced(self, kind: Kind, reference: Object) -> dict[str, str]:
        optional = bool(reference.get("optional"))
        return await self._data(kind, reference["name"], "CreateContainerConfigError", optional=optional)

    async def _data(self, kind: Kind, name: str, reason: str, *, optional: bool) -> dict[str, str]:
        """The contents of a config map or a secret, decoded."""
        try:
            found = await self._client.get(kind, namespace_of(self._pod), name)
        except ApiError as error:
            if error.code != 404:
                raise NotReadyYet(reason, error.message) from error
            if optional:
                return {}
            raise NotReadyYet(reason, f'{kind.name.lower()} "{name}" not found') from error
        data = {key: str(value) for key, value in dig(found, "data", {}).items()}
        if kind == SECRETS:
            data = {key: base64.b64decode(value).decode() for key, value in data.items()}
        strings: dict[str, str] = dig(found, "stringData", {})
        return data | strings


class Localizer:
    """Puts local paths and addresses where a container's texts name those of its pod."""

    def __init__(self, paths: Mapping[str, Path], services: list[str]) -> None:
        self._paths = {path: str(local) for path, local in paths.items() if path != str(local)}
        longest_first = sorted(map(re.escape, self._paths), key=len, reverse=True)
        self._mounted = re.compile(rf"(?<![\w./-])({'|'.join(longest_first)})(?![\w.-])") if longest_first else None
        names = "|".join(map(re.escape, services))
        host = rf"(?<![\w.-])[\w-]+\.({names})(\.[\w-]+(\.svc(\.cluster\.local)?)?)?(?![\w-])"
        self._host = re.compile(host) if services else None

    def text(self, text: str) -> str:
        if self._mounted:
            text = self._mounted.sub(lambda found: self._paths[found[1]], text)
        return self._host.sub("127.0.0.1", text) if self._host else text


def field_of(pod: Object, path: str) -> str:
    """The value of a fieldRef, such as `metadata.labels['app']`."""
    if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str(dig(pod, f"metadata.{found[1]}", {}).get(found[2], ""))
    addresses = {"status.podIP": "127.0.0.1", "status.hostIP": "127.0.0.1"}
    return addresses.get(path) or str(dig(pod, path, ""))


def _basics(pod: Object, image: Image, folder: Path) -> dict[str, str]:
    """What a process finds in any container; nothing of this machine's own environment but the place of programs."""
    hostname = dig(pod, "spec.hostname") or name_of(pod)
    path = f"{image.bin}:/usr/local/bin:/usr/bin:/bin"
    return {"PATH": path, "HOME": str(folder), "HOSTNAME": hostname, **image.environment}


def _expand(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` as Kubernetes expands it: unknown names stay, `$$(NAME)` is an escape."""
    pattern = re.compile(r"\$\$|\$\(([A-Za-z_][\w.-]*)\)")
    return pattern.sub(lambda found: "$" if found[0] == "$$" else values.get(found[1], found[0]), text)
