# SPDX-License-Identifier: BSD-3-Clause
"""Ranks near devices: which devices each rank gets, and on which nodes it is. Pure functions.

If there are at least as many ranks as devices, each rank has one device, and ranks are spread evenly over devices. If
there are fewer, each rank has several devices that are near each other. A rank is on the node of its device. If that
node has no room, the rank goes to the nearest node that has: a rank needs one core, or one for each of its threads if
their number is given. Ranks are numbered by node, as without devices.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..discover.devices import SLURM, Device, choose
from ..discover.topology import Topology, format_ids

__all__ = ["Near", "Seat", "closest", "describe", "near_of", "nearest", "seats"]


class Near(NamedTuple):
    """Devices to be near to.

    Attributes
    ----------
    devices : tuple of Device
        In PCI order.
    of_rank : tuple of tuple of Device
        The device that each rank has already; empty: the planner chooses.
    also : tuple of Device
        Further devices, of which each rank gets the nearest.
    """

    devices: tuple[Device, ...]
    of_rank: tuple[tuple[Device, ...], ...] = ()
    also: tuple[Device, ...] = ()


class Seat(NamedTuple):
    """Where a rank is: nodes of its cores, its devices, and the reason."""

    nodes: tuple[int, ...]
    devices: tuple[Device, ...]
    note: str = ""


def near_of(
    call: str,
    devices: Sequence[Device],
    kinds: Sequence[str],
    environs: Sequence[Mapping[str, str]],
    count: int,
) -> Near:
    """Devices that these environments, one per rank or one for all, leave to `count` ranks; PlanError without any.

    If the user has set a list of devices, it stays; programs take the device of their local rank from it.
    """
    choices = [choose(call, devices, kinds[0], environ) for environ in environs]
    also = choose(call, devices, kinds[1], {})[0] if len(kinds) > 1 else ()
    (first, variable), *others = choices
    if any(choice != (first, variable) for choice in others):
        each = tuple((found[i % len(found)],) for i, (found, _) in enumerate(choices))
        return Near(tuple(dict.fromkeys(d for found, _ in choices for d in found)), each, also)
    if not variable or variable in SLURM or count == 1:
        return Near(first, (), also)
    return Near(first, tuple((first[i % len(first)],) for i in range(count)), also)


def seats(topology: Topology, room: Mapping[int, int], near: Near, count: int) -> list[Seat]:
    """Seat `count` ranks on nodes that have room for so many each."""
    home = {node.id: (node.package, node.id) for node in topology.nodes}
    places = {device: _places(topology, device, room) for device in dict.fromkeys(_all(near))}
    ordered = sorted(
        near.devices, key=lambda d: (home[places[d][0]], min(d.cpus, default=-1), near.devices.index(d))
    )
    if near.of_rank:
        return _with_room(topology, room, [_seat(devices, places) for devices in near.of_rank], home)
    if count < len(ordered):
        cuts = [i * len(ordered) // count for i in range(count + 1)]
        return [_seat(ordered[a:b], places) for a, b in itertools.pairwise(cuts)]
    used = dict.fromkeys(room, 0)
    taken: list[Seat] = []

    def emptiest(device: Device) -> tuple[float, tuple[int, int], int]:
        return min((used[node] / room[node], home[node], node) for node in places[device])

    # All devices in turn; if the last turn is not for all, it is for those of the emptiest nodes.
    waiting: list[Device] = []
    for left in range(count, 0, -1):
        waiting = waiting or list(ordered)
        device = waiting[0] if left >= len(waiting) else min(waiting, key=emptiest)
        waiting.remove(device)
        node = emptiest(device)[2]
        used[node] += 1
        taken.append(Seat((node,), (device,)))
    for node in sorted({n for device in ordered for n in places[device] if used[n] == 0}):
        # A device near it has fewer ranks than nodes.
        near_it = [i for i, seat in enumerate(taken) if node in places[seat.devices[0]]]
        i = min(near_it, key=lambda i: len(taken[i].nodes))
        taken[i] = taken[i]._replace(nodes=tuple(sorted((*taken[i].nodes, node))))
    taken = _with_room(topology, room, taken, home)
    place = {device: i for i, device in enumerate(ordered)}
    return sorted(taken, key=lambda seat: (home[seat.nodes[0]], place[seat.devices[0]]))


def _all(near: Near) -> list[Device]:
    return [*near.devices, *(device for devices in near.of_rank for device in devices)]


def _places(topology: Topology, device: Device, room: Mapping[int, int]) -> tuple[int, ...]:
    """Nodes with usable cores near a device; all if the machine does not say where it is."""
    near = tuple(node for node in device.nodes if node in room)
    if near or not device.nodes:
        return near or tuple(sorted(room))
    return (min(room, key=lambda node: (device.distance(topology, (node,)) or 0, node)),)


def _seat(devices: Sequence[Device], places: Mapping[Device, tuple[int, ...]]) -> Seat:
    """A rank on the nodes of its devices."""
    return Seat(tuple(sorted({node for device in devices for node in places[device]})), tuple(devices))


def _with_room(
    topology: Topology, room: Mapping[int, int], taken: list[Seat], home: Mapping[int, tuple[int, int]]
) -> list[Seat]:
    """Move the ranks for which their node has no room to the nearest node that has."""
    used = dict.fromkeys(room, 0)
    for seat in taken:
        for node in seat.nodes:
            used[node] += 1
    free = {node: room[node] - used[node] for node in room}
    result = list(taken)
    for i in reversed(range(len(taken))):
        here = taken[i].nodes[0]
        if len(taken[i].nodes) > 1 or free[here] >= 0:
            continue
        open_nodes = [node for node in free if free[node] > 0]
        if not open_nodes:
            break
        there = min(
            open_nodes,
            key=lambda node: (topology.distance(node, here), home[node][0] != home[here][0], home[node]),
        )
        free[here] += 1
        free[there] -= 1
        note = f"node {here} has no room for more than {room[here]}: node {there} is the nearest that has"
        result[i] = Seat((there,), taken[i].devices, note)
    return result


def nearest(topology: Topology, near: Near, nodes: Sequence[Sequence[int]]) -> list[tuple[Device, ...]]:
    """Devices for ranks that stay on their `nodes`: the nearest, of these the one with the fewest ranks."""
    if near.of_rank:
        return list(near.of_rank)
    users = dict.fromkeys(near.devices, 0)
    fair = -(-len(nodes) // len(users))  # ranks of a device, at most
    result: list[tuple[Device, ...]] = []
    for mine in nodes:
        device = min(users, key=lambda d: (users[d] >= fair, d.distance(topology, mine) or 0, users[d]))
        users[device] += 1
        result.append((device,))
    return result


def closest(topology: Topology, devices: Sequence[Device], cpus: frozenset[int]) -> tuple[Device, ...]:
    """The devices that are nearest to a rank on `cpus`."""
    owner = topology.node_of_cpu()
    nodes = {owner[cpu] for cpu in cpus if cpu in owner}

    def away(device: Device) -> tuple[int, bool]:
        return device.distance(topology, nodes) or 0, not device.cpus & cpus

    least = min(map(away, devices), default=(0, False))
    return tuple(device for device in devices if away(device) == least)


def describe(topology: Topology, devices: Sequence[Device], nodes: Sequence[int]) -> list[str]:
    """Say which devices a rank on `nodes` has, and how far away they are."""
    here = [d for d in devices if set(d.nodes) & set(nodes)]
    said = [f"on the node of {', '.join(d.name for d in here)}"] if here else []
    for device in devices:
        if not device.nodes:
            said.append(f"the machine does not tell the node of {device.name}")
        elif device not in here:
            away = device.distance(topology, nodes)
            said.append(f"{device.name} is at node {format_ids(device.nodes)}, distance {away}")
    return said
