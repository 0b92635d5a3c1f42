"""The command that describes this installation: doctor."""

import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import labelkit
from labelkit.commands import console
from labelkit.commands.options import Given, Json, takes

if TYPE_CHECKING:
    from labelkit.installation.devices import Device
    from labelkit.installation.doctor import Ability

WIDTH = 80
"""Columns of lines that are made of several values; a line to copy is never broken."""


@takes("labelkit.installation.doctor:DoctorOptions")
def doctor(given: Given, as_json: Json = False) -> None:
    """Show what is installed and which commands would work. For every other command, one line says what makes it work.
    Only servers given with --base-url are contacted.
    """
    found = labelkit.doctor(labelkit.DoctorOptions(**given))
    if as_json:
        console.result_json(found.to_json(), indent=2)
        return
    for title, lines in sections(found).items():
        console.result("\n".join([title, *(f"  {line}" for line in lines), ""]))


def sections(found: "labelkit.Diagnosis") -> dict[str, list[str]]:
    """Return the lines of each section, title -> lines, in the order of their use."""
    version = found.versions
    servers = [
        line
        for server in found.servers
        for line in (f"{server.url}: {server.problem or f'{len(server.models)} models'}", *hanging(server.models))
    ]
    return {
        f"labelkit {version['labelkit']}, Python {version['python']}, {version['system']}": [],
        "Ways of working": list(shown(found.ways)),
        "Commands": list(shown(found.commands)),
        "Devices": [line for device in found.devices for line in described(device)],
        "Keys (names of variables and files; values are not read into the output)": [
            *(found.keys or ["none is set"]),
            *found.problems,
        ],
        "Servers": servers or ["none asked; give --base-url to ask one"],
        "Packages": [
            line
            for extra, packages in found.packages.items()
            for line in (extra, *hanging(f"{one.name} {one.installed or '(not installed)'}" for one in packages))
        ],
    }


def shown(abilities: "Iterable[Ability]") -> Iterator[str]:
    """Yield the lines for ways of working or commands: whether each works, and what makes it work."""
    for one in abilities:
        yield f"{'works  ' if one.works else 'MISSING'}  {one.name:<12} {one.what}"
        if one.cure:
            yield f"         {one.cure}"


def described(device: "Device") -> Iterator[str]:
    """Yield the lines for a device."""
    memory = "" if device.memory is None else f", {device.memory:.1f} GiB"
    free = "" if device.free is None else f" ({device.free:.1f} free)"
    yield f"{device.kind}: {device.name}{memory}{free}"
    if device.problem:
        yield f"  {device.problem}"


def hanging(values: Iterable[str]) -> list[str]:
    """Return values separated by commas, in indented lines."""
    return textwrap.wrap(", ".join(values), WIDTH - 2, initial_indent="  ", subsequent_indent="  ")
