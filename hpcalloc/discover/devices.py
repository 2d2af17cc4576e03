# SPDX-License-Identifier: BSD-3-Clause
"""GPUs and NICs: where they are on the machine, which of them a process may use, and their names.

Read from sysfs, from the I/O objects of an hwloc 2 XML file, or from a synthetic description; no driver's library is
loaded. Virtual functions, devices handed to a virtual machine, and displays of management processors are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..exceptions import PlanError, TopologyError, message
from .proc import read_text
from .topology import Topology, format_ids, parse_ids

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET

__all__ = [
    "KINDS",
    "SLURM",
    "VARIABLES",
    "Device",
    "choose",
    "devices_text",
    "environment_of",
    "given",
    "machine_devices",
    "parse_near",
    "places",
    "read_source",
    "visible",
]

KINDS = ("gpu", "nic")
_VENDORS = {"10de": "nvidia", "1002": "amd", "8086": "intel", "15b3": "mellanox", "17db": "cray", "14e4": "broadcom",
            "1af4": "virtio", "1d0f": "amazon"}  # fmt: skip
_GPU_CLASSES = ("0300", "0302", "0380", "1200")  # VGA, 3D, other display controllers, accelerators
_GPU_VENDORS = ("nvidia", "amd", "intel")
_NIC_CLASSES = ("0200", "0207")  # Ethernet and Slingshot, InfiniBand
_NOT_OURS = (
    "vfio-pci",
    "pci-stub",
    "xen-pciback",
)  # drivers that hand a device to a virtual machine or to user space

# By vendor: variables that restrict a program to some devices, the one that is set here first.
_VARIABLES = {
    "nvidia": ("CUDA_VISIBLE_DEVICES",),
    "amd": ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
    "intel": ("ZE_AFFINITY_MASK",),
}
VARIABLES = (*(name for names in _VARIABLES.values() for name in names), "UCX_NET_DEVICES")
SLURM = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")  # indices among all GPUs of the host


class Device(NamedTuple):
    """A GPU or a NIC.

    Attributes
    ----------
    kind : {"gpu", "nic"}
    vendor : str
        A name, or PCI's number where it has none here.
    name : str
        Such as ``gpu0``, ``mlx5_0``, ``hsn0``.
    address : str
        On PCI.
    nodes : tuple of int
        Nodes with CPUs that it is near to; empty: unknown.
    cpus : frozenset of int
        CPUs that it is near to, if the machine is more precise than a node.
    number : int
        Among the GPUs of its vendor, as its runtime counts them in PCI order.
    uuid : str
        Name that does not depend on which devices are visible; "" if it can't be read.
    fabric : str
        Of a NIC: "infiniband" (and RoCE), "cxi", "ethernet".
    tiles : int
        Of an Intel GPU.
    """

    kind: str
    vendor: str
    name: str
    address: str
    nodes: tuple[int, ...]
    cpus: frozenset[int] = frozenset()
    number: int = 0
    uuid: str = ""
    driver: str = ""
    fabric: str = ""
    tiles: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kind": self.kind,
            "vendor": self.vendor,
            "name": self.name,
            "address": self.address,
            "nodes": list(self.nodes),
            "cpus": format_ids(self.cpus),
            "uuid": self.uuid or None,
            "driver": self.driver or None,
            "fabric": self.fabric or None,
        }

    def distance(self, topology: Topology, nodes: Iterable[int]) -> int | None:
        """SLIT distance from the nearest of `nodes`; None if the device's nodes are unknown."""
        return min((topology.distance(a, b) for a in nodes for b in self.nodes), default=None)


def places(topology: Topology, devices: Iterable[Device], cpus: Iterable[int]) -> list[dict[str, Any]]:
    """Where devices are as seen from some CPUs; plain values for JSON."""
    owner = topology.node_of_cpu()
    mine = {owner[cpu] for cpu in cpus if cpu in owner}
    return [
        {"name": d.name, "address": d.address, "nodes": list(d.nodes), "distance": d.distance(topology, mine)}
        for d in devices
    ]


def devices_text(devices: Sequence[Device]) -> str:
    """Say which devices there are, for messages."""
    parts = []
    for kind in KINDS:
        some = [d for d in devices if d.kind == kind]
        names = ", ".join(f"{d.name} at {_nodes_text(d)}" for d in some[:16])
        parts.append(
            f"{len(some)} {kind}s" + (f" ({names}{', ...' if len(some) > 16 else ''})" if some else "")
        )
    return " and ".join(parts)


def _nodes_text(device: Device) -> str:
    return f"node {format_ids(device.nodes)}" if device.nodes else "no known node"


def _numbered(found: Iterable[Device]) -> tuple[Device, ...]:
    """Devices in the order of their addresses, GPUs numbered by vendor and named in all."""
    result: list[Device] = []
    count: dict[str, int] = {}
    gpus = 0
    for device in sorted(found, key=lambda d: (d.kind, _address_key(d.address), d.name)):
        if device.kind == "gpu":
            index = count.get(device.vendor, 0)
            count[device.vendor] = index + 1
            device = device._replace(number=index, name=f"gpu{gpus}")
            gpus += 1
        result.append(device)
    return tuple(result)


def _address_key(address: str) -> tuple[int, ...]:
    return tuple(int(part, 16) for part in re.split("[:.]", address) if part)


def _near(topology: Topology, node: int, cpus: frozenset[int]) -> tuple[int, ...]:
    """Nodes with CPUs that a device at `node`, or near `cpus`, is near to; none if that is all or nothing."""
    with_cpus = {n.id for n in topology.nodes if n.cpus}
    if node in with_cpus:
        return (node,)
    owner = topology.node_of_cpu()
    nodes = {owner[cpu] for cpu in cpus if cpu in owner}
    if nodes and (nodes < with_cpus or len(with_cpus) == 1):
        return tuple(sorted(nodes))
    if any(n.id == node for n in topology.nodes):  # memory only: that of the device itself, for instance
        return (min(with_cpus, key=lambda other: (topology.distance(other, node), other)),)
    return tuple(with_cpus) if len(with_cpus) == 1 else ()


# ---- this machine -----------------------------------------------------------------------------------------


def machine_devices(topology: Topology, root: str | os.PathLike[str] = "/") -> tuple[Device, ...]:
    """GPUs and NICs of the machine whose /sys and /proc lie under `root`."""
    base = os.fspath(root)
    bus = os.path.join(base, "sys/bus/pci/devices")
    found = []
    for address in _entries(bus):
        here = f"{bus}/{address}"
        kind = _kind(read_text(f"{here}/class").strip().removeprefix("0x")[:4], _vendor_at(here))
        driver = (
            os.path.basename(os.path.realpath(f"{here}/driver")) if os.path.exists(f"{here}/driver") else ""
        )
        if not kind or os.path.exists(f"{here}/physfn") or driver in _NOT_OURS:
            continue
        device = _machine_device(topology, base, here, address, kind)
        if device is not None:
            found.append(device._replace(driver=driver))
    return _renumbered_by_kfd(base, _numbered(found))


def _entries(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _vendor_at(here: str) -> str:
    number = read_text(f"{here}/vendor").strip().removeprefix("0x")
    return _VENDORS.get(number, number)


def _kind(number: str, vendor: str) -> str:
    if number in _GPU_CLASSES and vendor in _GPU_VENDORS:
        return "gpu"
    return "nic" if number in _NIC_CLASSES else ""


def _machine_device(topology: Topology, base: str, here: str, address: str, kind: str) -> Device | None:
    text = read_text(f"{here}/numa_node").strip()
    cpus = frozenset(parse_ids(read_text(f"{here}/local_cpulist")))
    nodes = _near(topology, int(text) if re.fullmatch("[0-9]{1,7}", text) else -1, cpus)
    vendor = _vendor_at(here)
    if kind == "nic":
        name, fabric = _nic_name(here)
        return Device(kind, vendor, name or address, address, nodes, cpus, fabric=fabric)
    uuid = ""
    if vendor == "nvidia":
        known = os.path.join(base, "proc/driver/nvidia/gpus")
        if os.path.isdir(known) and not os.path.isdir(f"{known}/{address}"):
            return None  # not this container's
        match = re.search(
            r"GPU UUID:\s*(GPU-[0-9a-fA-F-]{8,})\s*$", read_text(f"{known}/{address}/information"), re.M
        )
        uuid = match[1] if match else ""
    elif vendor == "amd":
        uuid = _amd_uuid(read_text(f"{here}/unique_id").strip())
    return Device(kind, vendor, address, address, nodes, cpus, uuid=uuid, tiles=_tiles(here))


def _amd_uuid(text: str) -> str:
    return (
        f"GPU-{int(text, 16):016x}" if re.fullmatch("(0x)?[0-9a-fA-F]{1,16}", text) and int(text, 16) else ""
    )


def _tiles(here: str) -> int:
    """Tiles of an Intel GPU, as the drivers xe and i915 show them."""
    xe = [name for name in _entries(here) if re.fullmatch("tile[0-9]+", name)]
    cards = [name for name in _entries(f"{here}/drm") if re.fullmatch("card[0-9]+", name)]
    i915 = [
        name for card in cards for name in _entries(f"{here}/drm/{card}/gt") if re.fullmatch("gt[0-9]+", name)
    ]
    return max(len(xe), len(i915), 1)


def _nic_name(here: str) -> tuple[str, str]:
    """Name of a NIC, and its fabric."""
    for kind in ("infiniband", "cxi"):
        names = _entries(f"{here}/{kind}")
        if names:
            return names[0], kind
    # That of virtio is one level down.
    inner = [here, *(f"{here}/{name}" for name in _entries(here) if re.fullmatch("virtio[0-9]+", name))]
    names = [name for directory in inner for name in _entries(f"{directory}/net")]
    return (names[0] if names else ""), "ethernet"


def _renumbered_by_kfd(base: str, devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """AMD's runtime counts the GPUs as its kernel driver lists them."""
    top = os.path.join(base, "sys/class/kfd/kfd/topology/nodes")
    order: dict[str, int] = {}
    for node in sorted((name for name in _entries(top) if name.isdigit()), key=int):
        facts = dict(
            line.split()[:2] for line in read_text(f"{top}/{node}/properties").splitlines() if " " in line
        )
        place = int(facts.get("location_id", "0"))
        if facts.get("simd_count", "0") != "0":
            domain = int(facts.get("domain", "0"))
            address = f"{domain:04x}:{place >> 8:02x}:{place >> 3 & 31:02x}.{place & 7:x}"
            order.setdefault(address, len(order))
    amd = [d for d in devices if d.vendor == "amd" and d.kind == "gpu"]
    if not order or any(d.address not in order for d in amd):
        return devices
    return tuple(d._replace(number=order[d.address]) if d in amd else d for d in devices)


# ---- files and descriptions -------------------------------------------------------------------------------


def read_source(text: str) -> tuple[Topology, tuple[Device, ...]]:
    """A machine and its devices: an hwloc 2 XML file, a file with a description, or a description.

    A description is a synthetic one, with words for devices behind it: ``gpu(amd):3,3,1,1 nic:0,1`` has four GPUs
    near nodes 3, 3, 1 and 1, and two NICs; ``0-1`` is near two nodes. In a file # begins a comment.

    Raises
    ------
    TopologyError
    """
    if os.path.isfile(text):
        try:
            with open(text, "rb") as file:
                head = file.read(4096)
        except OSError as error:
            raise TopologyError(
                message("Topology", f"{text!r}: {error.strerror}", "a readable file")
            ) from None
        if b"<" in head or len(head) == 4096:
            topology = Topology.from_hwloc_xml(text)
            return topology, _xml_devices(topology, text)
        lines = head.decode(errors="replace").splitlines()
        topology, devices = _described(" ".join(line.partition("#")[0] for line in lines))
        return _renamed(topology, text), devices
    if not re.search(_WORD, text):
        return Topology.from_source(text), ()
    return _described(text)


def _renamed(topology: Topology, source: str) -> Topology:
    import dataclasses

    return dataclasses.replace(topology, source=source)


_WORD = r"\b(gpu|nic)(?:\((\w+)\))?:(\S*)"
_FABRICS = ("ethernet", "infiniband", "cxi")
_MOST = 4096  # devices of a word


def _described(text: str) -> tuple[Topology, tuple[Device, ...]]:
    rest = " ".join(re.sub(_WORD, " ", text).split())
    topology = _renamed(Topology.from_synthetic(rest), " ".join(text.split()))
    known = {node.id for node in topology.nodes}
    found: list[Device] = []
    for word in re.finditer(_WORD, text):
        kind, what, lists = word[1], word[2], word[3].split(",")
        names = _GPU_VENDORS if kind == "gpu" else _FABRICS
        what = what or names[0]
        good = (
            what in names
            and len(lists) <= _MOST
            and all(re.fullmatch(r"\d{1,7}(-\d{1,7})?", p) for p in lists)
        )
        places = [parse_ids(part) for part in lists] if good else []
        if not good or not {node for place in places for node in place} <= known:
            limit = f"{kind}({'|'.join(names)}):NODES of {format_ids(known)}, such as {kind}:{min(known)},{max(known)}"
            raise TopologyError(message("Topology.from_synthetic", repr(word[0][:40]), limit, "correct it"))
        for place in places:
            number = len(found)
            address = f"0000:{number & 255:02x}:{number >> 8:02x}.0"
            near = tuple(dict.fromkeys(n for one in place for n in _near(topology, one, frozenset())))
            if kind == "gpu":
                found.append(Device(kind, what, address, address, near))
            else:
                index = sum(d.kind == "nic" for d in found)
                name = {"ethernet": "eth", "infiniband": "mlx5_", "cxi": "cxi"}[what]
                found.append(Device(kind, what, f"{name}{index}", address, near, fabric=what))
    return topology, _numbered(found)


def _xml_devices(topology: Topology, path: str) -> tuple[Device, ...]:
    """Devices of an XML file that `Topology` has read before."""
    import xml.etree.ElementTree as ET

    top = ET.parse(path).getroot().find("object")
    found: list[Device] = []
    if top is not None:
        _visit(topology, top, top, found)
    return _numbered(found)


def _visit(topology: Topology, item: ET.Element, around: ET.Element, found: list[Device]) -> None:
    if item.get("type") == "PCIDev":
        device = _xml_device(topology, item, around)
        if device is not None:
            found.append(device)
        return
    if item.get("cpuset"):
        around = item
    for child in item.findall("object"):
        _visit(topology, child, around, found)


def _xml_device(topology: Topology, item: ET.Element, around: ET.Element) -> Device | None:
    address = item.get("pci_busid", "")
    match = re.match(r"([0-9a-f]{4}) \[([0-9a-f]{4}):", item.get("pci_type", ""))
    if match is None or not re.fullmatch(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", address):
        return None
    vendor = _VENDORS.get(match[2], match[2])
    kind = _kind(match[1], vendor)
    if not kind:
        return None
    words = (around.get("cpuset") or "").split(",")
    bits = int("".join(f"{int(word.removeprefix('0x') or '0', 16):08x}" for word in words), 16)
    cpus = frozenset(place for place in range(bits.bit_length()) if bits >> place & 1)
    nodes = _near(topology, -1, cpus)
    inside = [o for o in item.iter("object") if o.get("type") == "OSDev"]
    infos = {i.get("name", ""): i.get("value", "") for o in inside for i in o.findall("info")}
    if kind == "gpu":
        uuid = infos.get("NVIDIAUUID", "") or _amd_uuid(infos.get("AMDUUID", ""))
        return Device(kind, vendor, address, address, nodes, cpus, uuid=uuid)
    openfabrics = [o.get("name", "") for o in inside if o.get("osdev_type") == "3"]
    names = [*openfabrics, *(o.get("name", "") for o in inside if o.get("osdev_type") == "2")]
    fabric = "cxi" if vendor == "cray" else "infiniband" if openfabrics or match[1] == "0207" else "ethernet"
    return Device(kind, vendor, names[0] if names else address, address, nodes, cpus, fabric=fabric)


# ---- which of them a process may use ------------------------------------------------------------------------


def parse_near(text: str, call: str = "init") -> tuple[str, ...]:
    """Read ``gpu``, ``nic``, or ``gpu,nic``: place ranks near the first; give them the nearest of the second too.

    Raises
    ------
    PlanError
        Anything else.
    """
    if text not in ("gpu", "nic", "gpu,nic"):
        raise PlanError(message(call, f"near={text!r}", "gpu, nic, or both as gpu,nic", "choose one"))
    return tuple(text.split(","))


def visible(devices: Sequence[Device], environ: Mapping[str, str]) -> tuple[tuple[Device, ...], str]:
    """GPUs that this environment leaves to a process, in its order, and the variable that does so; "": all."""
    told = _by_vendor(devices, environ)
    return tuple(d for some, _ in told for d in some), next((name for _, name in told if name), "")


def given(devices: Sequence[Device], environ: Mapping[str, str]) -> dict[str, tuple[Device, ...]]:
    """Devices that variables of this environment choose, by the variable."""
    nics = {word.strip().partition(":")[0] for word in environ.get("UCX_NET_DEVICES", "").split(",")}
    found = {name: tuple(some) for some, name in _by_vendor(devices, environ) if name and some}
    chosen = tuple(d for d in devices if d.kind == "nic" and d.name in nics)
    return found | ({"UCX_NET_DEVICES": chosen} if chosen else {})


def _by_vendor(devices: Sequence[Device], environ: Mapping[str, str]) -> list[tuple[list[Device], str]]:
    """The GPUs of each vendor that are left, and the variable that restricts them."""
    slurm, text = next(((name, environ[name]) for name in SLURM if environ.get(name)), ("", ""))
    by_job = parse_ids(text) if re.fullmatch(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", text) else ()
    result = []
    for vendor in dict.fromkeys(d.vendor for d in devices if d.kind == "gpu"):
        own = {d.number: d for d in devices if d.kind == "gpu" and d.vendor == vendor}
        left = [own[i] for i in by_job if i in own]
        told, names = list(own.values()), [name for name in _VARIABLES[vendor] if name in environ]
        for name in names[:2]:  # the second counts in what the first leaves
            if name == names[0] and _is_relative(environ[name], by_job):
                told = left
            told = _listed(environ[name], told, vendor, environ)
        if not names and left:
            told, names = left, [slurm]
        result.append((told, names[0] if names else ""))
    return result


def _is_relative(text: str, by_job: Sequence[int]) -> bool:
    """Whether indices count what Slurm left visible: with its device cgroup they begin at 0 again."""
    numbers = [int(word) for word in text.split(",") if word.strip().isdigit() and len(word) < 5]
    return bool(by_job and numbers) and not set(numbers) <= set(by_job) and max(numbers) < len(by_job)


def _listed(text: str, base: Sequence[Device], vendor: str, environ: Mapping[str, str]) -> list[Device]:
    """Devices of a list of indices and UUIDs, up to the first bad entry, as in the vendors' runtimes."""
    result: list[Device] = []
    for word in (part.strip() for part in text.split(",")):
        number = re.fullmatch(r"(\d{1,4})(\.\d{1,4})?", word)
        if number and vendor == "intel" and not number[2] and not _composite(environ):
            tiles = [device for device in base for _ in range(device.tiles)]
            some = tiles[int(number[1]) : int(number[1]) + 1]
        elif number:
            some = list(base[int(number[1]) : int(number[1]) + 1])
        else:
            some = [d for d in base if d.uuid and len(word) > 4 and d.uuid.lower().startswith(word.lower())]
        if not some:
            break
        result += [device for device in some[:1] if device not in result]
    return result


def _composite(environ: Mapping[str, str]) -> bool:
    return environ.get("ZE_FLAT_DEVICE_HIERARCHY", "").upper() == "COMPOSITE"


def choose(
    call: str, devices: Sequence[Device], kind: str, environ: Mapping[str, str]
) -> tuple[tuple[Device, ...], str]:
    """Devices of a kind to place ranks near to, and the variable that leaves only these; "": none does.

    Of NICs, those of a fabric are taken before Ethernet.

    Raises
    ------
    PlanError
        There are none.
    """
    if kind == "gpu":
        found, variable = visible(devices, environ)
    else:
        nics = tuple(d for d in devices if d.kind == "nic")
        found = tuple(d for d in nics if d.fabric != "ethernet") or nics
        variable = ""
    if not found:
        what = f"{variable}={environ.get(variable, '')!r} leaves no GPU" if variable else f"no {kind} is here"
        others = ", ".join(k for k in KINDS if any(d.kind == k for d in devices))
        raise PlanError(
            message(
                call,
                f"near={kind!r}: {what}",
                f"the machine has {devices_text(devices)}",
                f"unset {variable}"
                if variable
                else f"near {others}, or leave it out"
                if others
                else "leave it out",
            )
        )
    return found, variable


def environment_of(
    devices: Sequence[Device], environ: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Variables that show a program these devices alone, by names that stay; and those that are set already and stay."""
    result: dict[str, str] = {}
    kept: dict[str, str] = {}
    for vendor, names in _VARIABLES.items():
        gpus = [d for d in devices if d.kind == "gpu" and d.vendor == vendor]
        present = {name: environ[name] for name in names if name in environ}
        if not gpus or present:
            kept |= present if gpus else {}
            continue
        uuids = [d.uuid for d in gpus]
        if all(uuids) and len(set(uuids)) == len(uuids):
            result[names[0]] = ",".join(uuids)
            continue
        result[names[0]] = ",".join(map(str, _indices(gpus, environ)))
        order = {
            "nvidia": ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
            "intel": ("ZE_ENABLE_PCI_ID_DEVICE_ORDER", "1"),
        }
        if vendor in order:
            name, value = order[vendor]
            (kept if name in environ else result)[name] = environ.get(name, value)
    # Slingshot has no UCX.
    nics = [d for d in devices if d.kind == "nic" and d.fabric in ("infiniband", "ethernet")]
    if nics and "UCX_NET_DEVICES" in environ:
        kept["UCX_NET_DEVICES"] = environ["UCX_NET_DEVICES"]
    elif nics:
        result["UCX_NET_DEVICES"] = ",".join(
            f"{d.name}:1" if d.fabric == "infiniband" else d.name for d in nics
        )
    return result, kept


def _indices(gpus: Sequence[Device], environ: Mapping[str, str]) -> list[int]:
    """Indices of GPUs, of their tiles where the runtime counts those."""
    if _composite(environ) or all(d.tiles == 1 for d in gpus):
        return [d.number for d in gpus]
    return [d.number * d.tiles + tile for d in gpus for tile in range(d.tiles)]  # tiles of equal cards
