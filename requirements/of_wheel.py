"""Print the requirements of the CPU build of vLLM, whose wheel is given, without what text models do not need.

The wheel requires a build of torch with a local version, and torchvision, torchaudio and torchcodec, which have no CPU
build. torch is printed with its public version, the others are left out.
"""

import sys
import zipfile
from email import message_from_bytes

from packaging.requirements import Requirement

LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}


def requirements_of(wheel: str) -> list[str]:
    """Return the requirements in the metadata of a wheel that apply to this machine."""
    with zipfile.ZipFile(wheel) as content:
        (name,) = (name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
        stated = message_from_bytes(content.read(name)).get_all("Requires-Dist") or []
    found = []
    for requirement in map(Requirement, stated):
        if requirement.name not in LEFT_OUT and (
            requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ):
            extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
            found.append(f"{requirement.name}{extras}{str(requirement.specifier).replace('+cpu', '')}")
    return found


if __name__ == "__main__":
    print("\n".join(requirements_of(sys.argv[1])))
